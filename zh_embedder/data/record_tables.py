"""Record tables: files of records as checked Arrow tables, memory-mapped, cached by content, prepared once."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import closing, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import MAX_SHOWN, UserError, summarise
from zh_embedder.core.files import beside_file, renamed
from zh_embedder.core.hashing import file_hash, hash_of
from zh_embedder.core.locks import one_at_a_time
from zh_embedder.core.parallel import in_order, processes_for
from zh_embedder.core.progress import Bar
from zh_embedder.core.user_cache import user_cache
from zh_embedder.data.schema import parse_line
from zh_embedder.data.sources import BLOCK_BYTES, COMPRESSIONS, Block, block_lines, read_blocks

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset as ArrowTable

logger = logging.getLogger(__name__)

SCHEMA = "2"  # part of every content hash, which runs keep: with another, no older run can be resumed
COLUMNS = "answers"  # in the names of tables: a change of their columns must not find old ones
CLOCK_TICK = 2.0  # seconds in which a file may change twice and have the same times


def cache_folder(given: str | None, kind: str = "records") -> Path:
    """Return where prepared tables live: the flag, else $ZH_EMBEDDER_CACHE, else ~/.cache/zh_embedder."""
    return user_cache(given) / kind


@lru_cache(maxsize=1024)
def _hash(path: Path, _size: int, _modified: int) -> str:
    compression = path.suffix if path.suffix in COMPRESSIONS else ""  # the same bytes read differently
    return file_hash(path, salt=f"{SCHEMA}{compression}".encode())


def content_hash(path: Path) -> str:
    """Hash of a file's bytes and of the row format."""
    stat = path.stat()
    return _hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


def memo_of(path: Path, cache: Path) -> Path:
    """Return where the hash of a file is kept, so that no run reads it through only to learn that it is the same.

    A file that changes gets another place: no program can set the time at which its inode last changed.
    """
    stat = path.stat()
    seen = (SCHEMA, str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return cache.with_name("hashes") / hash_of(repr(seen).encode())


@lru_cache(maxsize=1)
def row_schema() -> pa.Schema:
    """Return the Arrow schema of rows."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    features = Features(
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
            "group": text,
            "answers": List(text),
        }
    )
    return features.arrow_schema


class Wrong:
    """What is wrong with the lines of a file: what many lines share is one message, with the first of them."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}  # what is wrong -> the message of the first line that has it
        self.lines: Counter[str] = Counter()  # what is wrong -> how many lines have it
        self.unnamed = 0  # lines with other mistakes than the first `MAX_SHOWN`

    def add(self, what: str, message: str, count: int = 1) -> None:
        """Count lines with a mistake."""
        if what not in self.first and len(self.first) == MAX_SHOWN:
            self.unnamed += count
            return
        self.first.setdefault(what, message)
        self.lines[what] += count

    def merge(self, later: Wrong) -> None:
        """Add what is wrong with later lines."""
        for what, message in later.first.items():
            self.add(what, message, later.lines[what])
        self.unnamed += later.unnamed

    def messages(self) -> list[str]:
        """One message for each mistake, and in how many more lines it is."""
        more = {what: count - 1 for what, count in self.lines.items()}
        return [
            message + (f" (and in {counted(more[what], 'more line')})" if more[what] else "")
            for what, message in self.first.items()
        ]


class Parsed(NamedTuple):
    """What the lines of a block came to."""

    rows: pa.RecordBatch | None  # None where a line is wrong
    written: int
    blank: int
    wrong: int
    messages: Wrong
    ignored: set[str]
    ends: bool  # the file cannot be read on


def parse_block(path: Path, block: Block | UserError) -> Parsed:
    """Check the lines of a block and lay their rows out as the table has them."""
    import pyarrow as pa

    if isinstance(block, UserError):
        found = Wrong()
        found.add(str(block), str(block))
        return Parsed(None, 0, 0, 1, found, set(), ends=True)
    rows: list[dict[str, Any]] = []
    messages, wrong = Wrong(), 0
    ignored: set[str] = set()
    blank, ends = 0, False
    for number, text in block_lines(path, block):
        try:
            if isinstance(text, UserError):
                ends = True
                raise text
            if not text:
                blank += 1
                continue
            row, unknown = parse_line(text, f"{path}:{number}")
        except UserError as error:
            message, wrong = str(error), wrong + 1
            messages.add(message.removeprefix(f"{path}:{number}: "), message)
            continue
        row["line"] = number
        rows.append(row)
        ignored |= unknown
    laid_out = None if wrong else pa.RecordBatch.from_pylist(rows, schema=row_schema())
    return Parsed(laid_out, len(rows), blank, wrong, messages, ignored, ends)


def write_table(path: Path, target: Path) -> None:
    """Check every line of a file and write its rows as an Arrow file; nothing is written where a line is wrong.

    Raises:
        UserError: up to 20 messages with file and line, equal ones as one, then how many more there are.
    """
    import pyarrow as pa

    found = Wrong()
    wrong = blank = written = 0
    ignored: set[str] = set()
    pieces = path.stat().st_size // BLOCK_BYTES
    parsed = in_order(partial(parse_block, path), read_blocks(path), processes=processes_for(pieces))
    bar = Bar(name=f"reading {path.name}", unit="records")
    # Of its own even under the lock: some network file systems only pretend to have locks.
    with renamed(target) as written_to:
        with closing(parsed), pa.ipc.new_stream(str(written_to), row_schema()) as writer, bar:
            for block in parsed:
                bar.update(block.written)
                blank, wrong, written = blank + block.blank, wrong + block.wrong, written + block.written
                found.merge(block.messages)
                ignored |= block.ignored
                if not wrong and block.rows is not None:
                    writer.write_batch(block.rows)
                if block.ends:
                    break
        if not wrong and not written:
            raise UserError(f"{path}: the file holds no records")
        if wrong:
            messages = found.messages()
            raise summarise(messages, total=len(messages) + found.unnamed)
    if blank:
        logger.info("%s: %d blank lines skipped", path, blank)
    if ignored:
        logger.info("%s: fields that training does not use: %s", path, ", ".join(sorted(ignored)))


def load_table(path: Path, cache: Path) -> tuple[ArrowTable, str]:
    """Return a file's rows as a memory-mapped table, prepared once by whichever process comes first, and its hash.

    Ranks need no word from each other: the file's content names the table, and a lock makes the others wait.
    """
    from datasets import Dataset

    memo, seen = memo_of(path, cache), time.time()
    content = memo.read_text("utf-8") if memo.is_file() else content_hash(path)
    target = cache / f"{content}_{COLUMNS}.arrow"
    if not target.is_file():
        with one_at_a_time(target.with_suffix(".lock")):
            if not target.is_file():
                write_table(path, target)
    if not memo.is_file() and path.stat().st_ctime < seen - CLOCK_TICK:
        with suppress(OSError):  # a cache that may only be read serves too
            beside_file(memo, content)
    return Dataset.from_file(str(target)), content
