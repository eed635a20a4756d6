"""Meters of the log: loss and gradient norm per task, throughput, and the work of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from zh_embedder.core.distributed import sum_over_ranks


@dataclass(frozen=True, slots=True)
class Work:
    """What forwards of one rank had to do, and what they did."""

    texts: int = 0  # queries and keys, duplicates included
    tokens: int = 0  # of them
    duplicate_tokens: int = 0  # of keys that the step has already: not encoded again
    computed_tokens: int = 0  # went through the model, padding included
    padded_tokens: int = 0  # would have, with queries and keys each padded to their longest
    operations: float = 0.0  # of forward and backward, on real tokens
    seconds_waited: float = 0.0  # for the loader, with nothing else to do

    def __add__(self, other: Work) -> Work:
        """Add up, number by number."""
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def rates(self, seconds: float, *, ranks: int, peak: float | None) -> dict[str, float]:
        """Return the log entries for the work of all ranks together in a number of seconds.

        Args:
            seconds: of one rank.
            ranks: how many.
            peak: operations per second that one rank could do at best; None leaves the share of it out.
        """
        entries = {
            "texts_per_second": self.texts / seconds,
            "tokens_per_second": self.tokens / seconds,
            "data_wait": self.seconds_waited / ranks / seconds,
            "padding_avoided": 1 - (self.computed_tokens + self.duplicate_tokens) / max(1, self.padded_tokens),
            "duplicates_avoided": self.duplicate_tokens / max(1, self.tokens),
        }
        return entries if peak is None else {**entries, "mfu": self.operations / seconds / (peak * ranks)}


@dataclass(slots=True)
class Meter:
    """Sums between two log lines: loss and gradient norm per task on the device, work on the host."""

    device: torch.device
    losses: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    loss_steps: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    norm_steps: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    step_tasks: set[str] = field(default_factory=set)  # tasks since the last update
    sums: dict[str, Tensor] = field(default_factory=dict)  # what `losses.watch` counts, by name and task
    datasets: list[int] = field(default_factory=list)  # dataset of each step since the last log
    work: Work = field(default_factory=Work)
    started: float = field(default_factory=time.perf_counter)

    def step(self, task: str, dataset: int, loss: Tensor, work: Work, watched: Mapping[str, Tensor]) -> None:
        """Count one forward of this rank."""
        for name, value in watched.items():
            self.sums[f"{name}/{task}"] = self.sums.get(f"{name}/{task}", 0) + value.float()
        self.losses[task] = self.losses.get(task, torch.zeros((), device=self.device)) + loss.detach()
        self.loss_steps[task] += 1
        self.step_tasks.add(task)
        self.datasets.append(dataset)
        self.work += work

    def update(self, norm: Tensor | float) -> None:
        """Count one update: its norm belongs to a task where all its forwards do."""
        task = next(iter(self.step_tasks)) if len(self.step_tasks) == 1 else "several"
        value = torch.as_tensor(norm, device=self.device).detach().float()
        self.norms[task] = self.norms.get(task, torch.zeros((), device=self.device)) + value
        self.norm_steps[task] += 1
        self.step_tasks.clear()

    def drain(self, *, peak: float | None = None) -> dict[str, float]:
        """Return the log entries of all ranks together; every rank must call it at the same step.

        Args:
            peak: operations per second that this rank could do at best, for the share of it (`mfu`).
        """
        seconds = max(time.perf_counter() - self.started, 1e-9)
        names, watched = sorted(self.losses), sorted(self.sums)
        values = [*(self.losses[name] for name in names), *(self.sums[name] for name in watched)]
        sums = torch.stack(values) if values else torch.zeros(0, device=self.device)
        own = torch.tensor([*astuple(self.work), 1.0], dtype=torch.float64)
        totals = sum_over_ranks(torch.cat([sums.double().cpu(), own]).to(self.device)).tolist()
        ranks = int(totals[-1])
        entries = {f"loss/{n}": total / ranks / self.loss_steps[n] for n, total in zip(names, totals, strict=False)}
        entries |= {f"grad_norm/{n}": v.item() / self.norm_steps[n] for n, v in sorted(self.norms.items())}
        found = dict(zip(watched, totals[len(names) :], strict=False))
        for name in watched:
            kind, task = name.split("/", 1)
            if kind != "queries":
                entries[name] = found[name] / max(1.0, found[f"queries/{task}"])
        return entries | Work(*totals[len(values) : -1]).rates(seconds, ranks=ranks, peak=peak)
