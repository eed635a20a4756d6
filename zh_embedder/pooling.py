"""From token states to one vector per text. One function and one table row per method.

Shapes: N texts, L tokens of the longest, H hidden size. `mask` is 1 on real tokens, 0 on padding, on whichever side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

PoolingFn = Callable[[Tensor, Tensor], Tensor]


def cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """First real token. hidden (N, L, H), mask (N, L) -> (N, H)."""
    first = mask.to(torch.int8).argmax(dim=1)  # (N,) 0 with right padding
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens. hidden (N, L, H), mask (N, L) -> (N, H)."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)  # (N, L, 1)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Last real token. hidden (N, L, H), mask (N, L) -> (N, H)."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask.to(positions.dtype)).argmax(dim=1)  # (N,)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


POOLINGS: Mapping[str, PoolingFn] = {"cls": cls, "mean": mean, "last_token": last_token}

# The switches of a sentence-transformers `1_Pooling/config.json`, in the schema that old and new readers understand.
SENTENCE_TRANSFORMERS_SWITCH: Mapping[str, str] = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last_token": "pooling_mode_lasttoken",
}
