"""Embeddings of all ranks in one tensor, with gradients to all of them. The only module that talks to other ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from zh_embedder.core.errors import UserError, explain
from zh_embedder.core.ranks import world

Found = TypeVar("Found")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, rows: list[int]) -> Tensor:
        ctx.rows = rows
        return _stack(local, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)  # sum: the queries of every rank pull on our rows
        start = sum(ctx.rows[: dist.get_rank()])
        return grad[start : start + ctx.rows[dist.get_rank()]], None


def gather_with_grad(local: Tensor, *, even: bool = True) -> Tensor:
    """Stack the rows of every rank, (N, D) -> (sum of N, D), keeping gradients to all of them.

    Where ranks may hold different numbers of rows, say even=False: they then tell each other how many first, which on a
    GPU the host waits for. The plan gives every rank the same number.

    DDP averages gradients over ranks, so a loss whose value on each rank is (ranks / step queries) * (sum over its
    local queries) gives the gradient of one process that sees the whole step; no other factor belongs anywhere.
    `tests/core/test_distributed.py` proves it on two processes.
    """
    if world()[1] == 1:
        return local
    return _Gather.apply(local, rows_of_ranks(local, even=even))


def gather_values(local: Tensor, *, even: bool = True) -> Tensor:
    """Stack the rows of every rank without gradients, (N, ...) -> (sum of N, ...). See `gather_with_grad`."""
    return local if world()[1] == 1 else _stack(local, rows_of_ranks(local, even=even))


def rows_of_ranks(local: Tensor, *, even: bool) -> list[int]:
    """How many rows each rank holds: as many as this one, or what they say."""
    if even:
        return [len(local)] * world()[1]
    counts = torch.tensor([len(local)], device=local.device)
    return _stack(counts, [1] * world()[1]).tolist()


def _stack(local: Tensor, rows: list[int]) -> Tensor:
    """Stack the rows of every rank; the shorter ones are padded with rows that are never read."""
    sent = local.new_zeros(max(rows), *local.shape[1:])  # contiguous, where `local` may be a view
    sent[: len(local)] = local
    parts = [torch.empty_like(sent) for _ in rows]
    dist.all_gather(parts, sent)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


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


def found_by_first(work: Callable[[], Found]) -> Found:
    """Let the first rank do what need not be done twice, or must not; every rank returns what it found.

    Raises:
        UserError: the first rank's, on every rank, so that none waits for another.
    """
    rank, ranks = world()
    if ranks == 1:
        return work()
    answer: list[Any] = [None, None]
    failed: Exception | None = None
    if rank == 0:
        try:
            answer[0] = work()
        except Exception as error:
            failed, answer[1] = error, explain(error) or f"{type(error).__name__} on the first rank: {error}"
    dist.broadcast_object_list(answer, src=0)
    if failed is not None:
        raise failed
    if answer[1] is not None:
        raise UserError(answer[1])
    found: Found = answer[0]
    return found
