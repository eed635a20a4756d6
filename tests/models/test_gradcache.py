"""GradCache: a step in sub-batches has the gradients of the whole step, dropout replayed, and holds one at a time."""

import ctypes
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from tests.backbones import build
from zh_embedder.models import forward as module
from zh_embedder.models import gradcache
from zh_embedder.models.forward import Forward
from zh_embedder.models.heads import joined
from zh_embedder.models.spec import EncoderSpec
from zh_embedder.text.tokens import concatenate

SPEC = EncoderSpec(pooling="mean", query_max_length=40, key_max_length=40)


EXACT = {"rtol": 0, "atol": 0}


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
    vectors = forward(texts_of()).dense
    (vectors @ vectors.T / 0.1).logsumexp(dim=1).sum().backward()
    return vectors.detach(), {n: p.grad.clone() for n, p in forward.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packing", [True, False])
def test_prompts_left_out_of_the_mean_change_nothing_in_parts_or_rows(packing):
    """Vectors and gradients of a step are those of each text alone, its prompt's states skipped."""
    texts = texts_of()
    skipped = [0, 3, 1, *[2] * (len(texts) - 4), max(texts.sizes)]  # of the last text nothing is left
    texts = replace(texts, prompts=torch.tensor(skipped, dtype=torch.int32))
    model, found = build("Bert"), []
    for sub_batch_size in (None, 2):
        forward = Forward(
            model, Pad(), replace(SPEC, include_prompt=False), sub_batch_size=sub_batch_size, packing=packing
        )
        forward.zero_grad()
        vectors = forward(texts).dense
        (vectors @ vectors.T / 0.1).logsumexp(dim=1).sum().backward()
        found.append(
            (vectors.detach(), {n: p.grad.clone() for n, p in forward.named_parameters() if p.grad is not None})
        )
    model.zero_grad()
    rows = [model(input_ids=ids[None]).last_hidden_state[0] for ids in texts.ids.split(texts.sizes)]
    rest = [row[count:] for row, count in zip(rows, skipped, strict=True)]
    alone = torch.stack([nn.functional.normalize(r.sum(dim=0) / max(1, len(r)), dim=0) for r in rest])
    (alone @ alone.T / 0.1).logsumexp(dim=1).sum().backward()
    expected = alone.detach(), {f"backbone.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert not found[0][0][-1].any()
    for each in found:
        same(each, expected, rtol=1e-4, atol=1e-4)


def all_kept(forward, parts):
    return joined([forward.embed(part) for part in parts])


def in_parts_without_replay(monkeypatch):
    """Sub-batches whose graphs are all kept."""
    monkeypatch.setattr(module, "encode_in_parts", all_kept)


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
    # Padded, a part is several forwards: their gradients are added to each other before those of other parts.
    same(replayed, kept, **(EXACT if packing else {"rtol": 1e-4, "atol": 1e-5}))
    assert torch.equal(state, torch.get_rng_state())  # the replay leaves the generator where the first pass did
    other = gradients(model, sub_batch_size=sub_batch_size, packing=packing, seed=4)
    assert (other[0] - kept[0]).abs().max() > 1e-3  # there is dropout


@pytest.mark.parametrize("packing", [True, False])
def test_without_dropout_the_gradients_are_those_of_the_whole_step(packing):
    model = build("Bert")
    whole = gradients(model, sub_batch_size=None, packing=packing)
    same(gradients(model, sub_batch_size=2, packing=packing), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_the_layers_changes_nothing(reentrant):
    """The layers' own replay happens in the backward pass: there, too, no weight may be reached twice."""
    model = build("Bert", dropout=0.3)
    kept = gradients(model, sub_batch_size=4)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    calls = count_gradients(model)
    same(gradients(model, sub_batch_size=4), kept, rtol=1e-5, atol=1e-6)
    assert set(calls.values()) == {1}


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
        vectors = forward(texts_of(count)).dense
    assert len(vectors) == count
    return sum(size for size, _ in storages.values())


def test_what_is_held_for_the_backward_pass_does_not_grow_with_the_batch():
    assert held(None, 64) > 5 * held(None, 8)
    assert held(4, 64) < held(None, 8) / 10
    assert held(4, 64) - held(4, 32) < 32 * 1024  # a vector and some bookkeeping a text


# ---- one operation on the weights -----------------------------------------------------------------------------------


def forward_of(model=None, *, kind=Forward, sub_batch_size=4, **options):
    model = build("Bert", dropout=0.3) if model is None else model
    return kind(model, Pad(), SPEC, sub_batch_size=sub_batch_size, **options).train()


def count_gradients(module):
    """How often each weight's gradient arrives: what DDP and ZeRO hang on."""
    calls = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda _, n=name: calls.update({n: calls.get(n, 0) + 1}))
    return calls


def pull(vectors):
    """A loss in which every text meets every other."""
    return (vectors @ vectors.T / 0.1).logsumexp(dim=1).sum()


def both_ways(monkeypatch, forward, step):
    """Gradients after `step(forward)` with GradCache, and with all graphs kept; none left over from before."""
    found = []
    for encode in (gradcache.encode_in_parts, all_kept):
        monkeypatch.setattr(module, "encode_in_parts", encode)
        forward.zero_grad()
        torch.manual_seed(5)
        step(forward)
        found.append({n: p.grad.clone() for n, p in forward.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    return found


def equal(found, **tolerance):
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, **(tolerance or EXACT), msg=name)


def test_for_autograd_it_is_one_operation_on_the_weights():
    vectors = forward_of()(texts_of()).dense
    assert {type(node).__name__ for node, _ in vectors.grad_fn.next_functions if node} == {"AccumulateGrad"}


def test_every_weight_gets_its_gradient_once_however_often_the_encoder_is_used(monkeypatch):
    """Labelled and untied steps use an encoder once or twice; a use that fits into one part is a plain forward."""
    forward = forward_of()
    calls = count_gradients(forward)

    def step(forward):
        uses = [forward(texts_of(count, seed=count)).dense for count in (9, 3, 6)]
        pull(torch.cat(uses)).backward()

    found = both_ways(monkeypatch, forward, step)
    # The three uses meet in another order where each is one operation.
    equal(found, rtol=1e-4, atol=1e-5)
    assert set(calls.values()) == {2}  # of two backward passes


def test_gradients_of_several_steps_add_up(monkeypatch):
    def step(forward):
        for seed in (1, 2):
            pull(forward(texts_of(seed=seed)).dense).backward()

    equal(both_ways(monkeypatch, forward_of(), step))


def test_a_graph_that_is_retained_can_be_gone_through_twice(monkeypatch):
    def step(forward):
        loss = pull(forward(texts_of()).dense)
        loss.backward(retain_graph=True)
        loss.backward()

    equal(both_ways(monkeypatch, forward_of(), step))


def test_two_encoders_in_one_step(monkeypatch):
    both = nn.ModuleList([forward_of(build("Bert", dropout=0.3, seed=seed)) for seed in (0, 1)])

    def step(both):
        queries, keys = both[0](texts_of(6)).dense, both[1](texts_of(11, seed=1)).dense
        (queries @ keys.T).logsumexp(dim=1).sum().backward()

    equal(both_ways(monkeypatch, both, step))


def test_frozen_weights_stay_without_gradient(monkeypatch):
    forward = forward_of()
    for name, weight in forward.named_parameters():
        weight.requires_grad_("layer.1" in name)
    real, replayed = gradcache.functional_call, []

    def call(module, places, inputs):
        replayed.extend(places)
        return real(module, places, inputs)

    monkeypatch.setattr(gradcache, "functional_call", call)
    found = both_ways(monkeypatch, forward, lambda forward: pull(forward(texts_of()).dense).backward())
    assert found[0]
    assert all("layer.1" in name for name in found[0])
    assert {f"model.{name}" for name in found[0]} == set(replayed)  # no gradient of others is computed
    equal(found)


def test_a_model_that_is_all_frozen_has_vectors_without_gradient():
    forward = forward_of()
    forward.requires_grad_(False)
    assert not forward(texts_of()).dense.requires_grad


class Odd(Forward):
    """One weight that only a part of one text uses, one that nobody does."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.single, self.unused = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(2.0))

    def embed(self, tokens):
        found = super().embed(tokens)
        return replace(found, dense=found.dense * self.single) if len(tokens) == 1 else found


def test_weights_that_one_part_or_none_uses(monkeypatch):
    found = both_ways(monkeypatch, forward_of(kind=Odd), lambda forward: pull(forward(texts_of(9)).dense).backward())
    assert "single" in found[0]
    assert "unused" not in found[0]
    equal(found)


def test_weights_that_change_before_the_backward_pass_are_noticed():
    forward = forward_of()
    loss = pull(forward(texts_of()).dense)
    with torch.no_grad():
        next(forward.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- precision ------------------------------------------------------------------------------------------------------


def test_in_bf16_the_gradients_are_those_of_the_graphs_kept(monkeypatch):
    """Without autocast's cache, which adds the gradients of all parts up in bf16: with GradCache they are in fp32."""

    def step(forward, **options):
        with torch.autocast("cpu", torch.bfloat16, **options):
            vectors = forward(texts_of()).dense
        pull(vectors).backward()

    forward = forward_of()
    cached, _ = both_ways(monkeypatch, forward, step)
    _, kept = both_ways(monkeypatch, forward, partial(step, cache_enabled=False))
    equal((cached, kept))
    in_fp32 = both_ways(monkeypatch, forward, lambda forward: pull(forward(texts_of()).dense).backward())[0]
    assert any(not torch.equal(cached[name], gradient) for name, gradient in in_fp32.items())


@pytest.mark.parametrize("backward_inside", [False, True])
def test_casts_made_without_gradients_do_not_serve_a_later_forward(backward_inside):
    """Autocast keeps its casts of weights till its region ends; those of the pass without gradients must go."""
    forward, found = forward_of(), []
    for first in (9, 0):
        forward.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if first:
                vectors = forward(texts_of(first)).dense
                if backward_inside:
                    pull(vectors).backward()
                    forward.zero_grad()
            torch.manual_seed(1)
            loss = pull(forward(texts_of(3)).dense)
        loss.backward()
        found.append({n: p.grad.clone() for n, p in forward.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    equal(found)


# ---- where it does not apply ----------------------------------------------------------------------------------------


def test_without_gradients_parts_are_plain_forwards(monkeypatch):
    forward, texts = forward_of().eval(), texts_of()
    monkeypatch.setattr(module, "encode_in_parts", None)
    with torch.no_grad():
        parts = forward(texts).dense
    whole = forward_of(forward.backbone, sub_batch_size=None).eval()(texts).dense
    torch.testing.assert_close(parts, whole.detach())


class FSDPModule:
    """Stands for torch's."""


@pytest.mark.parametrize("way", ["ZeRO 3", "FSDP"])
def test_sharded_weights_go_through_checkpoints(way, monkeypatch):
    forward, parts = forward_of(), []

    def checkpoint(function, part, **options):
        parts.append(len(part))
        return real(function, part, **options)

    real = gradcache.checkpoint
    monkeypatch.setattr(gradcache, "checkpoint", checkpoint)
    forward(texts_of())
    assert parts == []
    if way == "ZeRO 3":
        next(forward.parameters()).ds_id = 1
    else:
        layer = forward.backbone.encoder.layer[0]
        layer.__class__ = type("Sharded", (type(layer), FSDPModule), {})
    found = both_ways(monkeypatch, forward, lambda forward: pull(forward(texts_of()).dense).backward())
    assert parts == [4, 4, 1]
    equal(found)


# ---- memory ---------------------------------------------------------------------------------------------------------


FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


def in_use():
    """Bytes that are allocated now, whoever holds them; graph nodes are no tensors."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("no mallinfo2: not glibc 2.33 or newer")
    mallinfo.restype = Heap
    heap = mallinfo()
    return heap.uordblks + heap.hblkhd


def test_between_the_passes_a_part_leaves_its_vectors_and_its_random_state():
    forward, sizes = forward_of(sub_batch_size=2), []
    for count in (72, 8, 72):  # the first warms up
        texts = texts_of(count)
        before = in_use()
        vectors = forward(texts).dense
        sizes.append(in_use() - before)
        pull(vectors).backward()
        del vectors
    assert sizes[2] - sizes[1] < 32 * 12 * 1024  # 32 parts more: 5 kB of the generator, tokens, two vectors
