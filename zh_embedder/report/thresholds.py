"""Match thresholds: how the scores of right and wrong texts are distributed, and the threshold between them.

Shapes: P scores of positives, N of negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.evaluation.sets import EvalSet, LabelSet, RetrievalSet

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score from which on everything is taken for a match, and how right that is."""

    value: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Scores of what should be found, and of what comes closest to it and should not."""

    positives: Scores  # (P,)
    negatives: Scores  # (N,)


def finite(values: ArrayLike) -> Scores:
    """Return the values that are numbers: a search with too few keys fills up with minus infinity."""
    array = np.asarray(values, np.float64)
    return array[np.isfinite(array)]


def best_threshold(spread: Spread) -> Threshold | None:
    """Return the threshold of the best F1, halfway to the next lower score; None where a side has no scores.

    Of several equally good ones it is the highest: it finds no fewer and lets fewer wrong ones through.
    """
    count = len(spread.positives)
    if not count or not len(spread.negatives):
        return None
    scores = np.concatenate([spread.positives, spread.negatives])
    right = np.arange(len(scores)) < count
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # equal scores are taken together
    taken, found = ends + 1, found[ends]
    f1 = 2 * found / (taken + count)
    best = int(np.argmax(f1))
    here = scores[ends[best]]
    below = scores[ends[best] + 1] if ends[best] + 1 < len(scores) else here
    return Threshold(
        value=float((here + below) / 2),
        f1=float(f1[best]),
        precision=float(found[best] / taken[best]),
        recall=float(found[best] / count),
    )


def spread_of(data: EvalSet, outcome: Outcome) -> Spread | None:
    """Return the scores that a threshold would divide; None for sets without any, such as labelled texts.

    Retrieval: each query's best positive, and its hardest negative, the best key that is not relevant. Pairs: those of
    a high gold score and the others; graded scores are divided in the middle of their scale.
    """
    if isinstance(data, LabelSet):
        return None
    if isinstance(data, RetrievalSet):
        return Spread(finite(list(outcome.positives.values())), finite(hardest_negatives(data, outcome)))
    if outcome.gold is None or outcome.predicted is None:
        return None
    gold, predicted = np.asarray(outcome.gold, np.float64), np.asarray(outcome.predicted, np.float64)
    high = gold > (gold.min() + gold.max()) / 2 if len(gold) else gold > 0
    return Spread(finite(predicted[high]), finite(predicted[~high]))


def hardest_negatives(data: RetrievalSet, outcome: Outcome) -> list[float]:
    """Return each query's best score of a key that is not relevant."""
    found = []
    for query, scores in outcome.run.items():
        relevant = data.qrels.get(query, {})
        wrong = [score for key, score in scores.items() if relevant.get(key, 0) <= 0]
        if wrong:
            found.append(max(wrong))
    return found


def histogram(values: Scores, low: float, high: float, bins: int) -> list[float]:
    """Return the share of the values in each of equally wide bins."""
    counts, _ = np.histogram(values, bins=bins, range=(low, high))
    return [float(share) for share in counts / max(1, len(values))]
