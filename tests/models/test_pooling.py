"""From token states to vectors: by hand, and as sentence-transformers does it on padded rows."""

import pytest
import torch

from tests.backbones import POOLED
from zh_embedder.bases.folder_format import SENTENCE_TRANSFORMERS_SWITCH
from zh_embedder.models.pooling import POOLINGS, WITHOUT_PROMPT, cls, last_token, mean, mean_without_prompt

# Two texts of 2 and 3 tokens end to end, H = 2.
HIDDEN = [[1.0, 10.0], [3.0, 30.0], [5.0, 50.0], [6.0, 60.0], [10.0, 40.0]]
BY_HAND = {
    "cls": [[1.0, 10.0], [5.0, 50.0]],
    "mean": [[2.0, 20.0], [7.0, 50.0]],  # (1 + 3) / 2, (5 + 6 + 10) / 3
    "last_token": [[3.0, 30.0], [10.0, 40.0]],
}


def bounds_of(*sizes):
    """Where texts of these lengths lie, as a TokenBatch has it."""
    return torch.tensor([0, *sizes]).cumsum(0).int()


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_poolings_by_hand(name):
    assert POOLINGS[name](torch.tensor(HIDDEN), bounds_of(2, 3)).tolist() == BY_HAND[name]


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_values_and_gradients_are_those_of_each_text_alone(name):
    sizes = [2, 3, 1, 7]
    hidden = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours = POOLINGS[name](hidden, bounds_of(*sizes))
    alone = torch.stack([POOLED[name](text) for text in hidden.split(sizes)])
    directions = torch.randn(alone.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((vectors * directions).sum(), hidden)[0] for vectors in (ours, alone)]
    torch.testing.assert_close(ours, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_a_text_is_pooled_as_it_is_alone(name):
    sizes = [3, 1, 1, 7, 2, 2, 40]
    hidden = torch.randn(sum(sizes), 8, generator=torch.Generator().manual_seed(0))
    alone = [POOLINGS[name](text, bounds_of(len(text))) for text in hidden.split(sizes)]
    together = POOLINGS[name](hidden, bounds_of(*sizes))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_one_token_is_the_same_for_every_pooling():
    hidden = torch.tensor([[4.0, -2.0]])
    assert {tuple(pool(hidden, bounds_of(1))[0].tolist()) for pool in (cls, mean, last_token)} == {(4.0, -2.0)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_long_text_keeps_its_mean_in_half_precision(dtype):
    """Summed in bfloat16, 3 + 3 + ... stands still at 1024."""
    pooled = mean(torch.ones(4097, 2, dtype=dtype) * 3, bounds_of(4097))
    assert pooled.dtype == dtype
    assert pooled[0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_each_pooling_is_the_one_that_sentence_transformers_runs_for_our_switch(name, side):
    from sentence_transformers.models import Pooling

    switches = {
        switch: switch == SENTENCE_TRANSFORMERS_SWITCH[name] for switch in SENTENCE_TRANSFORMERS_SWITCH.values()
    }
    theirs = Pooling(8, **switches)
    sizes = [1, 4, 5, 2]
    states = torch.randn(sum(sizes), 8, generator=torch.Generator().manual_seed(0))
    rows, mask = torch.full((4, 6, 8), 99.0), torch.zeros(4, 6, dtype=torch.long)
    for row, text in enumerate(states.split(sizes)):
        where = slice(0, len(text)) if side == "right" else slice(6 - len(text), 6)
        rows[row, where], mask[row, where] = text, 1
    expected = theirs({"token_embeddings": rows, "attention_mask": mask})["sentence_embedding"]
    torch.testing.assert_close(POOLINGS[name](states, bounds_of(*sizes)), expected)


@pytest.mark.parametrize("prompts", [(0, 0, 0, 0), (1, 2, 0, 7), (2, 3, 1, 9)])
def test_a_mean_without_its_prompt_is_that_of_the_tokens_behind_it(prompts):
    """By a loop, gradients too; a text with no token left (its prompt was as long, or longer) is zero, moves none."""
    sizes = [2, 3, 1, 7]
    hidden = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours = mean_without_prompt(hidden, bounds_of(*sizes), torch.tensor(prompts, dtype=torch.int32))
    rest = [text[skipped:] for text, skipped in zip(hidden.split(sizes), prompts, strict=True)]
    alone = torch.stack([text.mean(dim=0) if len(text) else text.sum(dim=0) for text in rest])
    torch.testing.assert_close(ours, alone, rtol=0, atol=1e-6)
    directions = torch.randn(alone.shape, generator=torch.Generator().manual_seed(1))
    losses = [(torch.nn.functional.normalize(vectors, dim=-1) * directions).sum() for vectors in (ours, alone)]
    gradients = [torch.autograd.grad(loss, hidden)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    assert gradients[0].isfinite().all()


def test_a_mean_without_prompts_is_the_mean():
    hidden, bounds = torch.tensor(HIDDEN), bounds_of(2, 3)
    assert mean_without_prompt(hidden, bounds, torch.zeros(2, dtype=torch.int32)).tolist() == BY_HAND["mean"]


def test_poolings_of_one_token_have_no_form_without_prompt():
    assert WITHOUT_PROMPT.keys() == {"mean"}


def test_every_pooling_has_a_switch():
    assert POOLINGS.keys() <= SENTENCE_TRANSFORMERS_SWITCH.keys()
