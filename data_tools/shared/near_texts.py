"""Near-duplicate comparison: normalisation, digests, Jaccard, MinHash.

Only digests of training texts are kept (8 bytes each); texts are kept of evaluation sets alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import add

from data_tools.shared.minhash import Index, Signer
from zh_embedder.text.letters import CONTROL
from zh_embedder.text.words import fold

DROPPED = re.compile(r"""[\s,!?;:'"()<>\[\]{}。、《》〈〉「」『』“”‘’…~·—]+|\.(?!\d)""")
NUMBERS = re.compile(r"\d+(?:\.\d+)*|[一二三四五六七八九十百千两零〇]+")
NOT_LESS = re.compile("[不没無无未非]|(?<!特)别(?!人)")
MIN_NEAR = 8  # characters: two shorter texts are alike by chance
SHORT, LONG = 20, 60  # characters: below the first one letter may be the point, above the second a number is not
PERMUTATIONS = 64
MASK = (1 << 64) - 1
MIX = 0x9E3779B97F4A7C15


def normal(text: str) -> str:
    """Return a text as it is compared: folded (NFKC, lower case), without space, punctuation, control characters.

    >>> normal("ＢＥＲＴ 好吗？3.5 分。")
    'bert好吗3.5分'
    """
    folded = fold(text)
    return DROPPED.sub("", CONTROL.sub("", folded)) or folded.strip()


def pair(first: int, second: int) -> int:
    """Return one digest of two, their order counting."""
    return ((first * MIX) & MASK) ^ second


def grams(text: str, n: int) -> frozenset[str]:
    """Return the runs of n characters of a normalised text; of a shorter one the text."""
    found: Iterable[str] = text
    for start in range(1, n):
        found = map(add, found, text[start:])
    return frozenset(found) or frozenset((text,))


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard likeness of two sets that are not empty: |A and B| / |A or B|."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


bigrams = lru_cache(maxsize=4096)(partial(grams, n=2))
characters = lru_cache(maxsize=4096)(frozenset[str])


def jaccard(first: str, second: str) -> float:
    """Share of bigrams that two normalised texts have in common.

    >>> jaccard("今天天气好", "今天天气坏")
    0.6
    """
    return overlap(bigrams(first), bigrams(second))


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
    if shorter < MIN_NEAR or shorter < 0.5 * threshold * longer or apart(first, second, threshold):
        return None
    found = jaccard(first, second)
    return found if found >= (threshold if shorter >= SHORT else max(threshold, 0.9)) else None


def apart(first: str, second: str, threshold: float) -> bool:
    """Tell, by their characters alone, that two texts cannot reach a threshold: most pairs need no bigrams then.

    With bigrams A and B, |A & B| / |A or B| >= t means |A xor B| <= (1 - t) / (1 + t) (|A| + |B|), and each character
    that one text alone has begins a bigram that it alone has, but for one at the text's end.
    """
    one, two = characters(first), characters(second)
    other = len(one) + len(two) - 2 * len(one & two)
    return (other - 2) * (1 + threshold) > (1 - threshold) * (len(first) + len(second) - 2)


@dataclass(frozen=True, slots=True)
class Known:
    """A text of an evaluation set."""

    where: str  # set and side, for messages
    text: str  # normalised


class NearIndex:
    """Evaluation texts that can be asked for one that is nearly equal to another."""

    def __init__(self, texts: Mapping[int, Known], threshold: float) -> None:
        self.texts, self.threshold = texts, threshold
        self.names = [name for name, known in texts.items() if len(known.text) >= MIN_NEAR]
        signer = Signer(gram=2, permutations=PERMUTATIONS)
        self.index = Index(signer, [texts[name].text for name in self.names], threshold)

    def find(self, text: str) -> tuple[Known, float] | None:
        """Return the nearest text and how alike it is; None where none reaches the threshold."""
        if len(text) < MIN_NEAR:
            return None
        names = [self.names[number] for number in self.index(text)]
        found = [(same(text, self.texts[name].text, self.threshold) or 0.0, name) for name in names]
        best = max(found, default=(0.0, 0))
        return (self.texts[best[1]], best[0]) if best[0] else None


def same(first: str, second: str, threshold: float) -> float | None:
    """Return how alike a text is to one of an evaluation set: a short one with another number asks another question."""
    return (near if min(len(first), len(second)) < LONG else alike)(first, second, threshold)
