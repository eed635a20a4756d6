"""Selection of negatives: candidates taken or refused in the order drawn, until there are enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_tools.mining.false_negatives import (
    CROSS_ENCODER,
    REFERENCES,
    REPEATED,
    Candidate,
    JudgedQuery,
    RefusalLimits,
    refusal,
)
from data_tools.mining.pools import normalised
from zh_embedder.core.hashing import text_hash

PairScorer = Callable[[Sequence[tuple[str, str]]], Sequence[float]]  # (query, key) -> score


@dataclass(slots=True)
class Choice:
    """What was taken for one query, and what refused and why."""

    query: JudgedQuery
    coming: Iterator[Candidate]
    wanted: int
    taken: list[Candidate] = field(default_factory=list)
    refused: list[tuple[Candidate, str]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)  # hashes of what was taken, normalised

    def fill(self, limits: RefusalLimits) -> list[Candidate]:
        """Look at further candidates until there are enough or none are left; returns those that are new."""
        first = len(self.taken)
        while len(self.taken) < self.wanted and (candidate := next(self.coming, None)) is not None:
            name = text_hash(normalised(candidate.text))
            reason = refusal(self.query, candidate, limits) or (REPEATED if name in self.seen else None)
            if reason:
                self.refused.append((candidate, reason))
            else:
                self.seen.add(name)
                self.taken.append(candidate)
        return self.taken[first:]

    def refuse(self, candidate: Candidate, reason: str) -> None:
        """Take a candidate back."""
        self.taken.remove(candidate)
        self.refused.append((candidate, reason))


def draw_order(count: int, *, seed: int, number: int, shuffled: bool) -> list[int]:
    """Order in which a record's candidates are looked at: by rank, or shuffled by the seed and the record's number."""
    order = np.random.default_rng([seed, number, 1]).permutation(count) if shuffled else np.arange(count)
    return [int(place) for place in order]


def choose(
    choices: Sequence[Choice], limits: RefusalLimits, *, scorer: PairScorer | None = None, cross_margin: float = 0.0
) -> None:
    """Fill every choice; with a cross-encoder, those that it refuses make room for further candidates.

    Args:
        choices: of a block of queries; their pairs are scored together.
        limits: of the rules.
        scorer: scores (query, key) pairs.
        cross_margin: a candidate is refused where scorer(candidate) > scorer(positive) - cross_margin.
    """
    new = [(choice, choice.fill(limits)) for choice in choices]
    if scorer is None:
        return
    bars = positive_bars(choices, limits, scorer, cross_margin)
    while new:
        pairs = [(choice, candidate) for choice, own in new for candidate in own]
        scores = scorer([(choice.query.text, candidate.text) for choice, candidate in pairs]) if pairs else []
        for (choice, candidate), score in zip(pairs, scores, strict=True):
            if score > bars[id(choice)]:
                choice.refuse(candidate, CROSS_ENCODER)
        new = [(choice, own) for choice, _ in new if (own := choice.fill(limits))]


def positive_bars(
    choices: Sequence[Choice], limits: RefusalLimits, scorer: PairScorer, margin: float
) -> dict[int, float]:
    """Greatest score that a candidate of each choice may have."""
    pairs = [(choice.query.text, text) for choice in choices for text in choice.query.positives]
    scores = iter(scorer(pairs))
    return {
        id(choice): REFERENCES[limits.reference]([next(scores) for _ in choice.query.positives]) - margin
        for choice in choices
    }
