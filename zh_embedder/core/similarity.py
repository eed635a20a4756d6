"""Similarity of vectors by cos, ip and l2: every one with every other, one with many, and row by row.

Shapes: B queries, P keys, N rows, D dimensions. Scores of l2 are minus the squared distance, so that higher is nearer,
and rank as faiss' L2 index does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.floating[Any]]


# ---- every vector with every other ----------------------------------------------------------------------------------


def cos_or_ip(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner product, (B, D) x (P, D) -> (B, P). Vectors come normalised when the metric is cos."""
    return queries @ keys.T


def negative_l2(queries: Tensor, keys: Tensor) -> Tensor:
    """Minus the squared Euclidean distance, (B, D) x (P, D) -> (B, P)."""
    squares = (queries**2).sum(dim=1, keepdim=True) + (keys**2).sum(dim=1)
    return 2 * queries @ keys.T - squares


SIMILARITIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cos": cos_or_ip,
    "ip": cos_or_ip,
    "l2": negative_l2,
}


def matrix(queries: Tensor, keys: Tensor, metric: str) -> Tensor:
    """Score each query against each key, (B, D) x (P, D) -> (B, P); vectors come `prepared`."""
    return SIMILARITIES[metric](queries, keys)


def one_with_many(query: Rows, keys: Rows, metric: str) -> NDArray[np.float32]:
    """Score one query, of any length, against some keys: (D,), (P, D) -> (P,)."""
    found: NDArray[np.float32] = matrix(placed(query[None], metric), placed(keys, metric), metric)[0].numpy()
    return found


# ---- side by side ---------------------------------------------------------------------------------------------------


def rows(left: Tensor, right: Tensor, metric: str) -> Tensor:
    """Score vectors side by side, differentiably, (..., D) x (..., D) -> (...); vectors come `prepared`."""
    return -((left - right) ** 2).sum(dim=-1) if metric == "l2" else (left * right).sum(dim=-1)


def pairs(first: Rows, second: Rows, metric: str) -> NDArray[np.float64]:
    """Score each row of any length with its partner, summed in double precision: (N, D), (N, D) -> (N,).

    For figures, not gradients: pairs of nearly equal scores keep their order. A vector of zeros has the cosine 0.
    """
    if metric == "l2":
        return 2 * dots(first, second) - dots(first, first) - dots(second, second)
    if metric == "cos":
        lengths = np.sqrt(dots(first, first) * dots(second, second))
        return dots(first, second) / np.where(lengths > 0, lengths, 1.0)
    return dots(first, second)


def dots(first: Rows, second: Rows) -> NDArray[np.float64]:
    """Inner product of each row with its partner in double precision: (N, D), (N, D) -> (N,)."""
    return np.einsum("nd,nd->n", first, second, dtype=np.float64)


# ---- preparing ------------------------------------------------------------------------------------------------------


def prepared(vectors: Tensor, metric: str) -> Tensor:
    """Return vectors as a metric compares them, (..., D): of length 1 for cos, since many bases do not normalise."""
    return F.normalize(vectors, dim=-1) if metric == "cos" else vectors


def placed(vectors: Rows, metric: str, place: torch.device | str = "cpu") -> Tensor:
    """Put vectors where they are scored, (N, D), in fp32 and prepared for the metric."""
    fp32 = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))  # what is memory-mapped is copied
    return prepared(fp32.to(place), metric)
