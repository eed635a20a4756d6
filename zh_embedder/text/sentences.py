"""Sentence ends of Chinese text."""

from __future__ import annotations

import re
from itertools import pairwise

CLOSING = "”’」』）》】〕)\\]\"'"  # belongs to the sentence before it
# A Latin full stop ends a sentence only before white space; a line break always does.
SENTENCE_END = re.compile(rf"(?:[。！？!?；;…]+|\.(?=\s|$)|\n+)[{CLOSING}]*\s*")


def sentence_starts(text: str) -> list[int]:
    """Return where sentences start in a text, the first one left out.

    >>> sentence_starts("好。“走吧！”他说。")
    [2, 7]
    """
    return [end for found in SENTENCE_END.finditer(text) if (end := found.end()) < len(text)]


def sentences(text: str) -> list[str]:
    """Cut a text behind its sentences, with the quotes and spaces that follow; joined they are the text.

    >>> sentences("他说：“好。”然后走了！v1.5 ok")
    ['他说：“好。”', '然后走了！', 'v1.5 ok']
    """
    bounds = [0, *sentence_starts(text), len(text)]
    return [text[first:last] for first, last in pairwise(bounds) if first < last]
