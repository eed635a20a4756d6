"""Exact search by tiles: the best keys of every query, the whole score matrix never held.

Shapes: Q queries, K keys, D dimensions, H hits.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zh_embedder.embedded import SIMILARITIES
from zh_embedder.machine import accelerator

TILE = 16384  # keys scored at a time
QUERIES = 1024  # queries scored at a time


def search(
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    *,
    hits: int,
    metric: str = "cos",
    device: str | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the best keys of each query, exactly.

    Args:
        queries: (Q, D).
        keys: (K, D).
        hits: how many keys to return for a query.
        metric: cos, ip or l2 (scores are minus the squared distance).
        device: where to score; by default the accelerator, if there is one.

    Returns:
        Scores and key indices, both (Q, min(H, K)), best first.
    """
    place = torch.device(device or accelerator() or "cpu")

    def placed(rows: NDArray[np.float32]) -> Tensor:
        vectors = torch.from_numpy(np.ascontiguousarray(rows)).to(place)
        return F.normalize(vectors, dim=-1) if metric == "cos" else vectors  # many bases do not normalise

    score, hits = SIMILARITIES[metric], min(hits, len(keys))
    scores, indices = [], []
    for start in range(0, len(queries), QUERIES):
        block = placed(queries[start : start + QUERIES])
        best = torch.empty(len(block), 0, device=place)
        found = torch.empty(len(block), 0, dtype=torch.int64, device=place)
        for first in range(0, len(keys), TILE):
            tile = placed(keys[first : first + TILE])
            top = score(block, tile).topk(min(hits, len(tile)), dim=1)
            best, order = torch.cat([best, top.values], 1).topk(min(hits, best.shape[1] + top.values.shape[1]), dim=1)
            found = torch.cat([found, top.indices + first], 1).gather(1, order)
        scores.append(best.cpu().numpy())
        indices.append(found.cpu().numpy())
    if not scores:
        return np.zeros((0, hits), np.float32), np.zeros((0, hits), np.int64)
    return np.concatenate(scores), np.concatenate(indices)
