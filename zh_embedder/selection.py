"""Which positive and which negatives of a record travel this epoch. Pure: a function of (record, seed, epoch, row).

A record's candidates are its positives then its negatives (the order of its teacher scores); with `history` the
history is the list of negatives, from which the teacher takes the positive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zh_embedder.errors import UserError

SELECT_POSITIVE = ("first", "random", "teacher", "teacher-pos")
SELECT_NEGATIVE = ("random", "first", "teacher+", "teacher-")
DRAWS_PER_NEGATIVE = 20
UNSCORED = 1e4  # below the lowest score: its softmax is 0, its logarithm finite
SHUFFLED_FROM = 100  # characters: shorter positives are not cut (FlagEmbedding's rule for shuffle_ratio)


@dataclass(frozen=True, slots=True)
class Record:
    """One training record, as the file has it."""

    query: str
    pos: Sequence[str]
    neg: Sequence[str]
    teacher_scores: Sequence[float] | None = None  # pos then neg
    prompt: str | None = None  # this record's own query instruction

    @property
    def candidates(self) -> list[str]:
        """Positives then negatives."""
        return [*self.pos, *self.neg]


@dataclass(frozen=True, slots=True)
class Group:
    """The keys of one query that travel together: the positive, then the negatives."""

    keys: tuple[str, ...]  # G texts, the positive first
    positives: tuple[str, ...]  # every known positive: none of them may serve as a negative
    teacher: tuple[float, ...] | None  # G scores, aligned with `keys`

    @property
    def texts(self) -> tuple[str, ...]:
        """The keys as the file has them: a positive whose chunks were shuffled is still the same text."""
        return (self.positives[0], *self.keys[1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionRule:
    """How a dataset's groups are formed."""

    group_size: int
    select_positive: str = "first"
    select_negative: str = "random"
    random_negatives: int = 0
    shuffle_ratio: float = 0.0
    with_teacher: bool = False


def row_rng(seed: int, epoch: int, dataset: int, row: int) -> np.random.Generator:
    """Return the generator of one row in one epoch: workers, ranks and resumption cannot change what it draws."""
    return np.random.default_rng((seed, epoch, dataset, row))


def pick_positive(record: Record, how: str, rng: np.random.Generator) -> int:
    """Index of the positive among `record.candidates`."""
    scores = record.teacher_scores
    if not record.pos and how != "teacher":
        raise UserError(f"select_positive {how!r}: the record has history and no pos; use select_positive teacher")
    if how.startswith("teacher"):
        if scores is None:
            raise UserError(f"select_positive {how!r}: the records have no teacher_scores")
        among = len(scores) if how == "teacher" else len(record.pos)
        return int(np.argmax(np.asarray(scores[:among])))
    return 0 if how == "first" else int(rng.integers(len(record.pos)))


def pick_negatives(
    indices: Sequence[int], scores: Sequence[float] | None, count: int, how: str, rng: np.random.Generator
) -> list[int]:
    """`count` of the candidate `indices`; fewer candidates than that are repeated to fill (LLM-Embedder's rule)."""
    if not indices or count <= 0:
        return []
    order = list(indices)
    if how == "random":
        order = [order[i] for i in rng.permutation(len(order))]
    elif how != "first":
        if scores is None:
            raise UserError(f"select_negative {how!r}: the records have no teacher_scores")
        sign = -1 if how == "teacher+" else 1
        order.sort(key=lambda i: sign * scores[i])
    return [order[i % len(order)] for i in range(count)]


def shuffle_chunks(text: str, ratio: float, rng: np.random.Generator) -> str:
    """With probability `ratio`, a text of over 100 characters cut in three chunks whose order is shuffled.

    FlagEmbedding's `shuffle_ratio`: the position of a fact in its passage should not matter.
    """
    if ratio <= 0 or len(text) <= SHUFFLED_FROM or rng.random() >= ratio:
        return text
    size = -(-len(text) // 3)
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    return "".join(chunks[i] for i in rng.permutation(len(chunks)))


def select_group(
    record: Record, rule: SelectionRule, rng: np.random.Generator, draw_other: Callable[[np.random.Generator], str]
) -> Group:
    """Form the group of one record for one epoch.

    Args:
        record: the record.
        rule: how its dataset's groups are formed.
        rng: `row_rng` of this row and epoch.
        draw_other: draws a positive of another record of the dataset, for random negatives and for records that have
            no negatives of their own.

    Returns:
        A group of exactly `rule.group_size` keys. Where the dataset has nothing else to offer, the positive itself
        fills the last places, with its own teacher score: it is known, so InfoNCE masks it.
    """
    texts = record.candidates
    scores = record.teacher_scores
    chosen = pick_positive(record, rule.select_positive, rng)
    positives = tuple(dict.fromkeys([texts[chosen], *record.pos]))
    own = [i for i in range(len(record.pos), len(texts)) if texts[i] not in positives]

    wanted = rule.group_size - 1
    from_own = wanted - rule.random_negatives if own else 0
    picked = pick_negatives(own, scores, from_own, rule.select_negative, rng)
    seen = {*positives, *(texts[i] for i in picked)}
    others: list[str] = []
    for _ in range(DRAWS_PER_NEGATIVE * (wanted - len(picked))):
        if len(others) == wanted - len(picked):
            break
        text = draw_other(rng)
        if text not in seen:
            others.append(text)
            seen.add(text)
    fill = [texts[chosen]] * (wanted - len(picked) - len(others))

    positive = shuffle_chunks(texts[chosen], rule.shuffle_ratio, rng)
    teacher = None
    if rule.with_teacher and scores is not None:
        floor = min(scores) - UNSCORED  # the teacher never saw another record's key: no share of the target
        known = [scores[i] for i in [chosen, *picked]]
        teacher = tuple(map(float, [*known, *[floor] * len(others), *[scores[chosen]] * len(fill)]))
    return Group((positive, *(texts[i] for i in picked), *others, *fill), positives, teacher)
