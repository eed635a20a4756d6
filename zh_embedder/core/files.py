"""Files that are there whole or not at all: written next to their place and renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError


class beside:
    """A temporary folder next to the target that takes its place when everything is written, and goes if not."""

    def __init__(self, target: Path) -> None:
        self.target, self.partial = target, target.with_name(f".{target.name}.partial")

    def __enter__(self) -> Path:
        """Make the temporary folder."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Rename it, or remove it."""
        if kind is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
            return
        put_in_place(self.partial, self.target)


def check_target(target: Path, *, overwrite: bool, mark: str, expected: str) -> None:
    """Refuse to write a folder where another one is, unless that is an earlier result and may be replaced.

    Args:
        target: the folder.
        overwrite: whether --overwrite was given.
        mark: a file that every result has.
        expected: what may be replaced, such as `an earlier export`.
    """
    if target.is_file():
        raise UserError(f"{target}: is a file, expected a new folder")
    if target.exists() and any(target.iterdir()):
        if not overwrite:
            raise UserError(f"{target}: is there already, expected a new folder, or --overwrite")
        if not (target / mark).is_file():
            raise UserError(f"--overwrite: {target} holds other things, expected {expected}")


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a whole folder to the target, whose old folder goes only when the new one is there."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def renamed(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give the path next to the target to write a file to; it takes the target's place, or goes if writing fails.

    Args:
        target: the file.
        shared: several processes may write it at once, each to a path of its own: the last one stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial" if shared else f".{target.name}.partial")
    try:
        yield partial
        partial.rename(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def beside_file(target: Path, text: str) -> None:
    """Write a text file next to its place and rename it."""
    with renamed(target) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, value: object) -> None:
    """Write one JSON file, its folder made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
