"""Run summary before step 1: what is trained, on what, and what is left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from zh_embedder.core.counts import counted
from zh_embedder.data.plan import steps_of, waiting_rows
from zh_embedder.data.schema import GROUP, QUERY_TEXT, TEXT
from zh_embedder.models.spec import position_limit
from zh_embedder.report.cut_texts import CutSide, cut_words
from zh_embedder.report.verdict import Words
from zh_embedder.text.truncation import Cut, cut_of

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    from zh_embedder.config.train import Arguments
    from zh_embedder.data.train_rows import TrainSet
    from zh_embedder.training.dense_trainer import DenseTrainer

logger = logging.getLogger(__name__)

ALONE = {QUERY_TEXT: " (queries)", TEXT: " (keys)"}  # texts without pairs, of one side
NO_LESSON = 1e-3  # loss
SAMPLE = 256  # records of a dataset whose texts are measured for the share that is cut


def cut_shares(trainer: DenseTrainer, index: int) -> tuple[float, float]:
    """Share of queries and of keys that are truncated, of a sample of a dataset."""
    queries, keys = cuts_of(trainer, index)
    return queries.share, keys.share


def cuts_of(trainer: DenseTrainer, index: int) -> tuple[Cut, Cut]:
    """What training cuts of queries and of keys, of a sample of a dataset."""
    if index in trainer.cuts:
        return trainer.cuts[index]
    chosen, model = trainer.rows.sets[index], trainer.model
    tokenizers = (model.query.tokenizer, (model.key or model.query).tokenizer)
    rows = np.random.default_rng(0).choice(len(chosen), size=min(SAMPLE, len(chosen)), replace=False)
    records = [chosen.records[int(row)] for row in rows]
    texts = (
        [chosen.query_text(record) for record in records],
        [chosen.key_text(key) for record in records for key in record.candidates[:2]],
    )
    if chosen.as_keys:
        texts = ([], texts[0])
    lengths = model.query.spec.lengths_in_training
    queries, keys = (cut_of(*side) for side in zip(tokenizers, texts, lengths, strict=True))
    trainer.cuts[index] = queries, keys
    return queries, keys


def cut_warnings(trainer: DenseTrainer) -> list[Words]:
    """Say of which datasets training cuts more than a tenth, what is lost, and which flag helps: a line for each."""
    query, where = trainer.model.query, Words(" in training", "训练中")
    encoders = (query, trainer.model.key or query)
    found = []
    for index, chosen in enumerate(trainer.rows.sets):
        parts = zip(cuts_of(trainer, index), query.spec.lengths_in_training, encoders, strict=True)
        sides = [CutSide(cut, length, position_limit(encoder.config)) for cut, length, encoder in parts]
        found.append(cut_words(chosen.records.name, sides, where=where))
    return [words for words in found if words is not None]


def lengths_line(trainer: DenseTrainer) -> list[str]:
    """Say that texts are read further in use than in training, where that is so."""
    query, key = trainer.model.query.spec, (trainer.model.key or trainer.model.query).spec
    used, trained = (query.lengths[0], key.lengths[1]), query.training_lengths
    if trained is None or used == trained:
        return []
    return [
        f"tokens of a query and of a key: {trained[0]} and {trained[1]} in training; {used[0]} and {used[1]} in use, "
        "also in evaluation, which longer texts slow down (--saved_max_length)"
    ]


def negatives_of(trainer: DenseTrainer, index: int, queries: int) -> int:
    """Count the different negatives that a query has in a step, as far as a sample of the records tells."""
    sets, chosen = trainer.rows.sets, trainer.rows.sets[index]
    group = chosen.rule.group_size
    if not chosen.records.in_batch_negatives:
        return round(distinct_keys(chosen)) - 1
    pool = sets if trainer.mode is None else [chosen]
    rows = sum(len(one) for one in pool)
    if rows >= queries:
        return round(queries * sum(len(one) * distinct_keys(one) for one in pool) / rows) - 1
    # Few records: their texts are soon counted, and groups repeat them.
    texts = {(one.key_prefix, key) for one in pool for row in range(len(one)) for key in one.records[row].candidates}
    return min(rows * group, len(texts)) - 1


def distinct_keys(chosen: TrainSet) -> float:
    """Mean number of different keys of a group: negatives that are too few are repeated to fill it."""
    rule, records = chosen.rule, chosen.records
    step = max(1, len(records) // SAMPLE)
    own = [len({*one.neg} - {*one.pos}) for one in map(records.__getitem__, range(0, len(records), step))]
    sizes = [min(rule.group_size, 1 + rule.random_negatives + count) if count else rule.group_size for count in own]
    return sum(sizes) / max(1, len(sizes))


def repeated_line(chosen: TrainSet) -> str | None:
    """Say that records have fewer negatives than a group takes, and that these count several times."""
    size, found = chosen.rule.group_size, distinct_keys(chosen) if chosen.records.kind == GROUP else 0
    if not found or found > size - 0.5:
        return None
    drawn = chosen.rule.random_negatives
    return (
        f"{chosen.records.name}: {found - 1 - drawn:.1f} negatives of its own a record, --train_group_size {size} "
        f"takes {size - 1 - drawn}: they are repeated, and each counts as often"
    )


def how_packed(trainer: DenseTrainer) -> str:
    """Say whether padding is computed, and what that means for the base's dropout."""
    query = trainer.model.query
    reason = trainer.why_padded()
    if reason is not None:
        return f"texts are padded, those of like lengths together: {reason}"
    dropout = getattr(query.config, "attention_probs_dropout_prob", None) or getattr(
        query.config, "attention_dropout", 0
    )
    off = f"; attention dropout ({dropout:g} in the base) is off" if dropout else ""
    last = ", the last layer computed for first tokens alone" if query.trimmed else ""
    return f"texts are packed: no padding is computed{last}{off}"


