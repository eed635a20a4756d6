"""GradCache (Gao et al. 2021, arXiv 2101.06983): the gradient of a large batch in the memory of a small one.

The texts of a step go through the model some at a time, and only their representations are kept. Once the loss has
given the gradient of each, every part goes through the model again, with the same dropout, for its share of the whole.

Shapes: N texts; each part of a representation is (N, ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from zh_embedder.models.heads import Representation, joined
from zh_embedder.text.tokens import TokenBatch

SHARDING = {"FullyShardedDataParallel", "FSDPModule"}  # FSDP's first and second kind


def encode_in_parts(model: nn.Module, parts: Sequence[TokenBatch]) -> Representation:
    """Representations of N texts that go through `model.embed` part by part, with gradients to the model's weights.

    For autograd it is one operation on the weights: each gets its gradient once, in one backward pass, however many
    parts there are, so that DDP and ZeRO 1 and 2 see what they see without it. From the forward to the backward pass
    nothing lives but the representations and, for each part, the state of the random generators.

    Sharded weights (ZeRO 3, FSDP) are whole only while their own module runs, so nothing can replace them. There
    each part is a checkpoint of torch's: the same gradient, but its bookkeeping grows with the number of parts.
    """
    device = parts[0].ids.device
    if is_sharded(model) or device.type not in ("cpu", "cuda"):  # checkpoint knows other devices' generators
        return joined([checkpoint(model.embed, part, use_reentrant=False) for part in parts])
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    made: list[str] = []  # names of the tensors, for which autograd has no place
    tensors = _Cached.apply(model, parts, made, tuple(weights), *weights.values())
    return Representation(**dict(zip(made, tensors, strict=True)))


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks hold parts of weights (ZeRO 3, FSDP); views of a flat weight are FSDP's too."""
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    return bool(kinds & SHARDING) or any(
        hasattr(weight, "ds_id") or hasattr(weight, "device_mesh") or not weight.is_leaf
        for weight in model.parameters()
    )


class _Cached(torch.autograd.Function):
    """Weights -> the tensors of a representation, (N, ...) each."""

    @staticmethod
    def forward(
        ctx: Any, model: Any, parts: Sequence[TokenBatch], made: list[str], names: tuple[str, ...], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        device = parts[0].ids.device
        ctx.work, ctx.autocast, ctx.states = (model, parts, names, made), autocast_now(device), []
        ctx.save_for_backward(*weights)  # holds nothing that lives not anyway, and notices weights that are changed
        ctx.set_materialize_grads(False)
        whole: dict[str, Tensor] = {}
        first = 0
        for index, part in enumerate(parts):
            remember(ctx.states, generators_now(device), index, len(parts))
            found = model.embed(part).parts()
            if index == 0:
                whole = {name: room_for(name, tensor, parts) for name, tensor in found.items()}
            for name, tensor in found.items():
                rows_like(whole[name], first, tensor).copy_(tensor)
            first += len(part)
        # Autocast keeps casts of weights, and these were made without gradients. torch 2.13 looks for that; older ones
        # give them to a later forward of the region, whose gradients are then silently lost.
        torch.clear_autocast_cache()
        made.extend(whole)
        return tuple(whole.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        model, parts, names, made = ctx.work
        shadows = [weight.detach().requires_grad_() for weight in ctx.saved_tensors]
        places = {f"model.{name}": shadow for name, shadow in zip(names, shadows, strict=True)}
        wanted = {name: grad for name, grad in zip(made, grads, strict=True) if grad is not None}
        functional_call(_Replay(model), places, (parts, wanted, ctx.states, ctx.autocast))
        torch.clear_autocast_cache()  # casts of the stand-ins, where the backward pass is in a region too
        return None, None, None, None, *(shadow.grad for shadow in shadows)


def room_for(name: str, tensor: Tensor, parts: Sequence[TokenBatch]) -> Tensor:
    """Room for the rows of all parts, given those of the first one; those of tokens as long as the longest text."""
    shape = [sum(map(len, parts)), *tensor.shape[1:]]
    if name == "tokens":
        shape[1] = max(max(part.sizes) for part in parts)
    return tensor.new_zeros(shape)


def rows_like(whole: Tensor, first: int, tensor: Tensor) -> Tensor:
    """The place in `whole` of rows that start at `first`, as wide as they are."""
    return whole[
        tuple(slice(first * (axis == 0), first * (axis == 0) + size) for axis, size in enumerate(tensor.shape))
    ]


class _Replay(nn.Module):
    """Every part once more, forward and backward, while other tensors replace the weights of a model.

    The backward pass belongs in here too: checkpoints of the model's layers run them again in it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        parts: Sequence[TokenBatch],
        grads: Mapping[str, Tensor],
        states: Sequence[Tensor],
        autocast: dict[str, Any],
    ) -> None:
        """Add up the gradients of all parts in the weights' `.grad`. grads (N, ...), by the name of the tensor.

        The last part comes first, as in a backward pass through graphs that were all kept: sums add up in its order.
        """
        last = sum(map(len, parts))
        for index, part in reversed(list(enumerate(parts))):
            # Copies: torch's setter does not look where in its storage a tensor begins.
            with forked(part.ids.device, [state[index].clone() for state in states]):
                with torch.enable_grad(), torch.autocast(**autocast):
                    found = self.model.embed(part).parts()
                own = {name: rows_like(grad, last - len(part), found[name]) for name, grad in grads.items()}
                torch.autograd.backward([found[name] for name in own], list(own.values()))
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
