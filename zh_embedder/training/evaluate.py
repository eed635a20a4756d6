"""Evaluation in training: what is measured, kept and logged. The Trainer calls, this decides."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zh_embedder.config.evaluation import MEAN, EvalArguments
from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.core.files import beside_file, read_json
from zh_embedder.evaluation.left_out import lines_of
from zh_embedder.evaluation.means import over_tasks
from zh_embedder.evaluation.measure import measure_bm25, measure_model
from zh_embedder.evaluation.model import Model
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.read_retrieval import read_eval_data
from zh_embedder.evaluation.read_set import read_set
from zh_embedder.evaluation.set_files import find_sets
from zh_embedder.evaluation.sets import EvalSet, RetrievalSet
from zh_embedder.models.spec import EncoderSpec

logger = logging.getLogger(__name__)

FOLDER = "evaluation"  # of the run: a file for step 0, the best step and the last one
WORDS = "bm25"  # the file of the baseline
HITS_KEPT = 10  # of each query, in these files
NOTABLE_DROP = 0.01  # of the canary: a smaller one is not worth a warning


@dataclass(frozen=True, slots=True)
class Watched:
    """What a run measures while it trains."""

    sets: tuple[EvalSet, ...]
    metrics: tuple[str, ...]
    hits: int
    canary: EvalSet | None = None  # measured, but not part of the mean
    bm25: bool = False  # measured once, beside the model

    @property
    def every(self) -> tuple[EvalSet, ...]:
        """All sets, the canary last."""
        return self.sets if self.canary is None else (*self.sets, self.canary)

    def measure(self, model: Model) -> list[Outcome]:
        """Measure a model on every set. All ranks must call this."""
        return [measure_model(model, data, metrics=self.metrics, hits=self.hits)[None] for data in self.every]

    def measure_words(self) -> list[Outcome]:
        """Measure BM25 on the sets that it can serve, where it was asked for."""
        sets = [data for data in self.every if self.bm25 and isinstance(data, RetrievalSet)]
        return [measure_bm25(data, metrics=self.metrics, hits=self.hits) for data in sets]

    def entries(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Lay outcomes out: the mean over tasks, and every metric of every set."""
        return {MEAN: self.mean(outcomes)} | {f"{o.data}_{name}": v for o in outcomes for name, v in o.values.items()}

    def curves(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Lay out what is worth a curve: the mean over tasks, and the first metric of every set."""
        return {MEAN: self.mean(outcomes)} | {f"{o.data}_{o.main}": o.values[o.main] for o in outcomes}

    def mean(self, outcomes: Sequence[Outcome]) -> float:
        """Mean over tasks; the canary is left out."""
        return over_tasks([o for o in outcomes if self.canary is None or o.data != self.canary.name])

    def table(self, outcomes: Sequence[Outcome], base: Sequence[Outcome]) -> str:
        """Lay out what was measured, and how far that is from step 0: a line for the mean and for each set."""
        start = {outcome.data: outcome.values[outcome.main] for outcome in base}
        parts = [("mean over tasks", "", self.mean(outcomes), self.mean(base) if base else None)]
        parts += [(o.data, o.main, o.values[o.main], start.get(o.data)) for o in outcomes]
        wide = max(len(name) for name, *_ in parts)
        lines = [
            f"  {name:{wide}}  {now:7.4f}  " + (f"{now - before:+8.4f}  " if before is not None else "") + metric
            for name, metric, now, before in parts
        ]
        return "\n".join([*lines, *(f"  note: {line}" for o in outcomes for line in lines_of(o.data, o))])

    def drop(self, outcomes: Sequence[Outcome], base: Sequence[Outcome]) -> str | None:
        """Say that the canary dropped since step 0, where it did."""
        name = None if self.canary is None else self.canary.name
        now, before = ({o.data: o.values[o.main] for o in side} for side in (outcomes, base))
        if name is None or not {name} <= now.keys() & before.keys() or now[name] > before[name] - NOTABLE_DROP:
            return None
        return (
            f"canary: {name} fell from {before[name]:.4f} at step 0 to {now[name]:.4f}: the model forgets general "
            "Chinese. A lower --learning_rate, fewer steps, or some general records in the training data keep it"
        )


def against_base(best: float | None, base: float | None) -> str | None:
    """Say that no step was better than the model that training started from, where that is so."""
    if best is None or base is None or best > base:
        return None
    return f"no step is better than the base: {best:.4f} at best, {base:.4f} at step 0"


def read_watched(args: EvalArguments, held_out: Sequence[RetrievalSet], *, data_root: str | None) -> Watched:
    """Read the sets that flags name.

    Raises:
        UserError: a set is wrong or there twice.
    """
    sets: list[EvalSet] = [*held_out]
    for path in find_sets(args.eval_data or [], flag="--eval_data", data_root=data_root):
        sets.append(read_one(path, args))
    canary = None
    if args.canary:
        found = find_sets([args.canary], flag="--canary", data_root=data_root)
        if len(found) > 1:
            raise reject("--canary", args.canary, f"one set, not a folder of {len(found)}")
        canary = read_one(found[0], args)
        canary = replace(canary, name=f"canary/{Path(canary.name).name}", canary=True)
    names = [data.name for data in (*sets, *([canary] if canary else []))]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--eval_data: {', '.join(twice)}: several sets have this name, expected distinct folder names")
    watched = Watched(tuple(sets), args.metric_names, args.hits, canary, bm25=args.bm25)
    for data in watched.every:
        for line in lines_of(data.name, data):
            logger.warning("%s", line)
    return watched


def read_one(path: Path, args: EvalArguments) -> EvalSet:
    """Read one set."""
    if path.is_file() and args.corpus:
        return read_eval_data(path, args.corpus, task=args.eval_task, key_template=args.key_template)
    return read_set(path, task=args.eval_task)


def check_watched(watched: Watched, spec: EncoderSpec, best: str | None) -> None:
    """Refuse sets whose task has no instruction, and a metric for the best checkpoint that is not measured."""
    for data in watched.every:
        try:
            spec.prefix(data.task, 0)
        except UserError as error:
            raise UserError(f"--eval_data: {data.name}: {error}; --eval_task names it") from None
    known = {f"{data.name}_{metric}" for data in watched.sets for metric in watched.metrics} | {MEAN}
    retrieval = all(isinstance(data, RetrievalSet) for data in watched.sets)  # others have metrics of their own
    if best is not None and retrieval and best.removeprefix("eval_") not in known:
        raise unknown_name("--metric_for_best_model", best.removeprefix("eval_"), known)


# ---- files ----------------------------------------------------------------------------------------------------------


def step_file(run: Path, step: int | str) -> Path:
    """Return where the outcomes of a step are, or those of BM25."""
    return run / FOLDER / (f"step-{step}.json" if isinstance(step, int) else f"{step}.json")


def role_of(step: int | str) -> Role:
    """Return whose outcomes those of a step are, or those of BM25."""
    if step == WORDS:
        return Role.BASELINE
    return Role.TRAINED if step else Role.BASE


def save_outcomes(run: Path, step: int | str, outcomes: Sequence[Outcome], *, best: int | None = None) -> None:
    """Write the outcomes of a step; of the steps before, only those of step 0 and the best one stay."""
    text = json.dumps([outcome.to_json(hits=HITS_KEPT) for outcome in outcomes], ensure_ascii=False)
    beside_file(step_file(run, step), text + "\n")
    kept = {step_file(run, number) for number in (0, step, best) if number is not None}
    for old in (run / FOLDER).glob("step-*.json"):
        if old not in kept:
            old.unlink()


def load_outcomes(run: Path, step: int | str) -> list[Outcome]:
    """Read the outcomes of a step; none where they are not there.

    Files of earlier versions, of a run that is resumed, hold no roles: which file it is says the same.
    """
    path, role = step_file(run, step), role_of(step)
    return [Outcome.from_json({"role": role, **raw}) for raw in read_json(path)] if path.is_file() else []


def curves(history: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome]) -> dict[str, list[tuple[int, float]]]:
    """First metric of each set, and the mean, over the steps of a Trainer's log."""
    names = {f"eval_{o.data}_{o.main}": o.data for o in outcomes} | {f"eval_{MEAN}": MEAN}
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for logged in names.keys() & entry.keys():
            found.setdefault(names[logged], []).append((int(entry["step"]), float(entry[logged])))
    return found
