"""Losses of queries with their keys, as pure functions of an `LossBatch`. No loss knows ranks, models or config.

Every loss here returns a scalar: the sum over local queries of `weights[b]` times the loss of query b. With weights of
1 / B that is the plain mean; with several ranks or masked rows the trainer chooses them so that DDP's average is the
gradient of the whole step. Losses of pairs and of labelled texts are in `losses.pairs`; `losses.table` lists them all.

Shapes: as in `losses.batch`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zh_embedder.core.errors import UserError
from zh_embedder.data.groups import UNSCORED
from zh_embedder.losses.batch import (
    NEVER,
    LossBatch,
    excluded,
    known_by_label,
    known_positives,
    other_queries,
    skipped,
    weighted_sum,
)


def info_nce(
    batch: LossBatch,
    *,
    temperature: float = 0.01,
    in_batch: bool = True,
    query_to_query: bool = False,
    key_to_key: bool = False,
    key_to_query: bool = False,
    false_negative_margin: float | None = None,
    false_negative_percent: float | None = None,
) -> Tensor:
    """InfoNCE: pick the positive out of every key of the step (van den Oord et al. 2018, arXiv 1807.03748).

    Per query: -log(exp(s+ / t) / sum over keys of exp(s / t)), known positives and repeated rows left out of the sum;
    sentence-transformers' MultipleNegativesRanking. The sum may also take scores between queries, between the positive
    and all other keys, and between the positive and all other queries: all three are GTE's loss (Li et al. 2023, arXiv
    2308.03281), the first two Qwen3-Embedding's (Zhang et al. 2025, arXiv 2506.05176), there with a margin of 0.1.

    Args:
        batch: see `LossBatch`.
        temperature: divides the scores; smaller is sharper.
        in_batch: False scores each query against its own group only (FlagEmbedding's `no_in_batch_neg`).
        query_to_query: the step's other queries are negatives too.
        key_to_key: the step's other keys are negatives of the positive too.
        key_to_query: the step's other queries are negatives of the positive too.
        false_negative_margin: leave out what scores above the positive by more than this.
        false_negative_percent: leave out what scores above the positive by more than this percentage of its score.
    """
    scores = [batch.scores()]
    skip = [skipped(batch, in_batch=in_batch)]
    positive = batch.group[:, 0]
    if query_to_query:
        scores.append(batch.query_scores())
        skip.append(~other_queries(batch))
    positives = batch.of_positives() if key_to_query or key_to_key else batch
    if key_to_query:
        scores.append(positives.query_scores())
        skip.append(~other_queries(batch))
    if key_to_key:
        scores.append(positives.scores())
        skip.append(excluded(batch).scatter(1, batch.group[:, :1], True))
    every, left_out = torch.cat(scores, dim=1), torch.cat(skip, dim=1)
    left_out = left_out | too_high(every, positive, margin=false_negative_margin, percent=false_negative_percent)
    logits = (every / temperature).masked_fill(left_out, NEVER)
    return weighted_sum(batch, F.cross_entropy(logits, positive, reduction="none"))


def too_high(scores: Tensor, positive: Tensor, *, margin: float | None, percent: float | None) -> Tensor:
    """Which scores, (B, C), are so far above the one in column `positive`, (B,), that the key cannot be a negative.

    NV-Retriever (Moreira et al. 2024, arXiv 2407.15831) has both rules, there below the positive and in mining.
    """
    own = scores.detach().gather(1, positive.unsqueeze(1))  # (B, 1)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if margin is not None:
        mask |= scores.detach() > own + margin
    if percent is not None:
        mask |= scores.detach() > own + own.abs() * (percent / 100)
    return mask


def false_negatives(
    batch: LossBatch, *, margin: float | None = None, percent: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Count what InfoNCE leaves out of the step's keys, for the log: by text, by label and by score, three scalars.

    Repeated rows are not counted, nor is a query's own positive.
    """
    real = (batch.weights > 0).unsqueeze(1) & batch.key_counts
    known = (known_positives(batch, batch.key_texts) & real).scatter(1, batch.group[:, :1], False)
    by_label = known_by_label(batch)
    same = torch.zeros_like(known) if by_label is None else by_label & real & ~known
    if margin is None and percent is None:
        return known.sum(), same.sum(), torch.zeros_like(known.sum())
    high = too_high(batch.scores(), batch.group[:, 0], margin=margin, percent=percent)
    return known.sum(), same.sum(), (high & real & ~known & ~same).sum()


def own_negatives(batch: LossBatch) -> Tensor:
    """Which of a group's keys but the first are negatives, and no known positives that fill it up, (B, G - 1)."""
    own = batch.key_texts[batch.group[:, 1:]].unsqueeze(2)  # (B, G - 1, 1)
    return (own != batch.positive_texts.unsqueeze(1)).all(dim=2)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row's values where the mask is true, 0 where it never is: (B, C) -> (B,)."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def triplet(batch: LossBatch, *, margin: float = 0.2) -> Tensor:
    """Triplet loss: the positive stands above every negative of its group by a margin (Schroff et al. 2015).

    Per query: mean over its negatives of max(0, s- - s+ + margin), s being scores of the metric: with cosines that is
    the triplet loss of cosine distances (arXiv 1503.03832).
    """
    scores = batch.own_scores()
    return weighted_sum(batch, mean_where(F.relu(scores[:, 1:] - scores[:, :1] + margin), own_negatives(batch)))


def need_teacher(batch: LossBatch, loss: str) -> Tensor:
    """Return the teacher scores or say which loss misses them."""
    if batch.teacher is None:
        raise UserError(f"{loss}: the records have no teacher_scores")
    return batch.teacher


def teacher_kl(
    batch: LossBatch,
    *,
    temperature: float = 0.01,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
) -> Tensor:
    """KL divergence from the teacher's to the student's distribution over each query's own group.

    KL(softmax(teacher / teacher_temperature) || softmax(s / temperature / student_temperature)), as LLM-Embedder
    does it; FlagEmbedding's `kl_div` differs from it by the teacher's entropy, a constant without gradient.

    Raises:
        UserError: the records have no teacher scores.
    """
    teacher = need_teacher(batch, "teacher_kl")
    student = F.log_softmax(batch.own_scores() / temperature / student_temperature, dim=-1)  # (B, G)
    target = F.log_softmax(teacher / teacher_temperature, dim=-1)
    return weighted_sum(batch, F.kl_div(student, target, reduction="none", log_target=True).sum(dim=-1))


def margin_mse(batch: LossBatch, *, scale: float = 1.0) -> Tensor:
    """MarginMSE: the student's margins are the teacher's (Hofstätter et al. 2020, arXiv 2010.02666).

    Per query: mean over its scored negatives of (scale * (s+ - s-) - (t+ - t-)) ** 2.

    Args:
        batch: see `LossBatch`.
        scale: of the student's scores; cosines lie within -1 and 1, a cross-encoder's logits often do not.

    Raises:
        UserError: the records have no teacher scores.
    """
    teacher, scores = need_teacher(batch, "margin_mse"), batch.own_scores()
    scored = teacher[:, 1:] > teacher[:, :1] - UNSCORED / 2  # a key of another record was never scored
    difference = scale * (scores[:, :1] - scores[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
    return weighted_sum(batch, mean_where(difference**2, scored & own_negatives(batch)))


def ranked_distillation(
    batch: LossBatch,
    *,
    temperature: float = 0.01,
    teacher_temperature: float = 1.0,
    sort: bool = True,
    in_batch: bool = True,
) -> Tensor:
    """Sum over the group of t_i * CE_i (LLM-Embedder's `stable_distill`; FlagEmbedding's `m3_kd_loss` with sort=False).

    t = softmax(teacher / teacher_temperature) over the group. CE_i is the cross-entropy of the group's i-th key among
    all keys of the step (of the group alone without `in_batch`), the keys before it in the group left out. With `sort`,
    negatives stand by falling score.

    Raises:
        UserError: the records have no teacher scores.
    """
    teacher, group = need_teacher(batch, "ranked_distillation"), batch.group
    if sort:
        order = teacher[:, 1:].argsort(dim=1, descending=True, stable=True) + 1
        order = torch.cat([torch.zeros_like(order[:, :1]), order], dim=1)  # the positive stays first
        teacher, group = teacher.gather(1, order), group.gather(1, order)
    target = F.softmax(teacher / teacher_temperature, dim=-1)  # (B, G)
    # A query's own keys are ranked, not masked: the teacher says how good each of them is.
    skip = skipped(batch, in_batch=in_batch).scatter(1, group, False)
    logits = (batch.scores() / temperature).masked_fill(skip, NEVER)  # (B, P)
    per_query = torch.zeros_like(batch.weights)
    for i in range(group.shape[1]):
        own = logits.gather(1, group[:, i : i + 1]).squeeze(1)
        per_query = per_query + target[:, i] * (logits.logsumexp(dim=1) - own)
        logits = logits.scatter(1, group[:, i : i + 1], NEVER)
    return weighted_sum(batch, per_query)


def m3_distillation(
    batch: LossBatch, *, temperature: float = 0.01, teacher_temperature: float = 1.0, in_batch: bool = True
) -> Tensor:
    """FlagEmbedding's `m3_kd_loss`: `ranked_distillation` in the order of the records.

    Raises:
        UserError: the records have no teacher scores.
    """
    return ranked_distillation(
        batch, temperature=temperature, teacher_temperature=teacher_temperature, sort=False, in_batch=in_batch
    )
