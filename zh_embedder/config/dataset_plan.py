"""Dataset plan: the datasets that flags, version and records give, with their groups, texts and losses. Pure.

With --use_train_config a task's `training` settings override the flags.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zh_embedder.config.instructions import TaskSpec, TaskTraining, Version, single_instruction
from zh_embedder.config.label_tasks import check_label_tasks, choose_labels
from zh_embedder.config.train import VECTOR_LOSS, DataArguments, TrainArguments
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError
from zh_embedder.core.options import AUTO
from zh_embedder.data.groups import SelectionRule
from zh_embedder.data.plan import Shares, shares_of
from zh_embedder.data.records import TaskDataset, filter_scores, limit_rows, score_range, scores_sample
from zh_embedder.data.schema import GROUP, SINGLE, TEXT
from zh_embedder.data.train_rows import TrainSet
from zh_embedder.losses.table import DEFAULTS, KINDS, LOSSES, VECTORS, LossTerm, RunOptions, learns_vectors
from zh_embedder.losses.teacher_temperature import equal_scores, find_temperature

FLAG_TASK = "default"  # task of records without one, where FlagEmbedding's instruction flags speak for them
# Keys of a step on each device that are never too many, and how often a step may repeat each record of a dataset.
STEP_KEYS, REPEATS = 65_536, 200


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
        f"{dataset.path}:{dataset.line(0)}: task: is missing; add it to the records, or use --default_task NAME (of "
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
        notes.append(
            f"{counted(len(dataset) - len(kept), 'record')} left out by teacher_scores_min {low}, margin {margin}"
        )
    if not len(kept):
        raise UserError(f"{dataset.path}: every record is dropped by teacher_scores_min {low} and margin {margin}")
    limited = limit_rows(kept, settings.get("max_sample_num"), seed=seed)
    if len(limited) < len(kept):
        notes.append(f"{counted(len(kept) - len(limited), 'record')} dropped by max_sample_num {len(limited)}")
    return limited, notes


def choose_terms(
    dataset: TaskDataset, settings: _Settings, train: TrainArguments, *, temperature: float
) -> tuple[tuple[LossTerm, ...], list[str]]:
    """Choose the loss of a dataset: those that its task or --loss names, else what the weights say, else its default.

    Raises:
        UserError: none of them fits the records.
    """
    named = settings.own.loss or tuple(LossTerm(name=name) for name in train.loss or ())
    vectors = () if learns_vectors(named) else vector_terms(train)
    if named or dataset.kind not in (GROUP, *DEFAULTS):
        terms, more = fitting(dataset, (*named, *vectors), train)
    else:
        default = by_weights(dataset, settings, train) if dataset.kind == GROUP else None
        terms, more = default or ((LossTerm(name=DEFAULTS[dataset.kind]),), [])
        terms = (*terms, *vectors)
    by_temperature = any("teacher_temperature" in term.loss.from_flags for term in terms)
    teacher, notes = teacher_temperature(dataset, settings, train) if by_temperature else (1.0, [])
    flags = RunOptions(
        temperature=temperature,
        teacher_temperature=teacher,
        student_temperature=settings.get("student_temperature"),
        in_batch=dataset.in_batch_negatives,
        **train.false_negative_limit(),
    )
    terms = tuple(term.filled(flags) for term in terms)
    for term in terms:
        check_scores(dataset, term)
    return terms, [*notes, *more]


def vector_terms(train: TrainArguments) -> tuple[LossTerm, ...]:
    """Losses of the teacher's vectors that the flags add to those of every dataset."""
    if not train.teacher_encoder or not train.teacher_weight:
        return ()
    return tuple(LossTerm(name=name, weight=train.teacher_weight) for name in train.teacher_loss or (VECTOR_LOSS,))


def teacher_temperature(dataset: TaskDataset, settings: _Settings, train: TrainArguments) -> tuple[float, list[str]]:
    """Return the divisor of a dataset's teacher scores, and what is to be logged about them.

    Raises:
        UserError: it is to be found, and no temperature gives the entropy that is asked for.
    """
    scores, asked = scores_sample(dataset), settings.get("teacher_temperature")
    notes = []
    if equal := equal_scores(scores):
        notes.append(f"{equal} of {len(scores)} records looked at have equal teacher scores: their targets say nothing")
    if asked != AUTO:
        return float(asked), notes
    found = find_temperature(scores, train.teacher_entropy)
    return found, [*notes, f"teacher_temperature {found:g}: the entropy of the targets is {train.teacher_entropy:g}"]


