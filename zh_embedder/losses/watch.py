"""Loss watch: a step's counts for the log, such as masked keys and the sharpness of the teacher's targets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zh_embedder.losses.batch import LossBatch
from zh_embedder.losses.retrieval import false_negatives
from zh_embedder.losses.table import LossTerm
from zh_embedder.losses.tiles import tiles


@torch.no_grad()
def watch(batch: LossBatch, terms: Sequence[LossTerm]) -> dict[str, Tensor]:
    """Sums over local queries that count, for the log, by name: each a scalar on the device.

    `queries` is how many they are. `masked_by_text`, `masked_by_label` and `masked_by_score` are the keys that InfoNCE
    leaves out because they are known positives, have the query's label, or score too high. `teacher_entropy` is the
    entropy of the teacher's targets, as a share of what it would be were all keys equally good.
    """
    real = batch.weights > 0
    sums = {"queries": real.sum()}
    for term in terms:
        options = term.options
        if term.name == "info_nce":
            limits = {n: options.get(f"false_negative_{n}") for n in ("margin", "percent")}
            counts = [torch.stack(false_negatives(part, **limits)) for part in tiles(batch)]
            sums["masked_by_text"], by_label, by_score = torch.stack(counts).sum(dim=0).unbind()
            if batch.query_answers is not None:
                sums["masked_by_label"] = by_label
            if any(limit is not None for limit in limits.values()):
                sums["masked_by_score"] = by_score
        elif (
            batch.teacher is not None
            and "teacher_temperature" in options
            and term.loss.needs == "teacher_scores"
            and batch.teacher.shape[1] > 1
        ):
            share = entropy_share(batch.teacher, options["teacher_temperature"])
            sums["teacher_entropy"] = (share * real).sum()
    return sums


def entropy_share(teacher: Tensor, temperature: float) -> Tensor:
    """Entropy of softmax(teacher / temperature) as a share of the greatest possible: (B, G) -> (B,), within 0 and 1."""
    target = (teacher / temperature).log_softmax(dim=-1)
    return -(target.exp() * target).sum(dim=-1) / math.log(teacher.shape[-1])
