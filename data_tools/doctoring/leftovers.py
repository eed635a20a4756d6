"""Leftovers of other tools in texts: lists written as texts, empty cells, escapes, subtitles, special tokens.

A check is `find(text) -> what was found, or None`; a fix is `fix(text) -> text`, the same one where it is not safe.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from data_tools.converting.values import written
from zh_embedder.core.errors import UserError
from zh_embedder.text.empty_cells import is_empty
from zh_embedder.text.encodings import CHINESE

SHOWN = 40  # characters of a leftover in a message
URL = re.compile(r"\w+://\S+")  # percent-encoding is right there
PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}){3,}")
# \u4f60 as six characters, but no range of a regular expression such as \u4e00-\u9fff.
ESCAPES = re.compile(r"(?<![\\-])(?:\\u[0-9A-Fa-f]{4})+(?![-0-9A-Fa-f])")
BREAKS = re.compile(r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])(?:\\r)?\\n(?![A-Za-z])")
SUBTITLE = re.compile(
    r"\{\\(?:an?\d|pos\(|move\(|fade?\(|fn|fs\d|[1-4]?c&H|k[fo]?\d|[bius][01]|blur\d|bord\d)[^{}]*\}"
    r"|\d\d:\d\d:\d\d[,.]\d{3}\s*-->\s*\d\d:\d\d:\d\d[,.]\d{3}"
)
SPECIAL = r"(?:<\|[A-Za-z_]{2,24}\|>|\[(?:UNK|CLS|SEP|PAD|MASK)\]|</s>|<(?:unk|pad|mask)>)"
SPECIAL_TOKEN = re.compile(SPECIAL)
FRAME = r"(?:<\|(?:endoftext|im_start|im_end|begin_of_text|end_of_text|eot_id)\|>|\[(?:CLS|SEP|PAD)\]|</s>|<pad>)"
FRAMED = re.compile(rf"^(?:\s*{FRAME})+\s*|(?:\s*{FRAME})+\s*$")
MIN_REPEATED = 40  # characters of a text, before it is looked at for repetition
LONGEST_UNIT = 20


def written_list(text: str) -> str | None:
    """Return the beginning of a list or an object that was written as a text."""
    try:
        return repr(text[:SHOWN]) if written(text, "") is not None else None
    except UserError:
        return repr(text[:SHOWN])


def empty_cell(text: str) -> str | None:
    """Return what an empty cell of a table became; a text of white space has a kind of its own."""
    return repr(text) if text.strip() and is_empty(text) else None


def subtitle(text: str) -> str | None:
    """Return the first tag or time of subtitles."""
    found = SUBTITLE.search(text) if "{\\" in text or "-->" in text else None
    return found.group()[:SHOWN] if found else None


def special_token(text: str) -> str | None:
    """Return the first token that a tokenizer or a chat template puts between texts."""
    found = SPECIAL_TOKEN.search(text)
    return found.group() if found else None


def escaped(text: str) -> str | None:
    r"""Return the first escape that was written twice: \u4f60, or \n after Chinese, as characters of the text."""
    if "\\" not in text:
        return None
    found = next((run for run in ESCAPES.findall(text) if CHINESE.search(unescape(run))), None)
    return repr(found[:SHOWN]) if found else "'\\n'" if BREAKS.search(text) else None


def percent_encoded(text: str) -> str | None:
    """Return the first percent-encoded Chinese outside of addresses."""
    if "%" not in text:
        return None
    runs = PERCENT.findall(URL.sub(" ", text))
    return next((f"{run[:SHOWN]} is {unquote(run)[:SHOWN]!r}" for run in runs if CHINESE.search(unquote(run))), None)


def repetition(text: str) -> str | None:
    """Return what a text repeats over half of its length.

    Half of a text covers its second or third quarter wholly, so that two windows are enough to see it.
    """
    if len(text) < MIN_REPEATED:
        return None
    quarter = len(text) // 4
    for start in (quarter, 2 * quarter):
        window = text[start : start + quarter]
        for length in range(1, min(LONGEST_UNIT, quarter // 3) + 1):
            if window[length:] == window[:-length]:
                unit = window[:length]
                return f"{unit!r} x {text.count(unit)}" if any(map(str.isalpha, unit)) else None
    return None


# ---- fixes ----------------------------------------------------------------------------------------------------------


def unescape(run: str) -> str:
    """Return the characters of a run of escapes; half a surrogate pair stays an escape."""
    units = bytes.fromhex("".join(run.split("\\u")))
    try:
        return units.decode("utf-16-be")
    except UnicodeDecodeError:
        return run


def without_subtitles(text: str) -> str:
    """Take tags and times of subtitles out."""
    return SUBTITLE.sub("", text).strip() or text if SUBTITLE.search(text) else text


def without_frame(text: str) -> str:
    """Take special tokens off both ends; inside a text they may be meant, and an [UNK] was a character."""
    return FRAMED.sub("", text) or text if SPECIAL_TOKEN.search(text) else text


def without_escapes(text: str) -> str:
    """Decode the escapes of a text that has no Chinese but what they spell: others may be about escapes."""
    if not escaped(text) or CHINESE.search(text) or URL.search(text):
        return text
    return ESCAPES.sub(lambda found: unescape(found.group()), text)


def without_percents(text: str) -> str:
    """Decode percent-encoding in the same way."""
    if not percent_encoded(text) or CHINESE.search(text) or URL.search(text):
        return text
    return PERCENT.sub(lambda found: decoded(found.group()), text)


def decoded(run: str) -> str:
    """Return the characters of percent-encoded bytes; the run itself where they are not UTF-8."""
    found = unquote(run)
    return run if "\ufffd" in found else found
