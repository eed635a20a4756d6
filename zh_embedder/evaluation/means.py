"""Means of figures: over the queries of a set, over sets, over tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from zh_embedder.evaluation.metrics import is_score
from zh_embedder.evaluation.outcome import Outcome


def mean(values: Collection[float]) -> float:
    """Mean of some numbers; 0 where there are none."""
    return sum(values) / max(1, len(values))


def over_queries(items: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over all judged queries: metric -> query -> value."""
    return {name: mean(values.values()) for name, values in items.items()}


def over_sets(outcomes: Sequence[Outcome], metric: str) -> float | None:
    """Mean of a metric over sets; None of a threshold, which tells where scores lie and not how good they are."""
    return mean([outcome.values[metric] for outcome in outcomes]) if is_score(metric) else None


def over_tasks(outcomes: Sequence[Outcome]) -> float:
    """Mean over tasks of the mean over a task's sets of their first metric: a task of many sets weighs as any other."""
    tasks: dict[str, list[float]] = {}
    for outcome in outcomes:
        tasks.setdefault(outcome.task or outcome.data, []).append(outcome.values[outcome.main])
    return mean([mean(values) for values in tasks.values()])
