"""Teacher vectors on disk: found by the identity of a text, memory-mapped, written shard by shard.

A folder holds the vectors that one teacher makes with one prompt. A shard is two files, `NAME.npy` with the rows and
`NAME.texts.npy` with the identities of their texts; the second is written last: where it is, the shard is whole. Its
name is a hash of the identities, so that making it again makes the same files. Shapes: N texts, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.arrays import save_array
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import renamed
from zh_embedder.core.hashing import hash_of, text_identity
from zh_embedder.core.locks import one_at_a_time
from zh_embedder.core.progress import Bar
from zh_embedder.data.records import Record, TaskDataset
from zh_embedder.data.schema import TEXT

Vectors = NDArray[np.float32]
Texts = NDArray[np.int64]  # identities of texts
FORMAT = "1"  # part of every name: a change of the layout must not find old files
TEXTS = ".texts.npy"
BLOCK = 512  # records that are read together
QUERY, KEY = 0, 1  # sides


# ---- reading --------------------------------------------------------------------------------------------------------


class VectorTable:
    """Vectors of many texts, found by the identities of the texts."""

    def __init__(self, shards: Sequence[tuple[Texts, NDArray[Any]]]) -> None:
        """Lay shards end to end: identities (N,), rows (N, D) that stay on the disk."""
        self.shards = tuple(shards)
        self.ends = np.cumsum([len(texts) for texts, _ in shards])
        every = np.concatenate([np.empty(0, np.int64), *(texts for texts, _ in shards)])
        self.texts, self.places = np.unique(every, return_index=True)

    def __reduce__(self) -> Any:
        """Travel to another process by the names of the files."""
        return reopened, ([(np.asarray(texts), mapped(rows)) for texts, rows in self.shards],)

    @property
    def dimension(self) -> int | None:
        """Dimensions of a vector; None where there are no shards."""
        return self.shards[0][1].shape[1] if self.shards else None

    def lacks(self, texts: Texts) -> Texts:
        """Those of some texts that it has no vector of."""
        return np.setdiff1d(texts, self.texts)

    def take(self, texts: Texts) -> Vectors:
        """Vectors of texts, (N,) -> (N, D).

        Raises:
            KeyError: there is none of a text.
        """
        found = np.searchsorted(self.texts, texts).clip(max=max(0, len(self.texts) - 1))
        if not len(self.texts) or (self.texts[found] != texts).any():
            raise KeyError("a text without a vector")
        places = self.places[found]
        shard = np.searchsorted(self.ends, places, side="right")
        out = np.empty((len(texts), self.dimension or 0), np.float32)
        for index in np.unique(shard):
            here = shard == index
            own, rows = self.shards[index]
            out[here] = rows[places[here] - (self.ends[index] - len(own))]
        return out


def mapped(rows: NDArray[Any]) -> tuple[str, str, int, tuple[int, ...]] | NDArray[Any]:
    """What opens a memory-mapped array again; another array stays itself."""
    if isinstance(rows, np.memmap) and rows.filename is not None:
        return str(rows.filename), rows.dtype.str, rows.offset, rows.shape
    return rows


def reopened(shards: Sequence[tuple[Texts, Any]]) -> VectorTable:
    """Open a table in another process."""

    def rows(found: Any) -> NDArray[Any]:
        if isinstance(found, np.ndarray):
            return found
        name, dtype, offset, shape = found
        return np.memmap(name, dtype, "r", offset, shape)

    return VectorTable([(texts, rows(found)) for texts, found in shards])


def open_table(folder: Path) -> VectorTable:
    """Open the shards of a folder that are whole; there may be none.

    Raises:
        UserError: a file is not what was written.
    """
    shards = []
    for path in sorted(folder.glob(f"*{TEXTS}")):
        try:
            texts = np.load(path)
            rows = np.load(path.with_name(path.name.removesuffix(TEXTS) + ".npy"), mmap_mode="r")
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise UserError(f"{path}: is torn: {error}; remove the folder to make its vectors again") from None
        if rows.ndim != 2 or len(rows) != len(texts):
            raise UserError(f"{path}: got {len(texts)} texts and rows {rows.shape}, expected as many of both")
        shards.append((texts, rows))
    return VectorTable(shards)


# ---- writing --------------------------------------------------------------------------------------------------------


def write_shard(folder: Path, texts: Texts, rows: Vectors) -> None:
    """Write a shard: rows (N, D) as float16, then the identities (N,) of their texts."""
    name = hash_of(texts.tobytes())
    for target, values in ((f"{name}.npy", rows.astype(np.float16)), (f"{name}{TEXTS}", texts)):
        with renamed(folder / target) as partial, partial.open("wb") as stream:
            save_array(stream, values)


# ---- texts of a dataset ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextsOf:
    """Identities of the texts of a dataset."""

    first: Texts  # (N,) of each record's query, or text
    keys: Texts  # (M,) of all keys, each once, sorted


def first_side(dataset: TaskDataset) -> int:
    """The side that the first text of the records is on."""
    return KEY if dataset.kind == TEXT else QUERY


def read_blocks(dataset: TaskDataset) -> Iterator[list[Record]]:
    """Yield the records of a dataset, some at a time."""
    for start in range(0, len(dataset), BLOCK):
        yield dataset.read(range(start, min(start + BLOCK, len(dataset))))


def texts_of(dataset: TaskDataset, cache: Path) -> TextsOf:
    """Return the identities of a dataset's texts, found once by whichever process comes first."""
    parts = [(part.content, hash_of(part.rows.tobytes())) for part in dataset.parts]
    target = cache / f"{hash_of(json.dumps([FORMAT, parts]).encode())}.npz"
    if not target.is_file():
        with one_at_a_time(target.with_suffix(".lock")):
            if not target.is_file():
                found = hash_texts(dataset)
                with renamed(target) as partial, partial.open("wb") as stream:
                    np.savez(stream, first=found.first, keys=found.keys)
    with np.load(target) as arrays:
        return TextsOf(arrays["first"], arrays["keys"])


