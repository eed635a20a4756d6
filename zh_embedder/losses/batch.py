"""Loss batch: the scores of a step, which keys belong to which query, and which must not be negatives.

A loss asks its batch for scores and never for how they came about, so a model of vectors (`VectorBatch`) and one that
reads query and key together (`ScoreBatch`) train with the same losses.

Shapes: B local queries, N queries of the step (all ranks), P keys of the step, G keys of a query's group, D dimensions,
M known positives. The keys of step query n are columns n * G to (n + 1) * G.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from zh_embedder.core.similarity import matrix, prepared, rows

NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossBatch(ABC):
    """A step as its losses see it; a subclass holds what the scores are made of."""

    LOCAL: ClassVar[tuple[str, ...]] = ("group", "weights", "positive_texts", "teacher")  # fields with a row per query
    INPUTS: ClassVar[tuple[str, ...]] = ()  # fields that the model made: they get the gradient

    group: Tensor  # (B, G) columns of each query's own keys, the positive first
    weights: Tensor  # (B,) share of each query in the step's loss; 0 where a row was repeated to fill the step
    key_texts: Tensor  # (P,) identity of each key's text
    positive_texts: Tensor  # (B, M) identities of all known positives of a query, padded with 0
    key_counts: Tensor  # (P,) False where the key belongs to a repeated row
    teacher: Tensor | None = None  # (B, G) teacher scores, aligned with `group`
    query_texts: Tensor | None = None  # (N,) identities of the texts of the step's queries, instructions included
    targets: Tensor | None = None  # (N,) how alike the texts of each pair are, as the records have it
    labels: Tensor | None = None  # (N,) identities of the labels of labelled texts
    query_answers: Tensor | None = None  # (N,) labels of the step's queries, where answers are labels; 0 is none
    key_answers: Tensor | None = None  # (P,) labels of the step's keys; 0 where they are not known

    def __len__(self) -> int:
        """Number of local queries."""
        return len(self.group)

    @property
    def own(self) -> Tensor:
        """Place of each local query among the step's, (B,)."""
        return self.group[:, 0] // self.group.shape[1]

    @property
    def query_counts(self) -> Tensor:
        """False where a query of the step was repeated to fill it, (N,)."""
        return self.key_counts[:: self.group.shape[1]]

    def rows(self, chosen: slice) -> Self:
        """Some of the local queries, against the same step."""
        local = {name: getattr(self, name) for name in self.LOCAL}
        return replace(self, **{name: value[chosen] for name, value in local.items() if value is not None})

    # ---- scores -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def scores(self) -> Tensor:
        """Scores of each local query against each key of the step, (B, P)."""

    @abstractmethod
    def own_scores(self) -> Tensor:
        """Scores of each local query against its own group only, (B, G)."""

    @abstractmethod
    def pair_scores(self) -> Tensor:
        """Scores of all pairs of the step, each query against its one key, (N,)."""

    def query_scores(self) -> Tensor:
        """Scores of each local query against each query of the step, (B, N)."""
        raise ValueError("these scores compare queries with keys only: there are none between two queries")

    def of_positives(self) -> Self:
        """The batch with each query's positive in the query's place: its scores are those of positives."""
        raise ValueError("these scores compare queries with keys only: a positive has none of its own")

    def truncated(self, dimensions: int) -> Self:
        """The batch with the first `dimensions` of every vector, for Matryoshka."""
        raise ValueError(f"these scores come from no vectors: nothing can be cut to {dimensions} dimensions")


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorBatch(LossBatch):
    """Scores as similarities of vectors: what a bi-encoder makes."""

    LOCAL: ClassVar[tuple[str, ...]] = (*LossBatch.LOCAL, "queries", "teacher_queries")
    INPUTS: ClassVar[tuple[str, ...]] = ("queries", "keys", "step_queries", "projection")

    queries: Tensor  # (B, D) local queries
    keys: Tensor  # (P, D) keys of the step
    step_queries: Tensor | None = None  # (N, D) queries of all ranks, for losses that want them
    metric: str = "cos"  # cos, ip or l2
    teacher_queries: Tensor | None = None  # (B, T) the teacher's vectors of local queries
    teacher_keys: Tensor | None = None  # (P, T) the teacher's vectors of the keys of the step
    projection: Tensor | None = None  # (T, D) from our vectors to the teacher's, where their sizes differ
    own_keys: bool = False  # single texts: each query is its own key, so that no score compares it with itself

    def scores(self) -> Tensor:
        """Similarity of each local query to each key of the step, (B, P)."""
        return self._between(self.queries, self.keys)

    def own_scores(self) -> Tensor:
        """Similarity of each local query to the keys of its own group only, (B, G)."""
        return self._row_by_row(self.queries.unsqueeze(1), self.keys[self.group])

    def pair_scores(self) -> Tensor:
        """Similarity of the two texts of each pair of the step, (N,)."""
        return self._row_by_row(self.all_queries(), self.keys)

    def query_scores(self) -> Tensor:
        """Similarity of each local query to each query of the step, (B, N)."""
        return self._between(self.queries, self.all_queries())

    def of_positives(self) -> Self:
        """The batch with the vector of each query's positive in the query's place."""
        return replace(self, queries=self.keys[self.group[:, 0]])

    def all_queries(self) -> Tensor:
        """Vectors of the queries of all ranks, (N, D)."""
        return need(self.step_queries, "queries of other ranks")

    def truncated(self, dimensions: int) -> Self:
        """The batch with the first `dimensions` of every vector, normalised anew where cosines are compared."""

        def cut(vectors: Tensor) -> Tensor:
            return prepared(vectors[:, :dimensions], self.metric)

        queries = None if self.step_queries is None else cut(self.step_queries)
        return replace(self, queries=cut(self.queries), keys=cut(self.keys), step_queries=queries)

    def _between(self, left: Tensor, right: Tensor) -> Tensor:
        """Similarity of each vector to each other one, (A, D) x (C, D) -> (A, C)."""
        return matrix(left, right, self.metric)

    def _row_by_row(self, left: Tensor, right: Tensor) -> Tensor:
        """Similarity of vectors row by row, (..., D) x (..., D) -> (...)."""
        return rows(left, right, self.metric)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreBatch(LossBatch):
    """Scores of each query and its own keys alone: what a cross-encoder makes.

    Keys of other queries were never scored. They count as infinitely far away, so the sum of a loss over all keys of
    the step is the sum over the group.
    """

    LOCAL: ClassVar[tuple[str, ...]] = (*LossBatch.LOCAL, "own_group")
    INPUTS: ClassVar[tuple[str, ...]] = ("own_group", "step_pairs")

    own_group: Tensor  # (B, G) scores, aligned with `group`
    step_pairs: Tensor | None = None  # (N,) scores of the pairs of all ranks, for losses that compare pairs

    def scores(self) -> Tensor:
        """Scores in the columns of each query's own keys, minus infinity in all others, (B, P)."""
        return self.own_group.new_full((len(self), len(self.key_texts)), NEVER).scatter(1, self.group, self.own_group)

    def own_scores(self) -> Tensor:
        """Scores of each query's own keys, (B, G)."""
        return self.own_group

    def pair_scores(self) -> Tensor:
        """Scores of all pairs of the step, (N,)."""
        return need(self.step_pairs, "pairs of other ranks")


