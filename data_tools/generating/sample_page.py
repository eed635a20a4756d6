"""Sample page: for some passages, the queries kept, and those refused with the reason."""

from __future__ import annotations

import html
import random
from collections import defaultdict
from collections.abc import Sequence

from data_tools.generating.filters import MEANING, GeneratedQuery, Summary
from data_tools.shared.html_page import cells, overview, page
from zh_embedder.core.counts import counted


def write_page(title: str, queries: Sequence[GeneratedQuery], *, passages: int, seed: int) -> str:
    """Return the page of some passages, drawn with a seed, in their order."""
    by_passage: defaultdict[str, list[GeneratedQuery]] = defaultdict(list)
    for query in queries:
        by_passage[query.passage.id].append(query)
    drawn = set(random.Random(seed).sample(sorted(by_passage), min(passages, len(by_passage))))
    summary = Summary.of(queries)
    said = f"{next(summary.lines())}; a sample of {counted(len(drawn), 'passage')}"
    sections = "".join(section(own) for passage, own in by_passage.items() if passage in drawn)
    return page(title, overview(said, dict(summary.reasons.most_common()), MEANING) + sections)


def section(queries: Sequence[GeneratedQuery]) -> str:
    """Lay out a passage with its queries."""
    passage = queries[0].passage
    rows = "".join(map(row, sorted(queries, key=lambda query: bool(query.reason))))
    return (
        f"<section><small>{html.escape(passage.id)}</small><h2>{html.escape(' > '.join(passage.headings))}</h2>"
        f"<p>{html.escape(passage.body)}</p><table>{rows}</table></section>\n"
    )


def row(query: GeneratedQuery) -> str:
    """Lay out a query."""
    rank = f"#{query.rank}" if query.rank else ""
    answer = f"（{query.answer}）" if query.answer else ""
    texts = (rank, query.reason or "kept", query.task, query.text + answer)
    return cells("refused" if query.reason else "pos", texts)
