"""Report data, as plain values: what is compared with what, intervals, distributions, queries, and bounds.

The page draws and translates; everything that is counted or decided is decided here, where tests reach it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from zh_embedder.evaluation.intervals import compare, interval
from zh_embedder.evaluation.metrics import is_score
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.sets import EvalSet, LabelSet, PairSet, RetrievalSet
from zh_embedder.report.conditions import unlike
from zh_embedder.report.cut_texts import cut_by_models
from zh_embedder.report.decline import RunFacts, checks
from zh_embedder.report.figures import difference
from zh_embedder.report.query_errors import CLASSES, Bounds, Errors, ShownQuery, read_errors
from zh_embedder.report.thresholds import Spread, best_threshold, histogram, spread_of
from zh_embedder.report.verdict import Change, Verdict, Words, alone, judge, judge_against

BINS = 24
NARROW = 0.35  # share of a common axis that a distribution must fill
MOST_QUERIES = 1800  # of all sets and classes: some 5 MB of page
MOST_POINTS = 400  # of a curve

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class SetReport:
    """One evaluation set and what models and baselines did on it, in the order shown."""

    data: EvalSet
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the page shows."""

    title: str
    sets: Sequence[SetReport]
    curves: Mapping[str, Points]  # set name or "mean" -> (step, main metric); empty for an evaluation
    losses: Mapping[str, Points]  # task -> (step, loss)
    settings: Mapping[str, object]  # the run's flags
    manifest: Mapping[str, object]  # data hashes, seed, command, packages, machine, date
    facts: RunFacts | None = None  # of a training: what may explain that it got worse
    cut_in_training: Sequence[Words] = ()  # datasets of which training cuts much


