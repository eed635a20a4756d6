import math

import pytest
import torch

from zh_embedder.pooling import POOLINGS, SENTENCE_TRANSFORMERS_SWITCH, cls, last_token, mean

# Two texts of 2 and 3 tokens, H = 2; 99 stands on padding.
TOKENS = [[[1.0, 10.0], [3.0, 30.0]], [[5.0, 50.0], [6.0, 60.0], [10.0, 40.0]]]
BY_HAND = {
    "cls": [[1.0, 10.0], [5.0, 50.0]],
    "mean": [[2.0, 20.0], [7.0, 50.0]],  # (1 + 3) / 2, (5 + 6 + 10) / 3
    "last_token": [[3.0, 30.0], [10.0, 40.0]],
}


def laid_out(texts, *, length, side):
    """Texts in rows of `length` tokens: hidden (N, L, H) with 99 on padding, mask (N, L)."""
    hidden = torch.full((len(texts), length, len(texts[0][0])), 99.0)
    mask = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        where = slice(0, len(text)) if side == "right" else slice(length - len(text), length)
        hidden[row, where], mask[row, where] = torch.tensor(text), 1
    return hidden, mask


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.int32, torch.float32])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [3, 7])
@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_padding_on_either_side_is_never_read(name, length, side, dtype):
    hidden, mask = laid_out(TOKENS, length=length, side=side)
    assert POOLINGS[name](hidden, mask.to(dtype)).tolist() == BY_HAND[name]


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_padding_gets_no_gradient(name):
    hidden, mask = laid_out(TOKENS, length=5, side="right")
    hidden.requires_grad_()
    POOLINGS[name](hidden, mask).sum().backward()
    assert hidden.grad[mask == 0].abs().sum() == 0
    share = {"cls": 1.0, "mean": 1 / 3, "last_token": 0.0}[name]  # of the second text's first token
    assert hidden.grad[1, 0].tolist() == pytest.approx([share, share])


def test_one_token_is_the_same_for_every_pooling():
    hidden, mask = laid_out([[[4.0, -2.0]]], length=1, side="right")
    assert {tuple(pool(hidden, mask)[0].tolist()) for pool in (cls, mean, last_token)} == {(4.0, -2.0)}


def test_a_long_text_keeps_its_mean_in_half_precision():
    hidden = torch.ones(1, 4097, 2, dtype=torch.bfloat16) * 3
    pooled = mean(hidden, torch.ones(1, 4097, dtype=torch.long))
    assert pooled.dtype == torch.bfloat16
    assert pooled[0].tolist() == pytest.approx([3.0, 3.0], rel=2**-7)  # one bit of bfloat16's 8


def test_a_row_without_tokens_stays_finite():
    for pool in POOLINGS.values():
        assert all(math.isfinite(x) for x in pool(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.long))[0].tolist())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_each_pooling_is_the_one_that_sentence_transformers_runs_for_our_switch(name, side):
    from sentence_transformers.models import Pooling

    switches = {
        switch: switch == SENTENCE_TRANSFORMERS_SWITCH[name] for switch in SENTENCE_TRANSFORMERS_SWITCH.values()
    }
    theirs = Pooling(8, **switches)
    texts = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).split([1, 4, 5, 2])
    hidden, mask = laid_out([text.tolist() for text in texts], length=6, side=side)
    expected = theirs({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"]
    torch.testing.assert_close(POOLINGS[name](hidden, mask), expected)


def test_every_pooling_has_a_switch():
    assert SENTENCE_TRANSFORMERS_SWITCH.keys() == POOLINGS.keys()
