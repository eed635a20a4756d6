"""Answer labels: where a task's `answers` are class labels, the label of each record and of each key of a dataset.

Two keys of one label answer each other's queries, so neither may be drawn or counted as a negative of the other's. A
key has the label of the records that list it as a positive; of other keys nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.counts import counted
from zh_embedder.core.hashing import text_identity
from zh_embedder.data.records import TaskDataset, column, limit_rows

ROWS = 1024  # records whose texts are in memory at once
SAMPLE, PER_LABEL = 4096, 20  # records looked at for a hint, and how many of them share an answer where it is given
NO_LABEL = 0

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AnswerLabels:
    """Labels of a dataset's records and keys, as identities; `NO_LABEL` where nothing is known."""

    records: Ints  # (n,) of each record
    keys: Ints  # (k,) identities of the texts of all known positives, sorted
    key_labels: Ints  # (k,) of each of them; `NO_LABEL` where records of different labels list it

    def of_keys(self, texts: Sequence[int]) -> list[int]:
        """Return the label of each text."""
        found = np.asarray(texts, np.int64)
        places = np.minimum(np.searchsorted(self.keys, found), len(self.keys) - 1)
        return [int(label) for label in np.where(self.keys[places] == found, self.key_labels[places], NO_LABEL)]

    def of_key(self, text: int) -> int:
        """Return the label of one text."""
        return self.of_keys([text])[0]


def answer_labels(dataset: TaskDataset) -> tuple[AnswerLabels | None, list[str]]:
    """Read the labels of a dataset of queries with keys.

    Returns:
        The labels, None where no two records have the same `answers`; and what is to be logged about them.
    """
    records = np.fromiter((label for label, _, _ in _rows(dataset)), np.int64, len(dataset))
    found, sizes = np.unique(records[records != NO_LABEL], return_counts=True)
    if not (sizes > 1).any():
        return None, []
    labels = AnswerLabels(records, *_labels_of_keys(dataset))
    both = sum(
        labels.of_keys([text_identity(text) for text in neg]).count(label)
        for label, _, neg in _rows(dataset, negatives=True)
        if label != NO_LABEL and neg
    )
    notes = [f"answers are labels: {counted(len(found), 'label')}, no negatives of each other (--label_tasks)"]
    if unlabelled := int((records == NO_LABEL).sum()):
        notes.append(f"{counted(unlabelled, 'record')} without answers: only texts tell their positives")
    if both:
        notes.append(f"{counted(both, 'negative')} with the answers of the record itself: kept, as the record lists it")
    return labels, notes


def label_hint(dataset: TaskDataset) -> list[str]:
    """Return a note where a dataset's answers look like class labels: few of them, for many records."""
    looked_at = limit_rows(dataset, SAMPLE, seed=0)
    found = [label for label in (label for label, _, _ in _rows(looked_at)) if label != NO_LABEL]
    if len(found) < PER_LABEL * max(2, len(set(found))):
        return []
    many = f"{counted(len(found), 'record')} with {counted(len(set(found)), 'different answer')}"
    return [f"{many}: if those are class labels, add the task to --label_tasks"]


def _rows(dataset: TaskDataset, *, negatives: bool = False) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield each record's label, its positives and, if asked for, its negatives."""
    for part in dataset.parts:
        answers, pos, neg = (column(part.table, name) for name in ("answers", "pos", "neg"))
        for first in range(0, len(part.rows), ROWS):
            rows = part.rows[first : first + ROWS]
            some = [part_of.take(rows).to_pylist() for part_of in (answers, pos)]
            others: list[Any] = neg.take(rows).to_pylist() if negatives else [[]] * len(rows)
            for own, positives, texts in zip(*some, others, strict=True):
                yield label_of(own, dataset.name), positives, texts


def label_of(answers: Sequence[str] | None, dataset: str) -> int:
    """Return the identity of a record's answers, in any order; two datasets have no label in common."""
    if not answers:
        return NO_LABEL
    return text_identity(json.dumps([dataset, *sorted(set(answers))]))


def _labels_of_keys(dataset: TaskDataset) -> tuple[Ints, Ints]:
    """Identities of all known positives, sorted, and the label of each."""
    pairs = [(text_identity(text), label) for label, pos, _ in _rows(dataset) if label != NO_LABEL for text in pos]
    texts, labels = np.asarray(pairs, np.int64).reshape(-1, 2).T
    order = np.lexsort((labels, texts))
    texts, labels = texts[order], labels[order]
    keys, starts = np.unique(texts, return_index=True)
    ends = np.append(starts[1:], len(texts)) - 1
    return keys, np.where(labels[starts] == labels[ends], labels[starts], NO_LABEL)
