"""Terms, tiles, Matryoshka, and what is watched: on batches of every kind."""

import math
import sys
from dataclasses import replace
from weakref import WeakSet

import pytest
import torch
import torch.nn.functional as F

from tests.losses.test_pairs import VARIANTS as PAIR_VARIANTS
from tests.losses.test_pairs import make_step, of_kind
from tests.losses.test_retrieval import VARIANTS, by_hand, make_batch
from zh_embedder.losses import table as objectives
from zh_embedder.losses.table import LOSSES, LossTerm, entropy_share, parse_terms, sees_queries, total_loss, watch

EVERY = [*VARIANTS, *PAIR_VARIANTS]
each_variant = pytest.mark.parametrize(("name", "options"), EVERY)


def batch_for(name):
    return of_kind(make_step(), name) if name in dict(PAIR_VARIANTS) else make_batch(b=5)


def loss_and_gradients(batch, term, **how):
    vectors = [v.detach().clone().requires_grad_() for v in (batch.queries, batch.keys, batch.step_queries)]
    queries, keys, step_queries = vectors
    loss = total_loss(replace(batch, queries=queries, keys=keys, step_queries=step_queries), (term,), **how)
    loss.backward()
    return [loss.detach(), *(torch.zeros_like(v) if v.grad is None else v.grad for v in vectors)]


# ---- tiles ----------------------------------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_tiles_give_the_loss_and_the_gradients_of_the_whole(name, options, rows, monkeypatch):
    batch, term = batch_for(name), LossTerm(name=name, options=options)
    whole = loss_and_gradients(batch, term)
    monkeypatch.setattr(objectives, "TILE", rows * len(batch.keys))
    for part, expected in zip(loss_and_gradients(batch, term), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-13)


class Kept:
    """A tensor that autograd keeps, for as long as it does."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_no_score_matrix_is_larger_than_a_tile_and_none_is_made_twice(monkeypatch):
    """Forward and backward; and what autograd keeps of a tile is gone before the next."""
    seen, kept, most = [], WeakSet(), []
    plain = torch.Tensor.masked_fill

    def masked_fill(self, mask, value):
        seen.append(self.numel())
        return plain(self, mask, value)

    def pack(tensor):
        kept.add(one := Kept(tensor))
        most.append(held())
        return one

    def held():
        return sum({one.tensor.data_ptr(): one.tensor.numel() for one in kept}.values())

    monkeypatch.setattr(torch.Tensor, "masked_fill", masked_fill)
    monkeypatch.setattr(objectives, "TILE", 128)
    batch = make_batch(b=10)  # 10 queries, 120 keys
    batch.keys.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        loss = total_loss(batch, (LossTerm(name="info_nce"),))
    vectors = batch.keys.numel()
    assert max(most) < vectors + 5 * 120
    assert held() <= vectors  # the gradient of the keys
    loss.backward()
    assert len(seen) == 10
    assert max(seen) == 120


def test_tiles_without_gradients_have_none(monkeypatch):
    monkeypatch.setattr(objectives, "TILE", 1)
    batch, terms = make_batch(b=10), (LossTerm(name="info_nce"),)
    batch.keys.requires_grad_()
    with torch.no_grad():
        assert not total_loss(batch, terms).requires_grad
    assert total_loss(batch, terms).requires_grad
    assert batch.keys.grad is None


# ---- Matryoshka -----------------------------------------------------------------------------------------------------


@each_variant
def test_matryoshka_is_the_weighted_mean_of_the_loss_on_shorter_vectors(name, options):
    batch, term = batch_for(name), LossTerm(name=name, options=options)

    def shortened(dims):
        vectors = (v[:, :dims] for v in (batch.queries, batch.keys, batch.step_queries))
        queries, keys, step_queries = (F.normalize(v, dim=-1) for v in vectors)
        return term.loss(replace(batch, queries=queries, keys=keys, step_queries=step_queries), **options).item()

    expected = (3 * shortened(4) + shortened(2)) / 4
    assert total_loss(batch, (term,), dimensions={4: 3.0, 2: 1.0}).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("metric", "expected"), [("cos", [1.0, 0.0]), ("ip", [0.6, 0.0]), ("l2", [0.6, 0.0])])
def test_only_cosines_want_shorter_vectors_normalised(metric, expected):
    batch = replace(make_batch(), queries=torch.tensor([[0.6, 0.0, 0.8]]), metric=metric)
    assert batch.truncated(2).queries.tolist() == [pytest.approx(expected)]


# ---- terms ----------------------------------------------------------------------------------------------------------


def test_a_list_of_names_and_mappings_is_read():
    terms = parse_terms(["triplet", {"name": "info_nce", "weight": 0.5, "query_to_query": True}], where="here")
    assert terms == (LossTerm(name="triplet"), LossTerm(name="info_nce", weight=0.5, options={"query_to_query": True}))
    assert parse_terms("cosent", where="here") == (LossTerm(name="cosent"),)


def test_flags_fill_only_what_a_term_leaves_open_and_takes_from_flags():
    flags = {"temperature": 0.02, "teacher_temperature": 3.0, "in_batch": False}
    filled = LossTerm(name="info_nce", weight=2.0, options={"temperature": 0.5}).filled(flags)
    assert filled == LossTerm(name="info_nce", weight=2.0, options={"temperature": 0.5, "in_batch": False})
    assert LossTerm(name="cosent").filled(flags) == LossTerm(name="cosent")  # its own default


@each_variant
def test_the_queries_of_other_ranks_are_gathered_where_a_loss_wants_them(name, options):
    batch, term = replace(batch_for(name), step_queries=None), LossTerm(name=name, options=options)
    if sees_queries((LossTerm(name="triplet"), term)):
        with pytest.raises(ValueError, match="queries of other ranks"):
            total_loss(batch, (term,))
    else:
        assert total_loss(batch, (term,)).isfinite()


# ---- what is watched ------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(objectives, "TILE", 1)
    assert watch(batch, (term,)) == whole
    assert whole["masked_by_score"] > 0
    assert whole["masked_by_text"] == 3


def test_the_entropy_is_that_of_numpy():
    from zh_embedder.losses.teacher_temperature import entropy_shares

    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert entropy_share(teacher, 0.3).tolist() == pytest.approx(entropy_shares(teacher.tolist(), 0.3).tolist())


# ---- zh-embedder losses ---------------------------------------------------------------------------------------------


def command(*words):
    from zh_embedder.cli import main

    return main(["losses", *words])


def test_the_list_names_every_loss_with_its_records_and_options(capsys):
    assert command() == 0
    printed = capsys.readouterr().out
    assert set(LOSSES) <= {line.split(" ")[0] for line in printed.splitlines()}
    assert "margin_mse              queries with keys and teacher_scores  scale=1.0" in printed
    assert "temperature=0.01* in_batch=True*" in printed


def test_a_loss_is_explained_with_its_source(capsys):
    assert command("angle") == 0
    printed = capsys.readouterr().out
    assert "arXiv 2309.12871" in printed
    assert "options: temperature=0.05" in printed
    assert command("angel") == 2
    assert "did you mean 'angle'?" in capsys.readouterr().err


def test_every_loss_says_where_it_comes_from():
    sources = ("arXiv", "kexue.fm", "sentence-transformers", "FlagEmbedding", "LLM-Embedder", "2006")
    for name, loss in LOSSES.items():
        assert any(
            source in sys.modules[loss.compute.__module__].__dict__[loss.compute.__name__].__doc__ for source in sources
        ), name
