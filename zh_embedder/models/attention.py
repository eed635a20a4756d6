"""Attention within packed texts: each text sees itself alone. Kernels for the CPU and for CUDA.

CPU: by runs of texts of one length, in fp32 through `scaled_dot_product_attention`, in 16 bits through matrix products,
which use the hardware's bf16 units where torch's fused kernel uses them for AMX alone (figures: docs/log/2026-11.md).
CUDA: `torch.nn.attention.varlen.varlen_attn`. There is no attention dropout.

Shapes: N texts, T tokens of all texts together, L tokens of one text, H heads, D dimensions of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
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


def small_runs(sizes: Sizes, heads: int) -> Iterator[tuple[int, slice]]:
    """Runs cut so that their scores stay in the cache: (length, their tokens)."""
    start = 0
    for length, texts in runs(sizes):
        most = max(1, SCORES_AT_ONCE // (heads * length * length))
        for first in range(0, texts, most):
            tokens = min(most, texts - first) * length
            yield length, slice(start, start + tokens)
            start += tokens


class _MatmulAttention(torch.autograd.Function):
    """Matrix products and a softmax, run by run; the probabilities are computed anew for the gradient."""

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd passes by position)
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sizes: Sizes, sight: Sight
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.options = sizes, sight
        out = torch.empty_like(query)
        with torch.autocast(query.device.type, enabled=False):
            for length, rows in small_runs(sizes, query.shape[1]):
                q, k, v = (_heads_first(x[rows], length) for x in (query, key, value))
                _put(out[rows], torch.bmm(_probabilities(q, k, sight), v), length)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        sizes, sight = ctx.options
        dq, dk, dv = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for length, rows in small_runs(sizes, query.shape[1]):
            q, k, v, g = (_heads_first(x[rows], length) for x in (query, key, value, grads[0]))
            p = _probabilities(q, k, sight)
            _put(dv[rows], torch.bmm(p.transpose(1, 2), g), length)
            # Softmax: ds = p * (dp - sum(dp * p)).
            ds = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), p, -1, p.dtype)
            _put(dq[rows], _product(ds, k, sight.scale), length)
            _put(dk[rows], _product(ds.transpose(1, 2), q, sight.scale), length)
        return dq, dk, dv, None, None


def _heads_first(rows: Tensor, length: int) -> Tensor:
    """Texts of one length, (texts * L, H, D) -> (texts * H, L, D)."""
    heads, size = rows.shape[1:]
    return rows.view(-1, length, heads, size).transpose(1, 2).reshape(-1, length, size)


def _put(rows: Tensor, found: Tensor, length: int) -> None:
    """Write (texts * H, L, D) into (texts * L, H, D)."""
    heads, size = rows.shape[1:]
    rows.view(-1, length, heads, size).transpose(1, 2).copy_(found.view(-1, heads, length, size))


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale * a @ b` in one pass."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _probabilities(q: Tensor, k: Tensor, sight: Sight) -> Tensor:
    """Softmax of the scores, (texts * H, L, D) twice -> (texts * H, L, L)."""
    scores = _product(q, k.transpose(1, 2), sight.scale)
    mask = sight.mask(q.shape[1], q.device)
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1)


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
    found: Tensor = _MatmulAttention.apply(query, key, value, sizes, sight)
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
