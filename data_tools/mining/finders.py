"""Candidate search: by vectors, by words, by both, or at random. A finder is a function and a row of FINDERS.

Shapes: Q queries, K keys of the pool, D dimensions, H hits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.mining.pools import Texts
from zh_embedder.search.bm25 import BM25
from zh_embedder.search.exact import search_folder
from zh_embedder.search.faiss_index import Index
from zh_embedder.search.vector_store import Vectors, read_rows

RRF = 60  # Cormack, Clarke, Buettcher 2009: score(key) = sum over rankings of 1 / (60 + rank)
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """The keys of a task, and what finds them; what a method does not need is None."""

    texts: Texts
    vectors: Vectors | None = None
    index: Index | None = None  # faiss; None searches exactly, from the disk
    bm25: BM25 | None = None
    metric: str = "cos"


@dataclass(frozen=True, slots=True)
class Asked:
    """Some queries of one task."""

    numbers: Sequence[int]  # of their records
    texts: Sequence[str]
    vectors: NDArray[np.float32] | None  # (Q, D)
    seed: int


Finder = Callable[[Pool, Asked, int], list[Rows]]


def dense(pool: Pool, asked: Asked, hits: int) -> list[Rows]:
    """Find keys by vectors, exactly or through faiss."""
    if asked.vectors is None or pool.vectors is None:
        raise AssertionError("dense search has vectors")
    if pool.index is not None:
        _, rows = pool.index.search(asked.vectors, hits)
    else:
        _, rows = search_folder(asked.vectors, pool.vectors, hits=hits, metric=pool.metric)
    return [own[own >= 0] for own in rows]


def by_words(pool: Pool, asked: Asked, hits: int) -> list[Rows]:
    """Find keys by words; those without a word in common are none."""
    if pool.bm25 is None:
        raise AssertionError("BM25 has an index")
    _, rows = pool.bm25.search(asked.texts, hits, show_progress=True)
    return [own[own >= 0] for own in rows]


def fused(pool: Pool, asked: Asked, hits: int) -> list[Rows]:
    """Find keys by both, H of each, and join the rankings."""
    both = zip(dense(pool, asked, hits), by_words(pool, asked, hits), strict=True)
    return [fuse(rankings)[:hits] for rankings in both]


def fuse(rankings: Sequence[Rows]) -> Rows:
    """Join rankings by reciprocal rank fusion; of equal sums the lower row first."""
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking.tolist(), start=1):
            sums[row] = sums.get(row, 0.0) + 1 / (RRF + rank)
    return np.asarray(sorted(sums, key=lambda row: (-sums[row], row)), np.int64)


def at_random(pool: Pool, asked: Asked, hits: int) -> list[Rows]:
    """Draw keys, each at most once; what is drawn depends on the seed and the record's number alone."""
    return [draw_rows(len(pool.texts), hits, seed=asked.seed, number=number) for number in asked.numbers]


def draw_rows(keys: int, count: int, *, seed: int, number: int) -> Rows:
    """Draw rows for a record, each at most once."""
    rng = np.random.default_rng([seed, number])
    return rng.choice(keys, size=min(count, keys), replace=False).astype(np.int64)


FINDERS: Mapping[str, Finder] = {"dense": dense, "bm25": by_words, "fused": fused, "random": at_random}
WITH_VECTORS, WITH_WORDS = ("dense", "fused"), ("bm25", "fused")


def rows_of(vectors: Vectors, rows: Sequence[int]) -> NDArray[np.float32]:
    """Read the vectors of some rows from the disk, (N, D), in the order asked for."""
    asked = np.asarray(rows, np.int64)
    size = vectors.manifest.shard_size
    found = np.empty((len(asked), vectors.dimension), np.float32)
    for shard in np.unique(asked // size).tolist():
        own = asked // size == shard
        found[own] = read_rows(vectors.folder, vectors.manifest, shard)[asked[own] - shard * size]
    return found
