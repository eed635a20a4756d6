"""Rows of a step -> a Batch of token ids: records read, groups selected, texts tokenised, in the loader's workers.

Shapes: B queries of this rank, G keys of a group, M known positives of the query that has most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zh_embedder.old_flags import as_prefix
from zh_embedder.records import TaskDataset
from zh_embedder.sampling import epoch_steps, plan_epoch, rank_steps
from zh_embedder.selection import Group, Record, SelectionRule, row_rng, select_group
from zh_embedder.tokens import TokenBatch, concatenate, tokenize


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSet:
    """A dataset with everything that its batches need."""

    records: TaskDataset
    task: str
    rule: SelectionRule
    query_prefix: str
    key_prefix: str
    use_prompts: bool = True  # a record's own `prompt` replaces the task's query instruction
    prompt_format: str = "{}{}"  # of prompt and query; the query comes last

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def query_text(self, record: Record) -> str:
        """Return a record's query with its instruction in front."""
        if self.use_prompts and record.prompt is not None:
            return as_prefix(record.prompt, self.prompt_format, flag="prompt_format") + record.query
        return self.query_prefix + record.query


class RowRequest(NamedTuple):
    """One row of a step, with all that a worker must know of the step."""

    epoch: int
    row: int  # global
    counts: bool
    dataset: int  # of the step, or MIXED
    step_rows: tuple[int, ...]  # global rows of the whole step, all ranks
    step_queries: int  # of them, those that count


@dataclass(frozen=True, slots=True)
class Example:
    """One row, read and selected, with its instructions in front."""

    request: RowRequest
    query: str
    group: Group
    key_prefix: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one rank trains on in one step."""

    queries: TokenBatch  # B texts
    keys: TokenBatch  # B * G texts, group by group, the positive first
    key_texts: Tensor  # (B * G,) identity of each key's text
    positive_texts: Tensor  # (B, M) identities of the known positives, padded with 0
    counts: Tensor  # (B,) False where the row was repeated to fill the step
    teacher: Tensor | None  # (B, G)
    dataset: int  # index, or MIXED
    step_rows: tuple[int, ...]  # global rows of the whole step
    step_queries: int  # of them, those that count

    @property
    def group_size(self) -> int:
        """Keys of one query."""
        return len(self.keys) // len(self.queries)

    def tensors(self) -> dict[str, Any]:
        """Return the fields that live on a device."""
        names = ("queries", "keys", "key_texts", "positive_texts", "counts", "teacher")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """Move to a device."""
        return replace(self, **{n: t.to(device, non_blocking=non_blocking) for n, t in self.tensors().items()})

    def pin_memory(self) -> Batch:
        """Pin, for a copy that does not block."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self.tensors().items()})


def text_identity(text: str) -> int:
    """Return a 63-bit identity of a text, never 0: equal on every rank and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1 or 1


class TrainRows(Dataset[Example]):
    """All rows of all datasets, by request: the same request gives the same example in any process."""

    def __init__(self, sets: Sequence[TrainSet], *, seed: int) -> None:
        self.sets, self.seed = tuple(sets), seed
        self.offsets = np.cumsum([0, *(len(s) for s in sets)])

    def __len__(self) -> int:
        """Return the number of records of all datasets."""
        return int(self.offsets[-1])

    def locate(self, row: int) -> tuple[int, int]:
        """Global row -> (dataset, its row)."""
        dataset = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return dataset, row - int(self.offsets[dataset])

    def __getitem__(self, request: RowRequest) -> Example:
        """Read and select one row."""
        dataset, row = self.locate(request.row)
        chosen = self.sets[dataset]
        record = chosen.records[row]

        def draw_other(rng: np.random.Generator) -> str:
            other = chosen.records[int(rng.integers(len(chosen)))]
            texts = other.pos or other.neg
            return texts[int(rng.integers(len(texts)))]

        group = select_group(record, chosen.rule, row_rng(self.seed, request.epoch, dataset, row), draw_other)
        return Example(request, chosen.query_text(record), group, chosen.key_prefix)


class Collator:
    """Examples of one rank's step -> Batch."""

    def __init__(
        self, tokenizer: Any, *, query_max_length: int, key_max_length: int, key_tokenizer: Any = None
    ) -> None:
        self.tokenizer, self.key_tokenizer = tokenizer, key_tokenizer or tokenizer
        self.query_max_length, self.key_max_length = query_max_length, key_max_length

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Tokenise and lay out."""
        request, groups = examples[0].request, [example.group for example in examples]
        keys = [example.key_prefix + key for example in examples for key in example.group.keys]
        known = [[text_identity(text) for text in group.positives] for group in groups]
        widest = max(map(len, known))
        teacher = [group.teacher for group in groups]
        return Batch(
            queries=concatenate(tokenize(self.tokenizer, [e.query for e in examples], self.query_max_length)),
            keys=concatenate(tokenize(self.key_tokenizer, keys, self.key_max_length)),
            key_texts=torch.tensor([text_identity(key) for group in groups for key in group.texts]),
            positive_texts=torch.tensor([ids + [0] * (widest - len(ids)) for ids in known]),
            counts=torch.tensor([example.request.counts for example in examples]),
            teacher=None if None in teacher else torch.tensor(teacher, dtype=torch.float32),
            dataset=request.dataset,
            step_rows=request.step_rows,
            step_queries=request.step_queries,
        )


class RankBatches(Sampler[list[RowRequest]]):
    """The steps of one rank, epoch by epoch: its slice of the plan that every rank computes."""

    def __init__(
        self, sizes: Sequence[int], *, mode: str | None, batch_size: int, rank: int, ranks: int, seed: int
    ) -> None:
        self.sizes, self.mode, self.seed, self.epoch = tuple(sizes), mode, seed, 0
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks

    @property
    def step_size(self) -> int:
        """Rows of a step, all ranks together."""
        return self.batch_size * self.ranks

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return epoch_steps(self.sizes, step_rows=self.step_size, mode=self.mode)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration plans."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[RowRequest]]:
        """Yield the row requests of each step."""
        epoch = self.epoch
        plan = plan_epoch(self.sizes, step_rows=self.step_size, mode=self.mode, seed=self.seed, epoch=epoch)
        for index, step in enumerate(rank_steps(plan, rank=self.rank, batch_size=self.batch_size)):
            whole = tuple(plan.rows[index].tolist())
            yield [
                RowRequest(epoch, row, counts, step.dataset, whole, step.step_queries)
                for row, counts in zip(step.rows.tolist(), step.counts.tolist(), strict=True)
            ]


class PlanLoader(DataLoader[Example]):
    """A loader whose epoch the trainer can set. Never prepared by accelerate: each rank reads its own slice already.

    A fresh run sets the epoch here; a resumed one, whose first batches accelerate skips, sets it on the batch sampler.
    """

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration plans."""
        if isinstance(self.batch_sampler, RankBatches):
            self.batch_sampler.set_epoch(epoch)
