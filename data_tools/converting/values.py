"""Source values: what a cell or a JSON value says as text, number, list or object.

Numbers and dates may become texts. Objects and lists never become their spelling: they are read where their meaning is
known (a passage with its title, chat messages, a list that a table wrote into one cell) and refused elsewhere.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from zh_embedder.core.errors import UserError, nearest, reject
from zh_embedder.text.empty_cells import is_empty
from zh_embedder.text.prefix import full_text

Raw = Mapping[str, Any]

BODY = ("text", "contents", "content", "passage")  # of a passage that is an object, the first that it has
SHOWN = 60

ITEM = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|nan|NaN|None|null)"""
TEXT_LIST = re.compile(rf"\[\s*+{ITEM}(?:[\s,]++{ITEM})*+[\s,]*+\]", re.DOTALL)  # numpy puts no commas
ITEMS = re.compile(ITEM, re.DOTALL)
OBJECTS = re.compile(r"\[\s*\{\s*['\"].*\}\s*\]", re.DOTALL)
OBJECT = re.compile(r"\{\s*'.*\}", re.DOTALL)  # Python's spelling; one in JSON may well be meant as text


def as_text(value: Any, where: str) -> str:
    """Return a text or a number as text; what a source leaves out is empty, or NaN: dropped and counted later.

    Raises:
        UserError: it is a list, an object or anything else that is no text.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isinf(value):
            raise reject(where, value, "a text or a finite number")
        return "NaN" if math.isnan(value) else str(value)
    known = isinstance(value, int | decimal.Decimal | datetime.date | datetime.time) and not isinstance(value, bool)
    if not known:
        raise UserError(f"{where}: got {shown(value)}, expected a text")
    return str(value)


def as_name(value: Any, where: str) -> str | None:
    """Return an id, a group or a title as text; None where the source leaves it out.

    Raises:
        UserError: it is a list, an object or anything else that is no text.
    """
    text = as_text(value, where)
    return None if is_empty(text) else text


def as_part(value: Any, where: str) -> str:
    """Return what becomes part of a longer text, nothing for an empty cell.

    Raises:
        UserError: it is a list, an object or anything else that is no text.
    """
    return as_name(value, where) or ""


def as_list(value: Any, where: str) -> list[Any]:
    """Return a list.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, list):
        raise UserError(f"{where}: got {shown(value)}, expected a list")
    return value


