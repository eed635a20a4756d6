"""Query filters: which generated queries become records, and why others do not. A rule is a row of RULES."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_tools.generating.passages import Passage
from data_tools.generating.prompts import Written
from data_tools.mining.false_negatives import trigram_jaccard
from zh_embedder.core.counts import counted
from zh_embedder.core.numbers import AMOUNT, COUNT, NOT_NEGATIVE, whole
from zh_embedder.core.options import check_numbers, limited
from zh_embedder.text.words import letters

REPEATED, NOT_FOUND = "repeated", "not_found"
MEANING = {
    "short": "fewer letters than --min_query_chars",
    "long": "more characters than --max_query_chars",
    "refers": "speaks of the passage instead of standing alone (`refuse` of the prompts)",
    "copied": "a long piece of the passage, word for word",
    REPEATED: "nearly repeats an earlier query of the document",
    NOT_FOUND: "does not lead back to its passage (--round_trip)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterLimits:
    """How strict to be."""

    shortest: int = limited(4, COUNT, flag="min_query_chars")  # letters
    longest: int = limited(500, COUNT, flag="max_query_chars")
    refuse: Sequence[str] = ()
    copied: int = limited(
        20, AMOUNT, flag="max_copied_chars"
    )  # letters of a query that the passage contains verbatim; 0 switches the rule off
    near: float = limited(0.8, NOT_NEGATIVE)  # Jaccard of character 3-grams; 1 lets all but equal ones through
    round_trip: int = limited(20, AMOUNT)  # ranks; 0 switches it off

    def __post_init__(self) -> None:
        check_numbers(self)
        whole(self.shortest).check("--max_query_chars", self.longest)


@dataclass(slots=True)
class GeneratedQuery:
    """A query that a model wrote for a passage, and what became of it."""

    text: str
    task: str
    passage: Passage
    answer: str = ""
    reason: str = ""  # why it is refused; empty: kept
    rank: int | None = None  # of its passage, where the round trip was made


Rule = Callable[[GeneratedQuery, FilterLimits], bool]


def is_short(query: GeneratedQuery, limits: FilterLimits) -> bool:
    """Recognise a query with hardly a letter."""
    return len(letters(query.text)) < limits.shortest


def is_long(query: GeneratedQuery, limits: FilterLimits) -> bool:
    """Recognise a query that is a text."""
    return len(query.text) > limits.longest


def refers(query: GeneratedQuery, limits: FilterLimits) -> bool:
    """Recognise a query that speaks of its passage."""
    return any(word in query.text for word in limits.refuse)


def is_copied(query: GeneratedQuery, limits: FilterLimits) -> bool:
    """Recognise a query that is a piece of its passage."""
    own = letters(query.text)
    return 0 < limits.copied <= len(own) and own in letters(query.passage.body)


RULES: Mapping[str, Rule] = {"short": is_short, "long": is_long, "refers": refers, "copied": is_copied}


def judged(answers: Iterable[tuple[Passage, str, Sequence[Written]]], limits: FilterLimits) -> list[GeneratedQuery]:
    """Judge queries by themselves and by those before them in their document.

    Equal queries of several passages are all kept here: their passages become positives of one record.
    """
    found: list[GeneratedQuery] = []
    earlier: defaultdict[tuple[str, str], list[GeneratedQuery]] = defaultdict(list)
    for passage, task, written in answers:
        for one in written:
            query = GeneratedQuery(one.query, task, passage, one.answer)
            query.reason = next((name for name, rule in RULES.items() if rule(query, limits)), "")
            if not query.reason:
                before = earlier[task, passage.document]
                query.reason = REPEATED if any(repeats(query, other, limits) for other in before) else ""
                before.append(query)
            found.append(query)
    return found


def repeats(query: GeneratedQuery, other: GeneratedQuery, limits: FilterLimits) -> bool:
    """Recognise near copies; the same words for another passage are no copy but a second positive."""
    if letters(query.text) == letters(other.text):
        return query.passage.id == other.passage.id
    return limits.near < 1 and trigram_jaccard(query.text, other.text) > limits.near


def apply_round_trip(queries: Sequence[GeneratedQuery], ranks: Sequence[int | None], limits: FilterLimits) -> None:
    """Refuse queries whose passage is not among the first; None: not found at all."""
    for query, rank in zip(queries, ranks, strict=True):
        query.rank = rank
        if rank is None or rank > limits.round_trip:
            query.reason = NOT_FOUND


def records_of(queries: Sequence[GeneratedQuery], name: str) -> Iterator[dict[str, Any]]:
    """Yield records: queries of one task with the same letters are one, with all their passages as positives."""
    merged: defaultdict[tuple[str, str], list[GeneratedQuery]] = defaultdict(list)
    for query in queries:
        if not query.reason:
            merged[query.task, letters(query.text)].append(query)
    for number, ((task, _), same) in enumerate(merged.items(), start=1):
        answers = list(dict.fromkeys(query.answer for query in same if query.answer))
        yield {
            "query": same[0].text,
            "pos": list(dict.fromkeys(query.passage.key for query in same)),
            "task": task,
            "id": f"{name}-{number}",
            "group": same[0].passage.document,
            **({"answers": answers} if answers else {}),
        }


def refused_rows(queries: Sequence[GeneratedQuery]) -> Iterator[dict[str, Any]]:
    """Yield the queries that are in no record, with the reason."""
    for query in queries:
        if query.reason:
            rank = {"rank": query.rank} if query.reason == NOT_FOUND else {}
            yield {
                "query": query.text, "task": query.task, "passage": query.passage.id, "reason": query.reason, **rank,
            }  # fmt: skip


@dataclass(slots=True)
class Summary:
    """What came of everything, in numbers."""

    written: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, queries: Sequence[GeneratedQuery]) -> Summary:
        """Count."""
        reasons = Counter(query.reason for query in queries if query.reason)
        return cls(len(queries), len(queries) - reasons.total(), reasons)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the summary."""
        yield f"{counted(self.written, 'query')} written, {self.kept:,} kept"
        for reason, count in self.reasons.most_common():
            yield f"  {count:7,}  {reason}: {MEANING[reason]}"
