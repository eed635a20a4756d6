"""Census of records: which belong together, by group, text or near-duplicate, in numbers and hashes alone."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.shared.minhash import Collection
from data_tools.shared.record_files import as_line, read_records
from zh_embedder.core.errors import UserError
from zh_embedder.core.hashing import text_hash
from zh_embedder.core.names import check_name
from zh_embedder.data.records import short_names
from zh_embedder.data.schema import Row, parse_line
from zh_embedder.data.source_groups import Unions

SLACK = 0.05  # an estimate from 128 hashes is off by 0.035: clusters take in what is nearly near enough


@dataclass(frozen=True, slots=True)
class Census:
    """What the first pass keeps of all records: numbers and hashes."""

    groups: NDArray[np.int64]  # (N,) records that belong together have one number
    datasets: NDArray[np.int64]  # (N,) which file and task
    names: Sequence[str]  # of the datasets
    keys: NDArray[np.uint64]  # (N,) hash of what a record holds, for an order that no file decides
    positives: Mapping[int, int]  # hash of a positive -> a record that has it; empty where it is not needed


def texts_of(row: Row) -> list[str]:
    """Return what must not be in two parts: a record's query and its positives."""
    return [text for text in (row["query"], *row["pos"]) if text]


def ties(row: Row, file: str) -> Iterator[str]:
    """Yield what ties a record to others."""
    if row["group"] is not None:
        yield f"group {file} {row['group']}"
    yield from (f"text {text.strip()}" for text in texts_of(row))


def content_key(row: Row, seed: int) -> int:
    """Hash what a record holds; the same in every process and on every machine."""
    return text_hash("\x1f".join([str(seed), *map(str, (row["task"], row["group"])), *texts_of(row)]))


def take_census(
    files: Sequence[Path],
    *,
    near: float | None,
    groups_per_file: bool,
    clean_negatives: bool,
    seed: int,
    named: bool = False,
) -> Census:
    """Read all records once.

    Args:
        files: of records.
        near: similarity from which texts belong together; None does not look.
        groups_per_file: a group's name counts within its file only.
        clean_negatives: keep which record has a positive.
        seed: of the order of records.
        named: a task becomes the name of a folder.
    """
    unions, datasets, keys = Unions(), array("q"), array("Q")
    names: dict[str, int] = {}
    tasks: set[str] = set()
    texts = Collection() if near is not None else None
    positives: dict[int, int] = {}
    for path, short in zip(files, short_names(files), strict=True):
        for where, raw in read_records(path):
            row, _ = parse_line(as_line(raw), where)
            if named and row["task"] is not None and row["task"] not in tasks:
                tasks.add(check_name(f"{where}: task", row["task"], what="a task"))
            index = unions.add(ties(row, short if groups_per_file else ""))
            datasets.append(names.setdefault(f"{short}:{row['task']}", len(names)))
            keys.append(content_key(row, seed))
            for text in texts_of(row) if texts is not None else ():
                texts.add(text, index)  # type: ignore[union-attr]
            if clean_negatives:
                positives |= {text_hash(text.strip()): index for text in row["pos"]}
    if not len(unions):
        raise UserError(f"FILES: no records in {', '.join(map(str, files))}")
    if near is not None and texts is not None:
        for one, other in texts.pairs(near - SLACK):
            unions.join(texts.owners[one], texts.owners[other])
    return Census(unions.roots(), np.asarray(datasets), list(names), np.asarray(keys, np.uint64), positives)
