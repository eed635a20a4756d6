"""Character shingles: sets of runs of N letters, as 64-bit hashes, to tell what texts share.

Letters and digits are compared folded, without white space and punctuation, as everywhere (`segment.letters`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import reject
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.text.words import letters

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that a power of it loses nothing modulo 2 ** 64


def hashes(text: str, size: int) -> NDArray[np.uint64]:
    """Hash every run of `size` letters of a text, (L - size + 1,); none where it has fewer letters."""
    codes = np.frombuffer(letters(text).encode("utf-32-le"), np.uint32).astype(np.uint64)
    count = len(codes) - size + 1
    if count < 1:
        return np.empty(0, np.uint64)
    # Spread before summing: neighbouring code points alone would give small, colliding sums.
    codes = (codes + np.uint64(1)) * FACTOR
    codes ^= codes >> np.uint64(29)
    total = np.zeros(count, np.uint64)
    for at in range(size):
        total = total * FACTOR + codes[at : at + count]
    return total


@dataclass(frozen=True, slots=True)
class Shingles:
    """The runs of letters of many texts."""

    size: int
    known: NDArray[np.uint64]  # sorted, each once

    @classmethod
    def of(cls, texts: Iterable[str], size: int) -> Shingles:
        """Collect the runs of texts."""
        if size < 1:
            raise reject("size", size, "1 or more letters")
        found = [hashes(text, size) for text in texts]
        return cls(size, np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64))

    def hit(self, texts: Sequence[str]) -> bool:
        """Whether one of the texts has a run in common with ours."""
        if not len(self.known):
            return False
        for text in texts:
            own = hashes(text, self.size)
            places = np.minimum(np.searchsorted(self.known, own), len(self.known) - 1)
            if (self.known[places] == own).any():
                return True
        return False


def evaluation_shingles(folders: Sequence[str], size: int) -> Shingles:
    """Collect the runs of the queries and the relevant keys of retrieval sets.

    Raises:
        UserError: a folder is no retrieval set.
    """
    texts: list[str] = []
    for folder in folders:
        found = read_retrieval_set(folder)
        gold = {key for keys in found.qrels.values() for key, score in keys.items() if score > 0}
        texts += [*found.queries.values(), *(found.keys[key] for key in sorted(gold) if key in found.keys)]
    return Shingles.of(texts, size)
