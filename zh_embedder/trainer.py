"""The Hugging Face Trainer, with our loader, our loss and our checkpoints. Only here is state."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from zh_embedder.arguments import TrainArguments
from zh_embedder.attention import obstacle
from zh_embedder.checkpoints import KEY_FOLDER, PLAN_FILE, QUERY_FOLDER, load_weights
from zh_embedder.collator import Batch, Collator, PlanLoader, RankBatches, TrainRows, TrainSet, Waiting, start_worker
from zh_embedder.encoder import Encoder
from zh_embedder.errors import UserError
from zh_embedder.files import beside_file
from zh_embedder.gather import gather_values, gather_with_grad, wait_for_all, world
from zh_embedder.guard import Meter, StepGuard, Work, same_on_all_ranks
from zh_embedder.losses import EmbeddedBatch, LossTerm, total_loss
from zh_embedder.machine import DTYPES, matmul_peak
from zh_embedder.sampling import MIXED
from zh_embedder.tokens import TokenBatch

logger = logging.getLogger(__name__)

ARGS_FILE, STAGING = "args.json", ".partial"
SHOWN = ("loss", "grad_norm", "learning_rate", "texts_per_second", "tokens_per_second", "mfu", "data_wait", "epoch")


class BiEncoder(nn.Module):
    """Query and key encoder in one forward, as DDP wants it; one module where they are tied."""

    def __init__(self, query: Encoder, key: Encoder | None = None) -> None:
        super().__init__()
        self.query = query
        self.key = key

    def forward(self, queries: TokenBatch, keys: TokenBatch, key_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of queries (B, D) and keys (B * G, D), whose key_rows (B * G,) are places in K distinct ones.

        Tied, queries and keys go through the model as one stream.
        """
        if self.key is not None:
            return self.query(queries), self.key(keys)[key_rows]
        vectors = self.query(queries.join(keys))
        return vectors[: len(queries)], vectors[len(queries) :][key_rows]

    def collator(self, *, merge_keys: bool = True) -> Collator:
        """Return what makes batches for these encoders."""
        query, spec = self.query, self.query.spec
        return Collator(
            query.tokenizer,
            query_max_length=spec.query_max_length,
            key_max_length=spec.key_max_length,
            key_tokenizer=self.key.tokenizer if self.key is not None else None,
            merge_keys=merge_keys,
        )

    @property
    def config(self) -> Any:
        """The Hugging Face configuration, for engines that want its sizes."""
        return self.query.config

    def encoders(self) -> dict[str, Encoder]:
        """The encoders by the folder that holds them."""
        return {QUERY_FOLDER: self.query} | ({KEY_FOLDER: self.key} if self.key is not None else {})

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Trade compute for memory, in every encoder."""
        for encoder in self.encoders().values():
            encoder.backbone.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Do the same under the name that transformers before 5.20 calls."""
        for encoder in self.encoders().values():
            encoder.backbone.gradient_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings, for NEFTune."""
        return self.query.backbone.get_input_embeddings()

    def save(self, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
        """Write every encoder into its folder below `folder`."""
        for name, encoder in self.encoders().items():
            prefix = "query." if encoder is self.query else "key."
            own = (
                None if state is None else {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            )
            encoder.save(folder / name, state=own)


class DenseTrainer(Trainer):
    """Trains a BiEncoder on steps that every rank plans alike."""

    def __init__(
        self,
        model: BiEncoder,
        args: TrainArguments,
        *,
        sets: Sequence[TrainSet],
        terms: Sequence[tuple[LossTerm, ...]],
        mode: str | None,
        fingerprint: Mapping[str, Any],
        settings: str,
    ) -> None:
        self.rows = TrainRows(sets, seed=args.order_seed)
        self.terms, self.mode = tuple(terms), mode
        self.fingerprint, self.settings = dict(fingerprint), settings
        self.staging: Path | None = None
        super().__init__(model=model, args=args, train_dataset=self.rows)
        self.model_accepts_loss_kwargs = False
        # The queries of a step are weighed by their share of it, never by what transformers counts.
        self.step_guard = StepGuard(args.device, self.describe_rows)
        self.meter = Meter(args.device)
        self.waiting = Waiting(args.device)
        self.remove_callback(ProgressCallback)
        self.add_callback(Progress())
        if args.early_exit_steps:
            self.add_callback(EarlyExit(args.early_exit_steps))

    def why_padded(self) -> str | None:
        """Say why texts go through the query encoder with padding; None where they do not."""
        return self.model.query.why_padded or obstacle(self.args.device, DTYPES[self.args.dtype])

    def train(self, *args: Any, **options: Any) -> Any:
        """Train; the clock of the log starts here, behind the measuring of the machine's peak."""
        self.peak()
        self.meter = Meter(self.args.device)
        return super().train(*args, **options)

    # ---- data -----------------------------------------------------------------------------------------------------

    def batches(self) -> RankBatches:
        """Return the steps of this rank."""
        return RankBatches(
            [len(s) for s in self.rows.sets],
            mode=self.mode,
            batch_size=self._train_batch_size,
            rank=self.args.process_index,
            ranks=self.args.world_size,
            seed=self.rows.seed,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of our own, not prepared by accelerate: the plan has given each rank its slice already."""
        # Sharded weights are gathered forward by forward: every rank must make as many forwards as the others.
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        in_parts = self.model.query.sub_batch_size or self.why_padded() is not None
        collator = self.model.collator(merge_keys=not (sharded and in_parts))
        workers = self.args.dataloader_num_workers
        return PlanLoader(
            self.rows,
            batch_sampler=self.batches(),
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

    def describe_rows(self, rows: tuple[int, ...]) -> str:
        """Name the task, the dataset and the records of a step, for messages."""
        lines: dict[str, list[int]] = {}
        for row in dict.fromkeys(rows):
            index, own = self.rows.locate(row)
            chosen = self.rows.sets[index]
            where = f"task {chosen.task}, dataset {chosen.records.name} ({chosen.records.path}), records at lines"
            lines.setdefault(where, []).append(chosen.records.line(own))
        return "; ".join(f"{where} {', '.join(map(str, sorted(found)[:32]))}" for where, found in lines.items())

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        return inputs.to(self.args.device, non_blocking=True)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Count the operations of forward and backward."""
        return int(self.work(inputs).operations)

    # ---- the step -------------------------------------------------------------------------------------------------

    def compute_loss(self, model: nn.Module, inputs: Batch, return_outputs: bool = False, **_: Any) -> Tensor:
        """Loss of this rank's queries against the keys of all ranks."""
        if not self.meter.datasets and self.state.global_step == self._initial_global_step:
            logger.info("engine: %s, %d ranks", type(model).__name__, self.args.world_size)
        queries, keys = model(inputs.queries, inputs.keys, inputs.key_rows)
        with torch.autocast(queries.device.type, enabled=False):
            batch = self.embedded(inputs, queries.float(), keys.float())
            loss = total_loss(batch, self.terms[max(inputs.dataset, 0)])
        self.step_guard.see(loss.detach(), step=self.state.global_step + 1, rows=inputs.step_rows)
        task = "mixed" if inputs.dataset == MIXED else self.rows.sets[inputs.dataset].task
        self.meter.step(task, inputs.dataset, loss, self.work(inputs))
        return loss

    def work(self, inputs: Batch) -> Work:
        """Return what a step has to do on this rank, and what is done."""
        dtype = DTYPES[self.args.dtype]
        queries, keys, key = inputs.queries.sizes, inputs.keys.sizes, self.model.key
        parts = [(self.model.query, queries + keys)] if key is None else [(self.model.query, queries), (key, keys)]
        return Work(
            texts=inputs.texts,
            tokens=inputs.tokens,
            duplicate_tokens=inputs.duplicate_tokens,
            computed_tokens=sum(encoder.computed_tokens(sizes, dtype) for encoder, sizes in parts),
            padded_tokens=len(queries) * max(queries) + len(inputs.key_rows) * max(keys),
            operations=3 * sum(encoder.operations(sizes) for encoder, sizes in parts),
        )

    def embedded(self, inputs: Batch, queries: Tensor, keys: Tensor) -> EmbeddedBatch:
        """Gather what a loss needs. queries (B, D), keys (B * G, D) -> keys of all ranks (P, D)."""
        rank, ranks = world()
        counts = inputs.counts
        labels = torch.stack([inputs.key_texts, counts.repeat_interleave(inputs.group_size).long()], dim=1)
        first = 0
        if self.args.negative_cross_device:
            first = rank * len(keys)
            keys, labels = gather_with_grad(keys), gather_values(labels)
        group = first + torch.arange(len(inputs.key_rows), device=queries.device).view(len(queries), -1)
        return EmbeddedBatch(
            queries=queries,
            keys=keys,
            group=group,
            weights=counts.float() * (ranks / inputs.step_queries),
            key_texts=labels[:, 0],
            positive_texts=inputs.positive_texts,
            key_counts=labels[:, 1].bool(),
            teacher=inputs.teacher,
            metric=self.model.query.spec.metric,
        )

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
        return norm

    # ---- the log --------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add loss and gradient norm per task, texts/s and tokens/s; check that all ranks trained the same datasets."""
        if "loss" in logs:
            self.step_guard.check()
            datasets = self.meter.datasets
            if not same_on_all_ranks(datasets, self.args.device):
                raise RuntimeError(f"ranks trained different datasets up to step {self.state.global_step}: {datasets}")
            if self.mode is not None and self.args.world_size > 1:
                last = self.state.global_step
                logger.info(
                    "steps %d to %d: each one dataset, the same on all %d ranks (checked): %s",
                    last - len(datasets) // max(1, self.args.gradient_accumulation_steps) + 1,
                    last,
                    self.args.world_size,
                    self.count_datasets(datasets),
                )
            self.meter.work += Work(seconds_waited=self.waiting.drain())
            logs |= self.meter.drain(peak=self.peak())
            self.meter = Meter(self.args.device)
        super().log(logs, start_time)

    def peak(self) -> float:
        """Operations per second of a matrix product in this run's precision: measured once."""
        return matmul_peak(self.args.device, DTYPES[self.args.dtype])

    def count_datasets(self, datasets: Sequence[int]) -> str:
        """Name datasets with how often each was trained."""
        names = {index: self.rows.sets[index].records.name for index in datasets}
        return ", ".join(f"{name} x{datasets.count(index)}" for index, name in sorted(names.items()))

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging) if self.staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint beside, then rename it: a crash leaves a whole one or none."""
        self.step_guard.check()
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(run / STAGING, ignore_errors=True)
        wait_for_all()
        self.staging = run / STAGING
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.staging = None
        wait_for_all()
        if self.args.should_save:
            shutil.rmtree(run / name, ignore_errors=True)
            (run / STAGING / name).rename(run / name)
            shutil.rmtree(run / STAGING, ignore_errors=True)
            rotate_checkpoints(output_dir=str(run), save_total_limit=self.args.save_total_limit, use_mtime=True)
        wait_for_all()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        if state_dict is not None and not state_dict:
            raise UserError(
                "--deepspeed: stage 3 needs `stage3_gather_16bit_weights_on_model_save: true` to save weights"
            )
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.unwrap_model(self.model).save(folder, state=state_dict)
        beside_file(folder / ARGS_FILE, self.settings + "\n")
        beside_file(folder / PLAN_FILE, json.dumps(self.plan(), ensure_ascii=False, indent=2) + "\n")

    def plan(self) -> dict[str, Any]:
        """Return everything that the order of the data depends on."""
        return {
            **self.fingerprint,
            "mode": self.mode,
            "step_rows": self._train_batch_size * self.args.world_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "seed": self.rows.seed,
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        for name, encoder in self.model.encoders().items():
            load_weights(encoder, Path(resume_from_checkpoint) / name)

    def check_resume(self, checkpoint: Path) -> None:
        """Refuse a checkpoint whose data order this run would not continue."""
        saved = json.loads((checkpoint / PLAN_FILE).read_text("utf-8"))
        for name, value in self.plan().items():
            if saved.get(name) != value:
                raise UserError(
                    f"--resume_from_checkpoint: {checkpoint} was trained with {name} {saved.get(name)}, this run has "
                    f"{value}: the order of the data would not continue. Use the same, or start a new run from its "
                    f"weights with --query_encoder {checkpoint / QUERY_FOLDER}"
                )


class Progress(ProgressCallback):
    """A progress bar, and one line for each log entry, on the first rank; the last step is always logged."""

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Move the bar."""
        super().on_step_end(args, state, control, **options)
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write the line above the bar."""
        if state.is_world_process_zero and self.training_bar is not None and "loss" in logs:
            entries = [f"{name} {logs[name]:.4g}" for name in SHOWN if name in logs]
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
        return control
