"""Attention of texts end to end against a naive loop over texts, heads and tokens in double precision."""

import math

import pytest
import torch

from zh_embedder.models import attention
from zh_embedder.models.attention import (
    Sight,
    first_tokens_on_cpu,
    has_varlen,
    obstacle,
    on_cpu,
    on_cuda,
    rounded,
    runs,
    stacks,
)

CPU = torch.device("cpu")
HEADS, SIZE = 3, 8
SCALE = 0.4
TEXTS = {
    "mixed": (5, 9, 1, 17, 3),
    "runs": (12, 12, 12, 7, 7, 1, 1, 1, 20),
    "equal": (6,) * 11,
    "one token each": (1, 1, 1),
    "one text": (13,),
    "one token": (1,),
    "empty between": (4, 0, 4, 0, 0, 9),
    "empty at the ends": (0, 5, 5, 0),
}
SIGHTS = {
    "all": Sight(SCALE),
    "causal": Sight(SCALE, causal=True),
    "itself": Sight(SCALE, window=1),
    "window": Sight(SCALE, window=4),
    "window of a text": Sight(SCALE, window=12),
    "window of all": Sight(SCALE, window=99),
    "causal itself": Sight(SCALE, causal=True, window=1),
    "causal window": Sight(SCALE, causal=True, window=4),
    "causal window of a text": Sight(SCALE, causal=True, window=12),
    "causal window of all": Sight(SCALE, causal=True, window=99),
}


