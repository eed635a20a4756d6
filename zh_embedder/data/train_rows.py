"""Training rows: read, and their groups selected, in the loader's workers.

A dataset whose token ids were prepared (`token_cache`) is selected from by the identities of its texts, and no text is
read. Both ways give the same example, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import Dataset

from zh_embedder.core.hashing import text_identity
from zh_embedder.data.answer_labels import NO_LABEL, AnswerLabels
from zh_embedder.data.groups import SelectionRule, row_rng, select_group, shuffle_chunks
from zh_embedder.data.records import Record, TaskDataset
from zh_embedder.data.teacher_vectors import TeacherVectors, Vectors
from zh_embedder.text.prefix import as_prefix
from zh_embedder.text.tokens import Ids, TokenKey, TokenRecord
from zh_embedder.text.truncation import Text, behind

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSet:
    """A dataset as it is trained: its records, how they become groups and texts, and its losses."""

    records: TaskDataset
    task: str
    rule: SelectionRule
    query_prefix: str
    key_prefix: str
    as_keys: bool = False  # its records are texts alone that count as keys
    use_prompts: bool = True  # a record's own `prompt` replaces the task's query instruction
    prompt_format: str = "{}{}"  # of prompt and query; the query comes last
    sides: tuple[str | None, str | None] = (None, None)  # end of queries and keys that is cut; None: the tokenizer's
    terms: tuple[Any, ...] = ()  # LossTerms, of which this room knows nothing
    weight: float = 1.0  # of the dataset in the steps of an epoch
    notes: tuple[str, ...] = ()  # what gave way, for the log
    labels: AnswerLabels | None = None  # of records and keys, where the records' answers are class labels
    tokens: Sequence[TokenRecord] | None = None  # the records as token ids, where they were prepared
    teacher: TeacherVectors | None = None  # vectors of their texts that a teacher made

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def query_prompt(self, record: Record) -> str:
        """Return the instruction in front of a record's query, or of a text alone: that of its side."""
        if self.as_keys:
            return self.key_prefix
        own = record.prompt if self.use_prompts else None
        return self.query_prefix if own is None else as_prefix(own, self.prompt_format, flag="prompt_format")

    def query_text(self, record: Record) -> Text:
        """Return a record's query, or a text alone, with its instruction in front."""
        return behind(self.query_prompt(record), record.query, self.sides[1 if self.as_keys else 0])

    def key_text(self, key: str) -> Text:
        """Return a key with its instruction in front."""
        return behind(self.key_prefix, key, self.sides[1])


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
    query: Text | Ids
    keys: Sequence[Text | Ids]  # G, the positive first
    key_texts: Sequence[int]  # G identities; a positive whose chunks were shuffled is still the same text
    positive_texts: Sequence[int]  # identities of every known positive
    teacher: Sequence[float] | None  # G scores
    score: float | None = None  # of a pair
    label: int | None = None  # identity of the label of a labelled text
    as_key: bool = False  # `query` is a text alone that counts as a key; it has no keys itself
    vectors: Vectors | None = None  # (1 + G, D) the teacher's, of the query and of the keys
    answers: int = NO_LABEL  # label of the query, where answers are labels
    key_answers: Sequence[int] = ()  # G labels
    query_prompt: str | int = ""  # instruction of the query, or the number of its tokens where they were prepared
    key_prompt: str = ""  # of the keys


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
            example = from_tokens(request, chosen, chosen.tokens, row, rng)
        else:
            example = from_texts(request, chosen, row, rng)
        if chosen.teacher is None:
            return replace(example, as_key=True) if chosen.as_keys else example
        return replace(example, as_key=chosen.as_keys, vectors=chosen.teacher.of_row(row, example.key_texts))


def from_texts(request: RowRequest, chosen: TrainSet, row: int, rng: np.random.Generator) -> Example:
    """Read and select one row of a dataset whose texts are tokenised by the collator."""
    record = chosen.records[row]
    if not record.candidates:
        label = None if record.label is None else text_identity(record.label)
        return single(request, chosen.query_text(record), label, prompt=chosen.query_prompt(record))

    def draw_other(rng: np.random.Generator) -> str:
        other = chosen.records[int(rng.integers(len(chosen)))]
        texts = other.pos or other.neg
        return texts[int(rng.integers(len(texts)))]

    own, same_label = label_of_row(chosen.labels, row, text_identity)
    group = select_group(record, chosen.rule, rng, draw_other, same_label)
    identities = [text_identity(key) for key in group.keys]
    keys = (shuffle_chunks(group.keys[0], chosen.rule.shuffle_ratio, rng), *group.keys[1:])
    return Example(
        request,
        chosen.query_text(record),
        [chosen.key_text(key) for key in keys],
        identities,
        [text_identity(key) for key in group.positives],
        group.teacher,
        record.score,
        answers=own,
        key_answers=() if chosen.labels is None else chosen.labels.of_keys(identities),
        query_prompt=chosen.query_prompt(record),
        key_prompt=chosen.key_prefix,
    )


def from_tokens(
    request: RowRequest, chosen: TrainSet, records: Sequence[TokenRecord], row: int, rng: np.random.Generator
) -> Example:
    """Select one row of a dataset whose token ids were prepared; the draws from `rng` are those of `from_texts`."""
    record = records[row]
    if not record.pos and not record.neg:
        return single(request, record.query, record.label, prompt=record.prompt)

    def draw_other(rng: np.random.Generator) -> TokenKey:
        other = records[int(rng.integers(len(records)))]
        keys = other.pos or other.neg
        return keys[int(rng.integers(len(keys)))]

    own, same_label = label_of_row(chosen.labels, row, identity_of)
    group = select_group(record, chosen.rule, rng, draw_other, same_label)
    identities = [key.text for key in group.keys]
    return Example(
        request,
        record.query,
        [key.ids for key in group.keys],
        identities,
        [key.text for key in group.positives],
        group.teacher,
        record.score,
        answers=own,
        key_answers=() if chosen.labels is None else chosen.labels.of_keys(identities),
        query_prompt=record.prompt,
        key_prompt=chosen.key_prefix,
    )


def identity_of(key: TokenKey) -> int:
    """Return the identity of a key's text."""
    return key.text


def label_of_row(
    labels: AnswerLabels | None, row: int, identity: Callable[[Key], int]
) -> tuple[int, Callable[[Key], bool] | None]:
    """Return the label of a record, and what tells whether a key has the same; None where it has no label."""
    own = NO_LABEL if labels is None else int(labels.records[row])
    if labels is None or own == NO_LABEL:
        return own, None
    return own, lambda key: labels.of_key(identity(key)) == own


def single(request: RowRequest, text: Text | Ids, label: int | None, *, prompt: str | int) -> Example:
    """Return a labelled text or a text alone: it has no keys, because the step's texts are each other's."""
    return Example(request, text, (), (), (), None, label=label, query_prompt=prompt)
