"""Texts that are equal but for their spelling, and nearly equal ones: normalisation, digests, Jaccard, MinHash.

Only digests of training texts are kept (8 bytes each); texts are kept of evaluation sets alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from data_tools.encodings import CONTROL
from zh_embedder.errors import UserError
from zh_embedder.segment import fold

DROPPED = re.compile(r"""[\s,!?;:'"()<>\[\]{}。、《》〈〉「」『』“”‘’…~·—]+|\.(?!\d)""")
NUMBERS = re.compile(r"\d+(?:\.\d+)*|[一二三四五六七八九十百千两零〇]+")
NOT_LESS = re.compile("[不没無无未非]|(?<!特)别(?!人)")
MIN_NEAR = 8  # characters: two shorter texts are alike by chance
SHORT, LONG = 20, 60  # characters: below the first one letter may be the point, above the second a number is not
PERMUTATIONS, BANDS, ROWS = 64, 16, 4  # finds .80 with probability .9998, .60 with .89, .30 with .12
MASK = (1 << 64) - 1
MIX = 0x9E3779B97F4A7C15


def normal(text: str) -> str:
    """Return a text as it is compared: folded (NFKC, lower case), without space, punctuation, control characters.

    >>> normal("ＢＥＲＴ 好吗？3.5 分。")
    'bert好吗3.5分'
    """
    folded = fold(text)
    return DROPPED.sub("", CONTROL.sub("", folded)) or folded.strip()


def digest(text: str) -> int:
    """Return 64 bits of a hash."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def pair(first: int, second: int) -> int:
    """Return one digest of two, their order counting."""
    return ((first * MIX) & MASK) ^ second


@lru_cache(maxsize=4096)
def bigrams(text: str) -> frozenset[str]:
    """Return the pairs of neighbouring characters of a normalised text."""
    return frozenset(text[at : at + 2] for at in range(len(text) - 1))


def jaccard(first: str, second: str) -> float:
    """Share of bigrams that two normalised texts have in common.

    >>> jaccard("今天天气好", "今天天气坏")
    0.6
    """
    a, b = bigrams(first), bigrams(second)
    return len(a & b) / len(a | b) if a or b else float(first == second)


def near(first: str, second: str, threshold: float) -> float | None:
    """Return how alike two normalised texts are, where they reach a threshold; None where they do not.

    Texts that differ in a number or in a negation are different facts however alike their letters are.
    """
    found = alike(first, second, threshold)
    if found is None or NUMBERS.findall(first) != NUMBERS.findall(second):
        return None
    return found if len(NOT_LESS.findall(first)) == len(NOT_LESS.findall(second)) else None


def alike(first: str, second: str, threshold: float) -> float | None:
    """Return the Jaccard likeness of two normalised texts where it reaches a threshold, a higher one for short texts.

    In a text of ten characters one of them is often the whole point (单斑笛鲷, 火斑笛鲷).
    """
    shorter, longer = sorted((len(first), len(second)))
    if shorter < MIN_NEAR or shorter < 0.5 * threshold * longer:
        return None
    found = jaccard(first, second)
    return found if found >= (threshold if shorter >= SHORT else max(threshold, 0.9)) else None


@dataclass(frozen=True, slots=True)
class Known:
    """A text of an evaluation set."""

    where: str  # set and side, for messages
    text: str  # normalised


def minhash(text: str) -> Any:
    """Return the MinHash of a normalised text's bigrams."""
    from datasketch import MinHash

    made = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32, scheme="affine32")
    made.update_batch([two.encode("utf-8", "surrogatepass") for two in bigrams(text)])
    return made


class NearIndex:
    """Evaluation texts that can be asked for one that is nearly equal to another."""

    def __init__(self, texts: Mapping[int, Known], threshold: float) -> None:
        self.texts, self.threshold = texts, threshold
        self.lsh = make_lsh()
        for name, known in texts.items():
            if len(known.text) >= MIN_NEAR:
                self.lsh.insert(name, minhash(known.text), check_duplication=False)

    def find(self, text: str) -> tuple[Known, float] | None:
        """Return the nearest text and how alike it is; None where none reaches the threshold."""
        if len(text) < MIN_NEAR:
            return None
        names: Iterable[int] = self.lsh.query(minhash(text))
        found = [(same(text, self.texts[name].text, self.threshold) or 0.0, name) for name in names]
        best = max(found, default=(0.0, 0))
        return (self.texts[best[1]], best[0]) if best[0] else None


def same(first: str, second: str, threshold: float) -> float | None:
    """Return how alike a text is to one of an evaluation set: a short one with another number asks another question."""
    return (near if min(len(first), len(second)) < LONG else alike)(first, second, threshold)


def make_lsh() -> Any:
    """Make datasketch's index.

    Raises:
        UserError: it is not installed.
    """
    try:
        from datasketch import MinHashLSH
    except ImportError:
        raise UserError("--eval: near copies need datasketch: pip install 'zh-embedder[tools]'") from None
    return MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