def as_object(value: Any, where: str) -> Raw:
    """Return an object.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, dict):
        raise UserError(f"{where}: got {shown(value)}, expected an object")
    return value


def shown(value: Any) -> str:
    """What was found, for a message: its kind and its beginning, an object by its fields."""
    if isinstance(value, dict):
        fields = ", ".join(repr(str(name)) for name in list(value)[:8])
        return f"an object with {fields}"[:200] if fields else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def pick(raw: Raw, names: Sequence[str], where: str) -> Any:
    """Return the value under the first of these names that an object has.

    Raises:
        UserError: it has none of them; the nearest of its own names is offered.
    """
    return raw[picked(raw, names, where)]


def pick_text(raw: Raw, names: Sequence[str], where: str) -> str:
    """Return the text under the first of these names that an object has.

    Raises:
        UserError: it has none of them, or what it has is no text.
    """
    name = picked(raw, names, where)
    return text_of(raw[name], f"{where}: {name}")


def pick_name(raw: Raw, names: Sequence[str], where: str, default: object) -> str:
    """Return the id under the first of these names under which an object has one, or else a default."""
    found = (as_name(raw[name], f"{where}: {name}") for name in names if name in raw)
    return next((name for name in found if name is not None), str(default))


def picked(raw: Raw, names: Sequence[str], where: str) -> str:
    """Return the first of these names that an object has."""
    for name in names:
        if name in raw:
            return name
    hint = nearest(names[0], map(str, raw)) or ";"
    found = ", ".join(map(repr, list(raw)[:8])) or "an empty object"
    raise UserError(f"{where}: {names[0]}: is missing{hint} found {found}, expected {' or '.join(names)}")


# ---- one text, several texts ----------------------------------------------------------------------------------------


def text_of(value: Any, where: str) -> str:
    """Return the one text of a value: a text, a number, a passage with its title, or a chat message.

    Raises:
        UserError: it is something else, also where it is a list or an object written as text.
    """
    if isinstance(value, str):
        if written(value, where) is not None:
            raise reject(where, value, "one text, not a list or an object written as text")
        return value
    if isinstance(value, dict):
        return passage(value, where)
    if is_messages(value):
        return message(value, where)
    return as_text(value, where)


def texts_of(value: Any, where: str) -> list[str]:
    """Return the texts of a value: one, or a list of them, which a table may have written into one cell.

    Raises:
        UserError: something in it is no text.
    """
    if isinstance(value, str) and (found := written(value, where)) is not None:
        value = found
    if value is None:
        return []
    if not isinstance(value, list) or is_messages(value):
        return [text_of(value, where)]
    return [one if isinstance(one, str) else text_of(one, f"{where}[{i}]") for i, one in enumerate(value)]


def passage(raw: Raw, where: str) -> str:
    """Return the text of a passage that is an object, its title in front as a corpus line's is; empty without a body.

    Raises:
        UserError: it has no field for the text, or the text is none.
    """
    if "role" in raw and "content" in raw:
        return message([raw], where)
    name = next((name for name in BODY if name in raw), None)
    if name is None:
        raise UserError(f"{where}: got {shown(raw)}, expected a text, or an object with 'title' and 'text'")
    body = as_text(raw[name], f"{where}: {name}")
    return body if is_empty(body) else full_text(body, title=as_part(raw.get("title"), f"{where}: title"))


def unread(value: Any) -> set[str]:
    """Return the fields of passages that are not in their texts, such as docid and score."""
    if isinstance(value, list) and not is_messages(value):
        return {name for one in value if isinstance(one, dict) for name in unread(one)}
    if not isinstance(value, dict) or "role" in value:
        return set()
    body = next((name for name in BODY if name in value), None)
    return {str(name) for name in value} - {"title", body}


def is_messages(value: Any) -> bool:
    """Whether a value is a list of chat messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def message(raw: Sequence[Raw], where: str) -> str:
    """Return the content of the one message of a chat.

    Raises:
        UserError: there are several messages, or the content is no text.
    """
    if len(raw) != 1:
        roles = ", ".join(str(one["role"])[:20] for one in raw[:8])
        raise UserError(f"{where}: got {len(raw)} messages ({roles}), expected one, whose content is the text")
    return as_text(pick(raw[0], ("content",), where), f"{where}: content")


# ---- lists and objects that a table wrote into one cell -------------------------------------------------------------


def written(text: str, where: str) -> Any:
    """Return the list or object that a text spells, as pandas writes it into a CSV; None where it spells none.

    Only lists of texts or objects are recognised, and objects in Python's spelling: numbers in brackets and JSON
    objects may be meant as texts.

    Raises:
        UserError: it looks like one and cannot be read.
    """
    if not text or text[0] not in " \t\r\n[{":
        return None
    text = text.strip()
    if text == "[]":
        return []
    if text[:1] == "[" and text[-1:] == "]":
        if TEXT_LIST.fullmatch(text):
            return [literal(one, where) for one in ITEMS.findall(text[1:-1])]
        if OBJECTS.fullmatch(text) and not is_other_json(text):
            return literal(text, where)
        if text[1:2] in "'\"" and text[-2] == text[1] and len(text) > 3:
            raise reject(where, text, "a list of texts that can be read, or a text without brackets and quotes")
    return literal(text, where) if OBJECT.fullmatch(text) else None


def is_other_json(text: str) -> bool:
    """Whether a text is JSON that holds neither passages nor messages."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return not all(isinstance(one, dict) and not one.keys().isdisjoint((*BODY, "role")) for one in values)


def literal(text: str, where: str) -> Any:
    """Read a value in JSON's or Python's spelling.

    Raises:
        UserError: it is neither.
    """
    if text in ("nan", "NaN", "None", "null"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know stays as it is
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise reject(where, text, "a list or an object that can be read, or a plain text") from None
