"""Loader of batches: each rank's steps of an epoch, the DataLoader, and a clock for the time spent waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from zh_embedder.core.ranks import end_with_parent
from zh_embedder.data.plan import Shares, epoch_steps, plan_epoch, rank_steps
from zh_embedder.data.train_rows import RowRequest


class EpochBatches(Sampler[Any]):
    """Batches of an epoch that can be chosen: fresh and resumed runs set it in different places."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration plans."""
        self.epoch = epoch


class RankBatches(EpochBatches):
    """The steps of one rank, epoch by epoch: its slice of the plan that every rank computes."""

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        mode: str | None,
        batch_size: int,
        rank: int,
        ranks: int,
        seed: int,
        shares: Shares = None,
    ) -> None:
        self.sizes, self.shares, self.mode, self.seed = tuple(sizes), shares, mode, seed
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks

    @property
    def step_size(self) -> int:
        """Rows of a step, all ranks together."""
        return self.batch_size * self.ranks

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return epoch_steps(self.sizes, step_rows=self.step_size, mode=self.mode, shares=self.shares)

    def __iter__(self) -> Iterator[list[RowRequest]]:
        """Yield the row requests of each step."""
        epoch, sizes = self.epoch, self.sizes
        plan = plan_epoch(
            sizes, step_rows=self.step_size, mode=self.mode, seed=self.seed, epoch=epoch, shares=self.shares
        )
        for index, step in enumerate(rank_steps(plan, rank=self.rank, batch_size=self.batch_size)):
            whole = tuple(plan.rows[index].tolist())
            yield [
                RowRequest(epoch, row, counts, step.dataset, whole, step.step_queries)
                for row, counts in zip(step.rows.tolist(), step.counts.tolist(), strict=True)
            ]


class PlanLoader(DataLoader[Any]):
    """A loader whose epoch the trainer can set. Never prepared by accelerate: each rank reads its own slice already.

    A fresh run sets the epoch here; a resumed one, whose first batches accelerate skips, sets it on the batch sampler.
    """

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration plans."""
        if isinstance(self.batch_sampler, EpochBatches):
            self.batch_sampler.set_epoch(epoch)


def start_worker(_: int) -> None:
    """Prepare a worker: threads that tokenizers started before it was forked would be waited for in vain.

    It holds what the process holds that it was forked from, the lock of the run's folder included, so it ends with it.
    """
    end_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class Waiting:
    """How long the device has had nothing to do because the next batch was not there: `with waiting: next(batches)`.

    On CUDA the device itself keeps the time, with an event before and one after: the second comes later than the first
    only where all work was done before the batch came. The host never waits for that.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.seconds = 0.0
        self.started: Any = None
        self.gaps: list[tuple[Any, Any]] = []

    def now(self) -> Any:
        """Return the host's time, or an event on the device's stream."""
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __enter__(self) -> None:
        """Start to wait."""
        self.started = self.now()

    def __exit__(self, *_: object) -> None:
        """Stop waiting."""
        if self.on_cuda:
            self.gaps.append((self.started, self.now()))
        else:
            self.seconds += self.now() - self.started

    def drain(self) -> float:
        """Return the seconds since the last call."""
        if self.gaps:
            self.gaps[-1][1].synchronize()
        seconds = self.seconds + sum(start.elapsed_time(end) / 1000 for start, end in self.gaps)
        self.seconds, self.gaps = 0.0, []
        return seconds
