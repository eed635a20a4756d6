"""Step guard: no update from a non-finite loss, no run that learns nothing, ranks that agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import gather_values, sum_over_ranks
from zh_embedder.core.errors import UserError

ZERO_STEPS = 20


class StepGuard:
    """No update is made from a non-finite loss, and a loss of exactly 0 for 20 steps stops the run.

    The verdict stays on the device: a fused optimizer reads it there as `found_inf` and skips its update, so no step
    waits for the host. The error is raised as soon as the host has read the verdict, a step later at most on the CPU.
    Every rank comes to the same verdict, because the flags are summed over ranks.
    """

    def __init__(self, device: torch.device, describe: Callable[[tuple[int, ...]], str]) -> None:
        self.describe = describe  # rows of a step -> task, dataset and lines
        self.bad = torch.zeros((), device=device)  # 1 from the first non-finite loss on
        self.zero_streak = torch.zeros((), device=device)
        # Steps whose verdict the host has not read yet, each with the event after its copy.
        self.history: list[tuple[int, tuple[int, ...], Tensor, torch.cuda.Event | None]] = []
        self.watched_on_device = False

    def see(self, loss: Tensor, *, step: int, rows: tuple[int, ...]) -> None:
        """Judge the loss of a step before its backward pass.

        Raises:
            UserError: this step or an earlier one was bad, and an update from it has not been made.
        """
        flags = sum_over_ranks(torch.stack([~loss.isfinite(), loss != 0]).float())
        self.bad = torch.maximum(self.bad, flags[0].clamp(max=1))
        self.zero_streak = torch.where(flags[1] > 0, torch.zeros_like(self.zero_streak), self.zero_streak + 1)
        verdict = torch.stack([self.bad, self.zero_streak])
        if verdict.device.type == "cuda" and self.watched_on_device:
            # Into pinned memory, or the copy would wait; it is read a step later, when it has long arrived.
            verdict = torch.empty(2, pin_memory=True).copy_(verdict, non_blocking=True)
            self.history.append((step, rows, verdict, torch.cuda.current_stream().record_event()))
            self.check(but_last=True)
        else:
            self.history.append((step, rows, verdict, None))
            self.check()

    def check(self, *, but_last: bool = False) -> None:
        """Raise for the first bad step that the host has not reported yet."""
        while len(self.history) > int(but_last):
            step, rows, verdict, copied = self.history.pop(0)
            if copied is not None:
                copied.synchronize()
            bad, streak = verdict.tolist()
            if bad or streak >= ZERO_STEPS:
                self.history.clear()  # later verdicts only repeat this one
            if bad:
                raise UserError(
                    f"step {step}: the loss is not finite, the update was skipped: {self.describe(rows)}. "
                    "Usual causes: too high a learning rate, fp16 (try --dtype bf16 or fp32), scores out of range"
                )
            if streak >= ZERO_STEPS:
                raise UserError(
                    f"step {step}: the loss has been exactly 0 for {ZERO_STEPS} steps, the model is not learning: "
                    f"{self.describe(rows)}. Usual causes: one query per step and no negatives, negatives that are all "
                    "known positives, too small a --cos_temperature"
                )

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Let a fused optimizer skip its update on the device; others are guarded by the host before the backward."""
        if optimizer.defaults.get("fused"):
            self.watched_on_device = True
            optimizer.register_step_pre_hook(self._hand_over)

    def _hand_over(self, optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        optimizer.found_inf = self.bad  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]


def check_finite(weights: Mapping[str, Tensor], *, step: int) -> None:
    """Refuse weights that are not finite: the last update may ruin them, and no loss comes behind it to show that.

    Args:
        weights: by name.
        step: of the last update.

    Raises:
        UserError: with the step, the first such weight and how many there are.
    """
    lost = [name for name, weight in weights.items() if weight.is_floating_point() and not weight.isfinite().all()]
    if lost:
        raise UserError(
            f"step {step}: {len(lost)} of {counted(len(weights), 'weight')} hold NaN or infinity, such as {lost[0]}: "
            "they are not saved. Usual causes: too high a learning rate, fp16 (try --dtype bf16 or fp32)"
        )


def same_on_all_ranks(values: Sequence[int], device: torch.device) -> bool:
    """Whether every rank has the same list. Every rank must call it."""
    local = torch.tensor([values], device=device)
    return bool((gather_values(local) == local).all())
