"""Embeddings of all ranks in one tensor, with gradients to all of them. The only module that talks to other ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Return (rank, number of ranks); (0, 1) where no process group was started."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rows = local.shape[0]
        return gather_values(local)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)  # sum: the queries of every rank pull on our rows
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather_with_grad(local: Tensor) -> Tensor:
    """Stack the rows of every rank, (N, D) -> (ranks * N, D), keeping gradients to all of them.

    Every rank must pass the same N. DDP averages gradients over ranks, so a loss whose value on each rank is
    (ranks / step queries) * (sum over its local queries) gives the gradient of one process that sees the whole step;
    no other factor belongs anywhere. `tests/test_gather.py` proves it on two processes.
    """
    if world()[1] == 1:
        return local
    return _Gather.apply(local)


def gather_values(local: Tensor) -> Tensor:
    """Stack the rows of every rank without gradients, (N, ...) -> (ranks * N, ...). Every rank passes the same N."""
    _, ranks = world()
    if ranks == 1:
        return local
    local = local.contiguous()  # before `empty_like`, which would keep the strides of a view
    parts = [torch.empty_like(local) for _ in range(ranks)]
    dist.all_gather(parts, local)
    return torch.cat(parts)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the element-wise sum of `values` over all ranks, as a new tensor on every rank."""
    total = values.clone()
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


def wait_for_all() -> None:
    """Wait until every rank has come here; nothing to wait for in a single process."""
    if world()[1] > 1:
        dist.barrier()
