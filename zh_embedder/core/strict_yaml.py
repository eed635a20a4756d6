"""Strict YAML: plain values with bounds, so that no file fills the memory or the stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from zh_embedder.core.errors import UserError, reading

MAX_DEPTH = 50
MAX_NODES = 100_000  # a node that aliases name is counted each time
MAX_DIGITS = 300  # of a number: floats end at 308


def compose(path: Path, text: str) -> yaml.Node | None:
    """Parse a YAML text to its nodes, checked; None where it is empty.

    Raises:
        UserError: not YAML, nested too deeply, too large with its aliases, or a value that no file can hold.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: not valid YAML: character {error.character:#x} is not allowed") from None
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply, expected at most {MAX_DEPTH} levels") from None
    if root is not None:
        check_nodes(path, root)
    return root


def check_nodes(path: Path, root: yaml.Node) -> None:
    """Refuse what would not end, overflow or be half a character once it became values."""
    left, count = [(root, 1)], 0
    while left:
        node, depth = left.pop()
        count += 1
        where = f"{path}:{node.start_mark.line + 1}"
        if depth > MAX_DEPTH:
            raise UserError(
                f"{where}: not a plain value: nested too deeply, at most {MAX_DEPTH} levels, or an alias of itself"
            )
        if count > MAX_NODES:
            raise UserError(f"{where}: more than {MAX_NODES:,} values with its aliases written out, expected fewer")
        if isinstance(node, yaml.ScalarNode):
            check_scalar(where, node)
        elif isinstance(node, yaml.SequenceNode):
            left += [(one, depth + 1) for one in node.value]
        elif isinstance(node, yaml.MappingNode):
            left += [(one, depth + 1) for pair in node.value for one in pair]


def check_scalar(where: str, node: yaml.ScalarNode) -> None:
    """Refuse half characters and numbers beyond what a float holds."""
    if any("\ud800" <= c <= "\udfff" for c in node.value):
        raise UserError(f"{where}: holds half of a surrogate pair (\\ud8xx), expected whole characters")
    if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and len(node.value) > MAX_DIGITS:
        raise UserError(f"{where}: got a number of {len(node.value)} characters, expected at most {MAX_DIGITS}")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, its mark left out.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        with reading(path):
            raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8, expected a UTF-8 YAML file") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values; None where it is empty.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds what is not plain.
    """
    return load_yaml(path, read_text(path))


def load_yaml(path: Path, text: str) -> Any:
    """Return a YAML text as plain values; None where it is empty.

    Raises:
        UserError: not YAML, or it holds what is not plain.
    """
    root = compose(path, text)
    return None if root is None else plain(root, f"{path}:{root.start_mark.line + 1}")


def plain(node: yaml.Node, where: str) -> Any:
    """Return a composed node as Python's own types, by yaml's safe rules."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    # A tag, an alias of itself, a date such as 2024-13-45, a list as a name.
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{where}: not a plain value: {problem}") from None
    finally:
        loader.dispose()
