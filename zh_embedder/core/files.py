"""Files that are there whole or not at all: written next to their place, synced to the disk and renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import reading, writing
from zh_embedder.core.hashing import text_name

LONGEST = 40  # characters of a name that its hidden files keep: the file system allows 255 bytes
# Of this program alone, by machine and process: what a killed one left is told from what others wrote.
HIDDEN = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)(?:-\d+)?\.(?P<kind>partial|replaced)", re.DOTALL)
PARTIAL, REPLACED = "partial", "replaced"


def short_name(path: Path) -> str:
    """A name for hidden files next to a path: its own, or where that is long its start and a hash of all of it."""
    name = path.absolute().name
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 17]}-{text_name(name)}"


def hidden_of(target: Path, kind: str) -> Path:
    """A hidden name next to the target, with the machine and process in it."""
    if HIDDEN.fullmatch(target.name):  # a folder that is written into one that is being written
        start, _, before = target.name.rpartition(".")
        return target.with_name(f"{start}-{1 if kind == before else 2}.{PARTIAL}")
    host = re.sub(r"\W", "-", socket.gethostname())[:40]
    return target.with_name(f".{short_name(target)}.{host}.{os.getpid()}.{kind}")


def partial_of(target: Path) -> Path:
    """Where this process writes what will become the target."""
    return hidden_of(target, PARTIAL)


def replaced_by(target: Path) -> Path:
    """Where the folder that is replaced waits until the new one is in its place."""
    return hidden_of(target, REPLACED)


def real(path: Path) -> Path:
    """A path with its links followed; one that leads to itself stays as it is, where `Path.resolve` would raise."""
    return Path(os.path.realpath(path))


def sweep(target: Path) -> None:
    """Remove what killed processes of this machine left of the target, and put back the folder they were replacing."""
    own = HIDDEN.fullmatch(partial_of(target).name)
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(target.parent.iterdir()):
            found = HIDDEN.fullmatch(path.name)
            if own is None or not found or (found["name"], found["host"]) != (own["name"], own["host"]):
                continue
            if found["pid"] != own["pid"] and alive(int(found["pid"])):
                continue
            if found["kind"] == REPLACED and not target.exists():
                path.rename(target)
            else:
                remove(path)


def alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def missing_parents(target: Path) -> list[Path]:
    """Folders that have to be made for a target, the innermost first."""
    return [folder for folder in target.absolute().parents if not folder.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for a target that did not come, where nothing else is in them."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def remove(path: Path) -> None:
    """Remove a file or a folder that may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk hold a file or a folder's list of names, so that a power cut cannot leave it empty under its name.

    Raises:
        OSError: the disk is full or broken.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have the disk hold every file below a folder."""
    for path in folder.rglob("*"):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            sync(path)
    sync(folder)


class beside:
    """A temporary folder next to the target that takes its place when everything is written, and goes if not."""

    def __init__(self, target: Path) -> None:
        self.target, self.partial = target, partial_of(target)

    def __enter__(self) -> Path:
        """Make the temporary folder."""
        self.parents = missing_parents(self.target)
        with writing(self.target):
            sweep(self.target)
            self.partial.mkdir(parents=True)
        self.named = writing(self.target)
        self.named.__enter__()
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Rename it, or remove it."""
        try:
            self.named.__exit__(kind, error, trace)
            if kind is None:
                with writing(self.target):
                    sync_tree(self.partial)
                    put_in_place(self.partial, self.target)
        except BaseException:
            remove(self.partial)
            remove_empty(self.parents)
            raise
        if kind is not None:
            remove(self.partial)
            remove_empty(self.parents)


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a whole folder to the target, whose old folder goes only when the new one is there."""
    old = replaced_by(target)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    sync(target.parent)
    remove(old)


@contextmanager
def renamed(target: Path) -> Iterator[Path]:
    """Give the path next to the target to write a file to; it takes the target's place, or goes if writing fails.

    Several processes may write the target at once, each to a path of its own: the last one stays.
    """
    partial, parents = partial_of(target), missing_parents(target)
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            sweep(target)
            yield partial
            sync(partial)
            partial.rename(target)
            sync(target.parent)
    except BaseException:
        remove(partial)
        remove_empty(parents)
        raise


def beside_file(target: Path, text: str) -> None:
    """Write a text file next to its place and rename it."""
    with renamed(target) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, value: object) -> None:
    """Write one JSON file, its folder made where missing; it is there whole or not at all."""
    beside_file(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        UserError: it is not JSON.
    """
    with reading(path):
        return json.loads(path.read_text("utf-8"))
