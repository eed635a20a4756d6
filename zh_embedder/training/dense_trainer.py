"""Dense trainer: the loss of a step, and the measurement of the model during training."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zh_embedder.config.train import TrainArguments
from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import gather_values, gather_with_grad
from zh_embedder.core.errors import UserError, reading
from zh_embedder.core.machine import DTYPES
from zh_embedder.core.ranks import world
from zh_embedder.data.batch import Batch
from zh_embedder.data.collator import Collator
from zh_embedder.data.loader import PlanLoader, RankBatches
from zh_embedder.data.plan import MIXED, Shares
from zh_embedder.data.train_rows import TrainRows, TrainSet
from zh_embedder.evaluation.model import Model
from zh_embedder.losses.batch import VectorBatch
from zh_embedder.losses.table import learns_vectors, sees_queries, total_loss
from zh_embedder.losses.watch import watch
from zh_embedder.models.attention import obstacle
from zh_embedder.models.bi_encoder import BiEncoder
from zh_embedder.text.truncation import Cut
from zh_embedder.training.base_trainer import BaseTrainer
from zh_embedder.training.checkpoints import load_weights
from zh_embedder.training.evaluate import WORDS, Watched, against_base, load_outcomes, role_of, save_outcomes
from zh_embedder.training.meter import Work
from zh_embedder.training.step_guard import same_on_all_ranks

logger = logging.getLogger(__name__)

PROJECTION_FILE = "projection.safetensors"  # of a checkpoint


def collator_of(model: BiEncoder, *, merge_keys: bool = True) -> Collator:
    """Return what makes batches for a model's encoders."""
    query, (query_length, key_length) = model.query, model.query.spec.lengths_in_training
    include_prompt = (query.spec.include_prompt, (model.key or query).spec.include_prompt)
    return Collator(
        query.tokenizer,
        query_max_length=query_length,
        key_max_length=key_length,
        key_tokenizer=model.key.tokenizer if model.key is not None else None,
        merge_keys=merge_keys,
        include_prompt=include_prompt,
    )


