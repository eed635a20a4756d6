"""What a forward costs is what it does: tokens that reach the model, and multiply-adds that torch counts."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.backbones import BERT_LIKE, FAMILIES, LENGTHS, build, states_alone, texts_of
from zh_embedder.core.errors import UserError
from zh_embedder.models import forward as forward_module
from zh_embedder.models.forward import PADDED_PIECES, Forward, attention_width, count_layer_weights
from zh_embedder.models.spec import EncoderSpec
from zh_embedder.text.tokens import concatenate


def forward_of(model, *, pooling="mean", dense=False, normalize=True, **options) -> Forward:
    spec = EncoderSpec(pooling=pooling, dense=dense, normalize=normalize, query_max_length=40, key_max_length=40)
    return Forward(model, SimpleNamespace(pad_token_id=model.config.pad_token_id), spec, **options).eval()


def batch_of(model, lengths=LENGTHS):
    return concatenate([text.tolist() for text in texts_of(model, lengths)])


def counted(run) -> int:
    """Operations of all matrix products, two for a multiply-add; attention as products, or torch would not see it."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        run()
    return counter.get_total_flops()


# ---- operations -----------------------------------------------------------------------------------------------------


def test_operations_of_one_bert_layer_by_hand():
    """Hidden size 8, feed-forward 16, one layer, texts of 3 and 5 tokens."""
    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    matrices, biases, norms = 4 * 8 * 8 + 2 * 8 * 16, 4 * 8 + 16 + 8, 2 * 16
    scores = 2 * (9 + 25) * 8  # q @ k and p @ v: pairs of tokens, width
    whole = forward_of(build("Bert", **small))
    assert whole.layer_weights == matrices + biases + norms
    assert whole.operations((3, 5)) == 2 * (matrices + biases + norms) * 8 + 2 * scores
    trimmed = forward_of(build("Bert", **small), pooling="cls")
    pairs_of_keys = 2 * 8 * 8 + 2 * 8  # key and value of all 8 tokens, the rest of 2
    rest = matrices + biases + norms - pairs_of_keys
    assert trimmed.operations((3, 5)) == 2 * pairs_of_keys * 8 + 2 * rest * 2 + 2 * 2 * (3 + 5) * 8


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family, pooling):
    """Torch counts matrices; we count a weight of a bias or norm as one of a matrix: that is the whole difference.

    Causal attention is counted as torch computes it, in full. A pooler computes one token of the row that nobody asks
    it for.
    """
    forward = forward_of(build(family), pooling=pooling)
    model, tokens = forward.backbone, batch_of(forward.backbone)
    small = [(name, p.numel()) for name, p in model.named_parameters() if p.ndim == 1]
    last = f"encoder.layer.{model.config.num_hidden_layers - 1}."
    keys = ("self.key.bias", "self.value.bias")
    extra = -2 * 32 * 32 if getattr(model, "pooler", None) is not None else 0
    for name, weights in small:
        if name.startswith(("pooler.", "embeddings.")):
            continue
        few = forward.trimmed and name.startswith(last) and not name.endswith(keys)
        extra += 2 * weights * (len(LENGTHS) if few else sum(LENGTHS))
    assert forward.trimmed == (pooling == "cls" and family in BERT_LIKE)
    assert forward.operations(LENGTHS) == counted(lambda: forward(tokens)) + extra


def test_operations_of_padded_texts_leave_padding_out():
    model = build("Bert")
    packed, padded = forward_of(build("Bert")), forward_of(model, packing=False)
    assert packed.operations(LENGTHS) == padded.operations(LENGTHS)
    assert counted(lambda: padded(batch_of(model))) > counted(lambda: packed(batch_of(model)))


def test_weights_that_every_token_meets():
    """Neither what is looked up nor what serves nobody: of BERT, the layers."""
    model = build("Bert")
    assert count_layer_weights(model) == sum(p.numel() for p in model.encoder.parameters())
    model = build("Qwen3")
    assert count_layer_weights(model) == sum(p.numel() for p in model.parameters()) - 90 * 32


def test_heads_may_be_wider_than_their_share():
    assert [attention_width(build(family).config) for family in ("Bert", "Llama", "Qwen3")] == [32, 32, 48]


