"""Flags: how they are declared, shown and checked."""

from __future__ import annotations

import math
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from zh_embedder.core.errors import reject, unknown_name

AUTO = "auto"  # value of a flag that leaves the choice to the program


class HelpFormatter(RawDescriptionHelpFormatter):
    """Show the default of each flag that has one, and leave descriptions and examples unwrapped."""

    def _get_help_string(self, action: Action) -> str:
        text, default = action.help or "", default_text(action.default)
        return (
            text if not default or not action.option_strings or "default: " in text.lower() else f"{text} ({default})"
        )


def default_text(default: object) -> str:
    """Return `default: X` as a user would type it; empty where the flag is off or has no default."""
    if default is None or default is False or default in ("", [], (), "==SUPPRESS=="):
        return ""
    values = default if isinstance(default, (list, tuple)) else [default]
    return f"default: {' '.join(map(str, values))}".replace("%", "%%")


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
