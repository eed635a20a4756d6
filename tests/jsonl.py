"""Records in JSON Lines, as tests write and read them."""

import json
from collections.abc import Iterable
from pathlib import Path


def as_lines(rows: Iterable) -> str:
    """One line of JSON for each row, Chinese as it is."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, rows: Iterable) -> Path:
    """Write rows to a file, in a folder that is made where it is missing; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_lines(rows), "utf-8")
    return path


def read(path: Path) -> list:
    """Read every row of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
