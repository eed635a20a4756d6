"""Datasets of training files: the records of one task in one file, as rows of its memory-mapped table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import MAX_SHOWN, UserError, summarise
from zh_embedder.data.record_tables import cache_folder, load_table

if TYPE_CHECKING:
    from datasets import Dataset as ArrowTable


SCORES_SAMPLE = 4096  # records whose teacher scores are looked at before training


@dataclass(frozen=True, slots=True)
class Record:
    """One training record, as the file has it."""

    query: str
    pos: Sequence[str]
    neg: Sequence[str]
    teacher_scores: Sequence[float] | None = None  # pos then neg
    prompt: str | None = None  # this record's own query instruction
    score: float | None = None  # of a pair: how alike `query` and its one positive are
    label: str | None = None  # of a labelled text, which is `query`

    @property
    def candidates(self) -> list[str]:
        """Positives then negatives."""
        return [*self.pos, *self.neg]


RECORD_COLUMNS = tuple(f.name for f in fields(Record))


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one table that belong to one dataset."""

    table: ArrowTable
    rows: NDArray[np.int64]
    content: str  # hash of the file that the table was made of


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDataset:
    """The records of one task in one data file (or in several small ones, merged)."""

    name: str
    task: str | None  # None: records without a task
    kind: str
    path: str
    parts: tuple[Part, ...]
    in_batch_negatives: bool = True
    has_teacher: bool = False  # every record has teacher scores
    some_teacher: bool = False
    has_negatives: bool = False  # some record has negatives of its own
    has_history: bool = False  # some record leaves its positive to the teacher

    def __len__(self) -> int:
        """Return the number of records."""
        return sum(len(part.rows) for part in self.parts)

    def __getitem__(self, row: int) -> Record:
        """Read one record."""
        for part in self.parts:
            if row < len(part.rows):
                raw = part.table[int(part.rows[row])]
                return Record(*(raw[name] for name in RECORD_COLUMNS))
            row -= len(part.rows)
        raise IndexError(row)

    def read(self, rows: Sequence[int]) -> list[Record]:
        """Read many records at once, four times as fast as one by one."""
        found: dict[int, Record] = {}
        first = 0
        for part in self.parts:
            here = [row for row in rows if first <= row < first + len(part.rows)]
            raw = part.table[part.rows[np.asarray(here, np.int64) - first].tolist()]
            records = zip(*(raw[name] for name in RECORD_COLUMNS), strict=True)
            found |= {row: Record(*record) for row, record in zip(here, records, strict=True)}
            first += len(part.rows)
        return [found[row] for row in rows]

    def line(self, row: int) -> int:
        """Line of a record in its file."""
        for part in self.parts:
            if row < len(part.rows):
                return int(part.table[int(part.rows[row])]["line"])
            row -= len(part.rows)
        raise IndexError(row)


def column(table: ArrowTable, name: str) -> Any:
    """One column as an Arrow array."""
    return table.data.column(name)


def list_lengths(table: ArrowTable, name: str) -> NDArray[np.int64]:
    """Length of each row's list; 0 where it is absent."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(column(table, name)), 0)).astype(np.int64)


def found_in(parts: Sequence[Part]) -> dict[str, bool]:
    """What the records of a dataset have: the flags of `TaskDataset`."""
    names = ("pos", "neg", "teacher_scores")
    pos, neg, scores = (np.concatenate([list_lengths(p.table, name)[p.rows] for p in parts]) for name in names)
    return {
        "has_teacher": bool((scores > 0).all()),
        "some_teacher": bool((scores > 0).any()),
        "has_negatives": bool((neg > 0).any()),
        "has_history": bool((pos == 0).any()),
    }


def with_parts(dataset: TaskDataset, parts: Sequence[Part], *, name: str | None = None) -> TaskDataset:
    """Return the dataset with other rows."""
    changes: dict[str, Any] = {"name": name or dataset.name, "parts": tuple(parts), **found_in(parts)}
    return replace(dataset, **changes)


def split_tasks(path: Path, table: ArrowTable, name: str, *, content: str) -> list[TaskDataset]:
    """Return the datasets of one file: one for each (task, kind) in it, in order of first appearance."""
    import pyarrow.compute as pc

    joined = pc.binary_join_element_wise(pc.fill_null(column(table, "task"), ""), column(table, "kind"), "\t")
    encoded = joined.combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices)
    found = []
    for code, both in enumerate(encoded.dictionary.to_pylist()):
        task, kind = both.rsplit("\t", 1)
        parts = (Part(table, np.flatnonzero(codes == code), content),)
        found.append(
            TaskDataset(
                name=f"{task or 'no task'}:{name}",
                task=task or None,
                kind=kind,
                path=str(path),
                parts=parts,
                in_batch_negatives=not in_folder_without_in_batch(path),
                **found_in(parts),
            )
        )
    return found


def in_folder_without_in_batch(path: Path) -> bool:
    """FlagEmbedding's rule: a file or folder name ending in `no_in_batch_neg` switches in-batch negatives off."""
    stem = path.name.split(".")[0]
    return stem.endswith("no_in_batch_neg") or path.parent.name.endswith("no_in_batch_neg")


