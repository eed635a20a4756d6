"""Tiles give what the whole gives, and hold no more than a tile."""

from weakref import WeakSet

import pytest
import torch

from tests.losses.test_retrieval import make_batch, with_labels
from tests.losses.test_table import batch_for, each_variant, loss_and_gradients
from zh_embedder.losses import tiles
from zh_embedder.losses.table import LossTerm, total_loss


@each_variant
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_tiles_give_the_loss_and_the_gradients_of_the_whole(name, options, rows, monkeypatch):
    batch, term = batch_for(name), LossTerm(name=name, options=options)
    whole = loss_and_gradients(batch, term)
    monkeypatch.setattr(tiles, "TILE", rows * len(batch.keys))
    for part, expected in zip(loss_and_gradients(batch, term), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-13)


def test_labels_in_tiles_are_those_of_the_whole(monkeypatch):
    batch, term = with_labels(make_batch(b=5)), LossTerm(name="info_nce", options={"query_to_query": True})
    whole = loss_and_gradients(batch, term)
    monkeypatch.setattr(tiles, "TILE", 2 * len(batch.keys))
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
    monkeypatch.setattr(tiles, "TILE", 128)
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
    monkeypatch.setattr(tiles, "TILE", 1)
    batch, terms = make_batch(b=10), (LossTerm(name="info_nce"),)
    batch.keys.requires_grad_()
    with torch.no_grad():
        assert not total_loss(batch, terms).requires_grad
    assert total_loss(batch, terms).requires_grad
    assert batch.keys.grad is None
