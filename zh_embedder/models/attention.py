"""Attention within packed texts: each text sees itself alone. Kernels for the CPU and for CUDA.

CPU: in fp32 by runs of texts of one length through `scaled_dot_product_attention`; in 16 bits by stacks of texts of one
rounded length, so that kernels repeat (figures: docs/measured/speed.md).
CUDA: `torch.nn.attention.varlen.varlen_attn`. There is no attention dropout.

Shapes: N texts, T tokens of all texts together, L tokens of one text, H heads, D dimensions of a head.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES_AT_ONCE = 1 << 20  # attention scores held at a time on the CPU: 2 MB in bf16, about a core's cache

Sizes = tuple[int, ...]  # lengths of the texts


@dataclass(frozen=True, slots=True)
class Sight:
    """What a token sees of its text. A window of w keeps keys less than w tokens away, as transformers counts it."""

    scale: float  # of the scores
    causal: bool = False
    window: int | None = None

    def mask(self, length: int, device: torch.device) -> Tensor | None:
        """Which key (column) each token (row) may see, (L, L); None where it is all of them."""
        if not self.causal and (self.window is None or self.window >= length):
            return None
        positions = torch.arange(length, device=device)
        ahead = positions - positions.unsqueeze(1)  # (L, L) how far the key lies behind the token
        seen = ahead <= 0 if self.causal else torch.ones_like(ahead, dtype=torch.bool)
        return seen if self.window is None else seen & (ahead.abs() < self.window)

    def sides(self) -> tuple[int, int]:
        """How many tokens before and behind are seen, -1 for all: flash attention's `window_size`."""
        reach = -1 if self.window is None else self.window - 1
        return reach, 0 if self.causal else reach


@lru_cache(maxsize=64)
def runs(sizes: Sizes) -> tuple[tuple[int, int], ...]:
    """Neighbouring texts of one length: (length, how many)."""
    return tuple((length, len(list(same))) for length, same in groupby(sizes) if length)


def rounded(length: int) -> int:
    """A length rounded up to a multiple of 4, and from 64 on of an eighth of the power of two below it.

    The CPU's matrix products compile a kernel for every shape that they meet. Rounded, a whole run has a few dozen.
    """
    step = max(4, 1 << max(0, length.bit_length() - 4))
    return -(-length // step) * step


@dataclass(frozen=True, slots=True)
class Stack:
    """Texts of one rounded length as one product; the places behind a text's end repeat its last token, unseen."""

    length: int  # L, rounded
    texts: int  # a power of two
    rows: slice  # their tokens
    take: Tensor  # (texts * H * L,) where each place's part comes from, in (tokens * H) parts of D dimensions
    put: Tensor  # (tokens * H,) where each part has become that of a place
    padding: Tensor | None  # (texts, L) places behind a text's end; None where there are none

    def gather(self, values: Tensor) -> Tensor:
        """Lay out the texts' tokens, (T, H, D) -> (texts * H, L, D)."""
        size = values.shape[-1]
        return values[self.rows].reshape(-1, size).index_select(0, self.take).view(-1, self.length, size)

    def scatter(self, found: Tensor, out: Tensor) -> None:
        """Write (texts * H, L, D) where the texts' tokens are in (T, H, D)."""
        size = out.shape[-1]
        torch.index_select(found.reshape(-1, size), 0, self.put, out=out[self.rows].view(-1, size))

    def bias(self, sight: Sight, like: Tensor) -> Tensor | None:
        """What is added to scores, 0 or -inf, (texts, 1 or L, L); None where all is seen.

        With a window a place behind the end might see nothing, and nothing has no softmax: it sees itself.
        """
        seen = sight.mask(self.length, like.device)
        if seen is None and self.padding is None:
            return None
        if self.padding is None:
            hidden = ~seen.unsqueeze(0)  # type: ignore[union-attr]
        elif seen is None:
            hidden = self.padding.unsqueeze(1)
        else:
            itself = torch.eye(self.length, dtype=torch.bool, device=like.device)
            hidden = (~seen | self.padding.unsqueeze(1)) & ~itself
        return like.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


@lru_cache(maxsize=8)
def stacks(sizes: Sizes, heads: int) -> tuple[Stack, ...]:
    """Neighbouring texts of one rounded length, as few stacks as keep their scores in the cache."""
    found, start = [], 0
    for length, same in groupby((size for size in sizes if size), key=rounded):
        left, room = list(same), max(1, SCORES_AT_ONCE // (heads * length * length))
        while left:
            texts = 1 << (min(room, len(left)).bit_length() - 1)
            found.append(_stack(left[:texts], start, length, heads))
            start += sum(left[:texts])
            left = left[texts:]
    return tuple(found)


def _stack(sizes: list[int], start: int, length: int, heads: int) -> Stack:
    """Index the parts of texts whose tokens begin at `start`."""
    ends = torch.tensor(sizes).cumsum(0).unsqueeze(1)  # (texts, 1)
    counts, places = torch.tensor(sizes).unsqueeze(1), torch.arange(length)
    padding = places >= counts  # (texts, L)
    tokens = ends - counts + places.minimum(counts - 1)  # (texts, L) the token of each place
    head = torch.arange(heads)
    take = (tokens.unsqueeze(1) * heads + head.unsqueeze(1)).flatten()  # (texts, H, L)
    text, place = (~padding).nonzero(as_tuple=True)  # (tokens,) each
    put = ((text.unsqueeze(1) * heads + head) * length + place.unsqueeze(1)).flatten()  # (tokens, H)
    rows = slice(start, start + len(text))
    return Stack(length, len(sizes), rows, take, put, padding if len(text) < padding.numel() else None)


class _StackedAttention(torch.autograd.Function):
    """Attention stack by stack; the probabilities are computed anew for the gradient, by matrix products."""

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd passes by position)
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sizes: Sizes, sight: Sight
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.options = sizes, sight
        out, heads = query.new_empty(query.shape), query.shape[1]
        attend = _fused if fused_is_faster() else _by_products
        with torch.autocast(query.device.type, enabled=False):
            for stack in stacks(sizes, heads):
                q, k, v = (stack.gather(x) for x in (query, key, value))
                stack.scatter(attend(q, k, v, stack.bias(sight, q), sight.scale), out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        sizes, sight = ctx.options
        dq, dk, dv = (x.new_empty(x.shape) for x in (query, key, value))
        for stack in stacks(sizes, query.shape[1]):
            q, k, v, g = (stack.gather(x) for x in (query, key, value, grads[0]))
            if stack.padding is not None:  # places behind the end gave nothing: no gradient comes from them
                g.view(stack.texts, -1, *g.shape[1:]).masked_fill_(stack.padding[:, None, :, None], 0)
            p = _probabilities(q, k, stack.bias(sight, q), sight.scale)
            stack.scatter(torch.bmm(p.transpose(1, 2), g), dv)
            # Softmax: ds = p * (dp - sum(dp * p)).
            ds = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), p, -1, p.dtype)
            stack.scatter(_product(ds, k, sight.scale), dq)
            stack.scatter(_product(ds.transpose(1, 2), q, sight.scale), dk)
        return dq, dk, dv, None, None


