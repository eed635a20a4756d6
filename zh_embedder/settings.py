"""From flags, version and datasets to what each dataset trains: its groups and its loss. Pure.

With --use_train_config a task's `training` settings stand in front of the flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zh_embedder.arguments import DataArguments, TrainArguments
from zh_embedder.errors import UserError
from zh_embedder.instructions import TaskSpec, TaskTraining, Version, single_instruction
from zh_embedder.losses import LossTerm
from zh_embedder.records import TaskDataset, filter_scores, limit_rows
from zh_embedder.selection import SelectionRule

FLAG_TASK = "default"  # task of records without one, where FlagEmbedding's instruction flags speak for them


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPlan:
    """What one dataset trains."""

    records: TaskDataset
    spec: TaskSpec
    rule: SelectionRule
    terms: tuple[LossTerm, ...]
    read: int  # records in the file
    notes: tuple[str, ...] = field(default=())


def task_of(dataset: TaskDataset, data: DataArguments, version: Version) -> TaskSpec:
    """Return the task of a dataset: the records' own, else --default_task, else FlagEmbedding's instruction flags.

    Raises:
        UserError: the version lacks the task, or nothing says which task the records have.
    """
    if dataset.task is not None:
        return version.task(dataset.task, where=f"{dataset.path}:{dataset.line(0)}: task")
    if data.query_instruction is not None or data.key_instruction is not None:
        flags = single_instruction(data.query_instruction or "", data.key_instruction or "", source="instruction flags")
        return flags.task(data.default_task or FLAG_TASK)
    if data.default_task is not None:
        return version.task(data.default_task, where="--default_task")
    raise UserError(
        f"{dataset.path}:{dataset.line(0)}: task: is missing; add it to the records, or say --default_task NAME (of "
        f"version {version.name!r}), or give the instruction itself with --query_instruction_for_retrieval"
    )


class _Settings:
    """A task's effective settings: its own under --use_train_config, else the flags."""

    def __init__(self, own: TaskTraining, data: DataArguments, train: TrainArguments) -> None:
        self.own = own if data.use_train_config else TaskTraining()
        self.data, self.train = data, train

    def get(self, name: str) -> Any:
        value = getattr(self.own, name)
        return value if value is not None else getattr(self.data if hasattr(self.data, name) else self.train, name)

    def is_own(self, name: str) -> bool:
        return getattr(self.own, name) is not None


def filtered(dataset: TaskDataset, settings: _Settings, *, seed: int) -> tuple[TaskDataset, list[str]]:
    """Apply the score filters and the sample limit, and count what they leave out."""
    notes = []
    low, margin = settings.get("teacher_scores_min"), settings.get("teacher_scores_margin")
    kept = filter_scores(dataset, minimum=low, margin=margin)
    if len(kept) < len(dataset):
        notes.append(f"{len(dataset) - len(kept)} records left out by teacher_scores_min {low}, margin {margin}")
    if not len(kept):
        raise UserError(f"{dataset.path}: every record is left out by teacher_scores_min {low} and margin {margin}")
    limited = limit_rows(kept, settings.get("max_sample_num"), seed=seed)
    if len(limited) < len(kept):
        notes.append(f"{len(kept) - len(limited)} records left out by max_sample_num {len(limited)}")
    return limited, notes


def choose_terms(
    dataset: TaskDataset, settings: _Settings, train: TrainArguments, *, temperature: float
) -> tuple[tuple[LossTerm, ...], list[str]]:
    """Choose the loss of a dataset: InfoNCE, distillation where there are teacher scores, or both with their weights.

    Raises:
        UserError: some records have scores and some have not, scores are demanded and missing, or every term is off.
    """
    contrastive, distill = settings.get("contrastive_weight"), settings.get("distill_weight")
    wanted = distill > 0 and train.knowledge_distillation is not False
    if wanted and dataset.some_teacher and not dataset.has_teacher:
        raise UserError(
            f"{dataset.path}: task {dataset.task}: some records have teacher_scores and some have not, expected all or "
            "none; score the rest, or switch distillation off with --distill_weight 0"
        )
    if train.knowledge_distillation and not dataset.has_teacher:
        raise UserError(f"{dataset.path}: --knowledge_distillation True: the records have no teacher scores")
    if contrastive == 0 and not wanted:
        raise UserError(f"{dataset.name}: contrastive_weight 0 and no distillation leave no loss, expected one of them")
    has_term = wanted and dataset.has_teacher and dataset.has_negatives
    notes = []
    if wanted and dataset.has_teacher and not has_term:
        notes.append("teacher scores of positives alone rank nothing: InfoNCE instead")
    elif contrastive == 0 and not has_term:
        notes.append("set to distil only, but its records have no teacher scores: InfoNCE instead")
    terms, in_batch = [], dataset.in_batch_negatives
    if contrastive > 0 or not has_term:
        options = {"temperature": temperature, "in_batch": in_batch}
        terms.append(LossTerm(name="info_nce", weight=contrastive if has_term else 1.0, options=options))
    if has_term:
        weight = distill if contrastive > 0 else 1.0
        terms.append(distillation_term(settings, train, weight=weight, temperature=temperature, in_batch=in_batch))
    return tuple(terms), notes


