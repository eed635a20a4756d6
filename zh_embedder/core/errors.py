"""Errors a user can cause and can fix. Anything else is a bug and should crash loudly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAX_SHOWN = 20
UNSHOWN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]")


class UserError(ValueError):
    """Bad configuration or bad data: the message says where, what was found, and what would be right."""

    total = 1  # how many things are wrong, shown or not


# What libraries raise for damaged files, full disks and broken databases: package and name of the type, and what to say
# in front of the library's own words. The types are named, not imported, so that no library loads for their sake.
FOREIGN = {
    ("builtins", "EOFError"): "the file ends too early, as a copy or download that was cut short does",
    ("zlib", "error"): "the compressed data is damaged",
    ("gzip", "BadGzipFile"): "the compressed data is damaged",
    ("_lzma", "LZMAError"): "the compressed data is damaged",
    ("zipfile", "BadZipFile"): "not a whole zip file",
    ("safetensors", "SafetensorError"): "not a whole safetensors file",
    ("pyarrow", "ArrowException"): "not whole Arrow or Parquet data",
    ("sqlite3", "Error"): "the database cannot be used",
    ("_pickle", "UnpicklingError"): "not a file of weights that can be read safely",
    ("yaml", "YAMLError"): "not valid YAML",
    ("builtins", "MemoryError"): "out of memory",
    ("torch", "OutOfMemoryError"): "out of memory",
}
# Mistakes in a file while it is read; anywhere else they are bugs.
WHILE_READING = {
    ("json", "JSONDecodeError"): "not valid JSON",
    ("builtins", "UnicodeDecodeError"): "not UTF-8",
    ("builtins", "UnicodeEncodeError"): "holds a lone surrogate, which is half a character",
    ("builtins", "RecursionError"): "nested too deeply",
}
# What libraries with file errors of their own say when they cannot write: with the reason, and without.
FULL = (
    "No space left",
    "File too large",
    " requested and ",
    "Disk quota",
    "Input/output error",
    "Read-only file",
    "Error while serializing",
)
UNWRITTEN = ("PytorchStreamWriter", "inline_container", "iostream error")
# RuntimeErrors of torch that are the machine's: how they begin or what they hold, and what to say in front.
TORCH_SAYS = {
    "can't allocate memory": "out of memory",
    "PytorchStreamReader": "not a whole file of weights",
    "inline_container": "not a whole file of weights",  # while a file is read
}


def explain(error: BaseException, *, reading: bool = False) -> str | None:
    """What went wrong with the user's data or machine, in one line; None where the error is a bug.

    Args:
        error: whatever was raised.
        reading: it was raised while a user's file was read, so a decoder's complaint is about the file.
    """
    if isinstance(error, UserError):
        return str(error)
    said = FOREIGN | WHILE_READING if reading else FOREIGN
    names = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    text = " ".join(str(error).split())
    if not isinstance(error, OSError) and not reading and (why := unwritten(text)):
        return f"{why}: {text[:200]}"
    if found := next((said[name] for name in names if name in said), None):
        return f"{found}: {text}" if text and found != text and not isinstance(error, RecursionError) else found
    if isinstance(error, OSError):
        return of_system(error)
    if isinstance(error, RuntimeError):
        found = next((found for mark, found in TORCH_SAYS.items() if mark in text), None)
        return None if found is None else f"{found}: {text[:200]}"
    return None


def unwritten(text: str) -> str | None:
    """Say that a file cannot be written, where a library's words mean that; None where they do not."""
    if any(mark in text for mark in FULL):
        return "cannot be written"
    if "PytorchStreamReader" not in text and any(mark in text for mark in UNWRITTEN):
        return "cannot be written, is the disk full?"
    return None


def of_system(error: OSError) -> str:
    """What the system says of a file, the file first where it is known."""
    said = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if " requested and " in said:  # numpy's way to say that the disk took a part
        said = f"cannot be written whole, as on a full disk: {said}"
    if error.filename is None:
        return said
    names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{names}: {said}"


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn what libraries raise over a damaged file into one message that names it.

    Raises:
        UserError: `PATH: what is wrong`; errors that are not the file's pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = explain(error, reading=True)
        if said is None:
            raise
        raise UserError(said if str(path) in said else f"{path}: {said}") from error


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Name the file in what the system says of a full disk, a quota or a lost mount, which names none.

    Raises:
        UserError: `PATH: what is wrong`; errors that are not those of writing pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = explain(error)
        nameless = error.filename is None if isinstance(error, OSError) else unwritten(str(error)) is not None
        if said is None or not nameless:
            raise
        raise UserError(f"{path}: {said}") from error


def visible(text: str) -> str:
    r"""Return a message as a terminal may show it: names of files and data may hold what would move its cursor.

    Line breaks and tabs stay; other control characters, and those that turn the direction of text, become `\x1b`.
    """
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


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

    Names are compared without their suffixes, which make any two files of one kind alike. A link to nothing is told
    as one.
    """
    if path.is_symlink():
        return f": it is a link to {path.readlink()}, where nothing is"
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
