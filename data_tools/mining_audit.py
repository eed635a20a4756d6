"""The audit of mining as one page: for a sample of queries what was taken, what was refused and why. Asks no server."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.html_page import cells, overview, page
from data_tools.refusals import MEANING


def write_audit(title: str, summary: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    said = json.dumps({k: v for k, v in summary.items() if k != "refused"}, ensure_ascii=False)
    return page(title, overview(said, summary["refused"], MEANING) + "".join(map(section, entries)))


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
    return cells(kind, (rank, word, score, item["text"]))
