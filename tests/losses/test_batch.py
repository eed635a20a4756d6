"""A batch of scores alone, as a cross-encoder makes them, gives the losses of a batch of vectors with these scores."""

from dataclasses import fields, replace

import pytest
import torch

from tests.losses.test_pairs import make_step
from tests.losses.test_retrieval import OWN_GROUP, VARIANTS, T, make_batch
from zh_embedder.losses import tiles
from zh_embedder.losses.batch import LossBatch, ScoreBatch
from zh_embedder.losses.table import LOSSES, LossTerm, total_loss
from zh_embedder.losses.watch import watch

ALONE = [v for v in VARIANTS if v[0] in OWN_GROUP or not v[1].get("in_batch", True)]  # see a query's own keys alone
ACROSS = ("query_to_query", "key_to_key", "key_to_query")


def scored(batch, own_group=None):
    """The same step, with nothing of its vectors but scores."""
    shared = {f.name: getattr(batch, f.name) for f in fields(LossBatch)}
    pairs = batch.pair_scores() if batch.targets is not None else None
    return ScoreBatch(own_group=batch.own_scores() if own_group is None else own_group, step_pairs=pairs, **shared)


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
@pytest.mark.parametrize(("name", "options"), ALONE)
def test_a_loss_over_groups_is_the_same_from_scores_and_from_vectors(name, options, metric):
    batch = make_batch(metric=metric)
    own = batch.own_scores().requires_grad_()
    loss = LOSSES[name](scored(batch, own), **options)
    torch.testing.assert_close(loss, LOSSES[name](batch, **options), rtol=1e-12, atol=0)
    loss.backward()
    assert own.grad.isfinite().all()
    assert own.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["cosine_regression", "contrastive", "online_contrastive", "cosent"])
def test_a_loss_of_pairs_is_the_same_from_scores_and_from_vectors(name):
    batch = make_step()
    torch.testing.assert_close(LOSSES[name](scored(batch)), LOSSES[name](batch), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["info_nce", "ranked_distillation"])
def test_keys_that_were_never_scored_are_no_negatives(name):
    batch = make_batch()
    found, alone = (LOSSES[name](scored(batch), temperature=T, in_batch=told) for told in (True, False))
    assert found.item() == pytest.approx(alone.item(), rel=1e-12)


def test_scores_in_tiles_give_the_loss_and_the_gradient_of_the_whole(monkeypatch):
    batch, found = make_batch(b=5), []
    for tile in (tiles.TILE, 2 * len(batch.keys)):
        monkeypatch.setattr(tiles, "TILE", tile)
        own = batch.own_scores().requires_grad_()
        loss = total_loss(scored(batch, own), (LossTerm(name="teacher_kl", options={"temperature": T}),))
        loss.backward()
        found.append((loss.detach(), own.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


def test_scores_are_watched_as_vectors_are():
    batch, terms = make_batch(), (LossTerm(name="info_nce"), LossTerm(name="triplet"))
    assert watch(scored(batch), terms) == watch(batch, terms)


@pytest.mark.parametrize("option", ACROSS)
def test_what_only_vectors_have_is_refused(option):
    with pytest.raises(ValueError, match="compare queries with keys only"):
        LOSSES["info_nce"](scored(make_batch()), **{option: True})
    with pytest.raises(ValueError, match="come from no vectors"):
        total_loss(scored(make_batch()), (LossTerm(name="triplet"),), dimensions={2: 1.0})
    with pytest.raises(ValueError, match="angle"):
        LOSSES["angle"](scored(make_step()))


def test_some_rows_of_a_batch_carry_their_own_scores():
    batch = make_batch(b=5)
    for one in (batch, scored(batch)):
        part = one.rows(slice(1, 3))
        assert len(part) == 2
        torch.testing.assert_close(part.own_scores(), batch.own_scores()[1:3])
        torch.testing.assert_close(part.teacher, batch.teacher[1:3])
        assert replace(one, teacher=None).rows(slice(1, 3)).teacher is None
