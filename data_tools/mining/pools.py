"""Key pools: every candidate once, in a file that is read line by line, and the positives of all records.

    texts/keys.jsonl    {"id": "0", "text": ...}, a key a line; row r of a pool is line r
    texts/starts.npy    (K + 1,) where each line begins, so that any key is read without the others

In memory there are 8 bytes for each key while the file is mapped, and the hash of each key while it is written.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.shared.record_files import read_records
from zh_embedder.core.arrays import save_array
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import beside
from zh_embedder.core.hashing import text_hash
from zh_embedder.data.schema import group_row
from zh_embedder.data.sources import kind, read_lines
from zh_embedder.data.text_files import TEXT_FILE, Reader
from zh_embedder.text.words import fold, letters

KEYS, STARTS = "keys.jsonl", "starts.npy"
CACHED = 8192  # texts: a block's queries and their neighbours are looked at again and again


@dataclass(frozen=True, slots=True)
class MiningRecord:
    """A line of the input."""

    number: int  # among all records of all files
    where: str
    raw: dict[str, Any]
    pos: list[str]
    neg: list[str]

    @property
    def query(self) -> str:
        """What is searched with."""
        return str(self.raw["query"])

    @property
    def task(self) -> str | None:
        """Its task, if it says one."""
        return self.raw.get("task")

    @property
    def answers(self) -> list[str]:
        """Texts that a negative should not hold."""
        return [answer for answer in self.raw.get("answers") or [] if answer]


def records_of(files: Sequence[Path], *, show_progress: bool = False) -> Iterator[MiningRecord]:
    """Yield the records of all files in their order.

    Raises:
        UserError: a line is wrong, or has no positive to mine for.
    """
    number = 0
    for path in files:
        for where, raw in read_records(path, show_progress=show_progress):
            row = group_row(raw, where)
            if not row["pos"]:
                raise reject(f"{where}: pos", raw.get("pos"), "at least one text: negatives are mined for a positive")
            yield MiningRecord(number, where, raw, row["pos"], row["neg"])
            number += 1


@lru_cache(maxsize=CACHED)
def normalised(text: str) -> str:
    """Return letters and digits alone, folded (NFKC, lower case); a text without any stays as it is folded."""
    return letters(text) or fold(text)


@dataclass(frozen=True, slots=True)
class PositiveIndex:
    """What one pass over the records tells."""

    records: int
    tasks: tuple[str | None, ...]  # in the order in which they come
    positives: dict[int, set[int]]  # hash of a query -> hashes of the positives of all its records
    every: frozenset[int]  # hashes of the positives of all queries

    def answers(self, text: str) -> bool:
        """Whether a key is the positive of any record."""
        return text_hash(normalised(text)) in self.every

    def of(self, query: str) -> set[int]:
        """Hashes of the normalised positives of all records with this query, in any file."""
        return self.positives.get(text_hash(normalised(query)), set())


def scan(files: Sequence[Path], *, show_progress: bool = False) -> PositiveIndex:
    """Read all records once: are they right, which tasks are there, and what is positive for whom.

    Raises:
        UserError: a line is wrong, or there are no records.
    """
    positives: dict[int, set[int]] = {}
    tasks: dict[str | None, None] = {}
    count = 0
    for record in records_of(files, show_progress=show_progress):
        own = positives.setdefault(text_hash(normalised(record.query)), set())
        own.update(text_hash(normalised(text)) for text in record.pos)
        tasks[record.task] = None
        count += 1
    if not count:
        raise UserError(f"FILES: no records in {', '.join(map(str, files))}")
    return PositiveIndex(count, tuple(tasks), positives, frozenset().union(*positives.values()))


def texts_of(files: Sequence[Path], task: str | None) -> Iterator[str]:
    """Yield the keys of a task's records: all pos and neg."""
    for record in records_of(files):
        if record.task == task:
            yield from record.pos
            yield from record.neg


def corpus_texts(files: Sequence[Path]) -> Iterator[str]:
    """Yield the keys of corpus files: `text`, the title in front, or a line of a .txt file."""
    reader = Reader(files, with_title=True)
    for path in files:
        plain = kind(path) == TEXT_FILE
        for number, line in read_lines(path):
            if line:
                yield reader.parse(line, f"{path}:{number}", plain=plain)[1]


def write_texts(folder: Path, texts: Iterable[str], where: str = "corpus") -> int:
    """Write each text once, in the order in which they first come; returns how many.

    Raises:
        UserError: there are none.
    """
    seen: set[int] = set()
    starts = array("q", [0])
    with beside(folder) as partial:
        with (partial / KEYS).open("wb") as stream:
            for text in texts:
                name = text_hash(text)
                if name in seen:
                    continue
                row = {"id": str(len(seen)), "text": text}
                seen.add(name)
                starts.append(starts[-1] + stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n"))
        if not seen:
            raise UserError(f"{where}: there are no keys to mine from")
        with (partial / STARTS).open("wb") as stream:
            save_array(stream, np.asarray(starts))
    return len(seen)


class Texts:
    """The keys of a pool, read from the disk one by one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / KEYS
        self.starts = np.load(folder / STARTS)
        with self.path.open("rb") as stream:
            self.raw = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> str:
        """Return the text of a key."""
        return str(json.loads(self.raw[self.starts[row] : self.starts[row + 1]])["text"])

    def __iter__(self) -> Iterator[str]:
        """Yield all keys."""
        return (self[row] for row in range(len(self)))
