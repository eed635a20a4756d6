"""The text in front of a text: instruction formats as plain prefixes."""

from __future__ import annotations

from zh_embedder.core.errors import reject


def as_prefix(instruction_text: str, template: str, *, flag: str) -> str:
    """Turn FlagEmbedding's format of (instruction, text) into the plain prefix that every reader understands.

    A backslash and an n in the format are a newline, as there.
    """
    template = template.replace("\\n", "\n")
    marker = "\x00"
    try:
        formatted = template.format(instruction_text, marker)
    except (IndexError, KeyError, ValueError):
        raise reject(flag, template, "a format with two {}: instruction, then text") from None
    if not formatted.endswith(marker) or formatted.count(marker) != 1:
        raise reject(flag, template, "the text's {} once and at the end, because prompts can only prefix")
    return formatted[:-1]
