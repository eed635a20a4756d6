"""Errors a user can cause and can fix. Anything else is a bug and should crash loudly."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence

MAX_SHOWN = 20


class UserError(ValueError):
    """Bad configuration or bad data: the message says where, what was found, and what would be right."""

    total = 1  # how many things are wrong, shown or not


def message_of(error: Exception) -> str:
    """The message for an error that the user can fix: ours, or one of a file (no permission, disk full).

    Raises:
        Exception: the error itself, where it is a bug.
    """
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.filename is not None):
        return f"error: {error}\n"
    raise error


def exit_code(work: Callable[[], None]) -> int:
    """Do a command's work; returns 0, or 2 for a mistake of the user's, which is reported without a traceback."""
    try:
        work()
    except (UserError, OSError) as error:
        sys.stderr.write(message_of(error))
        return 2
    return 0


def reject(where: str, got: object, expected: str) -> UserError:
    """Build the one message format used everywhere: `where: got X, expected Y`."""
    shown = repr(got)
    if len(shown) > 120:
        shown = f"{shown[:100]}... ({len(shown)} characters)"
    return UserError(f"{where}: got {shown}, expected {expected}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name, or an empty string."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_name(where: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that is not in a table, with the nearest known name offered."""
    known = sorted(known)
    hint = nearest(name, known) or "."
    return UserError(f"{where}: unknown name {name!r}{hint} Known: {', '.join(known)}")


def summarise(messages: Sequence[str], *, total: int | None = None) -> UserError:
    """Put many messages into one error: the first `MAX_SHOWN`, then how many more there are."""
    total = len(messages) if total is None else total
    lines = list(messages[:MAX_SHOWN])
    if total > len(lines):
        lines.append(f"... and {total - len(lines)} more")
    error = UserError("\n".join(lines))
    error.total = total
    return error
