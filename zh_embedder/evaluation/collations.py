"""Collations: what was found for the queries of a set, laid out as records for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zh_embedder.evaluation.retrieval_metrics import Run
from zh_embedder.evaluation.sets import RetrievalSet

Rows = list[dict[str, Any]]
Answers = Mapping[str, Sequence[str]]  # text of a query -> its answers


def mined_negatives(data: RetrievalSet, run: Run, *, most: int, answers: Answers) -> Rows:
    """Make training records: keys found that are no positives, nor say an answer, are negatives.

    Does not: look for false negatives among them, as `data_tools.mine_negatives` does.
    """
    rows = []
    for query in data.queries:
        record = judged(data, query)
        known, said = set(record["pos"]), answers.get(record["query"], ())
        texts = (data.keys[key] for key in run.get(query, {}))
        negatives = [t for t in dict.fromkeys(texts) if t not in known and not any(answer in t for answer in said)]
        if record["pos"]:
            rows.append(record | {"neg": negatives[:most]})
    return rows


def keys_found(data: RetrievalSet, run: Run, *, hits: int) -> Rows:
    """Give each query the keys found, best first, for a program that reads them."""
    found = {query: list(run.get(query, {}))[:hits] for query in data.queries}
    return [
        judged(data, query) | {"key": [data.keys[key] for key in keys], "key_index": keys}
        for query, keys in found.items()
    ]


def keys_scored(data: RetrievalSet, run: Run, *, hits: int) -> Rows:
    """Give each query the keys found, with their scores."""
    rows = keys_found(data, run, hits=hits)
    return [row | {"key_score": list(run.get(row["query_id"], {}).values())[:hits]} for row in rows]


def judged(data: RetrievalSet, query: str) -> dict[str, Any]:
    """Start the record of a query: its text, its positives, its task."""
    positives = [key for key, value in data.qrels.get(query, {}).items() if value > 0 and key in data.keys]
    record = {"query_id": query, "query": data.queries[query], "pos": [data.keys[key] for key in positives]}
    return record | ({"task": data.task} if data.task else {})