def fitting(
    dataset: TaskDataset, named: Sequence[LossTerm], train: TrainArguments
) -> tuple[tuple[LossTerm, ...], list[str]]:
    """Take the losses that a dataset's records are made for, and that find in them what they need.

    Raises:
        UserError: there is none.
    """
    scores = dataset.has_teacher and dataset.has_negatives
    has = {None: True, "neg": dataset.has_negatives, "teacher_scores": scores, VECTORS: bool(train.teacher_encoder)}
    if learns_vectors(named) and not train.teacher_encoder:
        wrong = next(term.name for term in named if term.loss.needs == VECTORS)
        raise UserError(f"loss {wrong}: needs --teacher_encoder, the model whose vectors are learnt")
    made_for = [term for term in named if term.loss.fits(dataset.kind)]
    terms = tuple(term for term in made_for if has[term.loss.needs])
    if not terms:
        names = ", ".join(term.name for term in named) or "none"
        lacking = f"; without {made_for[0].loss.needs} in every record" if made_for else ""
        fit = [name for name, loss in LOSSES.items() if loss.fits(dataset.kind) and has[loss.needs]]
        if dataset.kind not in (GROUP, *DEFAULTS) and not train.teacher_encoder:
            raise UserError(
                f"{dataset.path}:{dataset.line(0)}: these are {KINDS[dataset.kind]}, which only a "
                "teacher's vectors give something to learn, expected --teacher_encoder MODEL"
            )
        raise UserError(
            f"{dataset.path}:{dataset.line(0)}: task {dataset.task}: these are {KINDS[dataset.kind]}{lacking}, and "
            f"loss {names} cannot learn from them, expected {' or '.join(fit)}"
        )
    left_out = [f"loss {term.name} left out: not every record has {term.loss.needs}" for term in made_for]
    return terms, [note for term, note in zip(made_for, left_out, strict=True) if term not in terms]


def check_scores(dataset: TaskDataset, term: LossTerm) -> None:
    """Refuse scores of pairs that a loss cannot mean."""
    options = {name: parameter.default for name, parameter in term.loss.options.items()} | dict(term.options)
    if "score_range" not in options and "threshold" not in options:
        return
    lowest, highest = score_range(dataset)
    found = f"{dataset.path}: task {dataset.task}: loss {term.name}: the scores lie within {lowest:g} and {highest:g}"
    if "score_range" in options:
        low, high = options["score_range"]
        if lowest < low or highest > high:
            raise UserError(f"{found}, expected within {low:g} and {high:g}; its option score_range changes that")
    elif not lowest <= options["threshold"] < highest:
        raise UserError(f"{found}, expected some above and some below its option threshold, {options['threshold']:g}")


def by_weights(
    dataset: TaskDataset, settings: _Settings, train: TrainArguments
) -> tuple[tuple[LossTerm, ...], list[str]]:
    """Choose InfoNCE, distillation where there are teacher scores, or both with their weights.

    Raises:
        UserError: some records have scores and some have not, scores are demanded and missing, or every term is off.
    """
    contrastive, distill = settings.get("contrastive_weight"), settings.get("distill_weight")
    wanted = distill > 0 and train.knowledge_distillation is not False
    if wanted and dataset.some_teacher and not dataset.has_teacher:
        raise UserError(
            f"{dataset.path}: task {dataset.task}: only some records have teacher_scores, expected all or "
            "none; score the rest, or turn distillation off with --distill_weight 0"
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
    terms = []
    if contrastive > 0 or not has_term:
        terms.append(LossTerm(name="info_nce", weight=contrastive if has_term else 1.0))
    if has_term:
        ranked = "ranked_distillation" if settings.get("stable_distill") else "m3_distillation"
        kind = ranked if settings.get("stable_distill") or train.kd_loss_type == "m3_kd_loss" else "teacher_kl"
        terms.append(LossTerm(name=kind, weight=distill if contrastive > 0 else 1.0))
    return tuple(terms), notes


def choose_rule(
    dataset: TaskDataset, settings: _Settings, data: DataArguments, *, needs_own: bool, queries: int
) -> tuple[SelectionRule, list[str]]:
    """Choose how a dataset's groups are formed.

    Raises:
        UserError: a choice needs teacher scores that are not there, or random negatives are combined with distillation.
    """
    if dataset.kind != GROUP:
        return SelectionRule(group_size=1), []
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
    if needs_own and data.random_negatives:
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
        with_teacher=needs_own,
        **chosen,
    ), notes


def check_step(datasets: Sequence[TaskDataset], data: DataArguments, train: TrainArguments) -> None:
    """Refuse a step that can only repeat the same few records: it fills the memory, or never ends.

    Raises:
        UserError: it has more keys than any dataset can mean.
    """
    batch, group = train.per_device_train_batch_size, data.train_group_size
    largest = max((len(dataset) for dataset in datasets), default=0)
    if batch * group > (most := max(STEP_KEYS, REPEATS * largest)):
        flag, value = ("per_device_train_batch_size", batch) if batch > group else ("train_group_size", group)
        raise UserError(
            f"--{flag}: got {value}, a step of {batch * group:,} keys on each device; expected {most:,} at most, "
            f"as the largest dataset has {counted(largest, 'record')}"
        )


