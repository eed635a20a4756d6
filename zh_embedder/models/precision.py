"""Precision of encoding: a module's weights in 16 bits for a while, its exact ones kept beside."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FEW_VALUES = 8  # of each weight, that tell whether it has changed


class Encoding:
    """State to encode in: no dropout, no gradients, fp32 weights cast to a precision.

    One thread at a time: others wait, since they share the weights. A copy, or one out of a pickle, begins anew.
    """

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.kept: tuple[Any, Tensor, list[Tensor]] | None = None

    def __reduce__(self) -> tuple[type[Encoding], tuple[()]]:
        return Encoding, ()

    @contextmanager
    def __call__(self, module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
        """Put a module in that state; afterwards its weights and modes are what they were, bit for bit."""
        with self.turn:
            training = [part for part in module.modules() if part.training]
            exact = [p for p in module.parameters() if p.dtype is torch.float32]
            weights = [p.data for p in exact]
            for part in training:
                part.training = False
            try:
                if dtype is not torch.float32:
                    for parameter, cast in zip(exact, self.cast(exact, dtype, keep=not training), strict=True):
                        parameter.data = cast
                with torch.inference_mode():
                    yield
            finally:
                for parameter, data in zip(exact, weights, strict=True):
                    parameter.data = data
                for part in training:
                    part.training = True

    def cast(self, weights: Sequence[Tensor], dtype: torch.dtype, *, keep: bool) -> list[Tensor]:
        """Return weights in a precision; with `keep` those of the last call, unless a weight has changed.

        To cast all weights takes longer than to encode a text. Changes are known by the place and version of each
        weight, and by a few of its values: what is written through `.data` has no version.
        """
        if not keep:
            self.kept = None
            return [weight.data.to(dtype) for weight in weights]
        with torch.no_grad():
            state = dtype, [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]
            few = torch.cat([w.data.flatten()[:: max(1, w.numel() // FEW_VALUES)] for w in weights])
            if self.kept is None or self.kept[0] != state or not torch.equal(self.kept[1], few):
                self.kept = None  # frees the memory before more of it is taken
                self.kept = state, few, [w.data.to(dtype) for w in weights]
        return self.kept[2]