def page_data(report: Report) -> dict[str, Any]:
    """Return what the page's script draws, ready for JSON."""
    labels, against = short_labels([one.data for one in report.sets]), compared_with(report)
    changes = changes_of(report)
    sets = [set_data(one, labels[one.data.name], against, changes.get(one.data.name)) for one in report.sets]
    verdict, lines = conclude(report, list(changes.values())), lines_of(report, labels)
    bounds = Bounds(queries=max(10, min(Bounds().queries, MOST_QUERIES // (len(CLASSES) * max(1, len(sets))))))
    errors = [errors_data(one, labels[one.data.name], bounds, against) for one in report.sets]
    scores = [scores_data(one, labels[one.data.name], against) for one in report.sets]
    return plain(
        {
            "title": report.title,
            "models": [{"name": name, "role": role} for name, role in models_of(report).items()],
            "compared": compared_data(report, against),
            "verdict": {**asdict(verdict), "difference": gained(verdict.before, verdict.after)},
            "sets": sets,
            "cut": [asdict(words) for words in cut_lines(report)],
            "curves": in_order({labels.get(n, n): thin(points) for n, points in report.curves.items()}, lines),
            "losses": in_order({name: thin(points) for name, points in report.losses.items()}, lines),
            "lines": lines,
            "scores": [found for found in scores if found],
            "errors": [found for found in errors if found],
            "bounds": asdict(bounds),
            "settings": dict(report.settings),
            "manifest": dict(report.manifest),
        }
    )


def cut_lines(report: Report) -> list[Words]:
    """Return what is cut of datasets in training, and of the sets that are measured."""
    outcomes = [outcome for one in report.sets for outcome in one.outcomes]
    return [*report.cut_in_training, *cut_by_models(outcomes)]


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: no nan or infinity, no types of numpy or of our own."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None  # shorter pages
    return value if value is None or isinstance(value, str | int) else str(value)


def short_labels(sets: Sequence[EvalSet]) -> dict[str, str]:
    """Name each set by its task where that tells it from the others."""
    tasks = [data.task for data in sets]
    return {data.name: data.task if data.task and tasks.count(data.task) == 1 else data.name for data in sets}


def models_of(report: Report) -> dict[str, Role]:
    """Return all models with their roles, in the order shown."""
    return {outcome.model: outcome.role for one in report.sets for outcome in one.outcomes}


def compared_with(report: Report) -> Role:
    """Return what the page compares with: the base where there is a model besides it, else a baseline."""
    roles = {outcome.role for one in report.sets for outcome in one.outcomes}
    return Role.BASE if Role.BASE in roles and roles & {Role.TRAINED, Role.VARIANT} else Role.BASELINE


def opponents(outcomes: Sequence[Outcome], against: Role) -> tuple[Outcome | None, Outcome]:
    """Return what is compared with what: the last model, and the first outcome of the other's role.

    A model's variant is compared only where there is no other model. A set on which only one of the two was measured
    compares nothing.
    """
    order = (Role.TRAINED, Role.VARIANT, Role.BASE, Role.BASELINE)
    after = next(own[-1] for role in order if (own := [outcome for outcome in outcomes if outcome.role is role]))
    return next((outcome for outcome in outcomes if outcome.role is against and outcome is not after), None), after


def compared_data(report: Report, against: Role) -> dict[str, str] | None:
    """Return the names of the two that are compared, and whether the first is a base or a baseline."""
    for one in report.sets:
        before, after = opponents(one.outcomes, against) if one.outcomes else (None, None)
        if before is not None and after is not None:
            return {"before": before.model, "after": after.model, "against": against}
    return None


def pair_of(outcomes: Sequence[Outcome], against: Role) -> list[Outcome]:
    """Return the opponents, or the one that is there."""
    before, after = opponents(outcomes, against)
    return [after] if before is None else [before, after]


def change_of(one: SetReport, label: str, against: Role, metric: str | None = None) -> Change | None:
    """Return how a metric moved, by default the main one; None where nothing is compared or a side lacks it."""
    before, after = opponents(one.outcomes, against)
    if before is None or not after.values:
        return None
    metric = metric or after.main
    first, second = before.values.get(metric), after.values.get(metric)
    if first is None or second is None or not (math.isfinite(first) and math.isfinite(second)):
        return None
    difference = compare(before, after, metric)
    return Change(label, first, second, difference, canary=one.data.canary, task=one.data.task)


def changes_of(report: Report) -> dict[str, Change]:
    """Return how each set moved, by its name, of those where something is compared."""
    labels, against = short_labels([one.data for one in report.sets]), compared_with(report)
    found = {one.data.name: change_of(one, labels[one.data.name], against) for one in report.sets if one.outcomes}
    return {name: change for name, change in found.items() if change is not None}


def verdict_of(report: Report) -> Verdict:
    """Return what the page says on top."""
    return conclude(report, list(changes_of(report).values()))


def conclude(report: Report, changes: Sequence[Change]) -> Verdict:
    """Return the sentence on top, and after a training what fell and what may have caused it."""
    measured, against = [one for one in report.sets if one.outcomes], compared_with(report)
    compared = compared_data(report, against)
    if changes and compared and against is Role.BASELINE:
        return judge_against(changes, compared["after"], compared["before"])
    if changes or not measured:
        verdict = replace(judge(changes), conditions=unlike_opponents(report, against))
        return verdict if report.facts is None else replace(verdict, checks=checks(changes, report.facts))
    last = [opponents(one.outcomes, against)[1] for one in measured]
    return alone(last[0].model, [one.values[one.main] for one in last if one.values])


def unlike_opponents(report: Report, against: Role) -> list[Words]:
    """Return what differs in how the two that are compared were measured."""
    pairs = [pair_of(one.outcomes, against) for one in report.sets if one.outcomes]
    without = bool(report.settings.get("no_instruction"))
    return unlike([(pair[0], pair[1]) for pair in pairs if len(pair) > 1], without=without)


def set_data(one: SetReport, label: str, against: Role, change: Change | None) -> dict[str, Any]:
    """Return the bars, the metrics and the truncated shares of a set."""
    metrics = list(dict.fromkeys(name for outcome in one.outcomes for name in outcome.values))
    metric = opponents(one.outcomes, against)[1].main if metrics else None
    return {
        "name": one.data.name,
        "label": label,
        "task": one.data.task,
        "kind": one.data.kind,
        "canary": one.data.canary,
        "metric": metric,
        "size": size_of(one.data),
        "bars": [bar_data(outcome, metric) for outcome in one.outcomes if metric in outcome.values],
        "change": change and change_data(change),
        "gains": gains_of(one, label, against, metrics, change),
        "left_out": [
            {**asdict(found), "english": found.english, "chinese": found.chinese} for found in one.data.left_out
        ],
        "metrics": {name: {o.model: o.values.get(name) for o in one.outcomes} for name in metrics},
        "truncated": {o.model: o.truncated for o in one.outcomes if o.truncated is not None},
    }


def gains_of(
    one: SetReport, label: str, against: Role, metrics: Sequence[str], change: Change | None
) -> dict[str, dict[str, Any]]:
    """Return how each metric moved, with its interval; a threshold neither rises nor falls."""
    if change is None:
        return {}
    main = opponents(one.outcomes, against)[1].main
    scores = [name for name in metrics if is_score(name)]
    found = {name: change if name == main else change_of(one, label, against, name) for name in scores}
    return {name: change_data(moved) for name, moved in found.items() if moved is not None}


def change_data(change: Change) -> dict[str, Any]:
    """Return how a metric moved, with its verdict and as it is shown."""
    return {**asdict(change), "verdict": change.verdict, "shown": gained(change.before, change.after)}


def gained(before: float | None, after: float | None) -> str | None:
    """Return a difference as the page shows it, with a true minus, and ± where the figures look the same."""
    if before is None or after is None:
        return None
    text = difference(before, after)
    return text.replace("-", "−") if float(text) else text.replace("+", "±")


def size_of(data: EvalSet) -> dict[str, int]:
    """Return how much there is to measure on."""
    if isinstance(data, RetrievalSet):
        return {"queries": len(data.qrels), "keys": len(data.keys)}
    if isinstance(data, PairSet):
        return {"pairs": len(data.scores)}
    return {"texts": len(data.texts)}


def bar_data(outcome: Outcome, metric: str | None) -> dict[str, Any]:
    """Return one bar, with an interval where the metric is a mean over items."""
    items = outcome.items.get(metric or "")
    found = interval(list(items.values())) if items else None
    value = outcome.values[metric or ""]
    ends = {"low": found and found.low, "high": found and found.high}
    return {"model": outcome.model, "role": outcome.role, "value": value, **ends}


def lines_of(report: Report, labels: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Number the task of each line, and its further sets: a task has the same colour and order in every chart."""
    owners = {labels[one.data.name]: one.data.task or labels[one.data.name] for one in report.sets}
    owners |= {name: name for name in report.losses if name not in owners}
    tasks, lines = list(dict.fromkeys(owners.values())), dict[str, tuple[int, int]]()
    for task in tasks:
        own = [name for name, owner in owners.items() if owner == task and name != task]
        lines |= {name: (tasks.index(task), repeat) for repeat, name in enumerate(own)} | {task: (tasks.index(task), 0)}
    return lines


def in_order(curves: Mapping[str, list[list[float]]], lines: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return curves in the order of their lines; the mean, which is no line of a task, comes first."""
    return {name: curves[name] for name in sorted(curves, key=lambda name: lines.get(name, (-1, 0)))}


def thin(points: Points) -> list[list[float]]:
    """Return a curve of at most MOST_POINTS points: means over equal stretches where there are more."""
    if len(points) <= MOST_POINTS:
        return [list(point) for point in points]
    parts = np.array_split(np.asarray(points, np.float64), MOST_POINTS)
    return [[float(part[-1, 0]), float(part[:, 1].mean())] for part in parts]


def scores_data(one: SetReport, label: str, against: Role) -> dict[str, Any] | None:
    """Return how the scores of right and wrong texts lie under both opponents; None where a set has none."""
    if isinstance(one.data, LabelSet) or not one.outcomes:
        return None
    found = [(outcome, spread_of(one.data, outcome)) for outcome in pair_of(one.outcomes, against)]
    spreads = [(o, s) for o, s in found if s is not None and len(s.positives) and len(s.negatives)]
    if not spreads:
        return None
    limits = limits_together([spread for _, spread in spreads], [o.role is Role.BASELINE for o, _ in spreads])
    panels = [panel_data(o.model, spread, *ends) for (o, spread), ends in zip(spreads, limits, strict=True)]
    return {"label": label, "name": one.data.name, "kind": one.data.kind, "panels": panels}


def limits_together(spreads: Sequence[Spread], baselines: Sequence[bool]) -> list[tuple[float, float]]:
    """Return the ends of each model's axis: the same for both where that leaves neither a mere spike.

    BM25's scores are of another scale, and those of a base with random weights all lie above 0.9.
    """
    own = [limits_of([spread]) for spread in spreads]
    whole = limits_of(spreads)
    narrowest = min(high - low for low, high in own)
    if any(baselines) or narrowest < NARROW * (whole[1] - whole[0]):
        return own
    return [whole] * len(spreads)


def limits_of(spreads: Sequence[Spread]) -> tuple[float, float]:
    """Return the lowest and the highest score, apart even where all are equal."""
    values = np.concatenate([side for spread in spreads for side in (spread.positives, spread.negatives)])
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def panel_data(model: str, spread: Spread, low: float, high: float) -> dict[str, Any]:
    """Return one model's distributions and its threshold."""
    threshold = best_threshold(spread)
    return {
        "model": model,
        "low": low,
        "high": high,
        "positives": histogram(spread.positives, low, high, BINS),
        "negatives": histogram(spread.negatives, low, high, BINS),
        "counts": [len(spread.positives), len(spread.negatives)],
        "threshold": threshold and asdict(threshold),
    }


def errors_data(one: SetReport, label: str, bounds: Bounds, against: Role) -> dict[str, Any] | None:
    """Return the queries of a retrieval set, by class; None for other sets."""
    if not isinstance(one.data, RetrievalSet) or not one.outcomes or not one.outcomes[-1].values:
        return None
    pair = pair_of(one.outcomes, against)
    metric = pair[-1].main
    found = read_errors(one.data, pair, metric, bounds)
    if found is None:
        return None
    return {
        "label": label,
        "name": one.data.name,
        "metric": metric,
        "models": [outcome.model for outcome in pair],
        "classes": {name: [query_data(query) for query in found.shown[name]] for name in CLASSES},
        **counts(found),
    }


def counts(found: Errors) -> dict[str, Any]:
    """Return what there is in all, and the texts."""
    return {"totals": found.totals, "unchanged": found.unchanged, "texts": found.texts, "cut": found.cut}


def query_data(query: ShownQuery) -> dict[str, Any]:
    """Return one query, short names: there may be many."""
    return {
        "id": query.query,
        "text": query.text,
        "values": query.values,
        "positives": [{"key": one.key, "places": one.places} for one in query.positives],
        "more": query.more_positives,
        "top": [
            [{"key": k.key, "score": k.score, "relevant": k.relevant, "suspect": k.suspect} for k in keys]
            for keys in query.top
        ],
    }
