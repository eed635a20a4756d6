"""False-negative rules: which candidates must not become negatives. A rule is a pure function and a row of RULES.

A candidate is refused by the first rule that speaks: cheap ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from data_tools.mining.pools import normalised
from data_tools.shared.near_texts import grams, overlap
from zh_embedder.core.hashing import text_hash
from zh_embedder.core.numbers import FINITE, SHARE, real
from zh_embedder.core.options import check_numbers, limited
from zh_embedder.text.words import fold

GRAM = 3  # characters
CACHED = 2048  # keys whose grams are kept, some 20 kB each: neighbours of one query are neighbours of others
REFERENCES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "lowest": min,
    "highest": max,
    "mean": lambda scores: sum(scores) / len(scores),
}


@dataclass(frozen=True, slots=True)
class RefusalLimits:
    """How strict to be. None switches a rule off."""

    margin: float | None = limited(None, FINITE)  # below the positive by so much
    percent: float | None = limited(None, real(above=0, high=2))  # of the positive's score
    overlap: float = limited(0.8, SHARE, flag="max_overlap")  # character n-grams in common with a positive, at most
    answers: bool = False
    reference: str = "lowest"  # which of several positives scores are compared with

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def scored(self) -> bool:
        """Whether scores are needed."""
        return self.margin is not None or self.percent is not None


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """What a candidate is judged by."""

    text: str
    positives: Sequence[str]
    known: frozenset[int] = frozenset()  # hashes of all normalised positives of this query, from any record
    answers: Sequence[str] = ()
    scores: Sequence[float] = ()  # of the positives


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key that was found for a query."""

    row: int
    rank: int  # from 1; 0: drawn to fill up
    text: str
    score: float | None = None


Rule = Callable[[JudgedQuery, Candidate, RefusalLimits], bool]


def is_positive(query: JudgedQuery, candidate: Candidate, limits: RefusalLimits) -> bool:
    """Whether it is a positive of this query, in this record or another, up to case, width and punctuation."""
    return text_hash(normalised(candidate.text)) in query.known


def is_query(query: JudgedQuery, candidate: Candidate, limits: RefusalLimits) -> bool:
    """Whether it is the query itself."""
    return normalised(candidate.text) == normalised(query.text)


@lru_cache(maxsize=CACHED)
def trigrams(text: str) -> frozenset[str]:
    """Character 3-grams of a text, which is normalised first."""
    return grams(normalised(text), GRAM)


def trigram_jaccard(one: str, other: str) -> float:
    """Share of the 3-grams of two texts that both have."""
    return overlap(trigrams(one), trigrams(other))


def is_near_positive(query: JudgedQuery, candidate: Candidate, limits: RefusalLimits) -> bool:
    """Whether it nearly repeats a positive of the record."""
    return limits.overlap < 1 and any(
        trigram_jaccard(candidate.text, text) > limits.overlap for text in query.positives
    )


def holds_answer(query: JudgedQuery, candidate: Candidate, limits: RefusalLimits) -> bool:
    """Whether it holds one of the answers, folded; `filter_answers` of LLM-Embedder."""
    if not limits.answers or not query.answers:
        return False
    text = fold(candidate.text)
    return any(fold(answer) in text for answer in query.answers)


def within_margin(query: JudgedQuery, candidate: Candidate, limits: RefusalLimits) -> bool:
    """Whether score > positive - margin."""
    if limits.margin is None or candidate.score is None or not query.scores:
        return False
    return candidate.score > REFERENCES[limits.reference](query.scores) - limits.margin


def above_percent(query: JudgedQuery, candidate: Candidate, limits: RefusalLimits) -> bool:
    """Whether score > positive * percent (NV-Retriever, arXiv 2407.15831: TopK-PercPos).

    For scores below zero, where that would let in what scores above the positive, the distance counts instead:
    positive - |positive| (1 - percent), which is the same above zero.
    """
    if limits.percent is None or candidate.score is None or not query.scores:
        return False
    positive = REFERENCES[limits.reference](query.scores)
    return candidate.score > positive - abs(positive) * (1 - limits.percent)


RULES: Mapping[str, Rule] = {
    "positive": is_positive,
    "query": is_query,
    "margin": within_margin,
    "percent": above_percent,
    "answer": holds_answer,
    "near_positive": is_near_positive,
}
REPEATED, CROSS_ENCODER = "repeated", "cross_encoder"
MEANING = {
    "positive": "a positive of the same query, in this record or another",
    "query": "the query itself",
    "near_positive": "nearly repeats a positive",
    "answer": "holds an answer",
    "margin": "scores too near the positive (margin)",
    "percent": "scores too near the positive (percent)",
    REPEATED: "repeats a negative that was taken",
    CROSS_ENCODER: "the cross-encoder puts it too near the positive",
}


def refusal(query: JudgedQuery, candidate: Candidate, limits: RefusalLimits) -> str | None:
    """Return the first rule that refuses a candidate, None where none does."""
    return next((name for name, rule in RULES.items() if rule(query, candidate, limits)), None)
