"""Heads: a toy row in the table trains, in sub-batches too; a folder with heads that nobody knows is refused."""

import pytest
import torch
import torch.nn.functional as F

from tests.backbones import build
from tests.models.test_gradcache import Pad, texts_of
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json, write_json
from zh_embedder.models import heads
from zh_embedder.models.encoder import load_encoder
from zh_embedder.models.forward import Forward
from zh_embedder.models.heads import Head, Representation, joined
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.models.spec import EncoderSpec

ALL = ("dense", "sparse", "tokens")


def largest(model, states):
    """A toy for sparse weights: the largest state of a text, per dimension."""
    sizes = states.bounds.diff().tolist()
    return states.in_order(torch.stack([text.relu().amax(dim=0) for text in states.hidden.split(sizes)]))


def every_token(model, states):
    """A toy for token vectors: the states, rows of shorter texts filled up with zeros."""
    texts = states.hidden.split(states.bounds.diff().tolist())
    return states.in_order(
        torch.nn.utils.rnn.pad_sequence([F.normalize(text, dim=1) for text in texts], batch_first=True)
    )


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(heads, "HEADS", heads.HEADS)
    monkeypatch.setitem(heads.HEADS, "sparse", Head(largest))
    monkeypatch.setitem(heads.HEADS, "tokens", Head(every_token))


def forward_of(model, *, made=ALL, pooling="mean", **options):
    spec = EncoderSpec(pooling=pooling, heads=made, query_max_length=40, key_max_length=40)
    return Forward(model, Pad(), spec, **options).train()


def pull(found):
    """A loss in which every text meets every other, through all parts of the representation."""
    late = torch.einsum("nld,mkd->nmlk", found.tokens, found.tokens).mean(dim=(2, 3))
    scores = found.dense @ found.dense.T / 0.1 + found.sparse @ found.sparse.T + late
    return scores.logsumexp(dim=1).sum()


def gradients(forward, loss=pull):
    forward.zero_grad()
    torch.manual_seed(3)
    found = forward(texts_of())
    loss(found).backward()
    parts = {name: part.detach() for name, part in found.parts().items()}
    return parts, {n: p.grad.clone() for n, p in forward.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("sub_batch_size", [1, 4])
def test_toy_heads_train_in_parts_as_they_do_whole(toys, sub_batch_size, packing):
    model = build("Bert")
    whole, cached = (gradients(forward_of(model, sub_batch_size=n, packing=packing)) for n in (None, sub_batch_size))
    assert set(whole[0]) == set(ALL)
    assert whole[0]["tokens"].shape[:2] == (9, max(texts_of().sizes))
    for one, other in zip(cached, whole, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in other.items():
            torch.testing.assert_close(one[name], tensor, rtol=1e-4, atol=1e-4)
    assert all(gradient.abs().max() > 0 for name, gradient in whole[1].items() if "layer.1" in name)


@pytest.mark.parametrize("sub_batch_size", [None, 4])
def test_a_loss_may_leave_parts_out(toys, sub_batch_size):
    """The gradient of a part that no loss looks at is none, not zero."""
    forward = forward_of(build("Bert"), sub_batch_size=sub_batch_size)
    alone = gradients(forward_of(forward.backbone, made=("dense",), sub_batch_size=sub_batch_size), dense_only)
    for name, gradient in gradients(forward, dense_only)[1].items():
        torch.testing.assert_close(gradient, alone[1][name])


def dense_only(found):
    return (found.dense @ found.dense.T / 0.1).logsumexp(dim=1).sum()


def test_a_head_that_wants_every_token_gets_it_where_the_last_layer_would_be_trimmed(toys):
    model = build("Bert")
    assert forward_of(model, made=("dense",), pooling="cls").trimmed
    model = build("Bert")
    forward = forward_of(model, pooling="cls")
    assert not forward.trimmed
    assert forward(texts_of()).tokens.shape[1] == max(texts_of().sizes)


def test_texts_keep_their_order_in_every_part(toys):
    forward, texts = forward_of(build("Bert")).eval(), texts_of()
    with torch.no_grad():
        together = forward(texts)
        alone = joined([forward(text) for text in texts.chunks(1)])
    for name, part in alone.parts().items():
        torch.testing.assert_close(together.parts()[name], part, rtol=0, atol=1e-5)


def test_representations_of_several_batches_are_as_wide_as_the_longest_text():
    pieces = [Representation(torch.ones(n, 2), tokens=torch.ones(n, length, 2)) for n, length in ((2, 3), (1, 5))]
    both = joined(pieces)
    assert len(both) == 3
    assert both.sparse is None
    assert both.tokens.shape == (3, 5, 2)
    assert both.tokens.sum(dim=(1, 2)).tolist() == [6, 6, 10]


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_head_that_is_not_there_is_refused(tiny_bert, tmp_path):
    load_encoder(str(tiny_bert), pooling="mean").save(tmp_path / "encoder")
    file = tmp_path / "encoder" / "zh_embedder.json"
    written = read_json(file)
    assert "heads" not in written  # releases before heads read it
    assert load_encoder(str(tmp_path / "encoder")).spec.heads == ("dense",)
    write_json(file, {**written, "heads": ["dense", "sparse"]})
    with pytest.raises(UserError, match=r"zh_embedder.json: heads: got sparse, expected some of dense: a newer zh_emb"):
        load_encoder(str(tmp_path / "encoder"))


def test_other_heads_are_written(toys, tiny_bert, tmp_path):
    load_encoder(str(tiny_bert), changes={"heads": ALL}).save(tmp_path / "encoder")
    assert read_json(tmp_path / "encoder" / "zh_embedder.json")["heads"] == list(ALL)
    assert load_encoder(str(tmp_path / "encoder")).spec.heads == ALL


@pytest.mark.parametrize(("made", "message"), [(("dense", "spars"), "spars"), ((), "`dense` among them")])
def test_heads_that_cannot_be_are_refused(made, message):
    with pytest.raises(UserError, match=message):
        EncoderSpec(heads=made)


def test_every_pooling_serves_the_dense_head():
    for pooling in POOLINGS:
        assert forward_of(build("Bert"), made=("dense",), pooling=pooling)(texts_of()).dense.shape == (9, 32)
