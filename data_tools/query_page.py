"""A sample of passages as one page: the queries that were kept, and those that were not and why. Asks no server."""

from __future__ import annotations

import html
import random
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources

from data_tools.generated import MEANING, Query, Summary

STYLE = "audit.css"


def write_page(title: str, queries: Sequence[Query], *, passages: int, seed: int) -> str:
    """Return the page of some passages, drawn with a seed, in their order."""
    by_passage: defaultdict[str, list[Query]] = defaultdict(list)
    for query in queries:
        by_passage[query.passage.id].append(query)
    drawn = set(random.Random(seed).sample(sorted(by_passage), min(passages, len(by_passage))))
    name, style = html.escape(title), resources.files("data_tools").joinpath(STYLE).read_text("utf-8")
    counts = "".join(
        f"<tr><td>{count:,}</td><td>{reason}</td><td>{html.escape(MEANING[reason])}</td></tr>"
        for reason, count in Summary.of(queries).reasons.most_common()
    )
    said = html.escape(next(Summary.of(queries).lines()))
    sections = "".join(section(own) for passage, own in by_passage.items() if passage in drawn)
    return (
        f'<!doctype html>\n<html lang="zh"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body>\n'
        f"<h1>{name}</h1><section><small>{said}; a sample of {len(drawn)} passages</small><table><tr><th>refused</th><th>reason</th><th>what it means</th></tr>{counts}</table>"
        f"</section>\n{sections}</body></html>\n"
    )


def section(queries: Sequence[Query]) -> str:
    """Lay out a passage with its queries."""
    passage = queries[0].passage
    rows = "".join(map(row, sorted(queries, key=lambda query: bool(query.reason))))
    return (
        f"<section><small>{html.escape(passage.id)}</small><h2>{html.escape(' > '.join(passage.headings))}</h2>"
        f"<p>{html.escape(passage.body)}</p><table>{rows}</table></section>\n"
    )


def row(query: Query) -> str:
    """Lay out a query."""
    rank = f"#{query.rank}" if query.rank else ""
    answer = f"（{query.answer}）" if query.answer else ""
    cells = (rank, query.reason or "kept", query.task, query.text + answer)
    kind = "refused" if query.reason else "pos"
    return f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
