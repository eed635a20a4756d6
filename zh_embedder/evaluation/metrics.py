"""Metrics: the table of all of them, and the names that flags and tables use (`ndcg@10`).

A metric is a row here and one function: of the ranking of a query (or the name of one in ir-measures), or of what is
right and what a model says of all pairs or texts.

Shapes: N pairs or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zh_embedder.core.errors import reject
from zh_embedder.evaluation.pair_metrics import (
    Array,
    Statistic,
    average_precision,
    best_f1,
    best_threshold,
    macro_f1,
    pearson,
    right_at_threshold,
    same_label,
    spearman,
    v_measure,
)

OfRanking = Callable[[Mapping[str, int], Sequence[str], int | None], float]
OfItems = Callable[[Array, Array], Array]

RANKED = ("retrieval", "reranking")
SIMILARITY, PAIRS, CLASSES, CLUSTERS = ("similarity",), ("pair_classification",), ("classification",), ("clustering",)
SCORES, PROBE, NEIGHBOURS, CLUSTER = "scores", "probe", "neighbours", "clusters"  # what a model says, found in this way


@dataclass(frozen=True, slots=True)
class Metric:
    """A row: what a metric is of, and the one function that computes it."""

    name: str
    kinds: tuple[str, ...]  # of measurements that it belongs to
    text: str  # what it is, in a line
    cutoff: Literal["none", "optional", "needed"] = "none"  # whether `@10` may or must follow the name
    ir_measure: str | None = None  # of rankings: its name in ir-measures
    ranking: OfRanking | None = None  # of rankings: (key -> relevance, keys best first, cutoff) -> value of a query
    whole: Statistic | None = None  # of pairs and labels: (gold, predicted), (N,) each -> value
    items: OfItems | None = None  # the same, where it is a mean: -> (N,) values
    predicted: str = SCORES  # which predictions it looks at
    is_score: bool = True  # False: it tells where scores lie, and not how good they are


TABLE = (
    Metric("ndcg", RANKED, "normalised discounted cumulative gain", cutoff="optional", ir_measure="nDCG"),
    Metric("mrr", RANKED, "reciprocal rank of the first relevant key", cutoff="optional", ir_measure="RR"),
    Metric("recall", RANKED, "share of the relevant keys that are found", cutoff="needed", ir_measure="R"),
    Metric("map", RANKED, "average precision", cutoff="optional", ir_measure="AP"),
    Metric("precision", RANKED, "share of the keys found that are relevant", cutoff="needed", ir_measure="P"),
    Metric("hit", RANKED, "whether any relevant key is found", cutoff="needed", ir_measure="Success"),
    Metric("spearman", SIMILARITY, "rank correlation of scores with those of the pairs", whole=spearman),
    Metric("pearson", SIMILARITY, "linear correlation of scores with those of the pairs", whole=pearson),
    Metric("ap", PAIRS, "average precision of the pairs that belong together", whole=average_precision),
    Metric("f1", PAIRS, "F1 at its best threshold", whole=best_f1),
    Metric("accuracy", PAIRS, "share of pairs that are right at that threshold", items=right_at_threshold),
    Metric("threshold", PAIRS, "the score from which on pairs belong together", whole=best_threshold, is_score=False),
    Metric("accuracy", CLASSES, "of a logistic regression fitted to train.jsonl", items=same_label, predicted=PROBE),
    Metric("macro_f1", CLASSES, "its F1, averaged over labels", whole=macro_f1, predicted=PROBE),
    Metric(
        "knn_accuracy",
        CLASSES,
        "of a vote of the five nearest of train.jsonl",
        items=same_label,
        predicted=NEIGHBOURS,
    ),
    Metric("v_measure", CLUSTERS, "how well k-means finds the labels", whole=v_measure, predicted=CLUSTER),
)
# Those that are no means over items: intervals draw what is right and what is said together, and compute them anew.
STATISTICS: Mapping[str, Statistic] = {m.name: m.whole for m in TABLE if m.whole is not None and m.is_score}


@dataclass(frozen=True, slots=True)
class Named:
    """A metric as a flag names it and a table shows it."""

    metric: Metric
    cutoff: int | None = None

    def __str__(self) -> str:
        """Return the name, from which `parse` makes the same again."""
        return self.metric.name if self.cutoff is None else f"{self.metric.name}@{self.cutoff}"


def of_kind(kind: str) -> list[Metric]:
    """Return the metrics of a kind of measurement, the one that is shown first in front."""
    return [metric for metric in TABLE if kind in metric.kinds]


def parse(name: str, kind: str | None = None, *, flag: str = "--metrics") -> Named:
    """Read a metric's name, such as `ndcg@10`.

    Args:
        name: with its cutoff, where it has one.
        kind: of measurement; by default any.
        flag: what the user gave it with, for messages.

    Raises:
        UserError: no such metric, or a cutoff that is missing, wrong or too much.
    """
    base, at, cutoff = name.partition("@")
    known = {metric.name: metric for metric in reversed(TABLE if kind is None else of_kind(kind))}
    metric = known.get(base)
    # A cutoff of 0 would crash ir-measures, without a traceback.
    number = cutoff.isascii() and cutoff.isdecimal() and not cutoff.startswith("0")
    if metric is None or not (number and metric.cutoff != "none" if at else metric.cutoff != "needed"):
        names = ", ".join(reversed(known))
        raise reject(flag, name, f"one of {names}, such as ndcg@10")
    return Named(metric, int(cutoff) if at else None)


def is_score(name: str) -> bool:
    """Tell whether a value says how good a model is; a threshold does not."""
    return all(metric.is_score for metric in TABLE if metric.name == name)
