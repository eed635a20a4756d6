"""Trainer callbacks: the progress bar with its log lines, and an early stop."""

from __future__ import annotations

import logging
from typing import Any

from transformers import ProgressCallback, TrainerCallback

logger = logging.getLogger(__name__)

SHOWN = ("loss", "grad_norm", "learning_rate", "texts_per_second", "tokens_per_second", "mfu", "data_wait", "epoch")

LEAST_MFU = 0.005  # of a base without layers there is nothing to show


class Progress(ProgressCallback):
    """A progress bar, and a line for each log entry, on the first rank; the last step is always logged and measured."""

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Move the bar."""
        super().on_step_end(args, state, control, **options)
        if state.global_step >= state.max_steps:
            control.should_log = control.should_log or args.logging_strategy != "no"
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write the line above the bar."""
        if state.is_world_process_zero and self.training_bar is not None and "loss" in logs:
            entries = [f"{n} {logs[n]:.4g}" for n in SHOWN if n in logs and (n != "mfu" or logs[n] >= LEAST_MFU)]
            tasks = [f"{name.removeprefix('loss/')} {v:.3f}" for name, v in logs.items() if name.startswith("loss/")]
            logger.info("step %d: %s | loss %s", state.global_step, ", ".join(entries), ", ".join(tasks))


class EarlyExit(TrainerCallback):
    """LLM-Embedder's `early_exit_steps`: stop there, with the schedule of the whole run."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Stop when the step is reached."""
        if state.global_step >= self.steps:
            control.should_training_stop = True
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"
        return control
