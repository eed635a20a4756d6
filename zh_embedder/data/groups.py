"""Group selection: a record's positive and negatives of this epoch. Pure: a function of (record, seed, epoch, row).

A record's candidates are its positives then its negatives (the order of its teacher scores); with `history` the
history is the list of negatives, from which the teacher takes the positive. The caller chooses
what represents a candidate: its text, or anything that is equal exactly where the texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from zh_embedder.core.errors import UserError

SELECT_POSITIVE = ("first", "random", "teacher", "teacher-pos")
SELECT_NEGATIVE = ("random", "first", "teacher+", "teacher-")
DRAWS_PER_NEGATIVE = 20
UNSCORED = 1e4  # below the lowest score: its softmax is 0, its logarithm finite
SHUFFLED_FROM = 100  # characters: shorter positives are not cut (FlagEmbedding's rule for shuffle_ratio)

Key = TypeVar("Key", bound=Hashable)
Key_co = TypeVar("Key_co", bound=Hashable, covariant=True)


class Choosable(Protocol[Key_co]):
    """What selection needs of a record."""

    @property
    def pos(self) -> Sequence[Key_co]:
        """Positives; none where the teacher is to find one."""

    @property
    def neg(self) -> Sequence[Key_co]:
        """Negatives, or history."""

    @property
    def teacher_scores(self) -> Sequence[float] | None:
        """Of positives then negatives."""


@dataclass(frozen=True, slots=True)
class Group(Generic[Key]):
    """The keys of one query that travel together: the positive, then the negatives."""

    keys: tuple[Key, ...]  # G of them, the positive first
    positives: tuple[Key, ...]  # every known positive, the chosen one first: none of them may serve as a negative
    teacher: tuple[float, ...] | None  # G scores, aligned with `keys`


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


def pick_positive(record: Choosable[Hashable], how: str, rng: np.random.Generator) -> int:
    """Index of the positive among the record's candidates."""
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
    record: Choosable[Key],
    rule: SelectionRule,
    rng: np.random.Generator,
    draw_other: Callable[[np.random.Generator], Key],
    same_label: Callable[[Key], bool] | None = None,
) -> Group[Key]:
    """Form the group of one record for one epoch.

    Args:
        record: the record.
        rule: how its dataset's groups are formed.
        rng: `row_rng` of this row and epoch.
        draw_other: draws a positive of another record of the dataset, for random negatives and for records that have
            no negatives of their own.
        same_label: whether a key of another record has the record's label, and so cannot be a negative.

    Returns:
        A group of exactly `rule.group_size` keys. Where the dataset has nothing else to offer, the positive itself
        fills the last places, with its own teacher score: it is known, so InfoNCE masks it.
    """
    candidates = [*record.pos, *record.neg]
    scores = record.teacher_scores
    chosen = pick_positive(record, rule.select_positive, rng)
    positives = tuple(dict.fromkeys([candidates[chosen], *record.pos]))
    own = [i for i in range(len(record.pos), len(candidates)) if candidates[i] not in positives]

    wanted = rule.group_size - 1
    from_own = wanted - rule.random_negatives if own else 0
    picked = pick_negatives(own, scores, from_own, rule.select_negative, rng)
    seen = {*positives, *(candidates[i] for i in picked)}
    others: list[Key] = []
    for _ in range(DRAWS_PER_NEGATIVE * (wanted - len(picked))):
        if len(others) == wanted - len(picked):
            break
        key = draw_other(rng)
        if key not in seen and not (same_label and same_label(key)):
            others.append(key)
            seen.add(key)
    fill = [candidates[chosen]] * (wanted - len(picked) - len(others))

    teacher = None
    if rule.with_teacher and scores is not None:
        floor = min(scores) - UNSCORED  # the teacher never saw another record's key: no share of the target
        known = [scores[i] for i in [chosen, *picked]]
        teacher = tuple(map(float, [*known, *[floor] * len(others), *[scores[chosen]] * len(fill)]))
    return Group((candidates[chosen], *(candidates[i] for i in picked), *others, *fill), positives, teacher)
