"""Losses of scored pairs and of labelled texts, as pure functions of an `LossBatch`.

A pair is a query with one key (G = 1) and a score. Losses that compare pairs with each other look at all pairs of the
step; every rank then returns the value of the whole step, so that the average over ranks is that value, and the
gradient that `gather_with_grad` adds up over ranks is, averaged by DDP, its gradient.

Shapes: as in `losses.batch`; of pairs, N = P.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zh_embedder.losses.batch import NEVER, LossBatch, VectorBatch, need, weighted_sum


def own_pairs(batch: LossBatch) -> tuple[Tensor, Tensor]:
    """The model's scores of the local pairs, and those of their records, (B,) both."""
    return batch.own_scores()[:, 0], need(batch.targets, "pairs")[batch.group[:, 0]]


def step_pairs(batch: LossBatch) -> tuple[Tensor, Tensor]:
    """The model's scores of all pairs of the step, and those of their records, (N,) both."""
    return batch.pair_scores(), need(batch.targets, "pairs")


def cosine_regression(batch: LossBatch, *, score_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Mean squared error of the cosine against the score (sentence-transformers' CosineSimilarityLoss).

    Per pair: (s - (score - low) / (high - low)) ** 2.

    Args:
        batch: see `LossBatch`.
        score_range: lowest and highest score that the data may hold: STS-B has [0, 5].
    """
    found, wanted = own_pairs(batch)
    low, high = score_range
    return weighted_sum(batch, (found - (wanted - low) / (high - low)) ** 2)


def contrastive(batch: LossBatch, *, margin: float = 0.5, threshold: float = 0.5) -> Tensor:
    """Contrastive loss of pairs that belong together or not (Hadsell, Chopra and LeCun 2006).

    Per pair, with d = 1 - s: d ** 2 / 2 where the score is above `threshold`, else max(0, margin - d) ** 2 / 2.
    """
    found, wanted = own_pairs(batch)
    distance = 1 - found
    per_pair = torch.where(wanted > threshold, distance**2, F.relu(margin - distance) ** 2) / 2
    return weighted_sum(batch, per_pair)


def online_contrastive(batch: LossBatch, *, margin: float = 0.5, threshold: float = 0.5) -> Tensor:
    """Contrastive loss of the step's hard pairs alone (sentence-transformers' OnlineContrastiveLoss).

    Hard is a positive pair farther apart than the nearest negative one, and a negative pair nearer than the farthest
    positive one; where a step has pairs of one kind only, the mean distance replaces the other. The sum of d ** 2 and
    max(0, margin - d) ** 2 over them is divided by the pairs of the step, which theirs is not.
    """
    found, wanted = step_pairs(batch)
    distance, counts = 1 - found, batch.key_counts
    fixed, positive, negative = distance.detach(), counts & (wanted > threshold), counts & (wanted <= threshold)
    middle = (fixed * counts).sum() / counts.sum()
    # Without asking the device which kinds there are: where one is missing, its extreme is infinite.
    nearest_negative = torch.where(negative.any(), fixed.masked_fill(~negative, torch.inf).min(), middle)
    farthest_positive = torch.where(positive.any(), fixed.masked_fill(~positive, NEVER).max(), middle)
    hard_positive, hard_negative = positive & (fixed > nearest_negative), negative & (fixed < farthest_positive)
    per_pair = hard_positive * distance**2 + hard_negative * F.relu(margin - distance) ** 2
    return per_pair.sum() / counts.sum()


def ordered(found: Tensor, wanted: Tensor, counts: Tensor) -> Tensor:
    """log(1 + the sum over pairs i, j that count, with score_i > score_j, of exp(s_j - s_i)), a scalar.

    Never N x N: pairs are sorted by score, and the sum over all lower ones is a running one. Those that do not count
    follow all others, so that no sum takes them in.
    """
    wanted = wanted.masked_fill(~counts, torch.inf)
    order = wanted.argsort(stable=True)
    found, wanted, counts = found[order], wanted[order], counts[order]
    lower = torch.searchsorted(wanted, wanted)  # how many scores are lower than each
    below = found.logcumsumexp(dim=0)[(lower - 1).clamp(min=0)]
    terms = (below - found).masked_fill(~(counts & (lower > 0)), NEVER)
    return F.pad(terms, (1, 0)).logsumexp(dim=0)


def cosent(batch: LossBatch, *, temperature: float = 0.05) -> Tensor:
    """CoSENT: pairs in the order of their scores (Su 2022, kexue.fm/archives/8847).

    log(1 + sum over pairs i, j of the step with score_i > score_j of exp((s_j - s_i) / t)).
    """
    found, wanted = step_pairs(batch)
    return ordered(found / temperature, wanted, batch.key_counts)


def angle(batch: LossBatch, *, temperature: float = 0.05) -> Tensor:
    """AnglE: as CoSENT, on the angle between vectors in complex space (Li and Li 2023, arXiv 2309.12871).

    The first half of a vector is its real part, the second half its imaginary part. The quotient of two vectors, each
    divided by its length, is summed over its components and over both parts; its absolute value is s. The paper
    trains it together with CoSENT and InfoNCE: name all of them in a task's `loss`.
    """
    if not isinstance(batch, VectorBatch):
        raise ValueError("angle: compares the parts of vectors, and this batch has scores alone")
    found = complex_quotient(batch.all_queries(), batch.keys)
    return ordered(found / temperature, need(batch.targets, "pairs"), batch.key_counts)


def complex_quotient(left: Tensor, right: Tensor) -> Tensor:
    """AnglE's similarity of vectors side by side, (C, D) x (C, D) -> (C,). D must be even."""
    a, b = left.chunk(2, dim=1)
    c, d = right.chunk(2, dim=1)
    lengths = [(x**2 + y**2).sum(dim=1, keepdim=True).sqrt() for x, y in ((a, b), (c, d))]
    square = (c**2 + d**2).sum(dim=1, keepdim=True)
    real, imaginary = (a * c + b * d) / square, (b * c - a * d) / square
    return ((real + imaginary) / (lengths[0] / lengths[1])).sum(dim=1).abs()


def supervised_contrastive(batch: LossBatch, *, temperature: float = 0.05) -> Tensor:
    """Supervised contrastive loss of labelled texts (Khosla et al. 2020, arXiv 2004.11362, L_out).

    Per text: minus the mean, over the step's other texts p of its label, of log(exp(s_p / t) / sum over all other texts
    of exp(s / t)). Texts equal to it count as it; a text whose label no other text of the step has adds nothing.
    """
    labels, own = need(batch.labels, "labelled texts"), batch.group[:, 0]
    itself = batch.key_texts == batch.key_texts[own].unsqueeze(1)  # (B, P)
    others = batch.key_counts & ~itself
    positive = (labels == labels[own].unsqueeze(1)) & others
    logits = (batch.scores() / temperature).masked_fill(~others, NEVER)
    some = positive.any(dim=1, keepdim=True)  # without a positive nothing is kept, and nothing may be -inf - -inf
    share = logits.masked_fill(~some, 0.0).log_softmax(dim=1).masked_fill(~positive, 0.0)
    return weighted_sum(batch, -share.sum(dim=1) / positive.sum(dim=1).clamp(min=1))
