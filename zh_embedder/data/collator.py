"""Rows of a step -> a Batch of token ids: records read, groups selected, texts tokenised, in the loader's workers.

A dataset whose token ids were prepared (`token_cache`) is selected from by the identities of its texts, and no text is
read. Both ways give the same batch, bit for bit.

Shapes: B queries of this rank, G keys of a group, K distinct keys, M known positives of the query that has most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zh_embedder.data.groups import Record, SelectionRule, row_rng, select_group, shuffle_chunks
from zh_embedder.data.loader import EpochBatches
from zh_embedder.data.plan import Shares, epoch_steps, plan_epoch, rank_steps
from zh_embedder.data.records import TaskDataset
from zh_embedder.text.prefix import as_prefix
from zh_embedder.text.tokens import Ids, TokenBatch, TokenKey, TokenRecord, concatenate, tokenize


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
    tokens: Sequence[TokenRecord] | None = None  # the records as token ids, where they were prepared

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
    """One row, read and selected: texts with their instructions in front, or their token ids."""

    request: RowRequest
    query: str | Ids
    keys: Sequence[str | Ids]  # G, the positive first
    key_texts: Sequence[int]  # G identities; a positive whose chunks were shuffled is still the same text
    positive_texts: Sequence[int]  # identities of every known positive
    teacher: Sequence[float] | None  # G scores
    score: float | None = None  # of a pair
    label: int | None = None  # identity of the label of a labelled text, which has no keys


@dataclass(frozen=True, slots=True)
class Batch:
    """What one rank trains on in one step."""

    queries: TokenBatch  # B texts
    keys: TokenBatch  # K distinct texts
    key_rows: Tensor  # (B * G,) which of them each key is: group by group, the positive first
    key_texts: Tensor  # (B * G,) identity of each key's text
    query_texts: Tensor  # (B,) identities of the queries, instructions included
    positive_texts: Tensor  # (B, M) identities of the known positives, padded with 0
    counts: Tensor  # (B,) False where the row was repeated to fill the step
    teacher: Tensor | None  # (B, G)
    dataset: int  # index, or MIXED
    step_rows: tuple[int, ...]  # global rows of the whole step
    step_queries: int  # of them, those that count
    duplicate_tokens: int = 0  # of keys that are there already: not encoded again
    pair_scores: Tensor | None = None  # (B,)
    labels: Tensor | None = None  # (B,) identities of labels

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
        """Queries and keys, duplicates included; labelled texts are queries that serve as keys."""
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

    def tensors(self) -> dict[str, Any]:
        """Return the fields that live on a device."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor | TokenBatch)}

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """Move to a device."""
        return replace(self, **{n: t.to(device, non_blocking=non_blocking) for n, t in self.tensors().items()})

    def pin_memory(self) -> Batch:
        """Pin, for a copy that does not block."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self.tensors().items()})


def text_identity(text: str) -> int:
    """Return a 63-bit identity of a text, never 0: equal on every rank and in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1 or 1


def ids_identity(ids: Ids) -> int:
    """Return the same of a text's token ids."""
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little") >> 1 or 1


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
        rng = row_rng(self.seed, request.epoch, dataset, row)
        if chosen.tokens is not None:
            return from_tokens(request, chosen.tokens, row, chosen.rule, rng)
        return from_texts(request, chosen, row, rng)


def from_texts(request: RowRequest, chosen: TrainSet, row: int, rng: np.random.Generator) -> Example:
    """Read and select one row of a dataset whose texts are tokenised by the collator."""
    record = chosen.records[row]
    if record.label is not None:
        return labelled(request, chosen.query_text(record), text_identity(record.label))

    def draw_other(rng: np.random.Generator) -> str:
        other = chosen.records[int(rng.integers(len(chosen)))]
        texts = other.pos or other.neg
        return texts[int(rng.integers(len(texts)))]

    group = select_group(record, chosen.rule, rng, draw_other)
    keys = (shuffle_chunks(group.keys[0], chosen.rule.shuffle_ratio, rng), *group.keys[1:])
    return Example(
        request,
        chosen.query_text(record),
        [chosen.key_prefix + key for key in keys],
        [text_identity(key) for key in group.keys],
        [text_identity(key) for key in group.positives],
        group.teacher,
        record.score,
    )


def from_tokens(
    request: RowRequest, records: Sequence[TokenRecord], row: int, rule: SelectionRule, rng: np.random.Generator
) -> Example:
    """Do the same with token ids: the same draws from `rng`, so the same group."""
    record = records[row]
    if record.label is not None:
        return labelled(request, record.query, record.label)

    def draw_other(rng: np.random.Generator) -> TokenKey:
        other = records[int(rng.integers(len(records)))]
        keys = other.pos or other.neg
        return keys[int(rng.integers(len(keys)))]

    group = select_group(record, rule, rng, draw_other)
    return Example(
        request,
        record.query,
        [key.ids for key in group.keys],
        [key.text for key in group.keys],
        [key.text for key in group.positives],
        group.teacher,
        record.score,
    )