def hash_texts(dataset: TaskDataset) -> TextsOf:
    """Hash every text of a dataset."""
    first: list[int] = []
    keys: set[int] = set()
    with Bar(len(dataset), name=f"texts of {dataset.name}", unit="records") as bar:
        for records in read_blocks(dataset):
            first += [text_identity(record.query) for record in records]
            keys.update(text_identity(text) for record in records for text in record.candidates)
            bar.advance(len(records))
    return TextsOf(np.asarray(first, np.int64), np.sort(np.fromiter(keys, np.int64, len(keys))))


def texts_on(dataset: TaskDataset, side: int, wanted: Texts) -> Iterator[tuple[int, str]]:
    """Yield (identity, text) of those texts of a side that are wanted, each once, in the order of the records."""
    left = set(wanted.tolist())
    for records in read_blocks(dataset):
        if not left:
            return
        for record in records:
            own = [record.query] * (side == first_side(dataset)) + record.candidates * (side == KEY)
            for text in own:
                identity = text_identity(text)
                if identity in left:
                    left.remove(identity)
                    yield identity, text


# ---- what training looks up -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherVectors:
    """A teacher's vectors of the texts of a dataset."""

    first: Texts  # (N,) identities of each record's query, or text
    queries: VectorTable  # of the side of the first texts
    keys: VectorTable
    dimension: int  # that vectors are cut to

    def of_row(self, row: int, key_texts: Sequence[int]) -> Vectors:
        """Vectors of a record's first text and of some keys, (1 + G, D)."""
        found = self.queries.take(self.first[row : row + 1])
        if key_texts:
            found = np.concatenate([found, self.keys.take(np.asarray(key_texts, np.int64))])
        return found[:, : self.dimension]
