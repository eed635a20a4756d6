"""Errors a user can cause and can fix. Anything else is a bug and should crash loudly."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

MAX_SHOWN = 20
STOPPED = 130  # exit code of a program that was ended by Ctrl-C


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
    """Do a command's work; returns 0, 2 for a user's mistake and 130 for Ctrl-C, both reported without a traceback."""
    try:
        work()
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        return STOPPED
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


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a name; None where none is near."""
    cutoff = 0.6 if name.isascii() else 0.5  # one of two Chinese characters says more than one of two letters
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name, or an empty string."""
    near = closest(name, known)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest_path(path: Path) -> str:
    """Return `; did you mean 'folder/x'?` for what lies where a missing path should, or an empty string.

    Names are compared without their suffixes, which make any two files of one kind alike.
    """
    stems = {name: name.partition(".")[0] or name for name in sorted(p.name for p in path.parent.glob("*"))}
    stem = closest(path.name.partition(".")[0] or path.name, stems.values())
    name = closest(path.name, [name for name in stems if stems[name] == stem])
    return "" if name is None else f"; did you mean {str(path.with_name(name))!r}?"


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
