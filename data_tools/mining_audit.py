"""The audit of mining as one page: for a sample of queries what was taken, what was refused and why. Asks no server."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from data_tools.refusals import MEANING

STYLE = "audit.css"


def write_audit(title: str, summary: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    name, style = html.escape(title), resources.files("data_tools").joinpath(STYLE).read_text("utf-8")
    counts = "".join(
        f"<tr><td>{count:,}</td><td>{html.escape(reason)}</td><td>{html.escape(MEANING[reason])}</td></tr>"
        for reason, count in summary["refused"].items()
    )
    whole = html.escape(json.dumps({k: v for k, v in summary.items() if k != "refused"}, ensure_ascii=False))
    return (
        f'<!doctype html>\n<html lang="zh"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body>\n'
        f"<h1>{name}</h1><section><small>{whole}</small><table><tr><th>refused</th><th>reason</th><th>what it means"
        f"</th></tr>{counts}</table></section>\n{''.join(map(section, entries))}</body></html>\n"
    )


def section(entry: Mapping[str, Any]) -> str:
    """Lay out one query."""
    pos = "".join(row("pos", "", "positive", item) for item in entry["pos"])
    taken = "".join(row("taken", place(item), "taken", item) for item in entry["taken"])
    refused = "".join(row("refused", place(item), item["reason"], item) for item in entry["refused"])
    head = f"{html.escape(str(entry['task'] or ''))} {html.escape(entry['where'])}"
    return (
        f"<section><small>{head}</small><h2>{html.escape(entry['query'])}</h2><table>{pos}{taken}</table>"
        f"<details><summary>{entry['refused_in_all']} refused</summary><table>{refused}</table></details></section>\n"
    )


def place(item: Mapping[str, Any]) -> str:
    """Rank of a candidate in words."""
    return f"#{item['rank']}" if item["rank"] else "random"


def row(kind: str, rank: str, word: str, item: Mapping[str, Any]) -> str:
    """Lay out one key."""
    score = "" if item["score"] is None else f"{item['score']:.3f}"
    cells = (rank, word, score, item["text"])
    return f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