def labelled(request: RowRequest, text: str | Ids, label: int) -> Example:
    """Return a labelled text: a query that has no keys, because the step's texts are each other's."""
    return Example(request, text, (), (), (), None, label=label)


class Collator:
    """Examples of one rank's step -> Batch."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        query_max_length: int,
        key_max_length: int,
        key_tokenizer: Any = None,
        merge_keys: bool = True,
    ) -> None:
        self.tokenizer, self.key_tokenizer = tokenizer, key_tokenizer or tokenizer
        self.query_max_length, self.key_max_length = query_max_length, key_max_length
        self.merge_keys = merge_keys  # encode identical keys once

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Tokenise what is still text, and lay out."""
        request = examples[0].request
        queries = self.query_ids([e.query for e in examples])
        keys = self.key_ids([key for e in examples for key in e.keys])
        distinct, rows = merge(keys) if self.merge_keys else (keys, list(range(len(keys))))
        query_texts = [ids_identity(ids) for ids in queries]
        key_texts = [text for e in examples for text in e.key_texts]
        if not keys:  # labelled texts: the vectors of the queries are those of the keys
            rows, key_texts = list(range(len(queries))), query_texts
        widest = max(len(e.positive_texts) for e in examples)
        teacher, scores, labels = ([getattr(e, n) for e in examples] for n in ("teacher", "score", "label"))
        return Batch(
            queries=concatenate(queries),
            keys=concatenate(distinct),
            key_rows=torch.tensor(rows),
            key_texts=torch.tensor(key_texts),
            positive_texts=torch.tensor(
                [[*e.positive_texts, *[0] * (widest - len(e.positive_texts))] for e in examples], dtype=torch.int64
            ),
            counts=torch.tensor([e.request.counts for e in examples]),
            teacher=None if None in teacher else torch.tensor(teacher, dtype=torch.float32),
            dataset=request.dataset,
            step_rows=request.step_rows,
            step_queries=request.step_queries,
            duplicate_tokens=sum(map(len, keys)) - sum(map(len, distinct)),
            query_texts=torch.tensor(query_texts),
            pair_scores=None if None in scores else torch.tensor(scores, dtype=torch.float32),
            labels=None if None in labels else torch.tensor(labels),
        )

    def query_ids(self, texts: Sequence[str | Ids]) -> list[Ids]:
        """Token ids of queries, instructions in front."""
        return token_ids(self.tokenizer, texts, self.query_max_length)

    def key_ids(self, texts: Sequence[str | Ids]) -> list[Ids]:
        """Token ids of keys, instructions in front."""
        return token_ids(self.key_tokenizer, texts, self.key_max_length)


def token_ids(tokenizer: Any, texts: Sequence[str | Ids], max_length: int) -> list[Ids]:
    """Token ids of each text; what is token ids already stays as it is."""
    new = list(dict.fromkeys(text for text in texts if isinstance(text, str)))
    made = tokenize(tokenizer, new, max_length) if new else []
    known = {text: np.asarray(ids, np.int32) for text, ids in zip(new, made, strict=True)}
    return [known[text] if isinstance(text, str) else text for text in texts]


def merge(texts: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    """Merge identical texts: K distinct ones in order of appearance, and which of them each of the N texts is."""
    places: dict[bytes, int] = {}
    rows = [places.setdefault(ids.tobytes(), len(places)) for ids in texts]
    return [np.frombuffer(ids, np.int32) for ids in places], rows


class RankBatches(EpochBatches):
    """The steps of one rank, epoch by epoch: its slice of the plan that every rank computes."""

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        mode: str | None,
        batch_size: int,
        rank: int,
        ranks: int,
        seed: int,
        shares: Shares = None,
    ) -> None:
        self.sizes, self.shares, self.mode, self.seed = tuple(sizes), shares, mode, seed
        self.batch_size, self.rank, self.ranks = batch_size, rank, ranks

    @property
    def step_size(self) -> int:
        """Rows of a step, all ranks together."""
        return self.batch_size * self.ranks

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return epoch_steps(self.sizes, step_rows=self.step_size, mode=self.mode, shares=self.shares)

    def __iter__(self) -> Iterator[list[RowRequest]]:
        """Yield the row requests of each step."""
        epoch, sizes = self.epoch, self.sizes
        plan = plan_epoch(
            sizes, step_rows=self.step_size, mode=self.mode, seed=self.seed, epoch=epoch, shares=self.shares
        )
        for index, step in enumerate(rank_steps(plan, rank=self.rank, batch_size=self.batch_size)):
            whole = tuple(plan.rows[index].tolist())
            yield [
                RowRequest(epoch, row, counts, step.dataset, whole, step.step_queries)
                for row, counts in zip(step.rows.tolist(), step.counts.tolist(), strict=True)
            ]