@lru_cache(maxsize=1)
def fused_is_faster() -> bool:
    """Whether torch's fused attention beats products and a softmax in 16 bits: it uses AMX, and no other bf16 unit."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale * a @ b` in one pass."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Softmax of the scores, (texts * H, L, D) twice -> (texts * H, L, L)."""
    scores = _product(q, k.transpose(1, 2), scale)
    if bias is not None:
        scores.view(len(bias), -1, *scores.shape[1:]).add_(bias.unsqueeze(1))
    return torch.softmax(scores, dim=-1)


def _by_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attention of a stack, (texts * H, L, D) three times -> the same."""
    return torch.bmm(_probabilities(q, k, bias, scale), v)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """As `_by_products`, through `scaled_dot_product_attention`."""
    texts = 1 if bias is None else len(bias)
    q, k, v = (x.view(texts, -1, *x.shape[1:]) for x in (q, k, v))
    mask = None if bias is None else bias.unsqueeze(1).expand(-1, 1, q.shape[2], -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).flatten(0, 1)


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, sizes: Sizes, sight: Sight) -> Tensor:
    """`scaled_dot_product_attention` run by run."""
    tokens = [length * texts for length, texts in runs(sizes)]
    outs = []
    for (length, texts), *parts in zip(runs(sizes), *(x.split(tokens) for x in (query, key, value)), strict=True):
        q, k, v = (part.reshape(texts, length, *part.shape[1:]).transpose(1, 2) for part in parts)
        mask = sight.mask(length, query.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=sight.scale)  # (texts, H, L, D)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)


def on_cpu(query: Tensor, key: Tensor, value: Tensor, sizes: Sizes, sight: Sight) -> Tensor:
    """Attention on the CPU, (T, H, D) three times -> (T, H, D)."""
    if query.dtype is torch.float32:
        return _fused_attention(query, key, value, sizes, sight)
    found: Tensor = _StackedAttention.apply(query, key, value, sizes, sight)
    return found


def on_cuda(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, *, longest: int, sight: Sight) -> Tensor:
    """Attention on CUDA, (T, H, D) three times and bounds (N + 1,) -> (T, H, D).

    Where there is one query a text, (N, H, D), it is the text's first token.
    """
    from torch.nn.attention.varlen import varlen_attn

    starts, most = bounds, longest
    if len(query) != len(key):
        starts, most = torch.arange(len(bounds), dtype=torch.int32, device=bounds.device), 1
    found: Tensor = varlen_attn(
        query, key, value, starts, bounds, most, longest, scale=sight.scale, window_size=sight.sides()
    )  # type: ignore[assignment]
    return found


def first_tokens_on_cpu(query: Tensor, key: Tensor, value: Tensor, sizes: Sizes, scale: float) -> Tensor:
    """What the first token of each text sees, query (N, H, D), key and value (T, H, D) -> (N, H, D)."""
    texts, tokens = [n for _, n in runs(sizes)], [length * n for length, n in runs(sizes)]
    outs = []
    parts = zip(query.split(texts), key.split(tokens), value.split(tokens), strict=True)
    for (length, _), (q, *pair) in zip(runs(sizes), parts, strict=True):
        k, v = (x.reshape(-1, length, *x.shape[1:]).transpose(1, 2) for x in pair)  # (texts, H, L, D)
        outs.append(F.scaled_dot_product_attention(q.unsqueeze(2), k, v, scale=scale).squeeze(2))
    return torch.cat(outs)


@lru_cache(maxsize=1)
def has_varlen() -> bool:
    """Whether this torch has `varlen_attn` with windows and a scale."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "scale"} <= inspect.signature(varlen_attn).parameters.keys()


def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say why texts cannot be packed there: on CUDA it takes 16 bits and Ampere or newer; on the CPU nothing."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"packing knows the CPU and CUDA, not {device.type}"
    if dtype not in (torch.bfloat16, torch.float16):
        return "on CUDA texts are packed in bf16 and fp16 alone"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "packing on CUDA needs an Ampere GPU or a newer one"
    return None if has_varlen() else f"torch {torch.__version__} has no varlen_attn with windows, a newer one has"
