"""Losses of a teacher's vectors, as pure functions of a `VectorBatch`: of single texts, pairs, queries with keys alike.

The teacher's vectors are constants, compared as the student's metric does: of length 1 for cos. Where their size is not
the student's, ours go through a learned `projection`. At a smaller size of ours (Matryoshka) its first columns serve;
without a projection, the teacher's vectors are cut to that size. Similarities need neither.

Shapes: as in `losses.batch`; T dimensions of the teacher, S texts of a row: the query and its G keys, or a single text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zh_embedder.core.similarity import matrix, prepared
from zh_embedder.losses.batch import NEVER, LossBatch, VectorBatch, need, weighted_sum

TEMPERATURE = 0.02  # of similarity_kl: contrastive teachers are trained at 0.01 to 0.05


def of_vectors(batch: LossBatch, loss: str) -> VectorBatch:
    """Return a batch that has vectors, or say which loss misses them."""
    if not isinstance(batch, VectorBatch):
        raise ValueError(f"{loss}: compares vectors, and this batch has scores alone")
    return batch


def both_vectors(batch: VectorBatch) -> tuple[Tensor, Tensor]:
    """Vectors of each row's texts, ours (projected) and the teacher's (B, S, T), neither of them normalised anew."""
    ours, theirs = batch.queries.unsqueeze(1), need(batch.teacher_queries, "teacher's vectors").unsqueeze(1)
    if not batch.own_keys:
        keys = need(batch.teacher_keys, "teacher's vectors")
        ours = torch.cat([ours, batch.keys[batch.group]], dim=1)
        theirs = torch.cat([theirs, keys[batch.group]], dim=1)
    if batch.projection is not None:
        return ours @ batch.projection[:, : ours.shape[-1]].T, theirs
    return ours, theirs[..., : ours.shape[-1]]


def vector_mse(batch: LossBatch) -> Tensor:
    """Squared distance of our vector to the teacher's (Reimers and Gurevych 2020, arXiv 2004.09813).

    Per query: the mean over its texts of |W v - t| ** 2, summed over dimensions; W is the projection, if there is one.
    With vectors of length 1 and no projection, that is twice `vector_cosine`.
    """
    vectors = of_vectors(batch, "vector_mse")
    ours, theirs = both_vectors(vectors)
    return weighted_sum(batch, ((ours - prepared(theirs, vectors.metric)) ** 2).sum(dim=-1).mean(dim=1))


def vector_cosine(batch: LossBatch) -> Tensor:
    """Angle between our vector and the teacher's (Zhang et al. 2024, arXiv 2412.19048).

    Per query: the mean over its texts of 1 - cos(W v, t); W is the projection, if there is one.
    """
    ours, theirs = both_vectors(of_vectors(batch, "vector_cosine"))
    return weighted_sum(batch, (1 - F.cosine_similarity(ours, theirs, dim=-1)).mean(dim=1))


def similarity_kl(
    batch: LossBatch, *, temperature: float = TEMPERATURE, teacher_temperature: float | None = None
) -> Tensor:
    """KL divergence from the teacher's to our distribution over the step's keys (Fang et al. 2021, arXiv 2101.04731).

    Per query: KL(softmax(t / teacher_temperature) || softmax(s / temperature)) over the keys of all ranks, s being our
    similarities and t the teacher's, both by our metric; keys of repeated rows are left out. Single texts are each
    other's keys, and none is its own. Needs no projection: similarities have no size.

    Args:
        batch: see `LossBatch`.
        temperature: divides our similarities.
        teacher_temperature: divides the teacher's; by default the same.
    """
    vectors = of_vectors(batch, "similarity_kl")
    queries, keys = (need(part, "teacher's vectors") for part in (vectors.teacher_queries, vectors.teacher_keys))
    metric = vectors.metric
    theirs = matrix(prepared(queries, metric), prepared(keys, metric), metric) / (teacher_temperature or temperature)
    skip = (~batch.key_counts).expand_as(theirs)
    if vectors.own_keys:
        skip = skip | (batch.key_texts == batch.key_texts[batch.group[:, :1]])
    some = ~skip.all(dim=1, keepdim=True)  # a text without others has no distribution, and nothing may be -inf - -inf
    target = theirs.masked_fill(skip & some, NEVER).log_softmax(dim=1).masked_fill(skip, 0.0)
    found = (batch.scores() / temperature).masked_fill(skip & some, NEVER).log_softmax(dim=1).masked_fill(skip, 0.0)
    shares = target.exp().masked_fill(skip, 0.0)
    return weighted_sum(batch, (shares * (target - found)).sum(dim=1))
