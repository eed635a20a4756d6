"""Frame of the tools' HTML pages: one style, light and dark, nothing loaded from a server."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from importlib import resources

from zh_embedder.core.outputs import GENERATOR

STYLE = "audit.css"


def page(title: str, body: str) -> str:
    """Return a whole page; the title is escaped, the body is HTML already."""
    name, style = html.escape(title), resources.files("data_tools.shared").joinpath(STYLE).read_text("utf-8")
    return (
        f'<!doctype html>\n<html lang="zh"><head><meta charset="utf-8">{GENERATOR}<title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body>\n'
        f"<h1>{name}</h1>{body}</body></html>\n"
    )


def overview(said: str, counts: Mapping[str, int], meaning: Mapping[str, str], *, warning: str | None = None) -> str:
    """Lay out the summary, and what was refused and why."""
    rows = "".join(
        f"<tr><td>{count:,}</td><td>{html.escape(reason)}</td><td>{html.escape(meaning[reason])}</td></tr>"
        for reason, count in counts.items()
    )
    head = "<tr><th>refused</th><th>reason</th><th>what it means</th></tr>"
    above = f"<p><strong>{html.escape(warning)}</strong></p>" if warning else ""
    return f"<section>{above}<small>{html.escape(said)}</small><table>{head}{rows}</table></section>\n"


def cells(kind: str, texts: Iterable[str]) -> str:
    """Lay out the row of a table; `kind` is its class."""
    return f'<tr class="{kind}">' + "".join(f"<td>{html.escape(text)}</td>" for text in texts) + "</tr>"
