"""Score cache, by the hash of all that decides a score: one SQLite file, and one of each rank while they work.

OUT.scores.sqlite          read by all ranks, written by the first alone while the others wait
OUT.scores.sqlite.rank-1   what rank 1 scores; goes into the file above at the end, or when the next run starts
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from zh_embedder.core.errors import UserError, reading, reject

SUFFIX = ".scores.sqlite"  # behind the name of the records
TABLE = "CREATE TABLE IF NOT EXISTS scores (name BLOB PRIMARY KEY, score REAL) WITHOUT ROWID"
BLOCK = 1 << 16  # rows moved at a time
ASK = "SELECT score FROM scores WHERE name = ?"


class Cache:
    """Scores in one file, and those of an older one that is only read."""

    def __init__(self, path: Path, older: Path | None = None) -> None:
        """Open it, made where missing.

        Raises:
            UserError: the file is no cache of scores, or cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with self.naming():
            self.base = sqlite3.connect(path)
            self.base.execute(TABLE)
            columns = [row[1] for row in self.base.execute("PRAGMA table_info(scores)")]
        if columns != ["name", "score"]:
            raise reject(str(path), f"a database with {', '.join(columns)} in `scores`", "a cache of scores")
        self.readable = [self.base]
        if older is not None:
            self.readable.append(sqlite3.connect(f"file:{quote(str(older))}?mode=ro", uri=True))

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Name the file in what SQLite says of it.

        Raises:
            UserError: `PATH: what is wrong`.
        """
        try:
            with reading(self.path):
                yield
        except UserError as error:
            raise UserError(f"{error}; remove the file to score anew, or name another one with --cache") from None

    def get(self, names: Sequence[bytes]) -> dict[bytes, float]:
        """Scores of those names that are known."""
        found = {}
        with self.naming():
            for name in names:
                rows = (base.execute(ASK, (name,)).fetchone() for base in self.readable)
                if (row := next(filter(None, rows), None)) is not None:
                    found[name] = float(row[0])
        return found

    def put(self, scores: Mapping[bytes, float]) -> None:
        """Keep scores, all or none of them."""
        with self.naming(), self.base:
            self.base.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", scores.items())

    def close(self) -> None:
        """Close the files."""
        for base in self.readable:
            base.close()


def file_of_rank(path: Path, rank: int) -> Path:
    """Where a rank keeps what it scores until all have done their share."""
    return path.with_name(f"{path.name}.rank-{rank}")


def take_in(path: Path) -> int:
    """Move the scores of all ranks, of this run or of one that was killed, into the file that stays.

    Returns:
        How many there were.
    """
    count = 0
    for own in sorted(path.parent.glob(f"{path.name}.rank-*")):
        if own.suffix.removeprefix(".rank-").isdecimal():  # not a journal next to it
            with closing(Cache(own)) as theirs, closing(Cache(path)) as ours:  # opening rolls a broken journal back
                all_rows = theirs.base.execute("SELECT name, score FROM scores")
                while rows := all_rows.fetchmany(BLOCK):
                    ours.put(dict(rows))
                    count += len(rows)
            own.unlink()
    return count
