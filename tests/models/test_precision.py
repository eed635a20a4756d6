"""Weights cast for encoding: once while they stay, anew when they change, exact afterwards, a thread at a time."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from zh_embedder.models.encoder import Encoder, load_encoder

TEXTS = [
    "土星的光环是由什么组成的",
    "猫",
    "",
    "洗衣机羊毛档，冷水，晚八点洗完",
    "下载的PDF打不开，请重新推送一份发票给我",
]


def load(folder) -> Encoder:
    return load_encoder(str(folder)).eval()


def test_weights_that_have_not_changed_are_cast_once(tiny_bert, monkeypatch):
    """A text alone is encoded in less time than the weights are cast."""
    encoder = load(tiny_bert)
    seen, embed = [], encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda tokens: (seen.append(first_place(encoder)), embed(tokens))[1])
    for dtype in ("bf16", "bf16", "fp32", "bf16"):
        encoder.encode(TEXTS[:1], dtype=dtype)
    assert seen[0] == seen[1] == seen[3] != seen[2]
    encoder.train()
    encoder.encode(TEXTS[:1], dtype="bf16")
    assert encoder.encoding_state.kept is None  # a trainer has other uses for the memory


def first_place(encoder) -> int:
    """Where the first weight is."""
    return next(encoder.parameters()).data_ptr()


def halve(parameter) -> None:
    with torch.no_grad():
        parameter.mul_(0.5)


CHANGES = {
    "in place": lambda encoder: [halve(p) for p in encoder.parameters()],
    "through data": lambda encoder: [p.data.mul_(0.5) for p in encoder.parameters()],
    "other data": lambda encoder: [setattr(p, "data", p.data * 0.5) for p in encoder.parameters()],
    "one row": lambda encoder: halve(
        encoder.backbone.embeddings.word_embeddings.weight[encoder.tokenizer.sep_token_id]
    ),
    "a state": lambda encoder: encoder.load_state_dict({n: t * 0.5 for n, t in encoder.state_dict().items()}),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_weights_that_have_changed_are_cast_anew(tiny_bert, change):
    encoder, fresh = load(tiny_bert), load(tiny_bert)
    before = encoder.encode(TEXTS, dtype="bf16")
    CHANGES[change](encoder)
    CHANGES[change](fresh)
    after = encoder.encode(TEXTS, dtype="bf16")
    np.testing.assert_array_equal(after, fresh.encode(TEXTS, dtype="bf16"))
    assert np.abs(after - before).max() > 1e-3


def test_cast_weights_serve_whatever_mode_they_were_cast_in(tiny_bert):
    encoder = load(tiny_bert)
    with torch.inference_mode():
        inside = encoder.encode(TEXTS, dtype="bf16")
    np.testing.assert_array_equal(encoder.encode(TEXTS, dtype="bf16"), inside)
    with torch.inference_mode():
        born = load(tiny_bert)
        np.testing.assert_array_equal(born.encode(TEXTS, dtype="bf16"), inside)


def test_parts_that_were_in_training_are_so_afterwards(tiny_bert):
    encoder = load(tiny_bert)
    encoder.backbone.encoder.train()
    modes = [module.training for module in encoder.modules()]
    encoder.encode(TEXTS)
    assert [module.training for module in encoder.modules()] == modes
    assert len(set(modes)) == 2


@pytest.mark.parametrize("dtypes", [["bf16"], ["bf16", "fp32"]])
def test_threads_take_turns(tiny_bert, dtypes):
    """A web service has one encoder and many threads; the encoder's weights are the same for all of them."""
    encoder = load(tiny_bert)
    asked = [(text, dtype) for _ in range(20) for text in TEXTS for dtype in dtypes]
    alone = {one: encoder.encode(one[0], dtype=one[1]) for one in set(asked)}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: encoder.encode(one[0], dtype=one[1]), asked))
    for one, vector in zip(asked, found, strict=True):
        np.testing.assert_array_equal(vector, alone[one])
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_a_copy_is_an_encoder_of_its_own(tiny_bert, again):
    encoder = load(tiny_bert)
    before = encoder.encode(TEXTS, dtype="bf16")
    other = again(encoder)
    assert other.encoding_state is not encoder.encoding_state
    with encoder.encoding("bf16"):
        np.testing.assert_array_equal(other.encode(TEXTS, dtype="bf16"), before)
