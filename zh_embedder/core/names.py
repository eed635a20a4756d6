"""Names that become part of a path: tasks, parts of a split, runs."""

from __future__ import annotations

from zh_embedder.core.errors import UserError, reject

LONGEST = 150  # bytes: file systems allow 255, and suffixes and marks of unfinished files are added


def check_name(where: str, name: str, *, what: str = "a name") -> str:
    """Return a name that may become one part of a path.

    Args:
        where: the flag, or the file and line, for the message.
        name: the name.
        what: what it is, such as `a task`.

    Raises:
        UserError: the name would leave its folder, hide in it, or cannot be written there.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise reject(where, name, f"{what} without lone surrogates, which are halves of characters") from None
    if not name or name.isspace():
        raise reject(where, name, f"{what} of letters")
    if name.startswith(".") or any(mark in name for mark in "/\\") or name != name.strip():
        raise reject(where, name, f"{what} that can be a folder's name: no / or \\, no dot or blank in front")
    if not name.isprintable():
        raise reject(where, name, f"{what} of visible characters")
    if size > LONGEST:
        raise UserError(f"{where}: got {what} of {size} bytes, expected at most {LONGEST}, as it becomes a file's name")
    return name