# ---- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("sub_batch_size", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("lengths", [LENGTHS, (7,), (3, 3, 3), (1, 40, 1, 40, 1, 40, 1, 40, 2)])
@pytest.mark.parametrize("packing", [True, False])
def test_computed_tokens_are_those_that_reach_the_model(packing, lengths, sub_batch_size, multiple):
    model = build("Bert")
    forward = forward_of(model, packing=packing, sub_batch_size=sub_batch_size, pad_to_multiple_of=multiple)
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(args[0].numel()))
    with torch.no_grad():
        forward(batch_of(model, lengths))
    assert forward.computed_tokens(lengths, torch.float32) == sum(seen)
    if packing:
        assert sum(seen) == sum(lengths)


def test_what_cannot_be_packed_is_padded_beside_its_like():
    model = build("MPNet")
    forward = forward_of(model)
    shapes = []
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: shapes.append(tuple(args[0].shape)))
    with torch.no_grad():
        forward(batch_of(model))
    assert shapes == [(2, 40), (2, 23), (2, 9), (2, 5)]  # of 40 40 | 23 17 | 9 5 | 5 1
    assert len(shapes) == PADDED_PIECES


@pytest.mark.parametrize("texts", range(1, 14))
def test_every_rank_makes_as_many_forwards_for_as_many_texts(texts):
    """ZeRO 3 gathers weights in each: their number must not depend on the lengths."""
    model = build("Bert")
    forward = forward_of(model, packing=False)
    counts = []
    for lengths in ([5] * texts, list(range(1, texts + 1)), [40] + [1] * (texts - 1)):
        seen = []
        hook = model.get_input_embeddings().register_forward_hook(lambda *_: seen.append(1))  # noqa: B023
        with torch.no_grad():
            forward(batch_of(model, lengths))
        hook.remove()
        counts.append(len(seen))
    assert len(set(counts)) == 1


def test_a_precision_that_the_device_does_not_pack_is_padded(monkeypatch):
    """As on CUDA, which packs in 16 bits alone: what is computed follows the precision of the moment."""
    monkeypatch.setattr(forward_module, "obstacle", lambda _device, dtype: None if dtype is torch.bfloat16 else "no")
    model = build("Bert")
    forward = forward_of(model)
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: seen.append(args[0].numel()))
    with torch.no_grad():
        assert not forward.packs()
        exact = forward(batch_of(model)).dense
        with torch.autocast("cpu", torch.bfloat16):
            assert forward.packs()
            forward(batch_of(model))
    assert sum(seen[:PADDED_PIECES]) == forward.computed_tokens(LENGTHS, torch.float32) > sum(LENGTHS)
    assert seen[PADDED_PIECES:] == [forward.computed_tokens(LENGTHS, torch.bfloat16)] == [sum(LENGTHS)]
    with torch.no_grad():
        pooled = torch.stack([states.mean(dim=0) for states in states_alone(model, texts_of(model))])
    torch.testing.assert_close(exact, torch.nn.functional.normalize(pooled, dim=-1), rtol=0, atol=1e-5)


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_a_linear_layer_and_the_norm_come_last():
    for dense in (False, True):
        for normalize in (False, True):
            torch.manual_seed(0)
            forward = forward_of(build("Bert"), dense=dense, normalize=normalize)
            with torch.no_grad():
                pooled = torch.stack([s.mean(dim=0) for s in states_alone(build("Bert"), texts_of(forward.backbone))])
                expected = pooled @ forward.dense.weight.T if dense else pooled
                expected = expected / expected.norm(dim=1, keepdim=True) if normalize else expected
                torch.testing.assert_close(forward(batch_of(forward.backbone)).dense, expected, rtol=0, atol=1e-5)


def test_every_dropout_draws_the_cheap_way():
    from zh_embedder.models.dropout import Dropout

    forward = forward_of(build("Bert", dropout=0.1))
    kinds = {type(module) for module in forward.modules() if isinstance(module, torch.nn.Dropout)}
    assert kinds == {Dropout}


def test_lengths_without_positions_are_refused():
    with pytest.raises(UserError, match=r"^--query_max_length: got 256, expected at most 44"):
        Forward(build("Bert"), None, EncoderSpec())