def drawn(tokens, *, seed=0, dtype=torch.float32, heads=HEADS, size=SIZE):
    """Queries, keys and values, (T, H, D) each, that take gradients."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(tokens, heads, size, generator=generator) for _ in range(3))
    return [value.to(dtype).requires_grad_() for value in values]


def sees(sight, query, key):
    """Whether a token at place `query` sees the one at `key`."""
    if sight.causal and key > query:
        return False
    return sight.window is None or abs(key - query) < sight.window


def naive(query, key, value, sizes, sight):
    """Softmax of what each token sees, one text at a time, in double precision, (T, H, D)."""
    outs, start = [], 0
    for size in sizes:
        q, k, v = (x.double()[start : start + size] for x in (query, key, value))
        blocked = torch.tensor([[not sees(sight, i, j) for j in range(size)] for i in range(size)], dtype=torch.bool)
        scores = torch.einsum("ihd,jhd->hij", q, k) * sight.scale
        if size:
            outs.append(torch.einsum("hij,jhd->ihd", scores.masked_fill(blocked, -math.inf).softmax(-1), v))
        start += size
    return torch.cat(outs)


def half_bound(query, key, value, scale, dtype):
    """Largest error that rounding explains: of scores, of probabilities and of the output, each by half a step.

    A score s is off by |s| * eps / 2, which moves a probability by that factor; a probability and the output are
    rounded once more, and products of q, k and v are summed in fp32. A factor of 2 for what adds up.
    """
    scores = torch.einsum("ihd,jhd->hij", query.detach().double(), key.detach().double()).abs().max() * scale
    return float(2 * (scores + 2) * torch.finfo(dtype).eps / 2 * value.detach().abs().max())


# ---- what a token sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 12, 13])
@pytest.mark.parametrize("name", SIGHTS)
def test_the_mask_is_what_a_token_sees(name, length):
    sight = SIGHTS[name]
    mask = sight.mask(length, CPU)
    by_hand = [[sees(sight, i, j) for j in range(length)] for i in range(length)]
    assert (mask.tolist() if mask is not None else [[True] * length] * length) == by_hand


def test_masks_by_hand():
    assert Sight(1, window=2).mask(3, CPU).int().tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    assert Sight(1, causal=True, window=2).mask(3, CPU).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert Sight(1, causal=True).mask(3, CPU).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert Sight(1).mask(3, CPU) is Sight(1, window=3).mask(3, CPU) is None  # all is seen


def test_a_mask_is_that_of_transformers():
    """Its windows are counted in the same way: `sliding_window` of a configuration goes straight into a Sight."""
    from transformers import MistralConfig
    from transformers.masking_utils import create_sliding_window_causal_mask

    config = MistralConfig(sliding_window=4)
    config._attn_implementation = "sdpa"
    states, ones = torch.zeros(1, 9, 8), torch.ones(1, 9, dtype=torch.long)
    ones[0, -1] = 0  # or there would be no mask
    theirs = create_sliding_window_causal_mask(
        config, states, attention_mask=ones, past_key_values=None, position_ids=torch.arange(9)[None]
    )
    assert torch.equal(theirs[0, 0, :8, :8], Sight(1, causal=True, window=4).mask(8, CPU))


@pytest.mark.parametrize(
    ("sight", "sides"),
    [
        (Sight(1), (-1, -1)),
        (Sight(1, causal=True), (-1, 0)),
        (Sight(1, window=4), (3, 3)),
        (Sight(1, causal=True, window=4), (3, 0)),
        (Sight(1, window=1), (0, 0)),
    ],
)
def test_flash_attention_is_told_how_far_a_token_sees(sight, sides):
    assert sight.sides() == sides


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_runs_by_hand():
    assert runs((3, 3, 5, 3, 0, 3, 0)) == ((3, 2), (5, 1), (3, 1), (3, 1))
    assert runs(()) == runs((0, 0)) == ()


def test_rounded_lengths_by_hand():
    assert [rounded(n) for n in (1, 4, 5, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 513)] == [
        *(4, 4, 8, 32, 32, 36, 64, 64, 72, 128, 128, 144, 256, 256, 288, 512, 576),
    ]  # fmt: skip


def test_rounding_adds_little_and_leaves_few_lengths():
    lengths = range(1, 2049)
    assert all(n <= rounded(n) < n + max(4, n / 8) for n in lengths)
    assert all(rounded(rounded(n)) == rounded(n) for n in lengths)
    assert len({rounded(n) for n in lengths}) == 16 + 8 * 5  # multiples of 4 to 64, then eight an octave


@pytest.mark.parametrize("most", [1, 100, 1000, 1 << 20])
@pytest.mark.parametrize("name", TEXTS)
def test_stacks_hold_every_token_once_and_few_scores(name, most, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", most)
    stacks.cache_clear()
    sizes, values = TEXTS[name], torch.arange(1.0, sum(TEXTS[name]) * HEADS + 1).view(-1, HEADS, 1)
    copied, texts = torch.zeros_like(values), []
    for stack in stacks(sizes, HEADS):
        laid = stack.gather(values).view(stack.texts, HEADS, stack.length)
        assert stack.texts & (stack.texts - 1) == 0  # a power of two
        assert stack.texts * HEADS * stack.length**2 <= most or stack.texts == 1  # one text is never cut
        behind = (
            stack.padding if stack.padding is not None else torch.zeros(stack.texts, stack.length, dtype=torch.bool)
        )
        texts += (~behind).sum(1).tolist()
        stack.scatter(laid.view(-1, stack.length, 1), copied)
        for text, own in zip(laid, behind, strict=True):
            assert torch.equal(
                text[0, ~own].diff(), torch.full(((~own).sum() - 1,), float(HEADS))
            )  # its tokens in order
            assert torch.equal(text[1:] - text[:-1], torch.ones_like(text[1:]))  # and its heads
            assert (text[:, own] == text[:, ~own][:, -1:]).all()  # behind the end stands the last
    stacks.cache_clear()
    assert torch.equal(copied, values)
    assert texts == [size for size in sizes if size]


def test_stacks_are_as_few_as_the_cache_allows(monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2 * HEADS * 64)  # two texts of 8
    stacks.cache_clear()
    assert [(s.texts, s.length, s.rows) for s in stacks((6, 6, 7, 5, 8), HEADS)] == [
        (2, 8, slice(0, 12)),
        (2, 8, slice(12, 24)),
        (1, 8, slice(24, 32)),
    ]
    stacks.cache_clear()


def test_shapes_repeat_from_step_to_step():
    """What the CPU's products compile kernels for: a hundred in all. Runs of every length are all new."""
    generator, shapes = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        sizes = tuple(sorted(torch.randint(4, 161, (64,), generator=generator).tolist()))
        shapes |= {(stack.texts, stack.length) for stack in stacks(sizes, 12)}
    assert len({length for _, length in shapes}) <= 28  # of 157
    assert len(shapes) <= 100


