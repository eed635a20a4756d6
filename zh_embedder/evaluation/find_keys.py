"""Key search for the queries of a set: by vectors, by words or at random; among all keys, or each query's own.

Shapes: Q queries, K keys, D dimensions, H hits, W ranks.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.similarity import one_with_many
from zh_embedder.evaluation.model import KEY, QUERY, Model, Vectors
from zh_embedder.evaluation.retrieval_metrics import Run
from zh_embedder.evaluation.sets import RetrievalSet
from zh_embedder.search.bm25 import BM25Options, build_bm25
from zh_embedder.search.exact import search

HITS = 100  # keys kept of each query


def find_keys(data: RetrievalSet, by: Model | BM25Options, *, hits: int = HITS) -> Run:
    """Find the best keys of every query.

    Args:
        data: queries and keys; where queries bring candidates, each ranks all of its own.
        by: a model, which on several ranks all must call this with, or BM25.
        hits: keys of each query.

    Returns:
        query -> key -> score, best first, the same on every rank.
    """
    if isinstance(by, BM25Options):
        return by_words(data, by, hits=hits)
    queries, texts = by.vectors(list(data.queries.values()), QUERY, data.task), list(data.keys.values())
    if data.candidates is not None:
        return rerank(by, data, queries, by.vectors(texts, KEY, data.task))
    return retrieve(by, data, queries, by.own_vectors(texts, KEY, data.task), hits=hits)


def retrieve(model: Model, data: RetrievalSet, queries: Vectors, keys: Vectors, *, hits: int) -> Run:
    """Find the best keys of every query among all: each rank searches its own, then the best of all ranks are kept.

    Args:
        model: whose ranks share the work.
        data: names of queries and keys.
        queries: (Q, D), whole on every rank.
        keys: this rank's share.
        hits: keys of each query.

    Returns:
        query -> key -> score, best first, the same on every rank.
    """
    rank, ranks = model.share()
    scores: NDArray[Any]
    indices: NDArray[Any]
    asked = with_room(data, hits)
    most = min(asked, -(-len(data.keys) // ranks))  # columns that every rank sends
    scores, indices = search(queries, keys, hits=most, metric=model.query.spec.metric)
    indices = indices * ranks + rank
    if ranks > 1:
        lacking = ((0, 0), (0, most - scores.shape[1]))  # a rank with a key less than the others
        scores = np.pad(scores, lacking, constant_values=-np.inf)
        indices = np.pad(indices, lacking, constant_values=len(data.keys))
        scores, indices = (
            model.gathered(part).reshape(ranks, len(queries), most).transpose(1, 0, 2).reshape(len(queries), -1)
            for part in (scores, indices)
        )
        order = np.lexsort((indices, -scores), axis=1)[:, : min(asked, len(data.keys))]
        scores, indices = (np.take_along_axis(part, order, axis=1) for part in (scores, indices))
    return without_own(data, run_of(data, scores, indices), hits)


def rerank(model: Model, data: RetrievalSet, queries: Vectors, keys: Vectors) -> Run:
    """Score every query's own candidates."""
    rows = {name: row for row, name in enumerate(data.keys)}
    run: dict[str, dict[str, float]] = {}
    for query, vector in zip(data.queries, queries, strict=True):
        names = [name for name in (data.candidates or {}).get(query, ()) if name in rows]
        scores = one_with_many(vector, keys[[rows[name] for name in names]], model.query.spec.metric)
        run[query] = dict(sorted(zip(names, scores.tolist(), strict=True), key=lambda pair: -pair[1]))
    return run


def by_words(data: RetrievalSet, options: BM25Options, *, hits: int) -> Run:
    """Find keys by words; of a query's own, those without a word in common come last, in the order given."""
    index = build_bm25(list(data.keys.values()), **asdict(options), show_progress=True)
    most = with_room(data, hits) if data.candidates is None else len(data.keys)
    run = run_of(data, *index.search(list(data.queries.values()), most, show_progress=True))
    if data.candidates is None:
        return without_own(data, run, hits)
    own = {query: [name for name in names if name in data.keys] for query, names in data.candidates.items()}
    return {query: {name: run[query].get(name, 0.0) for name in own.get(query, ())} for query in run}


def at_random(data: RetrievalSet, *, hits: int, seed: int) -> Run:
    """Draw keys, or shuffle each query's own."""
    rng, names = np.random.default_rng(seed), list(data.keys)
    run = {}
    for query in data.queries:
        among = names if data.candidates is None else list(data.candidates.get(query, ()))
        drawn = rng.choice(len(among), size=min(with_room(data, hits), len(among)), replace=False)
        run[query] = {among[int(i)]: -float(rank) for rank, i in enumerate(drawn)}
    return without_own(data, run, hits)


def run_of(data: RetrievalSet, scores: NDArray[Any], indices: NDArray[Any]) -> dict[str, dict[str, float]]:
    """Name what a search found, (Q, H) each; an index that no key has is a hit that is not there."""
    names = list(data.keys)
    return {
        query: {names[i]: float(score) for score, i in zip(row, columns, strict=True) if 0 <= i < len(names)}
        for query, row, columns in zip(data.queries, scores, indices, strict=True)
    }


def with_room(data: RetrievalSet, hits: int) -> int:
    """Return how many keys to search for, so that enough are left where a query finds itself."""
    return hits + bool(data.own_keys)


def without_own(data: RetrievalSet, run: Run, hits: int) -> Run:
    """Leave a query that is itself a key out of its own results, and the rest at most as many as asked for."""
    if not data.own_keys:
        return run
    kept = {
        query: [key for key in found if not (key == query and query in data.own_keys)] for query, found in run.items()
    }
    return {query: {key: run[query][key] for key in keys[:hits]} for query, keys in kept.items()}