class DenseTrainer(BaseTrainer):
    """Trains a BiEncoder on steps that every rank plans alike."""

    def __init__(
        self,
        model: BiEncoder,
        args: TrainArguments,
        *,
        sets: Sequence[TrainSet],
        mode: str | None,
        settings: str,
        dimensions: Mapping[int, float] | None = None,
        shares: Shares = None,
        watched: Watched | None = None,
    ) -> None:
        self.rows = TrainRows(sets, seed=args.order_seed)
        self.with_labels = any(one.labels is not None for one in sets)  # the same on all ranks, as what is gathered
        self.mode, self.dimensions, self.shares, self.watched = mode, dimensions, shares, watched
        self.cuts: dict[int, tuple[Cut, Cut]] = {}  # of each dataset: what training cuts of queries and of keys
        super().__init__(
            model,
            args,
            settings=settings,
            train_dataset=self.rows,
            eval_dataset=None if watched is None else watched.every,
        )

    def parts(self) -> Sequence[str]:
        """Folders of a run that hold its result."""
        return list(self.model.encoders())

    def why_padded(self) -> str | None:
        """Say why texts go through the query encoder with padding; None where they do not."""
        return self.model.query.why_padded or obstacle(self.args.device, DTYPES[self.args.dtype])

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

    def get_train_dataloader(self) -> PlanLoader:
        """Return a loader of our own, not prepared by accelerate: the plan has given each rank its slice already."""
        # Sharded weights are gathered forward by forward: every rank must make as many forwards as the others.
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        in_parts = self.model.query.sub_batch_size or self.why_padded() is not None
        return self.loader(self.rows, self.batches(), collator_of(self.model, merge_keys=not (sharded and in_parts)))

    def describe_rows(self, rows: tuple[int, ...]) -> str:
        """Name the task, the dataset and the records of a step, for messages."""
        lines: dict[str, list[int]] = {}
        for row in dict.fromkeys(rows):
            index, own = self.rows.locate(row)
            chosen = self.rows.sets[index]
            where = f"task {chosen.task}, dataset {chosen.records.name} ({chosen.records.path}), records at lines"
            lines.setdefault(where, []).append(chosen.records.line(own))
        return "; ".join(f"{where} {', '.join(map(str, sorted(found)[:32]))}" for where, found in lines.items())

    # ---- the step -------------------------------------------------------------------------------------------------

    def compute_loss(self, model: nn.Module, inputs: Batch, return_outputs: bool = False, **_: Any) -> Tensor:
        """Loss of this rank's queries against the keys of all ranks."""
        if not self.meter.datasets and self.state.global_step == self._initial_global_step:
            logger.info("engine: %s, %s", type(model).__name__, counted(self.args.world_size, "rank"))
        queries, keys = model(inputs.queries, inputs.keys, inputs.key_rows)
        terms = self.rows.sets[max(inputs.dataset, 0)].terms
        with torch.autocast(queries.device.type, enabled=False):
            batch = self.loss_batch(inputs, queries.float(), keys.float(), with_queries=sees_queries(terms))
            loss = total_loss(batch, terms, dimensions=self.dimensions)
            if batch.projection is not None and not learns_vectors(terms):
                loss = loss + 0.0 * batch.projection.sum()  # DDP waits for a gradient of every weight
            watched = watch(batch, terms)
        self.step_guard.see(loss.detach(), step=self.state.global_step + 1, rows=inputs.step_rows)
        task = "mixed" if inputs.dataset == MIXED else self.rows.sets[inputs.dataset].task
        self.meter.step(task, inputs.dataset, loss, self.work(inputs), watched)
        self.trace.step(task, loss)
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

    def loss_batch(self, inputs: Batch, queries: Tensor, keys: Tensor, *, with_queries: bool) -> VectorBatch:
        """Gather what a loss needs. queries (B, D), keys (B * G, D) -> keys of all ranks (P, D)."""
        rank, ranks = world()
        counts, size = inputs.counts, inputs.group_size
        columns = [inputs.key_texts, counts.repeat_interleave(size).long()]
        if self.with_labels:
            columns += [inputs.key_answers, inputs.answers.repeat_interleave(size)]
        texts = torch.stack(columns, dim=1)
        own = [inputs.query_texts, inputs.labels if inputs.labels is not None else torch.zeros_like(inputs.query_texts)]
        queried, labels, scores = queries, torch.stack(own, dim=1), inputs.pair_scores
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
        return VectorBatch(
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
            targets=scores,
            labels=labels[:, 1] if inputs.labels is not None else None,
            query_answers=texts[::size, 3] if self.with_labels else None,
            key_answers=texts[:, 2] if self.with_labels else None,
            **teacher_parts(self.model, inputs, every_rank=self.args.negative_cross_device),
        )

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
        model = Model(f"step {step}", query, key, dtype=dtype, shared=not sharded, role=role_of(step))
        outcomes = self.watched.measure(model)
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

    def say_best(self) -> None:
        """Log which step was best, with a warning where the base is better."""
        name, best = f"eval_{self.args.metric_for_best_model}", self.state.best_metric
        if self.watched is None or best is None:
            return
        logger.info("best: step %s, %s %.4f", self.state.best_global_step, self.args.metric_for_best_model, best)
        if worse := against_base(best, self.at_start(name)):
            logger.warning("%s", worse)

    # ---- the log --------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add loss and gradient norm per task, texts/s and tokens/s; check that all ranks trained the same datasets."""
        if "loss" in logs:
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
        super().log(logs, start_time)

    def count_datasets(self, datasets: Sequence[int]) -> str:
        """Name datasets with how often each was trained."""
        names = {index: self.rows.sets[index].records.name for index in datasets}
        return ", ".join(f"{name} x{datasets.count(index)}" for index, name in sorted(names.items()))

    def files(self) -> dict[str, str]:
        """Hash of the file of each dataset."""
        return {one.records.name: one.records.parts[0].content for one in self.rows.sets}

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def plan(self) -> dict[str, Any]:
        """Return everything that the order of the data depends on."""
        return {
            "datasets": {one.records.name: len(one) for one in self.rows.sets},
            "files": self.files(),
            "mode": self.mode,
            "shares": self.shares and [round(share, 12) for share in self.shares],
            "step_rows": self._train_batch_size * self.args.world_size,
            "gradient_accumulation_steps": self.args.gradient_accumulation_steps,
            "seed": self.rows.seed,
        }

    def load_parts(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint."""
        for name, encoder in self.model.encoders().items():
            load_weights(encoder, checkpoint / name)
        if self.model.projection is not None:
            load_projection(self.model.projection, checkpoint / PROJECTION_FILE)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the encoders, and with a checkpoint the projection, which no result of a run holds."""
        super()._save(output_dir, state_dict)
        if self.staging is not None and self.model.projection is not None and self.args.should_save:
            weight = (state_dict or {}).get("projection.weight", self.model.projection.weight)
            save_file({"weight": weight.detach().float().cpu().contiguous()}, Path(str(output_dir)) / PROJECTION_FILE)


def load_projection(linear: nn.Linear, path: Path) -> None:
    """Take the weights of a checkpoint's projection to a teacher's vectors.

    Raises:
        UserError: the checkpoint has none, or one of another size.
    """
    flag, wanted = "--resume_from_checkpoint", tuple(linear.weight.shape)
    if not path.is_file():
        raise UserError(f"{flag}: {path}: is missing: the run that it is of needed no projection to --teacher_encoder")
    with reading(path):
        weight = load_file(path)["weight"]
    if tuple(weight.shape) != wanted:
        found = f"{flag}: {path}: got a projection of shape {tuple(weight.shape)}, expected {wanted}"
        raise UserError(f"{found}: the run had another --teacher_encoder or --teacher_dim")
    linear.load_state_dict({"weight": weight})


def teacher_parts(model: BiEncoder, inputs: Batch, *, every_rank: bool) -> dict[str, Any]:
    """What losses of a teacher's vectors need of a batch: its vectors of local queries, and of the step's keys."""
    parts: dict[str, Any] = {"own_keys": not len(inputs.keys)}
    if model.projection is not None:
        parts["projection"] = model.projection.weight.float()
    if inputs.vectors is None:
        return parts
    queries, keys = inputs.vectors[:, 0], inputs.vectors[:, 1:].flatten(0, 1)
    keys = queries if parts["own_keys"] else keys
    return parts | {"teacher_queries": queries, "teacher_keys": gather_values(keys) if every_rank else keys}
