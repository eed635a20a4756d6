"""Answer ledger: what an endpoint has answered, kept line by line as it comes, so that nothing is paid twice.

A line is written whole or, when the process is killed, cut: the cut one is dropped when the file is opened again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from data_tools.shared.record_files import as_line
from zh_embedder.core.errors import UserError
from zh_embedder.core.hashing import sha256_of

logger = logging.getLogger(__name__)

SUFFIX = ".ledger.jsonl"  # behind the name of the records
ANSWERED, REFUSED, GARBAGE = "answered", "refused", "garbage"
STATES = (ANSWERED, REFUSED, GARBAGE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What came of one request."""

    key: str  # of the request: see `request_key`
    passage: str
    task: str
    state: str
    text: str = ""  # the answer as it came, or why there is none
    prompt_tokens: int = 0  # of all attempts
    completion_tokens: int = 0
    estimated: bool = False  # the endpoint did not count tokens: characters are counted


def request_key(model: str, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> str:
    """Return a hash of all that decides an answer."""
    return sha256_of(json.dumps([model, messages, settings], sort_keys=True).encode())[:32]


class Ledger:
    """The file, open for one process."""

    def __init__(self, path: Path) -> None:
        """Open or make it.

        Raises:
            UserError: a line is no entry, or another process has it open.
        """
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = path, FileLock(f"{path}.lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{path}: another process is writing it, expected one run at a time") from None
        self.entries: dict[str, Entry] = {}
        self.spent: list[Entry] = []  # those that a later one replaced cost something too
        try:
            self.load()
            self.stream: IO[str] = path.open("a", encoding="utf-8")
        except BaseException:
            self.unlock()
            raise

    def load(self) -> None:
        """Read what is there; what a kill cut off goes."""
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            logger.warning("%s: the last line was cut off and is dropped (%d bytes)", self.path, len(raw) - whole)
            with self.path.open("r+b") as stream:
                stream.truncate(whole)
        for number, line in enumerate(raw[:whole].splitlines(), start=1):
            try:
                self.keep(Entry(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise UserError(f"{self.path}:{number}: no entry of a ledger: {error}") from None

    def keep(self, entry: Entry) -> None:
        """Take an entry in; a later one replaces an earlier one."""
        if entry.state not in STATES:
            raise ValueError(f"state {entry.state!r}")
        self.entries[entry.key] = entry
        self.spent.append(entry)

    def add(self, entry: Entry) -> None:
        """Write an entry down before anything else happens."""
        self.stream.write(as_line(asdict(entry)))
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.keep(entry)

    def close(self) -> None:
        """Close the file; one in which nothing was written goes."""
        self.stream.close()
        if not self.path.stat().st_size:
            self.path.unlink()
        self.unlock()

    def unlock(self) -> None:
        """Let go of the file, and leave no lock behind."""
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)
