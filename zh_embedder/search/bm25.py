"""BM25 over the words of texts, through `bm25s`: the baseline that needs no training.

The variant is Lucene's: idf = ln(1 + (K - df + .5) / (df + .5)), times tf / (tf + k1 (1 - b + b length / mean length)).
Shapes: Q queries, K keys, H hits.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import beside, read_json, write_json
from zh_embedder.core.numbers import NOT_NEGATIVE, SHARE
from zh_embedder.core.progress import Bar
from zh_embedder.search.vector_store import NO_KEY
from zh_embedder.text.words import Segmenter, segmenter

K1, B = 0.82, 0.68  # LLM-Embedder's
K1_RANGE, B_RANGE = NOT_NEGATIVE, SHARE
FORMAT = 1
SETTINGS, OWN_WORDS = "bm25.json", "dictionary.txt"


@dataclass(frozen=True, slots=True)
class BM25Options:
    """How keys are found by words; see `build_bm25`."""

    words: str = "jieba"
    dictionary: str | Path | None = None
    k1: float = K1
    b: float = B


@dataclass(frozen=True, slots=True)
class Tokens:
    """What `bm25s` builds an index of: numbers of words, 4 bytes each, and not the words."""

    ids: list[array[int]]  # of each text
    vocab: dict[str, int]


@dataclass(frozen=True, slots=True)
class BM25:
    """An index over the words of K keys."""

    found: Any  # bm25s.BM25; None where no key has a word
    keys: int
    words: str
    dictionary: Path | None
    cut: Segmenter

    def search(
        self, queries: Sequence[str], hits: int, *, show_progress: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the best keys of each query.

        A key that shares no word with a query is no result of it. Where fewer than H keys do, the row is filled up with
        index -1 and score minus infinity; a query without known words has such a row.

        Args:
            queries: texts, cut as the keys were. A word that a query repeats counts as often.
            hits: how many keys to return for a query.
            show_progress: show a bar where it takes over 5 seconds.

        Returns:
            Scores and key indices, both (Q, min(H, K)), best first; of equal scores the lower index first.

        Raises:
            UserError: hits is below 1.
        """
        if hits < 1:
            raise reject("--hits", hits, "at least 1")
        shape = (len(queries), min(hits, self.keys))
        scores, indices = np.full(shape, -np.inf, np.float32), np.full(shape, NO_KEY, np.int64)
        with Bar(len(queries), shown=show_progress) as bar:
            for row, query in enumerate(queries):
                cut = self.cut(query)
                values, columns = self.best(cut, shape[1])
                scores[row, : len(values)], indices[row, : len(columns)] = values, columns
                bar.advance(1, len(cut))
        return scores, indices

    def best(self, words: Sequence[str], hits: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and indices of at most H keys that hold any of some words, best first."""
        known = [] if self.found is None else self.found.get_tokens_ids(words)
        if not known:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        scores = self.found.get_scores_from_ids(known)
        columns = np.flatnonzero(scores)  # idf and term frequency are positive: zero is no word in common
        if len(columns) > hits:  # all that reach the H-th score, equal ones too, so that the lower index can win
            bar = np.partition(scores[columns], len(columns) - hits)[len(columns) - hits]
            columns = columns[scores[columns] >= bar]
        order = columns[np.argsort(-scores[columns], kind="stable")[:hits]]
        return scores[order], order

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder of arrays and JSON, whole or not at all; a user dictionary goes with it."""
        with beside(Path(folder)) as partial:
            own = None if self.dictionary is None else OWN_WORDS
            if self.dictionary is not None:
                (partial / OWN_WORDS).write_bytes(self.dictionary.read_bytes())
            if self.found is not None:
                self.found.save(partial, show_progress=False)
            settings = {"keys": self.keys, "words": self.words, "dictionary": own, "empty": self.found is None}
            write_json(partial / SETTINGS, {"format": FORMAT, **settings})


def build_bm25(
    texts: Iterable[str],
    *,
    words: str = "jieba",
    dictionary: str | Path | None = None,
    k1: float = K1,
    b: float = B,
    show_progress: bool = False,
) -> BM25:
    """Index texts by their words.

    Args:
        texts: the K keys; read once, and not kept.
        words: how to cut them, a name in `segment.WORDS`.
        dictionary: a file of further words for jieba.
        k1: how much a word's repetitions count; 0 or more.
        b: how much a text's length counts, from 0 to 1.
        show_progress: show a bar where it takes over 5 seconds.

    Raises:
        UserError: an argument is wrong.
    """
    import bm25s

    K1_RANGE.check("--k1", k1)
    B_RANGE.check("--b", b)
    cut = segmenter(words, dictionary)
    tokens = number_words(texts, cut, show_progress=show_progress)
    found = None
    if tokens.vocab:
        found = bm25s.BM25(k1=k1, b=b, method="lucene")
        found.index(tokens, create_empty_token=False, show_progress=False)
    return BM25(found, len(tokens.ids), words, Path(dictionary) if dictionary else None, cut)


def number_words(texts: Iterable[str], cut: Segmenter, *, show_progress: bool) -> Tokens:
    """Cut texts and number their words in the order in which they come."""
    vocab: dict[str, int] = {}
    ids = []
    total = len(texts) if isinstance(texts, Sequence) else 0  # 0: the bar counts without an end
    with Bar(total, shown=show_progress) as bar:
        for text in texts:
            found = array("i", (vocab.setdefault(word, len(vocab)) for word in cut(text)))
            ids.append(found)
            bar.advance(1, len(found))
    return Tokens(ids, vocab)


def load_bm25(folder: str | Path) -> BM25:
    """Read an index that `BM25.save` wrote; its arrays are mapped, not copied into memory.

    Raises:
        UserError: the folder holds no such index, or a torn one.
    """
    import bm25s

    folder = Path(folder)
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder}: {SETTINGS}: is missing, expected a folder with a saved BM25 index")
    raw = read_json(path)
    known = {"keys", "words", "dictionary", "empty"}
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or known - raw.keys():
        raise UserError(f"{path}: expected the settings of a BM25 index, format {FORMAT}")
    own = folder / OWN_WORDS if raw["dictionary"] else None
    try:
        found = None if raw["empty"] else bm25s.BM25.load(folder, mmap=True, show_progress=False)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"{folder}: is torn: {error}") from None
    return BM25(found, raw["keys"], raw["words"], own, segmenter(raw["words"], own))
