"""Dropout from random bits drawn sixteen at a time: on the CPU, torch draws them element by element.

A quarter as many draws of the same generator, so a seed still decides all of them; the share that is dropped is exact
to 2 ** -16. On other devices, and in evaluation, it is torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 2**16
LOWEST = -(2**63)  # of the integers drawn: all 64 bits are random
WORDS = 4  # of sixteen bits in each


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float) -> Tensor:
        count = values.numel()
        drawn = torch.empty(-(-count // WORDS), dtype=torch.int64).random_(LOWEST, None)
        words = drawn.view(torch.int16)[:count].view(values.shape)
        # At most the highest word: a share that rounds to all would not fit into sixteen bits.
        kept = words >= min(round(share * LEVELS), LEVELS - 1) - LEVELS // 2
        ctx.scale = 1 / (1 - share)
        ctx.save_for_backward(kept)
        return (values * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grads[0] * kept).mul_(ctx.scale), None


class Dropout(nn.Dropout):
    """torch's Dropout, with cheaper random bits on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero a share `p` of the values and scale the rest by 1 / (1 - p), in training."""
        if not self.training or self.p in {0, 1} or input.device.type != "cpu":
            return super().forward(input)
        return _Drop.apply(input, self.p)


def cheapen(model: nn.Module) -> None:
    """Let every dropout of a model draw its bits the cheap way."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
