"""The course of a run in bounded memory: losses of each task and gradient norms, however rarely the log is written."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST = 256  # values of one curve; beyond it neighbours are averaged


@dataclass(slots=True)
class Curve:
    """Means over equal stretches of steps, kept on the device so that no step waits for the host."""

    values: list[Tensor] = field(default_factory=list)
    stretch: int = 1  # steps of a value
    pending: list[Tensor] = field(default_factory=list)

    def add(self, value: Tensor) -> None:
        """Take one more step; the first one stays exact until the curve is full."""
        self.pending.append(value)
        if len(self.pending) < self.stretch:
            return
        self.values.append(torch.stack(self.pending).mean())
        self.pending.clear()
        if len(self.values) == MOST:
            self.values = list(torch.stack(self.values).view(-1, 2).mean(dim=1).unbind())
            self.stretch *= 2

    def read(self) -> list[float]:
        """Return the values."""
        return torch.stack(self.values).tolist() if self.values else []


@dataclass(slots=True)
class Trace:
    """Losses of this rank, together and by task, and gradient norms."""

    losses: Curve = field(default_factory=Curve)
    norms: Curve = field(default_factory=Curve)
    tasks: dict[str, Curve] = field(default_factory=dict)

    def step(self, task: str, loss: Tensor) -> None:
        """Take the loss of one forward."""
        value = loss.detach().float()
        self.losses.add(value)
        self.tasks.setdefault(task, Curve()).add(value)

    def update(self, norm: Tensor | float) -> None:
        """Take the gradient norm of one update."""
        self.norms.add(torch.as_tensor(norm).detach().float())
