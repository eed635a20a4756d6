"""Heads: from the states of a text's tokens to its representation. One function and one row in HEADS per head.

Shapes: N texts, T tokens of all texts together, L tokens of the longest, H hidden size, D dimensions, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zh_embedder.models.pooling import POOLINGS, WITHOUT_PROMPT

if TYPE_CHECKING:
    from zh_embedder.models.forward import Forward


@dataclass(frozen=True)  # without slots: hooks of DeepSpeed's ZeRO 3 look for tensors in the output's __dict__
class Representation:
    """What an encoder makes of N texts; every part that is there has one row per text."""

    dense: Tensor  # (N, D)
    sparse: Tensor | None = None  # (N, V) weights of words
    tokens: Tensor | None = None  # (N, L, D) a vector per token; rows of shorter texts end in zeros

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.dense)

    def parts(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def joined(pieces: Sequence[Representation]) -> Representation:
    """Representations of several batches of texts as one."""
    parts = {name: [piece.parts()[name] for piece in pieces] for name in pieces[0].parts()}
    if "tokens" in parts:
        longest = max(part.shape[1] for part in parts["tokens"])
        parts["tokens"] = [F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts["tokens"]]
    return Representation(**{name: torch.cat(tensors) for name, tensors in parts.items()})


@dataclass(frozen=True, slots=True)
class States:
    """Last states of a model for N texts, which may lie in another order than the texts were given in."""

    hidden: Tensor  # (T, H) of all tokens; where `first_tokens` is set, (N, H) of each text's first one
    bounds: Tensor  # (N + 1,) text i lies between bounds[i] and bounds[i + 1]
    place: Tensor | None = None  # (N,) where each given text lies; None: in the order given
    first_tokens: bool = False
    prompts: Tensor | None = None  # (N,) tokens in front of each text that pooling leaves out; None: nowhere any

    def pooled(self, pooling: str) -> Tensor:
        """One state per text, in the order given, (N, H)."""
        if self.first_tokens:
            return self.in_order(self.hidden)
        if self.prompts is not None:
            return self.in_order(WITHOUT_PROMPT[pooling](self.hidden, self.bounds, self.prompts))
        return self.in_order(POOLINGS[pooling](self.hidden, self.bounds))

    def in_order(self, rows: Tensor) -> Tensor:
        """Rows of texts, (N, ...), in the order that the texts were given in."""
        return rows if self.place is None else rows[self.place.to(rows.device)]


def dense(model: Forward, states: States) -> Tensor:
    """Pooling, a linear layer where there is one, and normalisation where the spec says so, (N, D)."""
    pooled = states.pooled(model.spec.pooling)
    vectors = (pooled if model.dense is None else model.dense(pooled)).float()
    return F.normalize(vectors, dim=-1) if model.spec.normalize else vectors


@dataclass(frozen=True, slots=True)
class Head:
    """A row of the table of heads."""

    compute: Callable[[Forward, States], Tensor]  # its part of the representation, texts in the order given
    all_tokens: bool = True  # looks at the states of all tokens, so a last layer cannot be trimmed to first ones


HEADS: Mapping[str, Head] = {"dense": Head(dense, all_tokens=False)}  # by the part of the representation they make


def represent(model: Forward, states: States) -> Representation:
    """What the heads of a model make of its states."""
    return Representation(**{name: HEADS[name].compute(model, states) for name in model.spec.heads})
