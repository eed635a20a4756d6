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
    _, owners = places(hidden, bounds)
    sums = torch.zeros(len(bounds) - 1, hidden.shape[1], device=hidden.device)
    sums = sums.index_add(0, owners, hidden.float())
    return (sums / bounds.diff().unsqueeze(1)).to(hidden.dtype)


def mean_without_prompt(hidden: Tensor, bounds: Tensor, prompts: Tensor) -> Tensor:
    """Mean over the tokens behind each text's prompt; zero where there are none, as in sentence-transformers.

    hidden (T, H), bounds (N + 1,), prompts (N,) tokens of each text that are left out -> (N, H).
    """
    positions, owners = places(hidden, bounds)
    own = positions >= (bounds[:-1] + prompts)[owners]  # (T,)
    sums = torch.zeros(len(bounds) - 1, hidden.shape[1], device=hidden.device)
    # `where`, not a product: the gradient of a text without tokens, which is huge once normalised, reaches no state.
    sums = sums.index_add(0, owners, torch.where(own.unsqueeze(1), hidden.float(), 0.0))
    counts = (bounds.diff() - prompts).clamp(min=1)
    return (sums / counts.unsqueeze(1)).to(hidden.dtype)


def places(hidden: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Places of tokens and the texts that they belong to, (T,) each."""
    positions = torch.arange(len(hidden), dtype=bounds.dtype, device=bounds.device)
    return positions, torch.bucketize(positions, bounds[1:], right=True)


def last_token(hidden: Tensor, bounds: Tensor) -> Tensor:
    """Last token. hidden (T, H), bounds (N + 1,) -> (N, H)."""
    return hidden[bounds[1:] - 1]


POOLINGS: Mapping[str, PoolingFn] = {"cls": cls, "mean": mean, "last_token": last_token}
# Those that can leave a prompt's tokens out (`include_prompt: false`); any other takes one token, whatever the prompt.
WITHOUT_PROMPT: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"mean": mean_without_prompt}
