"""What a step's losses count for the log, by hand."""

import math
from dataclasses import replace

import pytest
import torch

from tests.losses.test_pairs import make_step, of_kind
from tests.losses.test_retrieval import by_hand, make_batch
from zh_embedder.losses import tiles
from zh_embedder.losses.table import LossTerm
from zh_embedder.losses.watch import entropy_share, watch


def test_what_is_watched_by_hand():
    batch = by_hand(3, 4, 5, 2, 9, group=[0, 1], known=[3], counts=[True, True, True, True, False], teacher=[3, 1])
    nce = LossTerm(name="info_nce", options={"temperature": 1.0})
    kl = LossTerm(name="teacher_kl", options={"teacher_temperature": 1.0})
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    found = {name: value.item() for name, value in watch(batch, (nce, kl)).items()}
    assert found == {"queries": 1, "masked_by_text": 1, "teacher_entropy": pytest.approx(entropy)}
    margin = LossTerm(name="info_nce", options={"false_negative_margin": 0.1})
    assert watch(batch, (margin,))["masked_by_score"].item() == 1  # 4: 5 is known, 9 was repeated
    assert set(watch(of_kind(make_step(), "cosent"), (LossTerm(name="cosent"),))) == {"queries"}


def test_keys_of_the_querys_label_are_counted_by_hand():
    batch = by_hand(3, 4, 5, 2, 9, 7, group=[0, 1], known=[3], counts=[True] * 5 + [False])
    labels = torch.tensor([7, 7, 7, 7, 8, 7])  # own, own negative, known by text, another's, of another label, repeated
    batch = replace(batch, query_answers=torch.tensor([7, 7, 7]), key_answers=labels)
    found = watch(batch, (LossTerm(name="info_nce", options={"false_negative_margin": 0.1}),))
    counts = {"queries": 1, "masked_by_text": 1, "masked_by_label": 1, "masked_by_score": 2}  # by score: 4 and 9
    assert {name: value.item() for name, value in found.items()} == counts


def test_repeated_rows_are_not_watched():
    batch = make_batch(b=3)
    kl = (LossTerm(name="teacher_kl", options={"teacher_temperature": 0.7}),)
    first = watch(replace(batch, weights=torch.tensor([1.0, 0.0, 0.0])), kl)
    assert first["queries"] == 1
    assert first["teacher_entropy"].item() == pytest.approx(entropy_share(batch.teacher[:1], 0.7).item())


def test_counts_in_tiles_are_those_of_the_whole(monkeypatch):
    batch = make_batch(b=5)
    term = LossTerm(name="info_nce", options={"false_negative_percent": 10.0})
    whole = watch(batch, (term,))
    monkeypatch.setattr(tiles, "TILE", 1)
    assert watch(batch, (term,)) == whole
    assert whole["masked_by_score"] > 0
    assert whole["masked_by_text"] == 3


def test_the_entropy_is_that_of_numpy():
    from zh_embedder.losses.teacher_temperature import entropy_shares

    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert entropy_share(teacher, 0.3).tolist() == pytest.approx(entropy_shares(teacher.tolist(), 0.3).tolist())
