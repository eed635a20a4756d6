"""Exact search by tiles: the best keys of every query; neither the score matrix nor all keys need fit into memory.

Shapes: Q queries, K keys, D dimensions, H hits, T keys of a tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.core.machine import accelerator
from zh_embedder.core.similarity import SIMILARITIES, matrix, placed
from zh_embedder.search.vector_store import Vectors, open_vectors

TILE = 16384  # keys scored at a time
QUERIES = 1024  # queries scored at a time
ALIGN = 64  # rows of matrices that are multiplied are a multiple of this
GROUP = 32  # columns represented by their largest

Rows = NDArray[np.floating[Any]]
Block = tuple[int, Rows]  # index of the first key, and some keys, (any number, D)
Hits = tuple[NDArray[np.float32], NDArray[np.int64]]


def search(queries: Rows, keys: Rows, *, hits: int, metric: str = "cos", device: str | None = None) -> Hits:
    """Find the best keys of each query, exactly.

    Args:
        queries: (Q, D).
        keys: (K, D).
        hits: how many keys to return for a query.
        metric: cos, ip or l2 (scores are minus the squared distance).
        device: where to score; by default the accelerator, if there is one.

    Returns:
        Scores and key indices, both (Q, min(H, K)), best first; of equal scores the lower index first.

    Raises:
        UserError: an argument is wrong, or vectors hold NaN.
    """
    return search_blocks(queries, [(0, keys)], hits=hits, metric=metric, device=device)


def search_folder(
    queries: Rows, folder: str | Path | Vectors, *, hits: int, metric: str | None = None, device: str | None = None
) -> Hits:
    """Find the best keys of each query in a folder that `zh-embedder encode` has written, exactly, from the disk.

    Args:
        queries: (Q, D).
        folder: its path, or what `open_vectors` returned; `Vectors.ids()` says whom an index names.
        hits: how many keys to return for a query.
        metric: cos, ip or l2; by default the one that the folder's vectors were made for.
        device: where to score; by default the accelerator, if there is one.

    Returns:
        Scores and key indices, as `search` does.

    Raises:
        UserError: the folder is not whole, or an argument is wrong.
    """
    vectors = folder if isinstance(folder, Vectors) else open_vectors(folder)
    metric = metric or vectors.manifest.metric
    return search_blocks(queries, blocks_of(vectors), hits=hits, metric=metric, device=device)


def blocks_of(keys: Rows | Vectors) -> Iterator[Block]:
    """Yield the index of the first key and the keys, of an array whole, of a folder shard by shard, memory-mapped."""
    first = 0
    for block in (rows for _, rows in keys) if isinstance(keys, Vectors) else (keys,):
        yield first, block
        first += len(block)


def search_blocks(
    queries: Rows, blocks: Iterable[Block], *, hits: int, metric: str = "cos", device: str | None = None
) -> Hits:
    """Find the best keys of each query, exactly, where keys come block by block.

    Blocks may come in any order and have any size; no key may come twice. What is found is the same however keys are
    cut into blocks (`dot` says why), and equal scores always go by index.

    Args:
        queries: (Q, D).
        blocks: (index of the first key, keys (any number, D)).
        hits: how many keys to return for a query.
        metric: cos, ip or l2 (scores are minus the squared distance).
        device: where to score; by default the accelerator, if there is one.

    Returns:
        Scores and key indices, both (Q, min(H, K)), best first; of equal scores the lower index first.

    Raises:
        UserError: an argument is wrong, or vectors hold NaN.
    """
    check(hits, metric)
    place = torch.device(device or accelerator() or "cpu")
    asked = [placed(queries[start : start + QUERIES], metric, place) for start in range(0, len(queries), QUERIES)]
    best = [(torch.empty(len(part), 0, device=place), torch.empty(len(part), 0, device=place).long()) for part in asked]
    keys = 0
    for first, block in blocks:
        check_width(block, queries.shape[1])
        keys += len(block)
        for start in range(0, len(block), TILE):
            tile = placed(block[start : start + TILE], metric, place)
            for number, part in enumerate(asked):
                scores, columns = best_of(dot(part, tile, metric), hits)
                best[number] = merged(best[number], (scores, columns + first + start), hits)
    if not asked:
        return np.zeros((0, min(hits, keys)), np.float32), np.zeros((0, min(hits, keys)), np.int64)
    scores, found = (torch.cat(parts) for parts in zip(*best, strict=True))
    if not bool(scores.isfinite().all()):
        raise reject("vectors", "NaN or infinite scores", "finite numbers in queries and keys")
    return scores.cpu().numpy(), found.cpu().numpy()


def check(hits: int, metric: str) -> None:
    """Refuse settings that no search has."""
    if metric not in SIMILARITIES:
        raise unknown_name("metric", metric, SIMILARITIES)
    if hits < 1:
        raise reject("--hits", hits, "at least 1")


def check_width(keys: Rows, width: int) -> None:
    """Refuse keys of another model."""
    if keys.ndim != 2 or (keys.shape[1] != width and len(keys)):
        raise UserError(f"keys: got vectors of shape {keys.shape}, expected (keys, {width}), as the queries have")


def dot(queries: Tensor, keys: Tensor, metric: str) -> Tensor:
    """Scores of each query against each key, (B, D) x (T, D) -> (B, T).

    Rows are filled up to a multiple of ALIGN: the last few rows of a matrix product are computed by other kernels,
    which add in another order, and the score of a pair would depend on where its tile ends.
    """
    rows, columns = len(queries), len(keys)
    queries, keys = (F.pad(vectors, (0, 0, 0, -len(vectors) % ALIGN)) for vectors in (queries, keys))
    return matrix(queries, keys, metric)[:rows, :columns]


def best_of(scores: Tensor, hits: int) -> tuple[Tensor, Tensor]:
    """Return the highest scores of each row and their columns, (B, T) -> (B, min(H, T)) each; ties by lower column.

    Columns in groups, and of these only the groups with the highest maxima: each of the best columns lies in one of
    the H best groups, also where maxima are equal, since groups then go by their place too. It halves the time.
    """
    rows, width = scores.shape
    if width % GROUP or width <= 4 * GROUP * hits:
        return top(scores, hits)
    groups = scores.reshape(rows, -1, GROUP)
    chosen = top(groups.amax(dim=-1), hits)[1].sort(dim=1).values  # (B, H) in the order of columns
    values, at = top(groups.gather(1, chosen.unsqueeze(-1).expand(-1, -1, GROUP)).flatten(1), hits)
    return values, chosen.gather(1, at // GROUP) * GROUP + at % GROUP


def top(scores: Tensor, hits: int) -> tuple[Tensor, Tensor]:
    """Return the highest scores of each row and their columns, best first; of equal scores the lower column.

    `topk` alone takes any of equal scores: rows where the last that is taken equals the first that is not are sorted.
    """
    width = scores.shape[1]
    hits = min(hits, width)
    found = scores.topk(min(hits + 1, width), dim=1)
    values, columns = found.values[:, :hits].contiguous(), found.indices[:, :hits].contiguous()
    if width > hits:
        unclear = (found.values[:, hits - 1] == found.values[:, hits]).nonzero().flatten()
        for rows in unclear.split(ALIGN):  # sorted all at once they would take many times the tile's memory
            ordered = scores[rows].sort(dim=1, descending=True, stable=True)
            values[rows], columns[rows] = ordered.values[:, :hits], ordered.indices[:, :hits]
    return by_score(values, columns)


def by_score(scores: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Order each row, best first; of equal scores the lower index."""
    indices, order = indices.sort(dim=1)
    scores, again = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, indices.gather(1, again)


def merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], hits: int) -> tuple[Tensor, Tensor]:
    """Merge scores and indices of two parts of the keys, (B, any) each, into the H best, (B, min(H, both))."""
    scores, indices = by_score(*(torch.cat(parts, dim=1) for parts in zip(one, other, strict=True)))
    return scores[:, :hits], indices[:, :hits]
