"""JSON files of a base folder, field by field: each has the type that is expected, or a message names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, reading, reject
from zh_embedder.core.files import read_json


@dataclass(frozen=True, slots=True)
class Fields:
    """Fields of one JSON object; a missing file has none, null is a field that is not there."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Fields:
        """Read a file.

        Raises:
            UserError: it is not a JSON object.
        """
        values = read_any(path) if path.exists() else {}
        if not isinstance(values, dict):
            raise reject(str(path), values, "a JSON object")
        return cls(path, values)

    def where(self, name: str) -> str:
        """Name the place of a field, for messages."""
        return f"{self.path}: {name}"

    def text(self, name: str) -> str | None:
        """Return a text."""
        value = self.values.get(name)
        return None if value is None else as_text(self.where(name), value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise reject(self.where(name), value, "true or false")
        return default if value is None else value

    def whole(self, name: str, *, low: int = 1, high: int | None = None) -> int | None:
        """Return a whole number."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():  # 1e30, as transformers writes "no limit"
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
            most = "or more" if high is None else f"to {high}"
            raise reject(self.where(name), value, f"a whole number, {low} {most}")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise reject(self.where(name), value, "a JSON object")
        return value or {}


def as_text(where: str, value: object) -> str:
    """Return a value that must be a text.

    Raises:
        UserError: it is none, or holds half a character.
    """
    if not isinstance(value, str):
        raise reject(where, value, "a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise reject(where, value, "a text without lone surrogates, which are halves of characters")
    return value


def read_any(path: Path) -> Any:
    """Read a JSON file of any kind.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with reading(path):
            return read_json(path)
    except UserError:
        raise
    except ValueError as error:  # a whole number of more digits than Python reads
        raise reject(str(path), str(error).partition(":")[0], "valid JSON") from None
