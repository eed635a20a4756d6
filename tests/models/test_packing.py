"""Must show 1: packed is padded, in states, vectors and gradients, for every family; and a model stays what it was."""

import copy
import json
import pickle
from types import SimpleNamespace

import pytest
import torch

from tests.backbones import BERT_LIKE, FAMILIES, LENGTHS, POOLED, WINDOW, build, states_alone, states_padded, texts_of
from zh_embedder.models import packing
from zh_embedder.models.forward import Forward
from zh_embedder.models.packing import (
    NAME,
    enable,
    first_position,
    forward_packed,
    probe_lengths,
    trim,
    trimmed_weights,
)
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.models.spec import EncoderSpec
from zh_embedder.text.tokens import concatenate

SECONDS = 15
CLOSE = 1e-5  # the most that vectors may differ in fp32; they are of length 1


def forward_of(model, *, pooling="mean", packed=True, **options) -> Forward:
    """A copy of a model as the module that trains."""
    spec = EncoderSpec(pooling=pooling, query_max_length=40, key_max_length=40)
    tokenizer = SimpleNamespace(pad_token_id=model.config.pad_token_id)
    return Forward(copy.deepcopy(model), tokenizer, spec, packing=packed, **options).train(model.training)


def pooled_alone(model, texts, pooling):
    """Vectors by their definition: each text alone, no padding, nothing of ours."""
    pooled = torch.stack([POOLED[pooling](states) for states in states_alone(model, texts)])
    return torch.nn.functional.normalize(pooled, dim=-1)


def pack(model, texts, **options):
    """States of texts end to end, (T, H)."""
    tokens = concatenate([text.tolist() for text in texts])
    return forward_packed(model, tokens.ids, tokens.positions, tokens.sizes, tokens.bounds, **options)


