"""JSON lines: one object a line, read strictly, since a second value of a key or half a character would get lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zh_embedder.core.errors import UserError, reject

ARRAY = "a JSON array, expected JSON Lines: one object per line (`jq -c '.[]' FILE` makes them)"
HALF_ESCAPED = re.compile(r"\\u[dD]")
SURROGATE = re.compile("[\ud800-\udfff]")


class TwiceError(ValueError):
    """A key that an object has twice."""


def parse_object(text: str, where: str, example: str) -> dict[str, Any]:
    """Parse one line that holds a JSON object whose strings are whole characters and whose keys are there once.

    Args:
        text: the line.
        where: `path:line`, for messages.
        example: an object such as is expected.

    Raises:
        UserError: it holds anything else.
    """
    try:
        raw = parse(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            raise UserError(f"{where}: {ARRAY}") from None
        ends = "; lines end in CR, expected LF" if "\r" in text else ""
        raise UserError(f"{where}: not valid JSON at character {error.pos + 1}: {error.msg}{ends}") from None
    except TwiceError as error:
        raise UserError(f"{where}: {error}") from None
    except ValueError as error:  # Python reads whole numbers up to 4300 digits
        raise UserError(f"{where}: not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply, expected one flat object") from None
    if isinstance(raw, list):
        raise UserError(f"{where}: {ARRAY}")
    if not isinstance(raw, dict):
        raise reject(where, raw, f"an object such as {example}")
    if HALF_ESCAPED.search(text):  # faster than two searches for a string
        check_surrogates(raw, where)
    return raw


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values.

    Raises:
        TwiceError: a key is there twice, of which readers would keep one value or the other.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(f"{twice!r}: appears twice in an object, expected once")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=once)
_SCAN: Callable[[str, int], tuple[Any, int]] = vars(_STRICT)["scan_once"]


def parse(text: str) -> Any:
    """Parse one line, each key once.

    Raises:
        ValueError: it is no JSON, or a key is there twice.
    """
    try:  # `decode` also looks for blanks around the value, which costs more than the checks
        raw, end = _SCAN(text, 0)
    except StopIteration:
        end = -1
    return raw if end == len(text) else _STRICT.decode(text)


def check_surrogates(raw: Mapping[str, Any], where: str) -> None:
    """Refuse half a surrogate pair at any depth: no tokenizer and no file can hold it."""
    for name, value in raw.items():
        if any(SURROGATE.search(text) for text in strings([name, value])):
            shown = name.encode("utf-8", "backslashreplace").decode()
            raise UserError(f"{where}: {shown}: holds half of a surrogate pair (\\ud8xx), expected whole characters")


def strings(value: Any) -> Iterator[str]:
    """Yield every string of a value, names of fields included, however deep it is."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            left += [*one, *one.values()]
