"""Packing: texts end to end in one row through any Hugging Face model, so that no padding is computed.

A model whose attention goes through `AttentionInterface` takes part without a change to it: its attention and mask
functions are ours, and the lengths of the texts reach them as extra keywords of the model's forward. Without those the
functions are transformers' own `sdpa`, so the model works as usual for everybody else.

Shapes: N texts, T tokens of all texts together, H heads, D dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zh_embedder.models.attention import Sight, Sizes, first_tokens_on_cpu, on_cpu, on_cuda

NAME = "zh_packed"  # among the attention implementations of transformers
LONGEST_STEP = 128  # `longest` is rounded up to a multiple, so that a compiled kernel meets few values
PROBE_LENGTHS = (7, 40, 23)
TOLERANCE = 5e-5  # of the largest value, fp32; wrong positions or windows are off by 1e-3 and more
FAILURES = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)  # of a model that cannot be packed


def first_position(config: Any) -> int:
    """Position of a text's first token; RoBERTa-like models start counting behind their padding id."""
    behind = "roberta" in config.model_type or config.model_type in ("camembert", "mpnet")
    return int(config.pad_token_id) + 1 if behind else 0


def text_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    text_sizes: Sizes | None = None,
    bounds: Tensor | None = None,
    longest: int = 0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers, (1, H, T, D) three times -> (1, T, H, D); `sdpa` without `bounds`."""
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    sight = Sight(query.shape[-1] ** -0.5 if scaling is None else scaling, causal, sliding_window)
    if bounds is None or text_sizes is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if attention_mask is None and sliding_window is not None:
            attention_mask = sight.mask(query.shape[2], query.device)
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **others
        )
        return plain
    # In mixed precision a model may hand over queries in fp32 (their norm's) and values in bf16 (their layer's).
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # (T, H, D)
    if (shared := q.shape[1] // k.shape[1]) > 1:  # grouped heads
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    if q.device.type == "cuda":
        return on_cuda(q, k, v, bounds, longest=longest, sight=sight).unsqueeze(0), None
    return on_cpu(q, k, v, text_sizes, sight).unsqueeze(0), None


def text_mask(*, attention_mask: Tensor | None = None, **others: Any) -> Tensor | None:
    """Mask function for transformers: none for rows without padding, whose attention function knows what they see."""
    if attention_mask is None:
        return None
    from transformers.masking_utils import sdpa_mask

    mask: Tensor | None = sdpa_mask(attention_mask=attention_mask, **others)
    return mask


def forward_packed(
    backbone: Any,
    ids: Tensor,
    positions: Tensor,
    sizes: tuple[int, ...],
    bounds: Tensor,
    *,
    first_tokens: bool = False,
) -> Tensor:
    """States of texts that lie end to end, ids and positions (T,), bounds (N + 1,) -> (T, hidden size).

    With `first_tokens`, which `trim` must have prepared, those of each text's first token alone, (N, hidden size).
    """
    on_cuda = ids.device.type == "cuda"
    options: dict[str, Any] = {"use_cache": False} if getattr(backbone.config, "use_cache", None) else {}
    if first_tokens:
        options["first_tokens"] = True
    states: Tensor = backbone(
        input_ids=ids.unsqueeze(0),
        position_ids=(positions + first_position(backbone.config)).unsqueeze(0),
        # On CUDA the sizes would only make a compiled model recompile: the bounds say it all.
        text_sizes=() if on_cuda else sizes,
        bounds=bounds,
        longest=-(-max(sizes) // LONGEST_STEP) * LONGEST_STEP,
        **options,
    ).last_hidden_state[0]
    return states


def enable(backbone: Any) -> str | None:
    """Give a model our attention, if it then makes the states that it made before.

    Returns:
        None where it can be packed, else the reason; the model is then as it was.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if not getattr(backbone, "_supports_attention_backend", False):
        return "its attention does not go through transformers' AttentionInterface"
    AttentionInterface.register(NAME, text_attention)
    AttentionMaskInterface.register(NAME, text_mask)
    before = backbone.config._attn_implementation
    try:
        expected = states_alone(backbone)  # with the attention that it came with
        backbone.set_attn_implementation(NAME)
        off = deviation(backbone, expected)
    except FAILURES as error:
        reason: str | None = f"packed, its forward fails: {str(error).splitlines()[0]}"
    else:
        reason = None if off <= TOLERANCE else f"packed, its states are off by {off:.1e}"
    if reason is not None:
        backbone.set_attn_implementation(before)
    return reason


