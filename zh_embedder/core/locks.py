"""Locks between processes of a machine: one works while the others wait for what it makes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger(__name__)

TRIES = 100


@contextmanager
def one_at_a_time(lock: Path, *, waiting: str | None = None) -> Iterator[None]:
    """Let one process of a machine work while the others wait for it; leaves nothing behind where the work fails.

    Args:
        lock: the file that is held; its folder is made.
        waiting: what to log where another process is at work.
    """
    from filelock import FileLock

    held = FileLock(lock)
    created = acquire(held, lock.parent, waiting)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # a process that waits for it looks again whether the work is done
        with suppress(OSError):  # a folder that is not empty stays
            for folder in created:
                folder.rmdir()
        held.release()


def acquire(lock: FileLock, folder: Path, waiting: str | None) -> list[Path]:
    """Take a lock, making its folder; returns the folders that were made, the innermost first."""
    from filelock import Timeout

    for _ in range(TRIES):
        try:
            created = [f for f in (folder, *folder.parents) if not f.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=-1 if waiting is None else 0)
            except Timeout:
                logger.info("%s", waiting)
                waiting = None
                lock.acquire()
        except FileNotFoundError as error:  # a process that failed has taken the folder away while this one waited
            missing = error
        else:
            return created
    raise missing
