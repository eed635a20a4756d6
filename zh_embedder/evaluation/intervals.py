"""Bootstrap confidence intervals: percentile intervals of means, and of the difference between two models.

Both models of a comparison are measured on the same queries, so each query is drawn together with both of its values:
the difference of a pair is far surer than the pair itself. Everything is a pure function of its arguments and a seed.

Shapes: N items (queries, pairs, texts), R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zh_embedder.core.errors import UserError, reject
from zh_embedder.evaluation.metrics import STATISTICS
from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.evaluation.pair_metrics import Array, Statistic

RESAMPLES = 2000
LEVEL = 0.95
TILE = 1 << 20  # items drawn at a time: 8 MB of indices


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and the two ends between which it lies as surely as the level says."""

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether a difference is one: zero lies outside."""
        return self.low > 0 or self.high < 0


def draws(count: int, *, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield tiles of (r, N) indices of drawn items, R rows in all."""
    rng = np.random.default_rng(seed)
    rows = max(1, TILE // count)
    for first in range(0, resamples, rows):
        yield rng.integers(count, size=(min(rows, resamples - first), count))


def ends(value: float, resampled: NDArray[np.float64], level: float) -> Interval:
    """Return the interval that holds the middle share of the resampled values, (R,)."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def check(name: str, values: Array, resamples: int, level: float) -> None:
    """Refuse what no interval can be made of."""
    if values.ndim != 1 or not len(values):
        raise reject(name, values.shape, "at least one value, in one dimension")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{name}: got {int((~np.isfinite(values)).sum())} values that are nan or infinite")
    if resamples < 1:
        raise reject("resamples", resamples, "1 or more")
    if not 0 < level < 1:
        raise reject("level", level, "a share between 0 and 1, such as 0.95")


def interval(
    values: Sequence[float] | Array, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Return the mean of values of items with its percentile interval.

    Args:
        values: (N,) one of each item.
        resamples: how often N items are drawn.
        seed: of the draws.
        level: the share of resampled means between the ends.

    Raises:
        UserError: no values, values that are not finite, or a wrong level.
    """
    array = np.asarray(values, np.float64)
    check("values", array, resamples, level)
    means = [array[drawn].mean(axis=1) for drawn in draws(len(array), resamples=resamples, seed=seed)]
    return ends(float(array.mean()), np.concatenate(means), level)


def paired(
    before: Sequence[float] | Array,
    after: Sequence[float] | Array,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the mean of after - before with its interval, (N,) each; an item is drawn with both of its values.

    Raises:
        UserError: as `interval`, or the two are not of one length.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.shape != second.shape:
        raise reject("after", second.shape, f"as many values as before: {first.shape}")
    return interval(second - first, resamples=resamples, seed=seed, level=level)


def paired_statistic(
    statistic: Statistic,
    gold: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the difference that a statistic makes of two models' predictions, with its interval.

    Args:
        statistic: (gold, predicted) -> value; nan where `gold` allows none. Resamples of which it allows none (by
            chance all pairs of one kind) are left out.
        gold: (N,) what is right.
        before: (N,) what the first model says.
        after: (N,) what the second model says.
        resamples: how often N rows of all three are drawn together.
        seed: of the draws.
        level: the share of resampled differences between the ends.

    Raises:
        UserError: as `paired`, or the statistic of the whole, or of every resample, is not defined.
    """
    right, first, second = np.asarray(gold), np.asarray(before), np.asarray(after)
    for name, values in (("gold", right), ("before", first), ("after", second)):
        check(name, values, resamples, level)
        if values.shape != right.shape:
            raise reject(name, values.shape, f"as many values as gold: {right.shape}")

    def difference(rows: NDArray[np.int64] | slice) -> float:
        return statistic(right[rows], second[rows]) - statistic(right[rows], first[rows])

    value = difference(slice(None))
    drawn = (rows for tile in draws(len(right), resamples=resamples, seed=seed) for rows in tile)
    found = np.fromiter((difference(rows) for rows in drawn), np.float64, count=resamples)
    found = found[np.isfinite(found)]
    if not np.isfinite(value) or not len(found):
        raise UserError(f"gold: got {len(right)} values of which the statistic is not defined, expected several kinds")
    return ends(value, found, level)


def compare(
    before: Outcome,
    after: Outcome,
    metric: str,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval | None:
    """Return what a metric has gained, with its interval: by item where it is a mean, else by drawing gold and both.

    Returns:
        None where nothing can be drawn: the metric has neither values of items nor a statistic (a threshold), or the
        two were not measured on the same items.
    """
    first, second = before.items.get(metric), after.items.get(metric)
    if first is not None and second is not None:
        if not first or first.keys() != second.keys():
            return None
        aligned = np.array([(first[item], second[item]) for item in first])
        return paired(aligned[:, 0], aligned[:, 1], resamples=resamples, seed=seed, level=level)
    if metric not in STATISTICS or before.gold is None or after.gold is None:
        return None
    if before.predicted is None or after.predicted is None or not np.array_equal(before.gold, after.gold):
        return None
    gold, old, new = as_numbers(before.gold, before.predicted, after.predicted)
    return paired_statistic(STATISTICS[metric], gold, old, new, resamples=resamples, seed=seed, level=level)


def as_numbers(*arrays: Array) -> list[Array]:
    """Return arrays of labels as arrays of numbers, the same label by the same one: drawn and compared far faster."""
    texts = [array for array in arrays if array.dtype.kind not in "biuf"]
    if not texts:
        return list(arrays)
    _, codes = np.unique(np.concatenate([array.astype(str) for array in texts]), return_inverse=True)
    parts = iter(np.split(codes, np.cumsum([len(array) for array in texts])[:-1]))
    return [next(parts) if array.dtype.kind not in "biuf" else array for array in arrays]
