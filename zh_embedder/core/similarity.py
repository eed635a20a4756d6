"""Similarity of vectors: cos, ip and l2."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor


def cos_or_ip(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner product, (B, D) x (P, D) -> (B, P). Vectors come normalised when the metric is cos."""
    return queries @ keys.T


def negative_l2(queries: Tensor, keys: Tensor) -> Tensor:
    """Minus the squared Euclidean distance, (B, D) x (P, D) -> (B, P): ranks as faiss' L2 index does."""
    squares = (queries**2).sum(dim=1, keepdim=True) + (keys**2).sum(dim=1)
    return 2 * queries @ keys.T - squares


SIMILARITIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cos": cos_or_ip,
    "ip": cos_or_ip,
    "l2": negative_l2,
}