def plan_datasets(
    datasets: Sequence[TaskDataset],
    version: Version,
    data: DataArguments,
    train: TrainArguments,
    *,
    metric: str,
    tied: bool = True,
    truncation_side: str = "right",
) -> list[TrainSet]:
    """Decide for every dataset what it trains.

    Args:
        datasets: as read.
        version: the instructions.
        data: flags.
        train: flags.
        metric: how vectors are compared; only cosines are divided by --cos_temperature.
        tied: one encoder serves both sides.
        truncation_side: end of longer texts that is cut, of tasks that do not say.

    Raises:
        UserError: a task, a setting or the records do not fit.
    """
    check_step(datasets, data, train)
    check_label_tasks(data, {task_of(dataset, data, version).name for dataset in datasets})
    sets = []
    queries = train.per_device_train_batch_size * (train.world_size if train.negative_cross_device else 1)
    temperature = train.cos_temperature if metric == "cos" else 1.0
    for dataset in datasets:
        spec = task_of(dataset, data, version)
        settings = _Settings(spec.training, data, train)
        kept, left_out = filtered(dataset, settings, seed=train.order_seed)
        terms, loss_notes = choose_terms(kept, settings, train, temperature=temperature)
        if kept.kind in SINGLE and not tied:
            raise UserError(
                f"{kept.path}: {KINDS[kept.kind]} need one encoder for both sides, expected --tie_encoders True"
            )
        labels, label_notes = choose_labels(kept, spec.name, data)
        rule, rule_notes = choose_rule(kept, settings, data, needs_own=distils(terms), queries=queries)
        sets.append(
            TrainSet(
                records=kept,
                task=spec.name,
                rule=rule,
                query_prefix=spec.query if data.add_instruction else "",
                key_prefix=spec.key if data.add_instruction else "",
                as_keys=kept.kind == TEXT,
                use_prompts=data.add_instruction,
                prompt_format=data.prompt_format,
                sides=cut_sides(spec, truncation_side),
                terms=terms,
                weight=step_weight(kept, settings.own),
                notes=(*left_out, *loss_notes, *rule_notes, *label_notes),
                labels=labels,
            )
        )
    return sets if data.inbatch_same_dataset is not None else mixed(sets)


def cut_sides(spec: TaskSpec, usual: str) -> tuple[str | None, str | None]:
    """Return the ends of a task's queries and keys that are cut; None where the tokenizer's way is the right one."""
    query, key = (None if (side or usual) == usual == "right" else side or usual for side in spec.truncation_sides)
    return query, key


def distils(terms: Sequence[LossTerm]) -> bool:
    """Whether a loss learns from teacher scores."""
    return any(term.loss.needs == "teacher_scores" for term in terms)


def step_weight(dataset: TaskDataset, own: TaskTraining) -> float:
    """Weight of a dataset in the steps of an epoch: its task's, times those of its file and folders."""
    path = Path(dataset.path)
    parts = {*path.parts, *(part.split(".")[0] for part in path.parts)}
    of_dataset = [weight for name, weight in (own.dataset_weights or {}).items() if name in parts]
    return (own.weight or 1.0) * math.prod(of_dataset)


def dataset_shares(sets: Sequence[TrainSet], data: DataArguments) -> Shares:
    """Return the share of each dataset in the steps of an epoch; None where each has what its size gives it."""
    sizes, tasks, weights = [len(one) for one in sets], [one.task for one in sets], [one.weight for one in sets]
    return shares_of(sizes, tasks, weights, data.task_temperature)


def mixed(sets: Sequence[TrainSet]) -> list[TrainSet]:
    """Give all datasets one loss, as steps that mix them need: that of the dataset whose records have least to offer.

    Raises:
        UserError: a dataset must not have in-batch negatives, or no loss fits them all.
    """
    for one in sets:
        if not one.records.in_batch_negatives:
            raise UserError(f"{one.records.path}: no_in_batch_neg needs --inbatch_same_dataset")
    if len({one.records.kind for one in sets}) > 1:
        kinds = {KINDS[one.records.kind]: one.records.path for one in reversed(sets)}
        found = " and ".join(f"{name} ({path})" for name, path in sorted(kinds.items()))
        raise UserError(f"training data: {found} cannot share a step, expected --inbatch_same_dataset")
    plain = [one for one in sets if not distils(one.terms)]
    shared = min((one.terms for one in plain or sets), key=len)
    names = loss_names(shared)
    if not all(names <= loss_names(one.terms) for one in plain or sets):
        raise UserError("training data: no loss fits all datasets, and steps mix them, expected --inbatch_same_dataset")
    note = f"steps mix datasets, so only losses that fit all of them are used: {', '.join(sorted(names))}"
    if plain and len(plain) < len(sets):
        note = "steps mix datasets and some have no teacher scores, so only InfoNCE is used"
    scored = distils(shared)
    return [
        one
        if loss_names(one.terms) == names
        else replace(one, terms=shared, rule=replace(one.rule, with_teacher=scored), notes=(*one.notes, note))
        for one in sets
    ]


def loss_names(terms: Sequence[LossTerm]) -> set[str]:
    """Names of the losses."""
    return {term.name for term in terms}
