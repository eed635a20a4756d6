"""Batch: one rank's texts of one step. Read this first: all of `data` works towards it.

Shapes: B queries of this rank, G keys of a group, K distinct keys, M known positives of the query that has most.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from zh_embedder.text.tokens import TokenBatch


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A batch whose tensors go to a device, its other fields as they are."""

    def tensors(self) -> dict[str, Any]:
        """Return the fields that live on a device."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor | TokenBatch)}

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Self:
        """Move to a device."""
        return replace(self, **{n: t.to(device, non_blocking=non_blocking) for n, t in self.tensors().items()})

    def pin_memory(self) -> Self:
        """Pin, for a copy that does not block."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self.tensors().items()})


@dataclass(frozen=True, slots=True)
class Batch(DeviceBatch):
    """What one rank trains on in one step."""

    queries: TokenBatch  # B texts
    keys: TokenBatch  # K distinct texts
    key_rows: Tensor  # (B * G,) which of them each key is: group by group, the positive first
    key_texts: Tensor  # (B * G,) identity of each key's text
    query_texts: Tensor  # (B,) identities of the queries, instructions included
    positive_texts: Tensor  # (B, M) identities of the known positives, padded with 0
    answers: Tensor  # (B,) labels of the queries; 0 where answers are no labels
    key_answers: Tensor  # (B * G,) labels of the keys; 0 where they are not known
    counts: Tensor  # (B,) False where the row was repeated to fill the step
    teacher: Tensor | None  # (B, G)
    dataset: int  # index, or MIXED
    step_rows: tuple[int, ...]  # global rows of the whole step
    step_queries: int  # of them, those that count
    duplicate_tokens: int = 0  # of keys that are there already: not encoded again
    pair_scores: Tensor | None = None  # (B,)
    labels: Tensor | None = None  # (B,) identities of labels
    vectors: Tensor | None = None  # (B, 1 + G, T) the teacher's, of queries and their keys; (B, 1, T) of single texts

    @property
    def group_size(self) -> int:
        """Keys of one query."""
        return len(self.key_rows) // len(self.queries)

    @property
    def duplicates(self) -> int:
        """Keys that are there already."""
        return self.texts - len(self.queries) - len(self.keys)

    @property
    def texts(self) -> int:
        """Queries and keys, duplicates included; single texts are queries that serve as keys."""
        return len(self.queries) + (len(self.key_rows) if len(self.keys) else 0)

    @property
    def padded_tokens(self) -> int:
        """Tokens of queries and keys, duplicates included, each side padded to its longest."""
        keys = len(self.key_rows) * max(self.keys.sizes) if len(self.keys) else 0
        return len(self.queries) * max(self.queries.sizes) + keys

    @property
    def tokens(self) -> int:
        """Tokens of queries and keys, duplicates included."""
        return sum(self.queries.sizes) + sum(self.keys.sizes) + self.duplicate_tokens
