"""Probes of vectors besides retrieval: similarity, pair classification, classification, clustering.

The dimensions of C-MTEB on the user's own texts, measured with scipy and scikit-learn. Vectors in, the pieces of an
`Outcome` out; nothing here knows a model.

Shapes: N pairs or texts, M texts to learn from, D dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.core.similarity import SIMILARITIES, pairs
from zh_embedder.evaluation.metrics import CLUSTER, PROBE, SCORES, of_kind
from zh_embedder.evaluation.metrics import NEIGHBOURS as NEAREST
from zh_embedder.evaluation.sets import LabelSet, PairSet

Vectors = NDArray[np.float32]
NEIGHBOURS = 5
ITERATIONS = 1000  # of the logistic probe; it stops when it has converged
SEED = 0  # of the clusters' first centres
INITS = 3  # starts of k-means, of which the tightest counts
MANY = 5000  # texts from which on k-means goes by small batches, as in mteb


@dataclass(frozen=True, slots=True)
class Pieces:
    """What goes into an `Outcome`: its fields of the same names."""

    values: Mapping[str, float]
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metric -> row, from "0" -> 1 if right
    gold: NDArray[Any] | None = None
    predicted: NDArray[Any] | None = None


# ---- pairs ----------------------------------------------------------------------------------------------------------


def measure_pairs(data: PairSet, first: Vectors, second: Vectors, *, metric: str = "cos") -> Pieces:
    """Measure how well the scores of vectors follow those of pairs.

    Args:
        data: pairs; graded scores are measured as similarity, those of 0 and 1 as pair classification.
        first: (N, D) of the first texts.
        second: (N, D) of the second.
        metric: the encoder's: cos, ip or l2 (minus the squared distance).

    Returns:
        spearman, pearson; or ap, f1 (at its best threshold), accuracy at that threshold, and the threshold.

    Raises:
        UserError: all pairs have one score, or vectors are not finite.
    """
    if metric not in SIMILARITIES:
        raise unknown_name("metric", metric, SIMILARITIES)
    for vectors in (first, second):
        check_vectors(data.name, vectors, len(data.scores))
    gold, scores = np.asarray(data.scores, np.float64), pairs(first, second, metric)
    if len(set(data.scores)) < 2:
        found = f"{len(gold)} pairs of the one score {gold[0]:g}" if len(gold) else "no pairs"
        raise UserError(f"{data.name}: score: got {found}, expected at least two different scores")
    return measured(data.kind, gold, {SCORES: scores})


# ---- labels ---------------------------------------------------------------------------------------------------------


def measure_labels(data: LabelSet, vectors: Vectors, train_vectors: Vectors | None = None) -> Pieces:
    """Measure how well labels can be read off vectors: by probes that have learnt, else by clusters.

    Args:
        data: labelled texts; with others to learn from, classification, else clustering.
        vectors: (N, D) of the texts.
        train_vectors: (M, D) of those to learn from.

    Returns:
        accuracy and macro_f1 of a logistic probe, knn_accuracy of the nearest neighbours by cosine; or v_measure.

    Raises:
        UserError: there is but one label, or a label for every text, none that was learnt, or vectors are not finite.
    """
    check_vectors(data.name, vectors, len(data.texts))
    if data.kind == "clustering":
        return clustered(data, vectors)
    if train_vectors is None:
        raise reject(f"{data.name}: train_vectors", None, f"{len(data.train_texts)} vectors to learn from")
    check_vectors(data.name, train_vectors, len(data.train_texts))
    return classified(data, vectors, train_vectors)


def classified(data: LabelSet, vectors: Vectors, train_vectors: Vectors) -> Pieces:
    """Probe vectors with classifiers that learn from `train_vectors`, (M, D)."""
    gold, known = np.asarray(data.labels, str), np.asarray(data.train_labels, str)
    several_labels(f"{data.name}: train", known)
    if not set(data.labels) & set(data.train_labels):
        shown = ", ".join(sorted(set(data.train_labels))[:5])
        got = data.labels[0] if data.labels else None
        raise reject(f"{data.name}: label", got, f"labels that are learnt from: {shown}")
    predicted = {
        PROBE: logistic(train_vectors, known, vectors),
        NEAREST: neighbours(train_vectors, known, vectors),
    }
    return measured(data.kind, gold, predicted)


def logistic(train: Vectors, labels: NDArray[Any], vectors: Vectors) -> NDArray[Any]:
    """Labels of (N, D) by a logistic regression fitted to (M, D), scikit-learn's and mteb's settings."""
    from sklearn.linear_model import LogisticRegression

    return np.asarray(LogisticRegression(max_iter=ITERATIONS).fit(train, labels).predict(vectors))


def neighbours(train: Vectors, labels: NDArray[Any], vectors: Vectors) -> NDArray[Any]:
    """Labels of (N, D) by a vote of the nearest of (M, D)."""
    from sklearn.neighbors import KNeighborsClassifier

    vote = KNeighborsClassifier(min(NEIGHBOURS, len(labels)), metric="cosine")
    return np.asarray(vote.fit(train, labels).predict(vectors))


def clustered(data: LabelSet, vectors: Vectors) -> Pieces:
    """Cluster vectors into as many clusters as there are labels."""
    gold = np.asarray(data.labels, str)
    count = several_labels(data.name, gold)
    if count == len(gold):
        raise UserError(f"{data.name}: label: got {count} labels for {count} texts, expected labels that texts share")
    return measured(data.kind, gold, {CLUSTER: clusters(vectors, count)})


def clusters(vectors: Vectors, count: int) -> NDArray[np.int32]:
    """Return the number of each vector's cluster, (N, D) -> (N,); the same for the same vectors."""
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    settings = {"n_clusters": count, "n_init": INITS, "random_state": SEED}
    means = KMeans(**settings) if len(vectors) < MANY else MiniBatchKMeans(**settings)
    with warnings.catch_warnings():
        # Equal vectors make fewer clusters than were asked for: the measure says that already.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(means.fit_predict(vectors), np.int32)


