"""Locks in torch's extension cache, which DeepSpeed compiles into: those whose owner is gone are named and removed.

torch waits for such a lock for ever, without a word. It is an empty file that its owner keeps open. That no process of
this machine has it open does not prove that no other machine or container compiles into the same folder, so a lock is
removed only when nothing in its folder has changed for minutes; until then the log says what may be removed by hand.

A run clears the locks up before it compiles: who waits in torch already expects a library when the lock goes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from zh_embedder.core.ranks import first_on_machine

logger = logging.getLogger(__name__)

LOCK = "lock"  # torch.utils.cpp_extension's name for it
QUIET = 600.0  # seconds without a change, after which nobody compiles there any more
LOOK = 1.0  # seconds between two looks


@cache
def clear_locks() -> None:
    """Wait until no lock is without an owner, and watch them from then on; one rank of each machine removes and speaks.

    Every rank waits for itself: they may not have met yet.
    """
    locks = LockWatch(extension_cache(), first=first_on_machine())
    while locks.judge():
        time.sleep(LOOK)
    threading.Thread(target=locks.run, name="watch-locks", daemon=True).start()


def extension_cache() -> Path:
    """Folder of the extensions that torch compiles."""
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen)
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root())


class LockWatch:
    """What is known about the locks below a folder."""

    def __init__(self, root: Path, *, first: bool = True, quiet: float = QUIET) -> None:
        self.root, self.first, self.quiet = root, first, quiet
        self.told: set[str] = set()

    def run(self) -> None:
        """Look again and again."""
        while True:
            time.sleep(LOOK)
            self.judge()

    def judge(self) -> bool:
        """Say whose each lock is, once, and remove those that are nobody's; returns whether any of these is left."""
        left = False
        for lock in sorted(path for depth in ("*", "*/*") for path in self.root.glob(f"{depth}/{LOCK}")):
            with suppress(FileNotFoundError):  # locks come and go while others compile
                left |= self.judge_one(lock)
        return left

    def judge_one(self, lock: Path) -> bool:
        """Judge one lock; returns whether it is there and nobody's."""
        quiet = time.time() - last_change(lock.parent)
        if owners := owners_of(lock):
            if not owners & {os.getpid(), *siblings()}:
                self.say(f"DeepSpeed: process {min(owners)} compiles into {lock.parent}: waiting for it")
            return False
        if quiet < self.quiet:
            self.say(
                f"DeepSpeed: {lock} is held by no process of this machine, as a run leaves it that was killed while it "
                f"compiled: waiting {self.quiet - quiet:.0f} s in case another machine compiles there, then it is "
                "removed; remove it yourself if none does"
            )
            return True
        if self.first:
            lock.unlink(missing_ok=True)
            self.say(f"DeepSpeed: removed {lock}: the process that compiled there is gone")
        return not self.first

    def say(self, message: str) -> None:
        """Log a message once; as an error, which all machines show."""
        key = message.partition(": waiting")[0]
        if self.first and key not in self.told:
            self.told.add(key)
            logger.error("%s", message)


def owners_of(path: Path) -> set[int]:
    """Processes of this machine that have a file open, as far as this user may know."""
    found, target = set[int](), str(path.resolve())
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(opened) == target:  # noqa: PTH115 - a Path of it would be one more call for each of thousands
                found.add(int(opened.parts[2]))
    return found


def siblings() -> Iterable[int]:
    """Processes with the same parent as this one: its other ranks."""
    parent = os.getppid()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            if int(entry.read_text("utf-8").rpartition(")")[2].split()[1]) == parent:
                yield int(entry.parts[2])


def last_change(folder: Path) -> float:
    """When anything in a folder was last changed."""
    return max(path.stat().st_mtime for path in [folder, *folder.iterdir()])