def without_lesson(trainer: DenseTrainer, losses: Mapping[str, Sequence[tuple[int, float]]]) -> str | None:
    """Say which tasks had nothing to learn: their contrastive loss was next to nothing at every step of the log.

    Args:
        trainer: after the training.
        losses: of each task over the steps.
    """
    contrastive = {one.task for one in trainer.rows.sets if all(term.name == "info_nce" for term in one.terms)}
    found = [
        task
        for task, points in losses.items()
        if task in contrastive and points and max(value for _, value in points) < NO_LESSON
    ]
    if not found:
        return None
    return (
        f"the loss of {', '.join(found)} was below {NO_LESSON} at every step of the log: the base told these positives "
        "from their negatives before training, so there was next to nothing to learn; hard negatives (`zh-embedder "
        "mine`) or a higher --cos_temperature give it more"
    )


def which_step(args: TrainingArguments, state: TrainerState) -> str:
    """Say which step a run saves: the best of those measured where it was asked for, else the last one."""
    best, last = state.best_global_step, state.global_step
    if best and args.load_best_model_at_end:
        return f"step {best}, the best of those measured"
    if best and best != last:
        return f"step {last}, the last one; --load_best_model_at_end would have saved the best, step {best}"
    return f"step {last}"


def describe(args: Arguments, trainer: DenseTrainer, resume: Path | None) -> None:
    """Log what will be trained, before step 1."""
    batches, sets = trainer.batches(), trainer.rows.sets
    sizes, step_rows = [len(s) for s in sets], batches.step_size
    by_dataset = trainer.mode in ("epoch", "epoch-static", "epoch-random")
    lines = [f"{'dataset':44} {'task':11} {'records':>8} {'steps/epoch':>11} {'negatives':>9} {'cut q/k':>11}  loss"]
    queries = step_rows if args.train.negative_cross_device else args.train.per_device_train_batch_size
    for index, chosen in enumerate(sets):
        steps = str(steps_of(sizes, step_rows, trainer.shares)[index]) if by_dataset else "mixed"
        negatives = f"{negatives_of(trainer, index, queries)}" if chosen.records.kind == GROUP else "-"
        cuts = "/".join(f"{share:.0%}" for share in cut_shares(trainer, index))
        loss = " + ".join(f"{term.weight:g} {term.name}" for term in chosen.terms)
        side = ALONE.get(chosen.records.kind, "")
        name = chosen.records.name[: 44 - len(side)] + side
        lines.append(f"{name:44} {chosen.task:11} {len(chosen):8,} {steps:>11} {negatives:>9} {cuts:>11}  {loss}")
    total = sum(p.numel() for p in trainer.model.parameters())
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    spec = trainer.model.query.spec
    lines += [
        f"{counted(len(batches), 'step')} an epoch of {counted(step_rows, 'query')} "
        f"({counted(args.train.world_size, 'rank')} x "
        f"{args.train.per_device_train_batch_size}), same-dataset batches: {trainer.mode or 'no, mixed'}",
        f"{total:,} parameters, {trained:,} trained; pooling {spec.pooling}{' + dense' if spec.dense else ''}"
        f"{'' if spec.include_prompt else ' without the instruction'}, metric "
        f"{spec.metric}, precision {args.train.dtype}, device {args.train.device.type}"
        + (f", {torch.get_num_threads()} threads a rank" if args.train.device.type == "cpu" else ""),
        how_packed(trainer),
        *lengths_line(trainer),
    ]
    lines += [line for chosen in sets if (line := repeated_line(chosen))]
    for dataset, size, waiting in zip(sets, sizes, waiting_rows(sizes, step_rows, trainer.shares), strict=True):
        if size < step_rows and trainer.mode is not None:
            lines.append(
                f"{dataset.records.name}: {counted(size, 'record')} for a step of {step_rows}: cycled, repeats masked"
            )
        elif waiting and by_dataset:
            fate = "never trained (epoch-static)" if trainer.mode == "epoch-static" else "left for another shuffle"
            lines.append(f"{dataset.records.name}: {counted(waiting, 'record')} an epoch, too few for a step: {fate}")
    planned = trainer.planned_steps()
    if trainer.args.get_warmup_steps(planned) >= planned:
        lines.append(f"all {counted(planned, 'step')} warm up from a learning rate of 0: --warmup_steps 0 does not")
    if resume is not None:
        lines.append(f"resuming from {resume}")
    logger.info("training:\n  %s", "\n  ".join(lines))
    for warning in cut_warnings(trainer):
        logger.warning("%s", warning.english)
