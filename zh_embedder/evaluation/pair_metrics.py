"""Metrics of whole sets of predictions, which are no mean over items. By scipy and scikit-learn.

Shapes: N pairs or texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Statistic = Callable[[Array, Array], float]  # (N,) what is right, (N,) what the model says -> a value


def constant(values: Array) -> bool:
    """Whether all values are the same."""
    return bool((values == values[:1]).all())


def correlated(gold: Array, predicted: Array, name: str) -> float:
    """Return a correlation of scipy's; 0 where predictions are constant, nan where what is right is."""
    import scipy.stats

    if constant(gold):
        return float("nan")
    if constant(predicted):
        return 0.0  # vectors that have collapsed order nothing
    with warnings.catch_warnings():
        # Scores that differ in their last bits alone: what scipy then says is as good as any order of them.
        warnings.simplefilter("ignore", scipy.stats.NearConstantInputWarning)
        found = getattr(scipy.stats, name)(gold, predicted)
    return float(found.statistic)


def spearman(gold: Array, predicted: Array) -> float:
    """Return the rank correlation; 0 for constant predictions, nan where what is right is constant."""
    return correlated(gold, predicted, "spearmanr")


def pearson(gold: Array, predicted: Array) -> float:
    """Return the linear correlation; 0 for constant predictions, nan where what is right is constant."""
    return correlated(gold, predicted, "pearsonr")


def average_precision(gold: Array, predicted: Array) -> float:
    """Return the average precision of the pairs that belong together (gold 1); nan where all pairs are of one kind."""
    from sklearn.metrics import average_precision_score

    return float("nan") if constant(gold) else float(average_precision_score(gold, predicted))


def best_f1(gold: Array, predicted: Array) -> float:
    """Return the F1 at the threshold that is best for it; nan where all pairs are of one kind."""
    return f1_and_threshold(gold, predicted)[0]


def f1_and_threshold(gold: Array, predicted: Array) -> tuple[float, float]:
    """Return the best F1, and the score from which on pairs count as belonging together to reach it.

    The threshold lies in the middle between the last score accepted and the first refused, so that rounding in another
    precision changes no decision. Both are nan where all pairs are of one kind.
    """
    from sklearn.metrics import precision_recall_curve

    if constant(gold):
        return float("nan"), float("nan")
    precision, recall, scores = precision_recall_curve(gold, predicted)  # scores ascend; the last point has none
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    accepted = float(scores[best])
    middle = (accepted + float(scores[best - 1])) / 2 if best else accepted
    # Between neighbouring floats there is no middle: it would be one of the two.
    return float(f1[best]), middle if best and middle > scores[best - 1] else accepted


def best_threshold(gold: Array, predicted: Array) -> float:
    """Return the score from which on pairs count as belonging together; nan where all pairs are of one kind."""
    return f1_and_threshold(gold, predicted)[1]


def right_at_threshold(gold: Array, predicted: Array) -> Array:
    """Return which pairs are right at the best threshold: (N,), (N,) -> (N,)."""
    return np.asarray((predicted >= best_threshold(gold, predicted)) == (gold == 1))


def same_label(gold: Array, predicted: Array) -> Array:
    """Return which labels are right: (N,), (N,) -> (N,)."""
    return np.asarray(predicted == gold)


def macro_f1(gold: Array, predicted: Array) -> float:
    """Return the mean over labels of their F1; 0 for a label that is never predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, average="macro", zero_division=0.0))


def v_measure(gold: Array, predicted: Array) -> float:
    """Return the harmonic mean of homogeneity and completeness of clusters; nan where there is but one label."""
    from sklearn.metrics import v_measure_score

    return float("nan") if constant(gold) else float(v_measure_score(gold, predicted))
