"""GradCache (Gao et al. 2021, arXiv 2101.06983): the gradient of a large batch in the memory of a small one.

The texts of a step go through the model some at a time, and only their vectors are kept. When the loss has said what it
wants of every vector, each part goes through the model again, with the same dropout, for its share of the gradient.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from zh_embedder.text.tokens import TokenBatch

SHARDING = {"FullyShardedDataParallel", "FSDPModule"}  # FSDP's first and second kind


def encode_in_parts(model: nn.Module, parts: Sequence[TokenBatch]) -> Tensor:
    """Vectors of texts that go through `model.embed` part by part, (N, D), with gradients to the model's weights.

    For autograd it is one operation on the weights: each gets its gradient once, in one backward pass, however many
    parts there are, so that DDP and ZeRO 1 and 2 see what they see without it. From the forward to the backward pass
    nothing lives but the vectors and, for each part, the state of the random generators.

    Sharded weights (ZeRO 3, FSDP) are whole only while their own module runs, so nothing can stand in for them. There
    each part is a checkpoint of torch's: the same gradient, but its bookkeeping grows with the number of parts.
    """
    device = parts[0].ids.device
    if is_sharded(model) or device.type not in ("cpu", "cuda"):  # checkpoint knows other devices' generators
        return torch.cat([checkpoint(model.embed, part, use_reentrant=False) for part in parts])
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    vectors: Tensor = _Cached.apply(model, parts, tuple(weights), *weights.values())
    return vectors


def is_sharded(model: nn.Module) -> bool:
    """Tell whether ranks hold parts of weights (ZeRO 3, FSDP); views of a flat weight are FSDP's too."""
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    return bool(kinds & SHARDING) or any(
        hasattr(weight, "ds_id") or hasattr(weight, "device_mesh") or not weight.is_leaf
        for weight in model.parameters()
    )


class _Cached(torch.autograd.Function):
    """Weights -> vectors, (N, D)."""

    @staticmethod
    def forward(ctx: Any, model: Any, parts: Sequence[TokenBatch], names: tuple[str, ...], *weights: Tensor) -> Tensor:
        device = parts[0].ids.device
        ctx.work, ctx.autocast, ctx.states = (model, parts, names), autocast_now(device), []
        ctx.save_for_backward(*weights)  # holds nothing that lives not anyway, and notices weights that are changed
        vectors, first = torch.empty(0), 0
        for index, part in enumerate(parts):
            remember(ctx.states, generators_now(device), index, len(parts))
            found = model.embed(part)
            if index == 0:
                vectors = found.new_empty(sum(map(len, parts)), *found.shape[1:])
            vectors[first : first + len(part)] = found
            first += len(part)
        # Autocast keeps casts of weights, and these were made without gradients. torch 2.13 looks for that; older ones
        # give them to a later forward of the region, whose gradients are then silently lost.
        torch.clear_autocast_cache()
        return vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        model, parts, names = ctx.work
        shadows = [weight.detach().requires_grad_() for weight in ctx.saved_tensors]
        places = {f"model.{name}": shadow for name, shadow in zip(names, shadows, strict=True)}
        functional_call(_Replay(model), places, (parts, grads[0], ctx.states, ctx.autocast))
        torch.clear_autocast_cache()  # casts of the stand-ins, where the backward pass is in a region too
        return None, None, None, *(shadow.grad for shadow in shadows)


class _Replay(nn.Module):
    """Every part once more, forward and backward, while other tensors stand in for the weights of a model.

    The backward pass belongs in here too: checkpoints of the model's layers run them again in it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, parts: Sequence[TokenBatch], grads: Tensor, states: Sequence[Tensor], autocast: dict[str, Any]
    ) -> None:
        """Add up the gradients of all parts in the weights' `.grad`. grads (N, D).

        The last part comes first, as in a backward pass through graphs that were all kept: sums add up in its order.
        """
        last = len(grads)
        for index, part in reversed(list(enumerate(parts))):
            # Copies: torch's setter does not look where in its storage a tensor begins.
            with forked(part.ids.device, [state[index].clone() for state in states]):
                with torch.enable_grad(), torch.autocast(**autocast):
                    vectors = self.model.embed(part)
                vectors.backward(grads[last - len(part) : last])
            last -= len(part)


def autocast_now(device: torch.device) -> dict[str, Any]:
    """Return what `torch.autocast` must be told to do what it does now."""
    return {
        "device_type": device.type,
        "enabled": torch.is_autocast_enabled(device.type),
        "dtype": torch.get_autocast_dtype(device.type),
        "cache_enabled": torch.is_autocast_cache_enabled(),
    }


def generators_now(device: torch.device) -> list[Tensor]:
    """States of the random generators that a forward draws from: the CPU's, and that of the device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def remember(states: list[Tensor], now: Sequence[Tensor], index: int, count: int) -> None:
    """Write the states of a part into tensors of all, (count, bytes) each.

    Small tensors of their own that outlive a part's would lie scattered between its large ones, and what is free
    between them would be too small for the large ones of the next part.
    """
    if index == 0:
        states.extend(state.new_empty(count, len(state)) for state in now)
    for kept, state in zip(states, now, strict=True):
        kept[index] = state


@contextmanager
def forked(device: torch.device, states: Sequence[Tensor]) -> Iterator[None]:
    """Run with the generators in these states; afterwards they are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        yield