def probe_lengths(config: Any) -> Sequence[int]:
    """Lengths of the texts that try a model out: one is longer than its window, where it has a small one."""
    window = getattr(config, "sliding_window", None) or 0
    return (*PROBE_LENGTHS, window + 9) if 0 < window <= 256 else PROBE_LENGTHS


def probe_texts(backbone: Any) -> list[Tensor]:
    """Random token ids of the texts that try a model out."""
    generator, words = torch.Generator().manual_seed(0), backbone.config.vocab_size
    sizes, device = probe_lengths(backbone.config), next(backbone.parameters()).device
    return [torch.randint(min(5, words - 1), words, (size,), generator=generator).to(device) for size in sizes]


@contextmanager
def probing(backbone: Any) -> Iterator[None]:
    """Without dropout and gradients."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        backbone.train(training)


def states_alone(backbone: Any) -> list[Tensor]:
    """States of each text that tries a model out, (L, hidden size), with whatever attention it has."""
    rows = [text.unsqueeze(0) for text in probe_texts(backbone)]
    with probing(backbone):
        return [backbone(input_ids=r, attention_mask=torch.ones_like(r)).last_hidden_state[0] for r in rows]


def deviation(backbone: Any, alone: Sequence[Tensor], *, first_tokens: bool = False) -> float:
    """Largest difference of packed states from those of each text alone, as a share of the largest value."""
    texts = probe_texts(backbone)
    sizes = tuple(len(text) for text in texts)
    positions = torch.cat([torch.arange(size, device=texts[0].device) for size in sizes])
    bounds = torch.tensor([0, *sizes], device=texts[0].device).cumsum(0).int()
    with probing(backbone):
        together = forward_packed(backbone, torch.cat(texts), positions, sizes, bounds, first_tokens=first_tokens)
    expected = torch.stack([states[0] for states in alone]) if first_tokens else torch.cat(list(alone))
    return float((together - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def trim(backbone: Any) -> bool:
    """Let a BERT-like model's last layer compute the states of first tokens alone, where a forward asks for them.

    Vectors that are the first token's need no other state of the last layer: its queries, its output and its
    feed-forward, 10 of its 12 units of work, are for one token a text instead of all. Returns whether it can be done.
    """
    layers = getattr(getattr(backbone, "encoder", None), "layer", None)
    parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output")
    last = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
    names = {name for name, _ in last.named_modules()} if last is not None else set()
    if (
        last is None
        or not names.issuperset(parts)
        or not hasattr(last, "feed_forward_chunk")
        or "crossattention" in names
    ):
        return False
    last.forward = partial(_last_layer, last)  # not a method: that could not be pickled
    try:
        fine = deviation(backbone, states_alone(backbone), first_tokens=True) <= TOLERANCE
    except FAILURES:
        fine = False
    if not fine:
        del last.forward
    return fine


def trimmed_weights(backbone: Any) -> int:
    """Weights of the last layer that a trimmed forward uses for one token a text instead of all."""
    last = backbone.encoder.layer[-1]
    keys = [*last.attention.self.key.parameters(), *last.attention.self.value.parameters()]
    return sum(p.numel() for p in last.parameters()) - sum(p.numel() for p in keys)


def _last_layer(
    layer: Any,
    hidden: Tensor,
    *args: Any,
    first_tokens: bool = False,
    **others: Any,
) -> Tensor:
    """Forward of a BERT-like layer, (1, T, hidden size) -> the same, or (1, N, hidden size) of the first tokens."""
    if not first_tokens:
        whole: Tensor = type(layer).forward(layer, hidden, *args, **others)
        return whole
    parts, bounds = layer.attention.self, others["bounds"]
    rows = hidden[0, bounds[:-1]]  # (N, hidden size)
    split = (-1, parts.num_attention_heads, parts.attention_head_size)
    query, key, value = parts.query(rows).view(split), parts.key(hidden).view(split), parts.value(hidden).view(split)
    scale = parts.attention_head_size**-0.5
    if query.device.type == "cuda":
        seen = on_cuda(query, key, value, bounds, longest=others["longest"], sight=Sight(scale))
    else:
        seen = first_tokens_on_cpu(query, key, value, others["text_sizes"], scale)
    mixed = layer.attention.output(seen.reshape(len(rows), -1), rows)
    states: Tensor = layer.feed_forward_chunk(mixed)
    return states.unsqueeze(0)
