"""Base trainer: the Hugging Face Trainer with planned batches, guarded steps, and checkpoints that are whole.

What a step learns is a subclass's: it says how rows become batches, what the loss is, and which parts are saved.
"""

from __future__ import annotations

import json
import logging
import shutil
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerState

from zh_embedder.config.run import RunArguments
from zh_embedder.core.distributed import found_by_first, wait_for_all
from zh_embedder.core.errors import UserError, writing
from zh_embedder.core.files import beside_file, put_in_place
from zh_embedder.core.machine import DTYPES, matmul_peak
from zh_embedder.data.loader import EpochBatches, PlanLoader, Waiting, start_worker
from zh_embedder.models.folders import QUERY_FOLDER
from zh_embedder.training.callbacks import EarlyExit, Progress
from zh_embedder.training.checkpoint_manifest import PLAN_FILE, STATE_FILE, checkpoints_of, find_damage, seal
from zh_embedder.training.checkpoints import copy_encoders, holds_copies, rotate
from zh_embedder.training.meter import Meter, Work
from zh_embedder.training.step_guard import StepGuard, check_finite
from zh_embedder.training.trace import Trace

logger = logging.getLogger(__name__)

ARGS_FILE, STAGING = "args.json", ".partial"
# What the plan of a checkpoint says, in the words of the flags.
PLANNED = {
    "step_rows": "queries a step (--per_device_train_batch_size x ranks)",
    "tokens_per_step": "tokens a step (--tokens_per_device x ranks)",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "seed": "seed (--data_seed, else --seed)",
    "mode": "--inbatch_same_dataset",
}


