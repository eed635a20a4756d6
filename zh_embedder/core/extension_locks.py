"""Locks in torch's extension cache, which DeepSpeed compiles into: whose owner is gone are named, and removed in time.

torch waits for such a lock for ever, without a word. It is an empty file that its owner keeps open. That no process of
this machine has it open does not prove that no other machine or container compiles into the same folder, so a lock is
removed only when nothing in its folder has changed for minutes; until then the log says what may be removed by hand.
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
LOOK = 5.0  # seconds between two looks


@cache
def watch_locks() -> None:
    """Watch the locks from now on, on one rank of each machine."""
    if first_on_machine():
        threading.Thread(target=LockWatch(extension_cache()).run, name="watch-locks", daemon=True).start()


def extension_cache() -> Path:
    """Folder of the extensions that torch compiles."""
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen)
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root())


class LockWatch:
    """What is known about the locks below a folder."""

    def __init__(self, root: Path, *, quiet: float = QUIET, look: float = LOOK) -> None:
        self.root, self.quiet, self.look = root, quiet, look
        self.told: set[str] = set()

    def run(self) -> None:
        """Look again and again."""
        while True:
            time.sleep(self.look)
            with suppress(OSError):  # folders come and go while others compile
                self.judge()

    def judge(self) -> None:
        """Say whose each lock is, once; remove those that nobody has had open for long."""
        for lock in sorted(path for depth in ("*", "*/*") for path in self.root.glob(f"{depth}/{LOCK}")):
            owners = owners_of(lock)
            quiet = time.time() - last_change(lock.parent)
            if owners:
                if not owners & {os.getpid(), *siblings()}:
                    self.say(f"DeepSpeed: process {min(owners)} compiles into {lock.parent}: waiting for it")
            elif quiet >= self.quiet:
                lock.unlink(missing_ok=True)
                self.say(f"DeepSpeed: removed {lock}: the process that compiled there is gone")
            else:
                self.say(
                    f"DeepSpeed: {lock} is held by no process of this machine, as a run leaves it that was killed "
                    f"while it compiled: waiting {self.quiet - quiet:.0f} s for one on another machine, then it is "
                    "removed; remove it yourself if there is none"
                )

    def say(self, message: str) -> None:
        """Log a message once; as an error, which all machines show."""
        key = message.partition(": waiting")[0]
        if key not in self.told:
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
