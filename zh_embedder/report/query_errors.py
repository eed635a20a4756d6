"""Query errors: won, lost and still failing between two models, and why a key may be no error.

Bounded, since people open the result in a browser: so many queries of a class, so many keys of a query, texts cut.
What was left out is counted.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.evaluation.sets import RetrievalSet
from zh_embedder.text.words import letters

CLASSES = ("won", "lost", "failing")
SAME_TEXT, ABOVE = "same", "above"  # rules by which a key may be a positive that nobody has marked
EPSILON = 1e-9  # a metric's rounding is no change


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of the queries is shown."""

    queries: int = 100  # of each class
    keys: int = 5  # of each model and query
    positives: int = 5  # of each query
    characters: int = 300  # of each text


@dataclass(frozen=True, slots=True)
class ShownKey:
    """A key as one model ranks it."""

    key: str
    score: float
    relevant: bool
    suspect: str | None  # SAME_TEXT, ABOVE, or None


@dataclass(frozen=True, slots=True)
class ShownPositive:
    """A relevant key, and where each model has it: (score, rank), None where it is not among the kept keys."""

    key: str
    places: Sequence[tuple[float, int] | None]


@dataclass(frozen=True, slots=True)
class ShownQuery:
    """A query, its metric under each model, its positives, and the best keys of each model."""

    query: str
    text: str
    values: Sequence[float]
    positives: Sequence[ShownPositive]
    more_positives: int
    top: Sequence[Sequence[ShownKey]]


@dataclass(frozen=True, slots=True)
class Errors:
    """The queries of one set, by class."""

    shown: Mapping[str, Sequence[ShownQuery]]
    totals: Mapping[str, int]
    unchanged: int  # neither better nor worse, and found by both
    texts: Mapping[str, str] = field(default_factory=dict)  # key -> its text, of the keys that are shown
    cut: int = 0  # texts that were cut


def classify(before: Mapping[str, float] | None, after: Mapping[str, float]) -> dict[str, list[str]]:
    """Divide queries into CLASSES and `unchanged`, those first that moved most.

    Args:
        before: query -> metric under the first model; None where there is only one model.
        after: query -> metric under the last one.
    """
    classes: dict[str, list[str]] = {name: [] for name in (*CLASSES, "unchanged")}
    moved = {query: value - before.get(query, 0.0) if before else 0.0 for query, value in after.items()}
    for query, change in sorted(moved.items(), key=lambda item: -abs(item[1])):
        if change > EPSILON:
            classes["won"].append(query)
        elif change < -EPSILON:
            classes["lost"].append(query)
        else:
            classes["failing" if after[query] <= EPSILON else "unchanged"].append(query)
    return classes


def read_errors(
    data: RetrievalSet, outcomes: Sequence[Outcome], metric: str, bounds: Bounds | None = None
) -> Errors | None:
    """Say of each query whether it was won, lost, or fails still; None where the metric is not known by query.

    Args:
        data: the set.
        outcomes: the first and the last model, or only one.
        metric: by which queries are judged.
        bounds: how much is shown.
    """
    bounds = bounds or Bounds()
    values = [outcome.items.get(metric) for outcome in outcomes]
    after = values[-1]
    if not after or any(not found for found in values):
        return None
    classes = classify(values[0] if len(values) > 1 else None, after)
    shown = {
        name: [show_query(data, outcomes, metric, query, bounds) for query in classes[name][: bounds.queries]]
        for name in CLASSES
    }
    queries = [query for found in shown.values() for query in found]
    used = {key.key for query in queries for top in query.top for key in top}
    used |= {positive.key for query in queries for positive in query.positives}
    texts = {key: data.keys.get(key, "") for key in sorted(used)}
    whole = [*texts.values(), *(data.queries.get(query.query, "") for query in queries)]
    return Errors(
        shown=shown,
        totals={name: len(classes[name]) for name in CLASSES},
        unchanged=len(classes["unchanged"]),
        texts={key: cut(text, bounds.characters) for key, text in texts.items()},
        cut=sum(len(text) > bounds.characters for text in whole),
    )


def cut(text: str, characters: int) -> str:
    """Return the text, or its beginning and an ellipsis."""
    return text if len(text) <= characters else text[:characters] + "…"


def show_query(data: RetrievalSet, outcomes: Sequence[Outcome], metric: str, query: str, bounds: Bounds) -> ShownQuery:
    """Lay out one query: its positives, and the best keys of each model."""
    relevant = [key for key, grade in data.qrels.get(query, {}).items() if grade > 0]
    places = {key: [place(outcome.run.get(query, {}), key) for outcome in outcomes] for key in relevant}
    best_first = sorted(relevant, key=lambda key: min((p[1] for p in places[key] if p), default=len(data.keys) + 1))
    suspects = suspected(data, outcomes, query, relevant)
    return ShownQuery(
        query=query,
        text=cut(data.queries.get(query, ""), bounds.characters),
        values=[outcome.items[metric].get(query, 0.0) for outcome in outcomes],
        positives=[ShownPositive(key, places[key]) for key in best_first[: bounds.positives]],
        more_positives=max(0, len(relevant) - bounds.positives),
        top=[
            [
                ShownKey(key, score, key in places, suspects.get(key))
                for key, score in best_keys(outcome.run.get(query, {}), bounds.keys)
            ]
            for outcome in outcomes
        ],
    )


def best_keys(scores: Mapping[str, float], count: int) -> list[tuple[str, float]]:
    """Return the keys of the highest scores, the highest first."""
    return heapq.nlargest(count, scores.items(), key=lambda item: item[1])


def place(scores: Mapping[str, float], key: str) -> tuple[float, int] | None:
    """Return the score of a key and its rank from 1; None where it was not kept."""
    if key not in scores:
        return None
    return scores[key], 1 + sum(score > scores[key] for score in scores.values())


def suspected(data: RetrievalSet, outcomes: Sequence[Outcome], query: str, relevant: Sequence[str]) -> dict[str, str]:
    """Return key -> rule, of keys that are not marked relevant and may be so all the same.

    SAME_TEXT: the text of a positive, but for width, case, spaces and punctuation. ABOVE: two models place it above
    every positive; one alone may simply be wrong.
    """
    known = {letters(data.keys[key]) for key in relevant if data.keys.get(key)} - {""}
    runs = [outcome.run.get(query, {}) for outcome in outcomes]
    bars = [outcome.positives.get(query) for outcome in outcomes]
    found = {}
    for key in {key for run in runs for key in run} - set(relevant):
        if letters(data.keys.get(key, "")) in known:
            found[key] = SAME_TEXT
        elif len(runs) > 1 and all(
            bar is not None and run.get(key, float("-inf")) > bar for run, bar in zip(runs, bars, strict=True)
        ):
            found[key] = ABOVE
    return found
