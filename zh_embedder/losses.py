"""Losses as pure functions of an `EmbeddedBatch`. No loss knows ranks, models or config.

Shapes: B local queries, P keys visible to them (all ranks), G keys of a query's group, D dimensions, M known positives.
Every loss returns a scalar: the sum over local queries of `weights[b]` times the loss of query b. With weights of
1 / B that is the plain mean; with several ranks or masked rows the trainer chooses them so that DDP's average is the
gradient of the whole step.

Add a loss: write `name(batch, *, options) -> scalar` and list it in LOSSES.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zh_embedder.errors import UserError, unknown_name

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
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


def cos_or_ip(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner product, (B, D) x (P, D) -> (B, P). Vectors come normalised when the metric is cos."""
    return queries @ keys.T


def negative_l2(queries: Tensor, keys: Tensor) -> Tensor:
    """Minus the squared Euclidean distance, (B, D) x (P, D) -> (B, P): ranks as faiss' L2 index does."""
    squares = (queries**2).sum(dim=1, keepdim=True) + (keys**2).sum(dim=1)
    return 2 * queries @ keys.T - squares


SIMILARITIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cos": cos_or_ip,
    "ip": cos_or_ip,
    "l2": negative_l2,
}


def similarity(batch: EmbeddedBatch) -> Tensor:
    """Scores of each local query against each key of the step, (B, P)."""
    return SIMILARITIES[batch.metric](batch.queries, batch.keys)


def excluded(batch: EmbeddedBatch) -> Tensor:
    """Which keys must not serve as negatives of which query, (B, P).

    True for a key whose text is a known positive of the query and for the keys of repeated rows; always False for the
    query's own positive.
    """
    mask = (~batch.key_counts).expand(len(batch.queries), -1).clone()  # (B, P)
    for known in batch.positive_texts.unbind(dim=1):  # (B,) one known positive of each query at a time: no (B, P, M)
        mask |= batch.key_texts == known.unsqueeze(1)
    return mask.scatter(1, batch.group[:, :1], False)


def skipped(batch: EmbeddedBatch, *, in_batch: bool) -> Tensor:
    """Keys that a query's sum leaves out, (B, P): the excluded ones and, without in-batch negatives, all others' keys.

    A repeated row still sees its own positive: it weighs nothing, but must stay finite.
    """
    skip = excluded(batch)
    return skip if in_batch else skip | torch.ones_like(skip).scatter(1, batch.group, False)


def own_scores(batch: EmbeddedBatch) -> Tensor:
    """Scores of each query against its own group only, (B, G)."""
    own = batch.keys[batch.group]  # (B, G, D)
    if batch.metric == "l2":
        return -((batch.queries.unsqueeze(1) - own) ** 2).sum(dim=-1)
    return torch.einsum("bd,bgd->bg", batch.queries, own)


def weighted_sum(batch: EmbeddedBatch, per_query: Tensor) -> Tensor:
    """Reduce (B,) to the scalar that every loss returns."""
    return (batch.weights * per_query).sum()


def info_nce(batch: EmbeddedBatch, *, temperature: float = 0.01, in_batch: bool = True) -> Tensor:
    """InfoNCE: pick the positive out of every key of the step (van den Oord et al. 2018, arXiv 1807.03748).

    Per query: -log(exp(s+ / t) / sum over keys of exp(s / t)), known positives and repeated rows left out of the sum.

    Args:
        batch: see `EmbeddedBatch`.
        temperature: divides the scores; smaller is sharper.
        in_batch: False scores each query against its own group only (FlagEmbedding's `no_in_batch_neg`).
    """
    logits = (similarity(batch) / temperature).masked_fill(skipped(batch, in_batch=in_batch), NEVER)
    return weighted_sum(batch, F.cross_entropy(logits, batch.group[:, 0], reduction="none"))


def need_teacher(batch: EmbeddedBatch, loss: str) -> Tensor:
    """Return the teacher scores or say which loss misses them."""
    if batch.teacher is None:
        raise UserError(f"{loss}: the records have no teacher_scores")
    return batch.teacher


def teacher_kl(
    batch: EmbeddedBatch,
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
    student = F.log_softmax(own_scores(batch) / temperature / student_temperature, dim=-1)  # (B, G)
    target = F.log_softmax(teacher / teacher_temperature, dim=-1)
    return weighted_sum(batch, F.kl_div(student, target, reduction="none", log_target=True).sum(dim=-1))


def ranked_distillation(
    batch: EmbeddedBatch,
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
    logits = (similarity(batch) / temperature).masked_fill(skip, NEVER)  # (B, P)
    per_query = torch.zeros_like(batch.weights)
    for i in range(group.shape[1]):
        own = logits.gather(1, group[:, i : i + 1]).squeeze(1)
        per_query = per_query + target[:, i] * (logits.logsumexp(dim=1) - own)
        logits = logits.scatter(1, group[:, i : i + 1], NEVER)
    return weighted_sum(batch, per_query)


LossFn = Callable[..., Tensor]
LOSSES: Mapping[str, LossFn] = {
    "info_nce": info_nce,
    "teacher_kl": teacher_kl,
    "ranked_distillation": ranked_distillation,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerm:
    """One summand of a dataset's loss: `weight * LOSSES[name](batch, **options)`.

    Raises:
        UserError: no such loss, or no such option of it.
    """

    name: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unknown names before step 1, not at it."""
        if self.name not in LOSSES:
            raise unknown_name("loss", self.name, LOSSES)
        known = list(inspect.signature(LOSSES[self.name]).parameters)[1:]
        for option in self.options:
            if option not in known:
                raise unknown_name(f"loss {self.name}", option, known)


def total_loss(batch: EmbeddedBatch, terms: tuple[LossTerm, ...]) -> Tensor:
    """Weighted sum of the terms, a scalar."""
    return torch.stack([term.weight * LOSSES[term.name](batch, **term.options) for term in terms]).sum()