def load_datasets(files: Sequence[Path], *, cache_dir: str | None) -> list[TaskDataset]:
    """Load files as datasets: one for each task in each file; a file given twice gives two.

    Raises:
        UserError: the wrong lines of all files, up to 20 of them, then how many more there are.
    """
    cache, messages, found = cache_folder(cache_dir), [], []
    wrong = 0
    for path, name in zip(files, short_names(files), strict=True):
        try:
            table, content = load_table(path, cache)
            found.extend(split_tasks(path, table, name, content=content))
        except UserError as error:
            messages.extend(str(error).split("\n")[:MAX_SHOWN])
            wrong += error.total
    if messages:
        raise summarise(messages, total=wrong)
    return found


def short_names(files: Sequence[Path]) -> list[str]:
    """Return the shortest tails of the paths that tell different files apart; a repeated file gets a number."""
    depth = 1
    distinct = list(dict.fromkeys(files))
    while depth < 6 and len({path.parts[-depth:] for path in distinct}) < len(distinct):
        depth += 1
    names, seen = [], dict.fromkeys(distinct, 0)
    for path in files:
        seen[path] += 1
        tail = "/".join(path.parts[-depth:])
        names.append(tail if seen[path] == 1 else f"{tail} ({seen[path]})")
    return names


def score_range(dataset: TaskDataset) -> tuple[float, float]:
    """Lowest and highest score of a dataset's pairs."""
    import pyarrow.compute as pc

    found = [pc.min_max(column(part.table, "score").take(part.rows)) for part in dataset.parts]
    return min(f["min"].as_py() for f in found), max(f["max"].as_py() for f in found)


def scores_sample(dataset: TaskDataset) -> list[list[float]]:
    """Teacher scores of up to `SCORES_SAMPLE` of a dataset's records, drawn evenly."""
    kept = limit_rows(dataset, SCORES_SAMPLE, seed=0)
    return [s for part in kept.parts for s in column(part.table, "teacher_scores").take(part.rows).to_pylist()]


def filter_scores(dataset: TaskDataset, *, minimum: float | None, margin: float | None) -> TaskDataset:
    """Drop records whose best teacher score is below `minimum`, or whose best and worst differ by less than `margin`.

    Records without scores stay: there is nothing to judge them by.
    """
    if minimum is None and margin is None:
        return dataset
    kept = []
    for part in dataset.parts:
        scores = column(part.table, "teacher_scores").take(part.rows).to_pylist()
        keep = [
            not s or ((minimum is None or max(s) >= minimum) and (margin is None or max(s) - min(s) >= margin))
            for s in scores
        ]
        kept.append(replace(part, rows=part.rows[np.asarray(keep, bool)]))
    return with_parts(dataset, kept)


def limit_rows(dataset: TaskDataset, count: int | None, *, seed: int) -> TaskDataset:
    """Keep `count` records drawn at random, in file order."""
    if count is None or len(dataset) <= count:
        return dataset
    drawn = np.sort(np.random.default_rng((seed, len(dataset))).choice(len(dataset), size=count, replace=False))
    kept, start = [], 0
    for part in dataset.parts:
        inside = drawn[(drawn >= start) & (drawn < start + len(part.rows))] - start
        kept.append(replace(part, rows=part.rows[inside]))
        start += len(part.rows)
    return with_parts(dataset, kept)


def merge_small(datasets: Sequence[TaskDataset], *, small: int, drop: int) -> tuple[list[TaskDataset], list[str]]:
    """FlagEmbedding's `small_threshold` and `drop_threshold`.

    The datasets of one folder and task with fewer than `small` records become one; a merged one below `drop` records is
    dropped.

    Returns:
        The datasets, and a line for everything that was merged or dropped.
    """
    kept: list[TaskDataset] = []
    small_ones: dict[tuple[str, str | None, str, bool], list[TaskDataset]] = {}
    for dataset in datasets:
        if len(dataset) >= small:
            kept.append(dataset)
        else:
            key = (str(Path(dataset.path).parent), dataset.task, dataset.kind, dataset.in_batch_negatives)
            small_ones.setdefault(key, []).append(dataset)
    notes = []
    for (folder, task, _, _), group in small_ones.items():
        name = f"{task or 'no task'}:{Path(folder).name} ({len(group)} small files)" if len(group) > 1 else None
        merged = with_parts(group[0], [part for dataset in group for part in dataset.parts], name=name)
        if len(merged) < drop:
            notes.append(f"drop_threshold {drop}: {merged.name} dropped, {counted(len(merged), 'record')}")
            continue
        if len(group) > 1:
            notes.append(f"small_threshold {small}: {merged.name} holds {', '.join(d.name for d in group)}")
        kept.append(merged)
    return kept, notes