def distillation_term(
    settings: _Settings, train: TrainArguments, *, weight: float, temperature: float, in_batch: bool
) -> LossTerm:
    """Return the distillation loss that the flags or the task ask for."""
    options = {"temperature": temperature, "teacher_temperature": settings.get("teacher_temperature")}
    sort = settings.get("stable_distill")
    if sort or train.kd_loss_type == "m3_kd_loss":
        ranked = {**options, "sort": sort, "in_batch": in_batch}
        return LossTerm(name="ranked_distillation", weight=weight, options=ranked)
    options["student_temperature"] = settings.get("student_temperature")
    return LossTerm(name="teacher_kl", weight=weight, options=options)


def choose_rule(
    dataset: TaskDataset, settings: _Settings, data: DataArguments, *, distils: bool, queries: int
) -> tuple[SelectionRule, list[str]]:
    """Choose how a dataset's groups are formed.

    Raises:
        UserError: a choice needs teacher scores that are not there, or random negatives stand beside distillation.
    """
    notes, chosen = [], {}
    for name in ("select_positive", "select_negative"):
        chosen[name] = settings.get(name)
        if chosen[name].startswith("teacher") and not dataset.has_teacher:
            if not settings.is_own(name) or (dataset.has_history and name == "select_positive"):
                raise UserError(f"{dataset.path}: {name} {chosen[name]}: the records have no teacher_scores")
            chosen[name] = {"select_positive": "first", "select_negative": "random"}[name]
            notes.append(f"no teacher scores: {name} {chosen[name]} instead")
    if dataset.has_history and chosen["select_positive"] != "teacher":
        raise UserError(
            f"{dataset.path}: records with `history` and no `pos` need --select_positive teacher (and teacher_scores)"
        )
    if distils and data.random_negatives:
        raise UserError(
            f"--random_negatives: {dataset.name} is distilled, and negatives of other records have no scores"
        )
    size = data.train_group_size
    if not dataset.has_negatives and size > 1:
        alone = queries < 2 or not dataset.in_batch_negatives
        if data.random_negatives or alone or data.inbatch_same_dataset is None:
            notes.append("no negatives: drawn from the dataset's other records")
        else:
            notes.append("no negatives: the step's other keys serve (--random_negatives N draws more)")
            size = 1
    return SelectionRule(
        group_size=size,
        random_negatives=data.random_negatives,
        shuffle_ratio=data.shuffle_ratio,
        with_teacher=distils,
        **chosen,
    ), notes


def plan_datasets(
    datasets: Sequence[TaskDataset],
    version: Version,
    data: DataArguments,
    train: TrainArguments,
    *,
    metric: str,
) -> list[DatasetPlan]:
    """Decide for every dataset what it trains.

    Args:
        datasets: as read.
        version: the instructions.
        data: flags.
        train: flags.
        metric: how vectors are compared; only cosines are divided by --cos_temperature.

    Raises:
        UserError: a task, a setting or the records do not fit.
    """
    plans = []
    queries = train.per_device_train_batch_size * (train.world_size if train.negative_cross_device else 1)
    temperature = train.cos_temperature if metric == "cos" else 1.0
    for dataset in datasets:
        spec = task_of(dataset, data, version)
        settings = _Settings(spec.training, data, train)
        kept, left_out = filtered(dataset, settings, seed=train.order_seed)
        terms, loss_notes = choose_terms(kept, settings, train, temperature=temperature)
        rule, rule_notes = choose_rule(kept, settings, data, distils=distils(terms), queries=queries)
        notes = (*left_out, *loss_notes, *rule_notes)
        plans.append(DatasetPlan(records=kept, spec=spec, rule=rule, terms=terms, read=len(dataset), notes=notes))
    return plans if data.inbatch_same_dataset is not None else mixed(plans)


def distils(terms: Sequence[LossTerm]) -> bool:
    """Tell whether a loss learns from teacher scores."""
    return any(term.name != "info_nce" for term in terms)


def mixed(plans: Sequence[DatasetPlan]) -> list[DatasetPlan]:
    """Give all datasets one loss, as steps that mix them need: distillation only where every dataset has scores.

    Raises:
        UserError: a dataset must not have in-batch negatives.
    """
    for plan in plans:
        if not plan.records.in_batch_negatives:
            raise UserError(f"{plan.records.path}: no_in_batch_neg needs --inbatch_same_dataset")
    if len({distils(plan.terms) for plan in plans}) == 1:
        return list(plans)
    plain = next(plan.terms for plan in plans if not distils(plan.terms))
    note = "steps mix datasets and others have no teacher scores: InfoNCE alone"
    return [
        replace(plan, terms=plain, rule=replace(plan.rule, with_teacher=False), notes=(*plan.notes, note))
        if distils(plan.terms)
        else plan
        for plan in plans
    ]