class BaseTrainer(Trainer):
    """Trains on steps that every rank plans alike."""

    def __init__(self, model: nn.Module, args: RunArguments, *, settings: str, **options: Any) -> None:
        self.settings = settings
        self.staging: Path | None = None
        super().__init__(model=model, args=args, **options)
        self.model_accepts_loss_kwargs = False
        # The rows of a step are weighed by their share of it, never by what transformers counts.
        self.step_guard = StepGuard(args.device, self.describe_rows)
        self.meter, self.trace = Meter(args.device), Trace()
        self.waiting = Waiting(args.device)
        self.remove_callback(ProgressCallback)
        self.add_callback(Progress())
        if args.early_exit_steps:
            self.add_callback(EarlyExit(args.early_exit_steps))
        if args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))

    # ---- what a subclass says -------------------------------------------------------------------------------------

    @abstractmethod
    def describe_rows(self, rows: tuple[int, ...]) -> str:
        """Name the rows of a step, for messages."""

    @abstractmethod
    def work(self, inputs: Any) -> Work:
        """Return what a step has to do on this rank, and what is done."""

    @abstractmethod
    def plan(self) -> dict[str, Any]:
        """Return everything that the order of the data depends on."""

    @abstractmethod
    def parts(self) -> Sequence[str]:
        """Folders of a run that hold its result."""

    @abstractmethod
    def load_parts(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint."""

    # ---- data -----------------------------------------------------------------------------------------------------

    def train(self, *args: Any, **options: Any) -> Any:
        """Train; the clock of the log starts here, behind the measuring of the machine's peak."""
        self.peak()
        self.meter = Meter(self.args.device)
        return super().train(*args, **options)

    def loader(self, rows: Any, batches: EpochBatches, collator: Callable[[Any], Any]) -> PlanLoader:
        """Return a loader of our own, not prepared by accelerate: the plan has given each rank its slice already."""
        workers = self.args.dataloader_num_workers
        return PlanLoader(
            rows,
            batch_sampler=batches,
            collate_fn=collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # or every epoch would draw from the global state that dropout uses
        )

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """Take the batches of an update, and the time that it takes; a resumed run's first loader is not ours."""
        with self.waiting:
            return super().get_batch_samples(*args, **options)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs.to(self.args.device, non_blocking=True)

    def floating_point_ops(self, inputs: Any) -> int:
        """Count the operations of forward and backward."""
        return int(self.work(inputs).operations)

    # ---- the step -------------------------------------------------------------------------------------------------

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """Put the guard on the optimizer: with fp16 the loss scaler owns that place, and the host guards."""
        optimizer = super().create_optimizer(*args, **options)
        if not self.args.fp16 and not self.is_deepspeed_enabled:
            self.step_guard.watch(optimizer)
        return optimizer

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None:
            self.meter.update(norm)
            self.trace.update(norm)
        return norm

    # ---- the best step --------------------------------------------------------------------------------------------

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Measure; a resumed run has measured its start already."""
        if skip_scheduler and self.state.global_step:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _load_best_model(self) -> None:
        """Leave the weights as they are: `save_model` copies those of the best checkpoint."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the result; at the end of training that of the best checkpoint, where it was asked for."""
        best = self.best_checkpoint(Path(self.args.output_dir))
        if output_dir is not None or best is None:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            self.copy_result(best)

    # ---- the end of a run -----------------------------------------------------------------------------------------

    def planned_steps(self) -> int:
        """Steps of the whole run, from its start, as the flags say."""
        return int(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])

    def trained_steps(self) -> int:
        """Steps that this process has trained."""
        return int(self.state.global_step - self._initial_global_step)

    def why_finished(self, checkpoint: Path) -> str | None:
        """Say why nothing is left to train behind a checkpoint; None where something is."""
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        args, step, steps = self.args, state.global_step, self.planned_steps()
        if step >= steps:
            return f"{step} steps are trained, this run has {steps}"
        if args.early_exit_steps and step >= args.early_exit_steps:
            return f"{step} steps are trained, --early_exit_steps is {args.early_exit_steps}"
        stopping = state.stateful_callbacks.get(EarlyStoppingCallback.__name__, {})
        waited = stopping.get("attributes", {}).get("early_stopping_patience_counter", 0)
        if args.early_stopping_patience and waited >= args.early_stopping_patience:
            return f"--early_stopping_patience {args.early_stopping_patience} ended it at step {step}"
        return None

    def complete(self, checkpoint: Path, why: str) -> None:
        """Take the state of a finished run's last checkpoint, and write the result where the run lacks it."""
        self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        best = self.best_checkpoint(checkpoint.parent)
        run, source, names = Path(self.args.output_dir), best or checkpoint, [*self.parts(), ARGS_FILE, PLAN_FILE]
        there = found_by_first(lambda: holds_copies(run, source, names))
        self.clear_staging()
        if next(checkpoints_of(run), None) == run / checkpoint.name:
            self.rotate(checkpoint)  # which a kill may have kept the run from
        if not there and self.args.should_save:
            self.copy_result(source)
        what = "is its result already" if there else f"is written from {source}"
        logger.info("finished: %s: %s: nothing is trained; %s %s", checkpoint, why, run / self.parts()[0], what)
        wait_for_all()

    def best_checkpoint(self, run: Path) -> Path | None:
        """Return the checkpoint whose weights the result is to have, where that is not the last one."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if best is None:
            return None
        return Path(best) if Path(best).is_dir() else run / Path(best).name  # the run may have been moved

    def copy_result(self, checkpoint: Path) -> None:
        """Make the result of a run from a checkpoint.

        Raises:
            UserError: it is not whole.
        """
        if (damage := find_damage(checkpoint)) is not None:
            raise UserError(f"{checkpoint}, whose weights the result is to have, is torn: {damage}")
        copy_encoders(checkpoint, Path(self.args.output_dir), [*self.parts(), ARGS_FILE, PLAN_FILE])

    # ---- the log --------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the meter counted since the last entry, of all ranks together."""
        if "loss" in logs:
            self.step_guard.check()
            self.meter.work += Work(seconds_waited=self.waiting.drain())
            logs |= self.meter.drain(peak=self.peak())
            self.meter = Meter(self.args.device)
        super().log(logs, start_time)

    def peak(self) -> float:
        """Operations per second of a matrix product in this run's precision: measured once."""
        return matmul_peak(self.args.device, DTYPES[self.args.dtype])

    def at_start(self, entry: str) -> float | None:
        """Value of a log entry at step 0, if it was measured."""
        logged = (line[entry] for line in self.state.log_history if line.get("step") == 0 and entry in line)
        return next(logged, None)

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging) if self.staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint under another name, then rename it: a crash leaves a whole one or none."""
        self.step_guard.check()
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        self.clear_staging()
        wait_for_all()
        self.staging = run / STAGING
        try:
            with writing(run / name):
                super()._save_checkpoint(model, trial)
            self.note_best(run / STAGING / name, run)
            wait_for_all()  # every rank has written its files
            if self.args.should_save:
                seal(run / STAGING / name)
                put_in_place(run / STAGING / name, run / name)
        finally:
            self.staging = None
            self.clear_staging()
        self.rotate(run / name)
        wait_for_all()

    def rotate(self, newest: Path) -> None:
        """Remove the checkpoints beyond --save_total_limit."""
        run, best, limit = Path(self.args.output_dir), self.state.best_model_checkpoint, self.args.save_total_limit
        if self.args.should_save:
            rotate(run, limit=limit, newest=newest, best=Path(best) if best else None, aside=run / STAGING)

    def clear_staging(self) -> None:
        """Remove what a killed run, or this one, left of a checkpoint that was not finished."""
        if self.args.should_save:
            shutil.rmtree(Path(self.args.output_dir) / STAGING, ignore_errors=True)

    def note_best(self, written: Path, run: Path) -> None:
        """Name the best checkpoint by its final place: it is still in the temporary folder."""
        best = self.state.best_global_step
        if not best:
            return
        name = f"checkpoint-{best}"
        if name == written.name or (run / name).is_dir():
            self.state.best_model_checkpoint = str(run / name)
        if self.args.should_save:
            self.state.save_to_json(str(written / STATE_FILE))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        if state_dict is not None and not state_dict:
            raise UserError(
                "--deepspeed: stage 3 needs `stage3_gather_16bit_weights_on_model_save: true` to save weights"
            )
        folder, model = Path(output_dir or self.args.output_dir), self.accelerator.unwrap_model(self.model)
        check_finite(state_dict or model.state_dict(), step=self.state.global_step)
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder, state=state_dict)
        beside_file(folder / ARGS_FILE, self.settings + "\n")
        beside_file(folder / PLAN_FILE, json.dumps(self.plan(), ensure_ascii=False, indent=2) + "\n")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load_parts(Path(resume_from_checkpoint))

    def check_resume(self, checkpoint: Path) -> None:
        """Refuse a checkpoint whose data order this run would not continue."""
        saved = json.loads((checkpoint / PLAN_FILE).read_text("utf-8"))
        for name, value in self.plan().items():
            if saved.get(name) != value:
                raise UserError(
                    f"--resume_from_checkpoint: {checkpoint} was trained with {PLANNED.get(name, name)} "
                    f"{saved.get(name)}, this run has "
                    f"{value}: the order of the data would differ. Use the same value, or start a new run from its "
                    f"weights with --query_encoder {checkpoint / QUERY_FOLDER}"
                )
