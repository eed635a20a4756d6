"""Report page (report.html): what training brought. Self-contained: it opens offline and loads nothing.

The page is our own (`report_assets/`). BokehJS draws its charts: the `bokeh` package brings the script, which is
written into the page. Texts of users travel as JSON in which no markup can end the script, and the page's script puts
them down as text, never as HTML.
"""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from pathlib import Path

from zh_embedder.core.errors import UserError
from zh_embedder.core.files import beside_file
from zh_embedder.report.page_data import Report, SetReport, page_data

__all__ = ["Report", "SetReport", "write_report"]

CHARTS = ("bokeh.min.js", "bokeh-api.min.js")
STYLES = ("report.css",)
SCRIPTS = ("words.js", "dom.js", "charts.js", "sections.js", "errors.js", "page.js")
SLOT = re.compile(r"<!-- (\w+) -->")


def write_report(report: Report, path: Path) -> None:
    """Write the page.

    Args:
        report: what it shows.
        path: the file; it is there whole or not at all.

    Raises:
        UserError: bokeh is not installed.
    """
    beside_file(path, page(report))


def page(report: Report) -> str:
    """Return the whole page."""
    data = page_data(report)
    slots = {
        "title": html.escape(report.title),
        "styles": "".join(f"<style>\n{asset(name)}</style>\n" for name in STYLES),
        "english": html.escape(data["verdict"]["english"]),
        "chinese": html.escape(data["verdict"]["chinese"]),
        "data": json_for_html(data),
        "charts": "".join(f"<script>{script}</script>\n" for script in chart_scripts()),
        "scripts": "".join(f"<script>\n{asset(name)}</script>\n" for name in SCRIPTS),
    }
    # One pass over the template: what is filled in is not searched for slots again.
    return SLOT.sub(lambda found: slots[found[1]], asset("page.html"))


def asset(name: str) -> str:
    """Return one of our own files."""
    return resources.files("zh_embedder.report").joinpath("assets", name).read_text("utf-8")


def chart_scripts() -> list[str]:
    """Return BokehJS, as the installed package brings it.

    Raises:
        UserError: it is not installed.
    """
    try:
        folder = resources.files("bokeh").joinpath("server", "static", "js")
    except ModuleNotFoundError:
        raise UserError("report.html: bokeh draws its charts and is not installed: pip install bokeh") from None
    # `</script` inside of a string of theirs would end ours.
    return [
        re.sub(r"</(script)", r"<\\/\1", folder.joinpath(name).read_text("utf-8"), flags=re.IGNORECASE)
        for name in CHARTS
    ]


def json_for_html(value: object) -> str:
    """Return JSON that may stand inside <script>: without any `<`, and without line separators that trip scripts."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
