"""GradCache: a step in sub-batches has the gradients of the whole step, dropout replayed, and holds one at a time."""

import pytest
import torch

from tests.backbones import build
from zh_embedder import forward as module
from zh_embedder.forward import Forward
from zh_embedder.spec import EncoderSpec
from zh_embedder.tokens import concatenate

SPEC = EncoderSpec(pooling="mean", query_max_length=40, key_max_length=40)


class Pad:
    pad_token_id = 0


def texts_of(count=9, seed=0):
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 30, (count,), generator=rng).tolist()
    return concatenate([torch.randint(5, 60, (n,), generator=rng).numpy() for n in lengths])


def gradients(model, *, sub_batch_size, packing=True, seed=3, kept=None):
    """Vectors and gradients of a loss in which every text meets every other."""
    forward = Forward(model, Pad(), SPEC, sub_batch_size=sub_batch_size, packing=packing)
    forward.train()
    forward.zero_grad()
    torch.manual_seed(seed)
    vectors = forward(texts_of())
    (vectors @ vectors.T / 0.1).logsumexp(dim=1).sum().backward()
    return vectors.detach(), {n: p.grad.clone() for n, p in forward.named_parameters() if p.grad is not None}


def in_parts_without_replay(monkeypatch):
    """Sub-batches whose graphs are all kept."""
    monkeypatch.setattr(module, "checkpoint", lambda function, chunk, **_: function(chunk))


def same(found, expected, **tolerance):
    torch.testing.assert_close(found[0], expected[0], **tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, **tolerance)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("sub_batch_size", [1, 4, 8])
def test_with_dropout_the_gradients_are_those_of_the_graphs_kept(sub_batch_size, packing, monkeypatch):
    model = build("Bert", dropout=0.3)
    replayed = gradients(model, sub_batch_size=sub_batch_size, packing=packing)
    state = torch.get_rng_state()
    in_parts_without_replay(monkeypatch)
    kept = gradients(model, sub_batch_size=sub_batch_size, packing=packing)
    same(replayed, kept, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())  # the replay leaves the generator where the first pass did
    other = gradients(model, sub_batch_size=sub_batch_size, packing=packing, seed=4)
    assert (other[0] - kept[0]).abs().max() > 1e-3  # there is dropout


@pytest.mark.parametrize("packing", [True, False])
def test_without_dropout_the_gradients_are_those_of_the_whole_step(packing):
    model = build("Bert")
    whole = gradients(model, sub_batch_size=None, packing=packing)
    same(gradients(model, sub_batch_size=2, packing=packing), whole, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_of_the_layers_changes_nothing(monkeypatch):
    model = build("Bert", dropout=0.3)
    kept = gradients(model, sub_batch_size=4)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    same(gradients(model, sub_batch_size=4), kept, rtol=1e-5, atol=1e-6)


def held(sub_batch_size, count):
    """Bytes that autograd holds between forward and backward, weights left out."""
    model = build("Bert")
    forward = Forward(model, Pad(), SPEC, sub_batch_size=sub_batch_size).train()
    own = {p.untyped_storage().data_ptr() for p in forward.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        vectors = forward(texts_of(count))
    assert len(vectors) == count
    return sum(size for size, _ in storages.values())


def test_what_is_held_for_the_backward_pass_does_not_grow_with_the_batch():
    assert held(None, 64) > 5 * held(None, 8)
    assert held(4, 64) < held(None, 8) / 10
    assert held(4, 64) - held(4, 32) < 32 * 1024  # a vector and some bookkeeping a text