# ---- shared ---------------------------------------------------------------------------------------------------------


def measured(kind: str, gold: NDArray[Any], predicted: Mapping[str, NDArray[Any]]) -> Pieces:
    """Compute every metric of a kind.

    Args:
        kind: of measurement.
        gold: (N,) what is right.
        predicted: what the model says of each, by the way in which it was found; the first is kept in the outcome.
    """
    values: dict[str, float] = {}
    items: dict[str, dict[str, float]] = {}
    for metric in of_kind(kind):
        found = predicted[metric.predicted]
        if metric.items is not None:
            each = metric.items(gold, found)
            values[metric.name], items[metric.name] = float(each.mean()), numbered(each)
        elif metric.whole is not None:
            values[metric.name] = metric.whole(gold, found)
    return Pieces(values, items, gold, next(iter(predicted.values())))


def several_labels(where: str, labels: NDArray[Any]) -> int:
    """Return how many labels there are.

    Raises:
        UserError: fewer than two.
    """
    found = np.unique(labels)
    if len(found) < 2:
        raise UserError(
            f"{where}: label: got {len(labels)} texts of {', '.join(map(repr, found.tolist())) or 'no label'}, "
            "expected at least two labels"
        )
    return len(found)


def check_vectors(where: str, vectors: Vectors, count: int) -> None:
    """Refuse vectors that are not one for each text, or that hold nan or infinity (a training that diverged)."""
    if vectors.ndim != 2 or len(vectors) != count:
        raise reject(f"{where}: vectors", vectors.shape, f"({count}, dimensions)")
    if wrong := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise UserError(f"{where}: vectors: got {wrong} of {count} with nan or infinity; has the model diverged?")


def numbered(right: Sequence[bool] | NDArray[np.bool_]) -> dict[str, float]:
    """Return whether each row is right, as 1 and 0, by its number from 0."""
    return {str(row): float(value) for row, value in enumerate(right)}
