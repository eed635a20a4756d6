"""How sure a figure is: percentile bootstrap intervals of means and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zh_embedder.outcome import Outcome

RESAMPLES = 2000
Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and the two ends between which it lies as surely as the level says."""

    value: float
    low: float
    high: float


def interval(values: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean of the values of items, (N,), with its 95 % interval."""
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = [array[rng.integers(len(array), size=len(array))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high))


def paired(before: Values, after: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean of after - before, (N,) each, with its interval; an item is drawn with both of its values."""
    return interval(np.asarray(after, np.float64) - np.asarray(before, np.float64), resamples=resamples, seed=seed)


def compare(before: Outcome, after: Outcome, metric: str) -> Interval | None:
    """Return what a metric has gained, with its interval; None where nothing can be drawn."""
    first, second = before.items.get(metric), after.items.get(metric)
    if not first or not second or first.keys() != second.keys():
        return None
    return paired(list(first.values()), [second[item] for item in first])
