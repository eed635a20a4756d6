"""What a loss may look at, and what losses share: scores, and which keys must not serve as negatives.

Shapes: B local queries, N queries of the step (all ranks), P keys of the step, G keys of a query's group, D dimensions,
M known positives. The keys of step query n stand in columns n * G to (n + 1) * G.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from zh_embedder.core.similarity import SIMILARITIES

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class LossBatch:
    """Everything that a loss may look at."""

    queries: Tensor  # (B, D) local queries
    keys: Tensor  # (P, D) keys of the step
    group: Tensor  # (B, G) columns of each query's own keys, the positive first
    weights: Tensor  # (B,) share of each query in the step's loss; 0 where a row was repeated to fill the step
    key_texts: Tensor  # (P,) identity of each key's text
    positive_texts: Tensor  # (B, M) identities of all known positives of a query, padded with 0
    key_counts: Tensor  # (P,) False where the key belongs to a repeated row
    teacher: Tensor | None = None  # (B, G) teacher scores, aligned with `group`
    metric: str = "cos"  # cos, ip or l2
    step_queries: Tensor | None = None  # (N, D) queries of all ranks, for losses that want them
    query_texts: Tensor | None = None  # (N,) identities of their texts, instructions included
    scores: Tensor | None = None  # (N,) how alike the texts of each pair are
    labels: Tensor | None = None  # (N,) identities of the labels of labelled texts

    @property
    def own(self) -> Tensor:
        """Place of each local query among the step's, (B,)."""
        return self.group[:, 0] // self.group.shape[1]

    @property
    def query_counts(self) -> Tensor:
        """False where a query of the step was repeated to fill it, (N,)."""
        return self.key_counts[:: self.group.shape[1]]

    def rows(self, chosen: slice) -> LossBatch:
        """Return the batch with some of its local queries, against the same step."""
        return replace(
            self,
            queries=self.queries[chosen],
            group=self.group[chosen],
            weights=self.weights[chosen],
            positive_texts=self.positive_texts[chosen],
            teacher=None if self.teacher is None else self.teacher[chosen],
        )

    def truncated(self, dimensions: int) -> LossBatch:
        """Return the batch with the first `dimensions` of every vector, normalised anew where cosines are compared."""

        def cut(vectors: Tensor) -> Tensor:
            short = vectors[:, :dimensions]
            return F.normalize(short, dim=-1) if self.metric == "cos" else short

        queries = None if self.step_queries is None else cut(self.step_queries)
        return replace(self, queries=cut(self.queries), keys=cut(self.keys), step_queries=queries)


def scores_of(batch: LossBatch, left: Tensor, right: Tensor) -> Tensor:
    """Scores of each vector against each other one in the batch's metric, (A, D) x (C, D) -> (A, C)."""
    return SIMILARITIES[batch.metric](left, right)


def similarity(batch: LossBatch) -> Tensor:
    """Scores of each local query against each key of the step, (B, P)."""
    return scores_of(batch, batch.queries, batch.keys)


def row_scores(batch: LossBatch, left: Tensor, right: Tensor) -> Tensor:
    """Scores of vectors side by side, (..., D) x (..., D) -> (...)."""
    return -((left - right) ** 2).sum(dim=-1) if batch.metric == "l2" else (left * right).sum(dim=-1)


def own_scores(batch: LossBatch) -> Tensor:
    """Scores of each query against its own group only, (B, G)."""
    return row_scores(batch, batch.queries.unsqueeze(1), batch.keys[batch.group])


def known_positives(batch: LossBatch, texts: Tensor) -> Tensor:
    """Which of some texts, (C,), are known positives of which query, (B, C)."""
    mask = torch.zeros(len(batch.queries), len(texts), dtype=torch.bool, device=texts.device)
    for known in batch.positive_texts.unbind(dim=1):  # (B,) one known positive of each query at a time: no (B, C, M)
        mask |= texts == known.unsqueeze(1)
    return mask


def excluded(batch: LossBatch) -> Tensor:
    """Which keys must not serve as negatives of which query, (B, P).

    True for a key whose text is a known positive of the query and for the keys of repeated rows; always False for the
    query's own positive.
    """
    mask = known_positives(batch, batch.key_texts) | ~batch.key_counts
    return mask.scatter(1, batch.group[:, :1], False)


def skipped(batch: LossBatch, *, in_batch: bool) -> Tensor:
    """Keys that a query's sum leaves out, (B, P): the excluded ones and, without in-batch negatives, all others' keys.

    A repeated row still sees its own positive: it weighs nothing, but must stay finite.
    """
    skip = excluded(batch)
    return skip if in_batch else skip | torch.ones_like(skip).scatter(1, batch.group, False)


def other_queries(batch: LossBatch) -> Tensor:
    """Which queries of the step may stand as negatives beside which local query, (B, N).

    Not itself, not a repeated row, not a query of the same text, and not one that was asked for a known positive.
    """
    texts = need(batch.query_texts, "identities of queries")
    answers = batch.key_texts[:: batch.group.shape[1]]  # (N,) the positive of each
    same = texts == texts[batch.own].unsqueeze(1)
    return ~(same | known_positives(batch, answers) | ~batch.query_counts)


def need(value: Tensor | None, what: str) -> Tensor:
    """Return a part of the batch that a loss cannot do without; the trainer sees to it that it is there."""
    if value is None:
        raise ValueError(f"the batch holds no {what}")
    return value


def weighted_sum(batch: LossBatch, per_query: Tensor) -> Tensor:
    """Reduce (B,) to the scalar that a loss over local queries returns."""
    return (batch.weights * per_query).sum()
