"""Text of a query or key: instruction, title, body. Instruction formats as plain prefixes."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import Any

from zh_embedder.core.errors import reject

KEY_TEMPLATE = "{title} {text}"


def full_text(text: str, *, title: object = None, instruction: str = "") -> str:
    """Return the text that goes to the tokenizer: the instruction, then the title, if there is one, then the body.

    Training, evaluation, mining, encoding and export all call this one. Instructions bring their own separator.

    >>> full_text("天气晴朗。", title="北京", instruction="段落：")
    '段落：北京 天气晴朗。'
    """
    return instruction + (KEY_TEMPLATE.format(title=title, text=text) if title else text)


def excerpt(text: str, length: int = 24) -> str:
    """Return the beginning of a text, quoted and on one line, for messages."""
    return repr(text if len(text) <= length else f"{text[:length]}…")


def line_text(raw: Mapping[str, Any], where: str, *, field: str = "text", with_title: bool = True) -> str:
    """Return the text of a line of a corpus: its title in front; a list as `text` is joined, as FlagEmbedding does.

    Evaluation, conversion, mining and encoding all call this one, so that a line is the same key everywhere.

    >>> line_text({"title": "北京", "text": "天气晴朗。"}, "corpus.jsonl:1")
    '北京 天气晴朗。'

    Args:
        raw: the line.
        where: `path:line`, for messages.
        field: of the text.
        with_title: whether the title goes in front.

    Raises:
        UserError: text or title is something else.
    """
    text = raw.get(field)
    joined = field == "text"  # a list under another name, such as `pos`, holds texts of their own
    if joined and isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = " ".join(text)
    if not isinstance(text, str):
        raise reject(f"{where}: {field}", text, "a string, or a list of strings" if joined else "a string")
    return full_text(text, title=field_text(raw.get("title"), f"{where}: title") if with_title else None)


def field_text(value: object, where: str) -> str:
    """Return a field as a part of a text; an absent one, null, NaN (an empty cell of pandas) and blanks are empty.

    Raises:
        UserError: it is an object, a list, true or false, which have no spelling but Python's.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise reject(where, value, "a string or a number")
    return value if value.strip() else ""


def as_prefix(instruction_text: str, template: str, *, flag: str) -> str:
    """Turn FlagEmbedding's format of (instruction, text) into the plain prefix that every reader understands.

    A backslash and an n in the format are a newline, as there.
    """
    template = template.replace("\\n", "\n")
    template_fields(template, flag=flag)
    marker = "\x00"
    try:
        formatted = template.format(instruction_text, marker)
    except (IndexError, KeyError, ValueError):
        raise reject(flag, template, "a format with two {}: instruction, then text") from None
    if not formatted.endswith(marker) or formatted.count(marker) != 1:
        raise reject(flag, template, "the text's {} once and at the end, because prompts can only prefix")
    return formatted[:-1]


def template_fields(template: str, *, flag: str) -> list[str]:
    """Return the names in braces of a template, "" for `{}`; nothing but names is allowed there.

    A width such as `{text:>10000000000}` would fill the memory, an attribute would reach into Python.

    Raises:
        UserError: braces that do not match, or something else between them.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise reject(flag, template, f"fields in braces, such as {{text}}: {error}") from None
    for _, name, spec, conversion in parts:
        if name is not None and (spec or conversion or any(mark in name for mark in ".[{!:")):
            raise reject(flag, template, "names alone between braces, such as {text}")
    return [name for _, name, _, _ in parts if name is not None]
