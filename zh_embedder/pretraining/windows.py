"""Document windows: cut at sentence ends to the model's positions; nothing is lost.

The windows of a document, one behind the other, are its tokens. Shapes: T tokens of a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zh_embedder.text.sentences import sentence_starts
from zh_embedder.text.tokens import Ids
from zh_embedder.text.words import word_starts

Flags = NDArray[np.bool_]


class Window(NamedTuple):
    """Tokens of a document that go through a model together, special tokens not among them."""

    ids: Ids
    starts: Flags  # True where a word begins


def marks(token_starts: NDArray[np.int64], places: Sequence[int]) -> Flags:
    """Tell of each token, by its first character, whether one of some places in the text lies in front of it, (T,).

    A place within a token counts for the next one, so that tokens are never cut; the first token always begins.
    """
    number = np.searchsorted(np.asarray(places, np.int64), token_starts, side="right")
    return np.diff(number, prepend=-1) > 0


def cuts(sentences: Flags, words: Flags, limit: int) -> list[int]:
    """Return where a document is cut: before its last sentence within `limit` tokens, else its last word, else there.

    Args:
        sentences: (T,) True where a sentence begins.
        words: (T,) True where a word begins.
        limit: most tokens of a window.

    Returns:
        Bounds of the windows, 0 and T included.
    """
    total, at = len(words), 0
    bounds = [0]
    places = np.flatnonzero(sentences), np.flatnonzero(words)
    while total - at > limit:
        ends = (int(p[np.searchsorted(p, at + limit, side="right") - 1]) if len(p) else 0 for p in places)
        at = next((end for end in ends if end > at), at + limit)
        bounds.append(at)
    return [*bounds, total] if total > at else bounds


def document_windows(
    text: str, ids: Sequence[int], token_starts: Iterable[int], *, limit: int, dictionary: str | None = None
) -> list[Window]:
    """Cut one document.

    Args:
        text: of the document.
        ids: (T,) its tokens.
        token_starts: (T,) first character of each.
        limit: most tokens of a window.
        dictionary: words besides jieba's own.
    """
    starts = np.fromiter(token_starts, np.int64)
    words = marks(starts, word_starts(text, dictionary))
    bounds = cuts(marks(starts, sentence_starts(text)), words, limit)
    row = np.asarray(ids, np.int32)
    found = []
    for first, last in pairwise(bounds):
        own = words[first:last].copy()
        own[0] = True  # a word that was cut continues as a word
        found.append(Window(row[first:last], own))
    return found


def windows_of(
    tokenizer: Any, texts: Sequence[str], *, limit: int, dictionary: str | None = None
) -> list[list[Window]]:
    """Cut documents with a fast tokenizer, which says where in the text its tokens are; none of an empty document."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return [
        document_windows(text, e.ids, (first for first, _ in e.offsets), limit=limit, dictionary=dictionary)
        if e.ids
        else []
        for text, e in zip(texts, backend.encode_batch(list(texts), add_special_tokens=False), strict=True)
    ]