# ---- the kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGHTS)
@pytest.mark.parametrize("texts", TEXTS)
def test_in_fp32_outputs_and_gradients_are_the_naive_ones(texts, name):
    sizes, sight = TEXTS[texts], SIGHTS[name]
    parts = drawn(sum(sizes))
    weights = torch.randn(sum(sizes), HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    found, expected = on_cpu(*parts, sizes, sight), naive(*parts, sizes, sight)
    assert (found.shape, found.dtype) == (parts[0].shape, torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), parts),
        torch.autograd.grad((expected * weights).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("at_once", [1, 2 * HEADS * 64, 1 << 20])
@pytest.mark.parametrize("name", SIGHTS)
@pytest.mark.parametrize("texts", TEXTS)
def test_stacks_are_exact_in_double_precision(texts, name, at_once, fused, monkeypatch):
    """The same code as in 16 bits: what remains there is rounding."""
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", at_once)
    monkeypatch.setattr(attention, "fused_is_faster", lambda: fused)
    stacks.cache_clear()
    sizes, sight = TEXTS[texts], SIGHTS[name]
    parts = drawn(sum(sizes), dtype=torch.float64)
    weights = torch.randn(sum(sizes), HEADS, SIZE, generator=torch.Generator().manual_seed(1)).double()
    found, expected = on_cpu(*parts, sizes, sight), naive(*parts, sizes, sight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), parts),
        torch.autograd.grad((expected * weights).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["all", "causal window"])
def test_the_gradient_is_the_derivative(name):
    """Against finite differences."""
    sizes = (3, 3, 1, 4)
    parts = drawn(sum(sizes), dtype=torch.float64, heads=2, size=3)
    assert torch.autograd.gradcheck(lambda *x: on_cpu(*x, sizes, SIGHTS[name]), parts)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SIGHTS)
def test_in_16_bits_outputs_and_gradients_are_off_by_rounding_alone(name, dtype, fused, monkeypatch):
    monkeypatch.setattr(attention, "fused_is_faster", lambda: fused)
    sizes, sight = TEXTS["runs"] + TEXTS["mixed"], SIGHTS[name]
    parts = drawn(sum(sizes), dtype=dtype)
    bound = half_bound(*parts, sight.scale, dtype)
    found, expected = on_cpu(*parts, sizes, sight), naive(*parts, sizes, sight)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < bound
    weights = torch.randn(sum(sizes), HEADS, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = torch.autograd.grad((found * weights).sum(), parts)
    theirs = torch.autograd.grad((expected * weights.double()).sum(), parts)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        # ds = p * (dp - sum(dp * p)): a difference of numbers that are rounded themselves.
        assert (one.double() - other.double()).abs().max() < 4 * bound
    assert bound < 0.5 if dtype is torch.bfloat16 else bound < 0.07


def test_16_bits_are_as_close_as_torchs_own_kernel():
    """Mean error, so that no single rounding decides."""
    sizes = (40, 40, 25)
    parts = [x.detach() for x in drawn(sum(sizes), dtype=torch.bfloat16)]
    expected = naive(*parts, sizes, SIGHTS["all"])
    ours = on_cpu(*parts, sizes, SIGHTS["all"])
    theirs = attention._fused_attention(*parts, sizes, SIGHTS["all"])
    errors = [(found.double() - expected).abs().mean() for found in (ours, theirs)]
    assert errors[0] < 2 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["all", "causal", "window"])
