"""Record files: JSON Lines read and written as streams, with progress, whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from zh_embedder.core.files import renamed
from zh_embedder.core.progress import with_bar
from zh_embedder.data.sources import find_files
from zh_embedder.evaluation.set_files import read_rows

EXAMPLE = '{"query": ..., "pos": [...], "task": ...}'


def find_records(specs: Sequence[str], *, flag: str = "FILES") -> list[Path]:
    """Turn files, folders and globs into data files, in the order given.

    Raises:
        UserError: nothing is there; the nearest name is offered.
    """
    return find_files(specs, data_root=None, flag=flag)


def read_records(path: Path, *, show_progress: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`path:line`, record) of a file, plain, .gz or .zst, blank lines left out.

    Raises:
        UserError: a line is no JSON object, or the file cannot be read.
    """
    rows = read_rows(path, EXAMPLE)
    yield from with_bar(rows, name=path.name, unit="records", shown=show_progress)


@contextmanager
def lines_to(path: Path) -> Iterator[IO[str]]:
    """Open a text file to write, compressed as its name says (.gz or .zst); it takes its place when all is written."""
    with renamed(path) as partial:
        if path.suffix == ".gz":
            # Neither time nor name in the header: equal records are equal bytes.
            with (
                partial.open("wb") as raw,
                gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8") as stream,
            ):
                yield stream
        elif path.suffix == ".zst":
            import pyarrow as pa

            with pa.output_stream(str(partial), compression="zstd") as raw:
                yield _Encoded(raw)  # type: ignore[misc]
        else:
            with partial.open("w", encoding="utf-8") as stream:
                yield stream


class _Encoded:
    """Text into a stream of bytes."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write a text."""
        self.raw.write(text.encode())
        return len(text)


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records, one a line; returns how many."""
    count = 0
    with lines_to(path) as stream:
        for record in records:
            stream.write(as_line(record))
            count += 1
    return count


def as_line(record: Mapping[str, Any]) -> str:
    """Lay a record out as its line, Chinese as it is."""
    return json.dumps(record, ensure_ascii=False) + "\n"
