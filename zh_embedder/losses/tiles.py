"""Tiles: a loss over some of the local queries at a time, so that the scores of all are never held at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zh_embedder.losses.batch import LossBatch

TILE = 1 << 20  # scores of queries against keys that are held at once: 4 MiB of fp32

LossOfBatch = Callable[[LossBatch], Tensor]


def in_tiles(batch: LossBatch, compute: LossOfBatch) -> Tensor:
    """Compute a loss that is a sum over local queries, tile by tile.

    The sum over queries is the sum of the tiles' sums, and so are its gradients: each tile's are taken at once, while
    its scores are there, and only their sums wait for the backward pass.
    """
    if len(batch) <= tile_rows(batch):
        return compute(batch)
    if not torch.is_grad_enabled():
        return torch.stack([compute(part) for part in tiles(batch)]).sum()
    found: Tensor = _Tiled.apply(compute, batch, *(getattr(batch, name) for name in batch.INPUTS))
    return found


class _Tiled(torch.autograd.Function):
    """What the model made -> a loss that is a sum over tiles."""

    @staticmethod
    def forward(ctx: Any, compute: LossOfBatch, batch: LossBatch, *inputs: Tensor | None) -> Tensor:
        own = [v if v is None else v.detach().requires_grad_(v.requires_grad) for v in inputs]
        batch = replace(batch, **dict(zip(batch.INPUTS, own, strict=True)))  # type: ignore[arg-type]
        total = torch.zeros((), device=batch.weights.device)
        with torch.enable_grad():
            for part in tiles(batch):
                loss = compute(part)
                if loss.requires_grad:
                    loss.backward()
                total = total + loss.detach()
        ctx.save_for_backward(*(v if v is None else v.grad for v in own))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(g if g is None else g * grads[0] for g in ctx.saved_tensors)


def tile_rows(batch: LossBatch) -> int:
    """How many local queries fill a tile with their scores against the step's keys."""
    return max(1, TILE // len(batch.key_texts))


def tiles(batch: LossBatch) -> Iterator[LossBatch]:
    """Yield the batch in parts: as many local queries at a time as fill a tile with their scores of the step's keys."""
    rows = tile_rows(batch)
    for first in range(0, len(batch), rows):
        yield batch.rows(slice(first, first + rows))