def test_nobody_sees_another_text(name, dtype):
    """One text is changed: every other text's output and gradients are the same bit for bit."""
    sizes = (6, 6, 6, 9, 2)
    changed = torch.zeros(sum(sizes), dtype=torch.bool)
    changed[6:12] = True
    found = []
    for seed in (0, 1):
        parts = drawn(sum(sizes), dtype=dtype)
        with torch.no_grad():
            for part, other in zip(parts, drawn(sum(sizes), dtype=dtype, seed=seed), strict=True):
                part[changed] = other[changed] * 3
        out = on_cpu(*parts, sizes, SIGHTS[name])
        found.append([out, *torch.autograd.grad(out.float().square().sum(), parts)])
    for one, other in zip(*found, strict=True):
        same = (one == other).flatten(1).all(dim=1)
        assert same[~changed].all()
        assert not same[changed].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_strides_that_a_model_hands_over_are_fine(dtype):
    """Heads before tokens in memory, as `view(...).transpose(1, 2)` leaves them, and a gradient without storage."""
    sizes = (4, 4, 7)
    plain = drawn(sum(sizes), dtype=dtype)
    strided = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in plain]
    outs = [on_cpu(*parts, sizes, SIGHTS["all"]) for parts in (plain, strided)]
    assert torch.equal(*outs)
    for one, other in zip(
        torch.autograd.grad(outs[0].sum(), plain), torch.autograd.grad(outs[1].sum(), strided), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_mixed_precision_around_it_changes_nothing():
    sizes = TEXTS["mixed"]
    for dtype in (torch.bfloat16, torch.float64):
        parts = drawn(sum(sizes), dtype=dtype)
        expected = on_cpu(*parts, sizes, SIGHTS["all"])
        with torch.autocast("cpu", torch.bfloat16):
            found = on_cpu(*parts, sizes, SIGHTS["all"])
        assert found.dtype == dtype
        assert torch.equal(found, expected)


# ---- first tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [name for name in TEXTS if not name.startswith("empty")])
def test_first_tokens_are_the_first_rows_of_all(texts):
    sizes = TEXTS[texts]
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    query, key, value = drawn(sum(sizes))
    weights = torch.randn(len(sizes), HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    found = first_tokens_on_cpu(query[starts], key, value, sizes, SCALE)
    expected = naive(query, key, value, sizes, SIGHTS["all"])[starts]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_first_tokens_in_16_bits_are_off_by_rounding_alone():
    sizes = TEXTS["runs"]
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    query, key, value = drawn(sum(sizes), dtype=torch.bfloat16)
    found = first_tokens_on_cpu(query[starts], key, value, sizes, SCALE)
    expected = naive(query, key, value, sizes, SIGHTS["all"])[starts]
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).abs().max() < half_bound(query, key, value, SCALE, torch.bfloat16)


# ---- CUDA -----------------------------------------------------------------------------------------------------------


def stand_in(query, key, value, starts, bounds, most, longest, *, scale, window_size):
    """`varlen_attn` by its documentation, naively; it holds its caller to the longest text that it was told."""
    assert starts.dtype == bounds.dtype == torch.int32
    assert starts.diff().max() <= most
    assert bounds.diff().max() <= longest
    before, behind = (math.inf if side < 0 else side for side in window_size)
    outs = []
    for rows, columns in zip(
        zip(starts.tolist(), starts.tolist()[1:], strict=False),
        zip(bounds.tolist(), bounds.tolist()[1:], strict=False),
        strict=True,
    ):
        q, (k, v) = query[slice(*rows)], (x[slice(*columns)] for x in (key, value))
        assert len(q) == len(k) or window_size == (-1, -1)  # else the kernel would align them at their ends
        ahead = torch.arange(len(k)) - torch.arange(len(q)).unsqueeze(1)
        blocked = (ahead > behind) | (-ahead > before)
        scores = torch.einsum("ihd,jhd->hij", q, k) * scale
        outs.append(torch.einsum("hij,jhd->ihd", scores.masked_fill(blocked, -math.inf).softmax(-1), v))
    return torch.cat(outs)


@pytest.fixture
def varlen(monkeypatch):
    """Put the stand-in where a GPU would have the kernel."""
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_in)


@pytest.mark.parametrize("name", SIGHTS)
@pytest.mark.parametrize("texts", [name for name in TEXTS if not name.startswith("empty")])
def test_on_cuda_the_kernel_is_told_the_same(texts, name, varlen):
    sizes, sight = TEXTS[texts], SIGHTS[name]
    parts = [part.double() for part in drawn(sum(sizes))]
    bounds = torch.tensor([0, *sizes]).cumsum(0).int()
    found = on_cuda(*parts, bounds, longest=max(sizes), sight=sight)
    torch.testing.assert_close(found, naive(*parts, sizes, sight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("texts", ["mixed", "runs", "one text", "one token each"])
def test_on_cuda_first_tokens_are_the_first_rows_of_all(texts, varlen):
    sizes = TEXTS[texts]
    bounds = torch.tensor([0, *sizes]).cumsum(0).int()
    query, key, value = (part.double() for part in drawn(sum(sizes)))
    found = on_cuda(query[bounds[:-1]], key, value, bounds, longest=128, sight=Sight(SCALE))
    expected = naive(query, key, value, sizes, SIGHTS["all"])[bounds[:-1]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_where_texts_can_be_packed(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(attention, "has_varlen", lambda: True)
    capability = (8, 0)
    assert all(obstacle(CPU, dtype) is None for dtype in (torch.float32, torch.bfloat16, torch.float16))
    assert obstacle(cuda, torch.bfloat16) is None
    assert obstacle(cuda, torch.float16) is None
    assert obstacle(cuda, torch.float32)
    assert obstacle(torch.device("mps"), torch.bfloat16)
    capability = (7, 5)
    assert obstacle(cuda, torch.bfloat16)
    capability = (9, 0)
    monkeypatch.setattr(attention, "has_varlen", lambda: False)
    assert obstacle(cuda, torch.bfloat16)


def test_this_torch_has_the_kernel_or_says_so(monkeypatch):
    has_varlen.cache_clear()
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    assert has_varlen()
    has_varlen.cache_clear()
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k: None)
    assert not has_varlen()  # an older one, without windows and scale
    has_varlen.cache_clear()
    monkeypatch.delattr(varlen, "varlen_attn")
    assert not has_varlen()
    has_varlen.cache_clear()
