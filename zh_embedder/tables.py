"""Files of records as checked Arrow tables: memory-mapped, cached by content, prepared once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from zh_embedder.errors import MAX_SHOWN, UserError, summarise
from zh_embedder.sources import COMPRESSIONS, read_lines
from zh_embedder.validation import parse_line

if TYPE_CHECKING:
    from datasets import Dataset as ArrowTable
    from datasets import Features
    from filelock import FileLock

logger = logging.getLogger(__name__)

SCHEMA = "1"  # part of every cache key: a change of the row format must not find old tables
ROWS_PER_WRITE = 2000
LOCK_TRIES = 100


def cache_folder(given: str | None, kind: str = "records") -> Path:
    """Return where prepared tables live: the flag, else $ZH_EMBEDDER_CACHE, else ~/.cache/zh_embedder."""
    chosen = given or os.environ.get("ZH_EMBEDDER_CACHE") or str(Path("~/.cache/zh_embedder").expanduser())
    return Path(chosen) / kind


@lru_cache(maxsize=1024)
def _hash(path: Path, _size: int, _modified: int) -> str:
    digest = hashlib.blake2b(SCHEMA.encode(), digest_size=16)
    digest.update(path.suffix.encode() if path.suffix in COMPRESSIONS else b"")  # the same bytes read differently
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """Hash of a file's bytes and of the row format."""
    stat = path.stat()
    return _hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


def features() -> Features:
    """Return the Arrow schema of rows."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    return Features(
        {
            "line": Value("int64"),
            "kind": text,
            "task": text,
            "query": text,
            "pos": List(Value("large_string")),
            "neg": List(Value("large_string")),
            "prompt": text,
            "teacher_scores": List(number),
            "score": number,
            "label": text,
        }
    )


def write_table(path: Path, target: Path) -> None:
    """Check every line of a file and write its rows as an Arrow file; nothing is written where a line is wrong.

    Raises:
        UserError: up to 20 messages with file and line, then how many more there are.
    """
    from datasets.arrow_writer import ArrowWriter
    from tqdm.auto import tqdm

    messages: list[str] = []
    wrong = blank = written = 0
    ignored: set[str] = set()
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    writer = ArrowWriter(path=str(beside), features=features(), writer_batch_size=ROWS_PER_WRITE)
    try:
        for number, text in tqdm(read_lines(path), desc=f"reading {path.name}", unit=" records", delay=5, leave=False):
            try:
                if isinstance(text, UserError):
                    raise text
                if not text:
                    blank += 1
                    continue
                row, unknown = parse_line(text, f"{path}:{number}")
            except UserError as error:
                wrong += 1
                if len(messages) < MAX_SHOWN:
                    messages.append(str(error))
                continue
            ignored |= unknown
            if not wrong:
                writer.write({**row, "line": number})
                written += 1
        if not wrong and not written:
            messages, wrong = [f"{path}: the file holds no records"], 1
        if wrong:
            raise summarise(messages, total=wrong)
        writer.finalize()
        beside.rename(target)
    finally:
        writer.close()
        beside.unlink(missing_ok=True)
    if blank:
        logger.info("%s: %d blank lines skipped", path, blank)
    if ignored:
        logger.info("%s: fields that training does not use: %s", path, ", ".join(sorted(ignored)))


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Let one process of a machine work while the others wait for it; leaves nothing behind where the work fails."""
    from filelock import FileLock

    held = FileLock(lock)
    created = acquire(held, lock.parent)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # a process that waits for it looks again whether the work is done
        with suppress(OSError):  # a folder that is not empty stays
            for folder in created:
                folder.rmdir()
        held.release()


def acquire(lock: FileLock, folder: Path) -> list[Path]:
    """Take a lock, making its folder; returns the folders that were made, the innermost first."""
    for _ in range(LOCK_TRIES):
        try:
            created = [f for f in (folder, *folder.parents) if not f.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except FileNotFoundError as error:  # a process that failed has taken the folder away while this one waited
            missing = error
        else:
            return created
    raise missing


def load_table(path: Path, cache: Path) -> ArrowTable:
    """Return a file's rows as a memory-mapped table, prepared once by whichever process comes first.

    Ranks need no word from each other: the file's content names the table, and a lock makes the others wait.
    """
    from datasets import Dataset

    target = cache / f"{content_hash(path)}.arrow"
    if not target.is_file():
        with one_at_a_time(target.with_suffix(".lock")):
            if not target.is_file():
                write_table(path, target)
    return Dataset.from_file(str(target))
