"""Pooling: from token states to one vector per text. One function and one table row per method.

Shapes: N texts, T tokens of all texts end to end, H hidden size. Text i lies between bounds[i] and bounds[i + 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

PoolingFn = Callable[[Tensor, Tensor], Tensor]


def cls(hidden: Tensor, bounds: Tensor) -> Tensor:
    """First token. hidden (T, H), bounds (N + 1,) -> (N, H)."""
    return hidden[bounds[:-1]]


def mean(hidden: Tensor, bounds: Tensor) -> Tensor:
    """Mean over the tokens, summed in fp32. hidden (T, H), bounds (N + 1,) -> (N, H)."""
    positions = torch.arange(len(hidden), dtype=bounds.dtype, device=bounds.device)
    owners = torch.bucketize(positions, bounds[1:], right=True)  # (T,) the text of each token
    sums = torch.zeros(len(bounds) - 1, hidden.shape[1], device=hidden.device)
    sums = sums.index_add(0, owners, hidden.float())
    return (sums / bounds.diff().unsqueeze(1)).to(hidden.dtype)


def last_token(hidden: Tensor, bounds: Tensor) -> Tensor:
    """Last token. hidden (T, H), bounds (N + 1,) -> (N, H)."""
    return hidden[bounds[1:] - 1]


POOLINGS: Mapping[str, PoolingFn] = {"cls": cls, "mean": mean, "last_token": last_token}
