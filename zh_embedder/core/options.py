"""How flags are declared and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from zh_embedder.core.errors import reject, unknown_name


def option(default: Any, text: str) -> Any:
    """Declare a flag with its help text; a list default is copied."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def choose(flag: str, value: str | None, known: Sequence[str]) -> None:
    """Refuse a value that is not in a table, with the nearest one offered; None is a choice not made."""
    if value is not None and value not in known:
        raise unknown_name(f"--{flag}", value, known)


def at_least(flag: str, value: float | None, low: float) -> None:
    """Refuse a number below `low`, and what is no number."""
    if value is not None and not low <= value < math.inf:
        raise reject(f"--{flag}", value, f"{low} or more")


def as_number(flag: str, text: str) -> float:
    """Read a number out of a flag that may also say something else."""
    try:
        return float(text)
    except ValueError:
        raise reject(f"--{flag}", text, "a number") from None


def above_zero(flag: str, value: float) -> None:
    """Refuse a number that is not positive and finite."""
    if not 0 < value < math.inf:
        raise reject(f"--{flag}", value, "a number above 0")
