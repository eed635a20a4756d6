"""Round-trip ranks: at which rank a query finds the passage that it was written for.

Source: the consistency filter of Promptagator (Dai et al. 2022, arXiv 2209.11755), which keeps rank 1 of a trained
retriever. BM25 replaces it here, so that the default keeps far more: what shares few words with its passage is
what a dense model has to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from data_tools.generating.filters import GeneratedQuery
    from zh_embedder.evaluation.model import Model

BM25 = "bm25"


def ranks_of(
    queries: Sequence[GeneratedQuery],
    keys: Sequence[str],
    *,
    hits: int,
    model: Model | None = None,
    words: str = "jieba",
) -> list[int | None]:
    """Search for every query.

    Args:
        queries: with their passages.
        keys: of all passages; equal ones count once.
        hits: how many ranks to look at.
        model: that searches; None is BM25.
        words: of BM25: jieba or bigram.

    Returns:
        For each query the rank of its passage, from 1; None where it is not among the hits.
    """
    distinct = list(dict.fromkeys(keys))
    rows = {key: row for row, key in enumerate(distinct)}
    found = by_words(queries, distinct, hits, words) if model is None else by_vectors(queries, distinct, hits, model)
    ranks: list[int | None] = []
    for query, own in zip(queries, found, strict=True):
        places = np.flatnonzero(own == rows[query.passage.key])
        ranks.append(int(places[0]) + 1 if len(places) else None)
    return ranks


def load_retriever(name: str) -> Model | None:
    """Load a model by its folder or hub name; bm25 is none.

    Raises:
        UserError: it cannot be loaded.
    """
    from zh_embedder.evaluation.model import Model

    return None if name == BM25 else Model.load(name)


def by_words(queries: Sequence[GeneratedQuery], keys: Sequence[str], hits: int, words: str) -> NDArray[np.int64]:
    """Search by BM25; (Q, H) rows of keys."""
    from zh_embedder.search.bm25 import build_bm25

    index = build_bm25(keys, words=words, show_progress=True)
    return index.search([query.text for query in queries], hits, show_progress=True)[1]


def by_vectors(queries: Sequence[GeneratedQuery], keys: Sequence[str], hits: int, model: Model) -> NDArray[np.int64]:
    """Search by a model, with the instructions of each task; (Q, H) rows of keys."""
    from zh_embedder.evaluation.model import KEY, QUERY
    from zh_embedder.search.exact import search

    found = np.full((len(queries), min(hits, len(keys))), -1, np.int64)
    for task in dict.fromkeys(query.task for query in queries):
        own = [number for number, query in enumerate(queries) if query.task == task]
        asked = model.vectors([queries[number].text for number in own], QUERY, task)
        _, found[own] = search(asked, model.vectors(list(keys), KEY, task), hits=hits, metric=model.query.spec.metric)
    return found