def known_positives(batch: LossBatch, texts: Tensor) -> Tensor:
    """Which of some texts, (C,), are known positives of which query, (B, C)."""
    mask = torch.zeros(len(batch), len(texts), dtype=torch.bool, device=texts.device)
    for known in batch.positive_texts.unbind(dim=1):  # (B,) one known positive of each query at a time: no (B, C, M)
        mask |= texts == known.unsqueeze(1)
    return mask


def same_answers(batch: LossBatch, labels: Tensor | None) -> Tensor | None:
    """Which of some labels, (C,), are the label of which query, (B, C); None where no query has one."""
    if batch.query_answers is None or labels is None:
        return None
    own = batch.query_answers[batch.own].unsqueeze(1)
    return (labels == own) & (own != 0)


def known_by_label(batch: LossBatch) -> Tensor | None:
    """Which keys of other records answer which query because they have its label, (B, P); None without labels.

    A record's own keys are not among them: what it lists as a negative is one.
    """
    same = same_answers(batch, batch.key_answers)
    return None if same is None else same.scatter(1, batch.group, False)


def excluded(batch: LossBatch) -> Tensor:
    """Which keys must not serve as negatives of which query, (B, P).

    True for a key whose text is a known positive of the query, for another record's key of the same label, and for the
    keys of repeated rows; always False for the query's own positive.
    """
    mask = known_positives(batch, batch.key_texts) | ~batch.key_counts
    by_label = known_by_label(batch)
    if by_label is not None:
        mask |= by_label
    return mask.scatter(1, batch.group[:, :1], False)


def skipped(batch: LossBatch, *, in_batch: bool) -> Tensor:
    """Keys that a query's sum leaves out, (B, P): the excluded ones and, without in-batch negatives, all others' keys.

    A repeated row still sees its own positive: it weighs nothing, but must stay finite.
    """
    skip = excluded(batch)
    return skip if in_batch else skip | torch.ones_like(skip).scatter(1, batch.group, False)


def other_queries(batch: LossBatch) -> Tensor:
    """Which queries of the step may serve as negatives of which local query, (B, N).

    Not itself, not a repeated row, not a query of the same text or label, and not one that was asked for a known
    positive.
    """
    texts = need(batch.query_texts, "identities of queries")
    answers = batch.key_texts[:: batch.group.shape[1]]  # (N,) the positive of each
    same = texts == texts[batch.own].unsqueeze(1)
    by_label = same_answers(batch, batch.query_answers)
    if by_label is not None:
        same |= by_label
    return ~(same | known_positives(batch, answers) | ~batch.query_counts)


def need(value: Tensor | None, what: str) -> Tensor:
    """Return a part of the batch that a loss cannot do without; the trainer sees to it that it is there."""
    if value is None:
        raise ValueError(f"the batch holds no {what}")
    return value


def weighted_sum(batch: LossBatch, per_query: Tensor) -> Tensor:
    """Reduce (B,) to the scalar that a loss over local queries returns."""
    return (batch.weights * per_query).sum()
