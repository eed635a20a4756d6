"""The Hugging Face Trainer, with our loader, our loss and our checkpoints. Only here is state."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer
from transformers.trainer_utils import rotate_checkpoints

from zh_embedder.arguments import TrainArguments
from zh_embedder.attention import obstacle
from zh_embedder.bi_encoder import BiEncoder
from zh_embedder.callbacks import EarlyExit, Progress
from zh_embedder.checkpoints import PLAN_FILE, QUERY_FOLDER, copy_encoders, load_weights
from zh_embedder.collator import Batch, PlanLoader, RankBatches, TrainRows, TrainSet, Waiting, start_worker
from zh_embedder.embedded import EmbeddedBatch
from zh_embedder.errors import UserError
from zh_embedder.evaluation import Model
from zh_embedder.files import beside_file
from zh_embedder.gather import gather_values, gather_with_grad, wait_for_all, world
from zh_embedder.guard import Meter, StepGuard, Work, same_on_all_ranks
from zh_embedder.machine import DTYPES, matmul_peak
from zh_embedder.monitor import WORDS, Watched, against_base, load_outcomes, save_outcomes
from zh_embedder.objectives import LossTerm, sees_queries, total_loss, watch
from zh_embedder.sampling import MIXED, Shares

logger = logging.getLogger(__name__)

ARGS_FILE, STAGING = "args.json", ".partial"
TRAINER_STATE_NAME = "trainer_state.json"


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
        dimensions: Mapping[int, float] | None = None,
        shares: Shares = None,
        watched: Watched | None = None,
    ) -> None:
        self.rows = TrainRows(sets, seed=args.order_seed)
        self.terms, self.mode, self.dimensions, self.shares = tuple(terms), mode, dimensions, shares
        self.fingerprint, self.settings = dict(fingerprint), settings
        self.staging: Path | None = None
        self.watched = watched
        super().__init__(
            model=model, args=args, train_dataset=self.rows, eval_dataset=None if watched is None else watched.every
        )
        self.model_accepts_loss_kwargs = False
        # The queries of a step are weighed by their share of it, never by what transformers counts.
        self.step_guard = StepGuard(args.device, self.describe_rows)
        self.meter = Meter(args.device)
        self.waiting = Waiting(args.device)
        self.remove_callback(ProgressCallback)
        self.add_callback(Progress())
        if args.early_exit_steps:
            self.add_callback(EarlyExit(args.early_exit_steps))
        if args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))

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
            shares=self.shares,
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
        terms = self.terms[max(inputs.dataset, 0)]
        with torch.autocast(queries.device.type, enabled=False):
            batch = self.embedded(inputs, queries.float(), keys.float(), with_queries=sees_queries(terms))
            loss = total_loss(batch, terms, dimensions=self.dimensions)
            watched = watch(batch, terms)
        self.step_guard.see(loss.detach(), step=self.state.global_step + 1, rows=inputs.step_rows)
        task = "mixed" if inputs.dataset == MIXED else self.rows.sets[inputs.dataset].task
        self.meter.step(task, inputs.dataset, loss, self.work(inputs), watched)
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
            padded_tokens=inputs.padded_tokens,
            operations=3 * sum(encoder.operations(sizes) for encoder, sizes in parts),
        )

    def embedded(self, inputs: Batch, queries: Tensor, keys: Tensor, *, with_queries: bool) -> EmbeddedBatch:
        """Gather what a loss needs. queries (B, D), keys (B * G, D) -> keys of all ranks (P, D)."""
        rank, ranks = world()
        counts, size = inputs.counts, inputs.group_size
        texts = torch.stack([inputs.key_texts, counts.repeat_interleave(size).long()], dim=1)
        own = [inputs.query_texts, inputs.labels if inputs.labels is not None else torch.zeros_like(inputs.query_texts)]
        queried, labels, scores = queries, torch.stack(own, dim=1), inputs.scores
        first = 0
        if self.args.negative_cross_device:
            first = rank * len(keys)
            keys, texts = gather_with_grad(keys), gather_values(texts)
            if with_queries:
                queried = gather_with_grad(queries)
            if with_queries or inputs.labels is not None:
                labels = gather_values(labels)
            if scores is not None:
                scores = gather_values(scores)
        group = first + torch.arange(len(inputs.key_rows), device=queries.device).view(len(queries), -1)
        return EmbeddedBatch(
            queries=queries,
            keys=keys,
            group=group,
            weights=counts.float() * (ranks / inputs.step_queries),
            key_texts=texts[:, 0],
            positive_texts=inputs.positive_texts,
            key_counts=texts[:, 1].bool(),
            teacher=inputs.teacher,
            metric=self.model.query.spec.metric,
            step_queries=queried if with_queries else None,
            query_texts=labels[:, 0],
            scores=scores,
            labels=labels[:, 1] if inputs.labels is not None else None,
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

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Measure the model on every watched set, each rank its share; returns what the log gets."""
        if self.watched is None:
            return {}
        started, step, run = time.perf_counter(), self.state.global_step, Path(self.args.output_dir)
        query, key = self.model.query, self.model.key or self.model.query
        # Sharded weights are gathered forward by forward: every rank makes the same forwards, in their own precision.
        sharded = any(hasattr(p, "ds_id") for p in self.model.parameters())  # ZeRO 3
        dtype = "fp32" if sharded else self.args.dtype
        outcomes = self.watched.measure(Model(f"step {step}", query, key, dtype=dtype, shared=not sharded))
        entries = {f"{metric_key_prefix}_{name}": value for name, value in self.watched.entries(outcomes).items()}
        if self.args.should_save:
            save_outcomes(run, step, outcomes, best=self.state.best_global_step)
            if not step and (words := self.watched.measure_words()):
                save_outcomes(run, WORDS, words)
                logger.info("BM25:\n%s", self.watched.table(words, []))
        base = load_outcomes(run, 0) if step else []
        logger.info(
            "step %d: evaluated%s\n%s", step, ", and since step 0" * bool(base), self.watched.table(outcomes, base)
        )
        if dropped := self.watched.drop(outcomes, base):
            logger.warning("%s", dropped)
        seconds = time.perf_counter() - started
        shown = {f"{metric_key_prefix}_{name}": value for name, value in self.watched.curves(outcomes).items()}
        self.log(shown | {f"{metric_key_prefix}_runtime": round(seconds, 3)})
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, entries)
        self.meter.started += time.perf_counter() - started  # texts/s are those of training
        return entries

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Measure; a resumed run has measured its start already."""
        if skip_scheduler and self.state.global_step:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _load_best_model(self) -> None:
        """Leave the weights as they are: `save_model` copies those of the best checkpoint."""

    def say_best(self) -> None:
        """Say which step was best, and aloud where the base is better."""
        name, best = f"eval_{self.args.metric_for_best_model}", self.state.best_metric
        if self.watched is None or best is None:
            return
        logger.info("best: step %s, %s %.4f", self.state.best_global_step, self.args.metric_for_best_model, best)
        start = next(
            (entry[name] for entry in self.state.log_history if entry.get("step") == 0 and name in entry), None
        )
        if worse := against_base(best, start):
            logger.warning("%s", worse)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the encoders; at the end of training those of the best checkpoint, where it was asked for."""
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if output_dir is not None or best is None:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            copy_encoders(Path(best), Path(self.args.output_dir), [*self.model.encoders(), ARGS_FILE, PLAN_FILE])

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
        self.note_best(run / STAGING / name, run)
        wait_for_all()
        if self.args.should_save:
            shutil.rmtree(run / name, ignore_errors=True)
            (run / STAGING / name).rename(run / name)
            shutil.rmtree(run / STAGING, ignore_errors=True)
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        wait_for_all()

    def note_best(self, written: Path, run: Path) -> None:
        """Name the best checkpoint by its final place: it is still in the folder beside."""
        best = self.state.best_global_step
        if not best:
            return
        name = f"checkpoint-{best}"
        if name == written.name or (run / name).is_dir():
            self.state.best_model_checkpoint = str(run / name)
        if self.args.should_save:
            self.state.save_to_json(str(written / TRAINER_STATE_NAME))

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
            "shares": self.shares and [round(share, 12) for share in self.shares],
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