def gradients(forward, texts):
    """Vectors of texts, and the gradient of every weight from a fixed random direction for each vector."""
    vectors = forward(concatenate([text.tolist() for text in texts])).dense
    directions = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    forward.zero_grad()
    (vectors * directions).sum().backward()
    return vectors.detach(), {name: p.grad.clone() for name, p in forward.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, theirs, *, share=CLOSE):
    """Each is within a share of the largest of its weight, or of 1 where that is smaller."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (ours[name] - expected).abs().max() <= share * max(1, expected.abs().max()), name


# ---- packed is padded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_states_are_those_of_rows_with_a_mask(family):
    """The reference is the model's own `eager` attention on padded rows; 140 tokens, and positions for 40."""
    texts = texts_of(build(family))
    assert sum(LENGTHS) > build(family).config.max_position_embeddings
    with torch.no_grad():
        rows = torch.cat(states_padded(build(family, attention="eager"), texts))
        alone = torch.cat(states_alone(build(family, attention="sdpa"), texts))
        model = build(family)
        assert enable(model) is None
        packed = pack(model, texts)
    torch.testing.assert_close(packed, rows, rtol=0, atol=CLOSE)
    torch.testing.assert_close(packed, alone, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("mode", ["evaluation", "training"])
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_vectors_and_gradients_are_the_padded_ones(family, pooling, mode):
    """In training mode every dropout of the model is 0."""
    model = build(family, attention="eager").train(mode == "training")
    packed, padded = forward_of(model, pooling=pooling), forward_of(model, pooling=pooling, packed=False)
    assert (packed.packs(), padded.packs()) == (True, False)
    assert packed.trimmed == (pooling == "cls" and family in BERT_LIKE)
    texts = texts_of(model)
    ours, own = gradients(packed, texts)
    theirs, other = gradients(padded, texts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE)
    torch.testing.assert_close(ours, pooled_alone(model, texts, pooling).detach(), rtol=0, atol=CLOSE)
    assert_same_gradients(own, other)
    assert len(own) >= 20


@pytest.mark.parametrize("family", ["ModernBert", "Mistral", "Gemma3Text", "Gemma3Text both ways"])
def test_windows_matter_here(family):
    """Or the tests above would not see one that is wrong."""
    texts = texts_of(build(family))
    wide = {"local_attention": 80} if family == "ModernBert" else {"sliding_window": 40}
    with torch.no_grad():
        small, large = (torch.cat(states_alone(build(family, **own), texts)) for own in ({}, wide))
    assert (small - large).abs().max() > 0.1
    assert max(probe_lengths(build(family).config)) > WINDOW


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_sees_another_text(family):
    """One text is changed to another of its length: every other state is the same bit for bit."""
    model = build(family)
    enable(model)
    texts = texts_of(model)
    with torch.no_grad():
        before = pack(model, texts).split(LENGTHS)
        texts[2] = texts_of(model, seed=9)[2]
        after = pack(model, texts).split(LENGTHS)
    assert [torch.equal(one, other) for one, other in zip(before, after, strict=True)] == [i != 2 for i in range(8)]


@pytest.mark.parametrize("sub_batch_size", [1, 3, 100])
def test_sub_batches_change_nothing(sub_batch_size):
    model = build("Bert")
    texts = texts_of(model)
    whole, one = gradients(forward_of(model), texts)
    parts, other = gradients(forward_of(model, sub_batch_size=sub_batch_size), texts)
    torch.testing.assert_close(parts, whole, rtol=0, atol=CLOSE)
    assert_same_gradients(other, one)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", ["Bert", "XLMRoberta", "ModernBert", "Qwen3", "Gemma3Text"])
def test_in_mixed_precision_packed_is_close_to_padded(family, pooling):
    """Weights of the spread of real ones; the difference is that of bf16 from fp32, and no more."""
    model = build(family, spread=0.05)
    texts = texts_of(model)
    packed, padded = forward_of(model, pooling=pooling), forward_of(model, pooling=pooling, packed=False)
    exact, expected = gradients(padded, texts)
    with torch.autocast("cpu", torch.bfloat16):
        assert packed.packs()
        ours, own = gradients(packed, texts)
        theirs, _ = gradients(padded, texts)
    for vectors in (theirs, exact):
        assert (ours * vectors).sum(dim=1).min() > 0.999
    flat, other = (torch.cat([g[name].flatten() for name in sorted(expected)]) for g in (own, expected))
    assert torch.nn.functional.cosine_similarity(flat, other, dim=0) > 0.99


@pytest.mark.parametrize("family", ["Bert", "ModernBert", "Llama"])
def test_in_bf16_weights_packed_is_close_to_exact(family):
    model = build(family, spread=0.05)
    texts = texts_of(model)
    with torch.no_grad():
        exact = pooled_alone(model, texts, "mean")
        vectors = forward_of(model.bfloat16())(concatenate([text.tolist() for text in texts])).dense
    assert vectors.dtype == torch.float32
    assert (vectors * exact).sum(dim=1).min() > 0.999


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(pooling, reentrant):
    """With dropout: what is computed again draws the same bits."""
    found = []
    for frugal in (False, True):
        forward = forward_of(build("Bert", dropout=0.2), pooling=pooling).train()
        if frugal:
            forward.backbone.gradient_checkpointing_enable({"use_reentrant": reentrant})
            forward.backbone.enable_input_require_grads()
        torch.manual_seed(3)
        found.append(gradients(forward, texts_of(forward.backbone)))
    assert torch.equal(found[0][0], found[1][0])
    assert_same_gradients(found[1][1], found[0][1], share=1e-6)


# ---- first tokens alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "XLMRobertaXL"])
def test_only_a_bert_like_last_layer_is_trimmed(family):
    """XLM-R XL has the parts, and norms in other places: it is tried and left as it was."""
    model = build(family)
    assert enable(model) is None
    assert trim(model) == (family in BERT_LIKE)
    if family not in BERT_LIKE:
        assert not [module for module in model.modules() if "forward" in vars(module)]


def test_a_decoder_with_cross_attention_is_not_trimmed():
    model = build("Bert", is_decoder=True, add_cross_attention=True)
    enable(model)
    assert not trim(model)


@pytest.mark.parametrize("family", BERT_LIKE)
def test_a_trimmed_forward_gives_the_first_tokens_of_a_whole_one(family):
    model = build(family)
    enable(model)
    texts = texts_of(model)
    starts = torch.tensor([0, *LENGTHS[:-1]]).cumsum(0)
    directions = torch.randn(len(texts), 32, generator=torch.Generator().manual_seed(1))
    found = []
    for trimmed in (False, True):
        if trimmed:
            assert trim(model)
        states = pack(model, texts, first_tokens=trimmed)
        first = states if trimmed else states[starts]
        model.zero_grad()
        (first * directions).sum().backward()
        found.append((first.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=CLOSE)
    assert_same_gradients(found[1][1], found[0][1])
    with torch.no_grad():
        torch.testing.assert_close(pack(model, texts)[starts], found[0][0], rtol=0, atol=CLOSE)  # whole still works


def test_a_trimmed_layer_computes_one_token_a_text():
    forward = forward_of(build("Bert"), pooling="cls")
    last, rows = forward.backbone.encoder.layer[-1], {}
    for name, module in last.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda _m, args, _o, name=name: rows.update({name: args[0].shape[:-1].numel()})
            )
    texts = texts_of(forward.backbone)
    forward(concatenate([text.tolist() for text in texts]))
    some = {name for name, count in rows.items() if count == len(texts)}
    assert some == {"attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"}
    assert {count for name, count in rows.items() if name not in some} == {sum(LENGTHS)}
    norms = 2 * 64
    assert trimmed_weights(forward.backbone) == 2 * (32 * 32 + 32) + (32 * 48 + 48) + (48 * 32 + 32) + norms


# ---- the model stays what it was ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_for_others_a_model_with_our_attention_is_as_it_was(family):
    """Rows with a mask, padded on either side, and rows without one: bit for bit, with dropout too."""
    for training in (False, True):
        ours, plain = (build(family, attention="sdpa", dropout=0.3).train(training) for _ in range(2))
        assert enable(ours) is None
        assert ours.training == training
        trim(ours)
        texts = texts_of(ours)
        runs = (states_padded, lambda *a: states_padded(*a, side="left"), states_alone)
        for run in runs:
            found = []
            for model in (ours, plain):
                torch.manual_seed(4)
                found.append(torch.cat(run(model, texts)))
            assert torch.equal(*found)


def test_names_of_weights_stay():
    forward = forward_of(build("Bert"), pooling="cls")
    plain = build("Bert").state_dict()
    assert {name.removeprefix("backbone.") for name in forward.state_dict()} == plain.keys()
    forward.backbone.load_state_dict(plain)


@pytest.mark.parametrize("family", ["Bert", "ModernBert"])
def test_a_saved_model_knows_nothing_of_us(family, tmp_path):
    from transformers import AutoModel

    forward = forward_of(build(family), pooling="cls")
    forward.backbone.save_pretrained(tmp_path)
    for path in tmp_path.glob("*.json"):
        assert NAME not in path.read_text("utf-8")
    assert "_attn_implementation" not in json.loads((tmp_path / "config.json").read_text("utf-8"))
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert again.config._attn_implementation != NAME
    texts = texts_of(again)
    with torch.no_grad():
        for one, other in zip(states_alone(again, texts), states_alone(build(family), texts), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_copies_work_and_share_nothing(pooling, way):
    forward = forward_of(build("Bert"), pooling=pooling)
    tokens = concatenate([text.tolist() for text in texts_of(forward.backbone)])
    other = copy.deepcopy(forward) if way == "deepcopy" else pickle.loads(pickle.dumps(forward))
    with torch.no_grad():
        expected = forward(tokens).dense
        assert torch.equal(other(tokens).dense, expected)
        for parameter in forward.parameters():
            parameter.zero_()
        assert torch.equal(other(tokens).dense, expected)  # no layer of the copy is one of the original


# ---- models that cannot be packed -----------------------------------------------------------------------------------


def falls_back(model, reason):
    """A model is padded, says why, makes the vectors of each text alone, and is as it was."""
    forward = forward_of(model)
    assert forward.why_padded.startswith(reason)
    assert not forward.packs()
    assert not forward.trimmed
    assert forward.backbone.config._attn_implementation == model.config._attn_implementation
    texts = texts_of(model)
    with torch.no_grad():
        vectors = forward(concatenate([text.tolist() for text in texts])).dense
        torch.testing.assert_close(vectors, pooled_alone(model, texts, "mean"), rtol=0, atol=CLOSE)
        for one, other in zip(states_alone(forward.backbone, texts), states_alone(model, texts), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["MPNet", "DebertaV2"])
def test_attention_of_its_own_is_padded(family):
    falls_back(build(family), "its attention does not go through transformers' AttentionInterface")


def test_attention_with_more_than_a_softmax_is_padded():
    """GPT-OSS has sinks that our attention would leave out: it is compared with its own, not with ours."""
    falls_back(build("GptOss"), "packed, its states are off by ")


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_positions_that_are_wrong_are_found(family, monkeypatch):
    """By one, in a model whose weights have the spread of real ones."""
    model = build(family, spread=0.02)
    right = first_position(model.config)
    assert right == {"Bert": 0, "Roberta": 2}[family]
    monkeypatch.setattr(packing, "first_position", lambda _config: right - 1 if right else 1)
    falls_back(model, "packed, its states are off by ")


def test_a_forward_that_fails_is_found(monkeypatch):
    monkeypatch.setattr(packing, "first_position", lambda _config: 10_000)
    falls_back(build("Bert"), "packed, its forward fails: index 10000 is out of bounds")


@pytest.mark.parametrize("family", ["ModernBert", "Mistral"])
def test_a_window_that_is_wrong_is_found(family, monkeypatch):
    """By one, in a model whose weights have the spread of real ones."""
    whole = packing.text_attention

    def shifted(*args, sliding_window=None, **options):
        return whole(*args, sliding_window=sliding_window and sliding_window + 1, **options)

    monkeypatch.setattr(packing, "text_attention", shifted)
    reason = enable(build(family, spread=0.02))
    assert reason is not None
    assert reason.startswith("packed, its states are off by ")


def test_packing_can_be_switched_off():
    forward = forward_of(build("Bert"), packed=False, pooling="cls")
    assert forward.why_padded == "packing is switched off"
    assert not forward.trimmed
    assert forward.backbone.config._attn_implementation == "sdpa"


def test_trying_a_model_out_leaves_the_random_state_and_the_mode_alone():
    for training in (False, True):
        model = build("Bert", dropout=0.5).train(training)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        enable(model)
        trim(model)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(module.training == training for module in model.modules())
