"""Duplicate checks: copies, and records that contradict each other.

Only digests are kept: 40 bytes a record, 16 for each of its keys, so a million records of 8 keys take about 170 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import xor

import numpy as np
from numpy.typing import NDArray

from data_tools.doctoring.findings import ERROR, INFO, WARNING
from data_tools.doctoring.record_checks import CheckedRecord, Look
from data_tools.shared.near_texts import pair
from zh_embedder.core.hashing import text_hash
from zh_embedder.data.schema import GROUP

BLOCK = 1 << 20
Digests = NDArray[np.uint64]
REPEAT_KINDS: Mapping[str, tuple[str, str]] = {
    "duplicate_record": (WARNING, "a record that was there before, normalised, keys in any order"),
    "negative_elsewhere_positive": (WARNING, "a negative that another record of the same query has as a positive"),
    "contradicting_keys": (ERROR, "two records that say the opposite: swapped keys, another score, another label"),
    "query_repeated": (INFO, "the same query with other positives: in one batch each is the other's false negative"),
}


@dataclass(frozen=True, slots=True)
class Repeat:
    """A record that has to do with another one."""

    kind: str
    place: int
    other: int  # the record it repeats or contradicts
    key: int | None = None  # digest of the query and the key it is about


@dataclass(slots=True)
class Column:
    """Digests with the places they come from."""

    digests: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, value: int, place: int) -> None:
        """Append one."""
        self.digests.append(value)
        self.places.append(place)

    def arrays(self) -> tuple[Digests, Digests]:
        """Return digests and places as they came, not copied."""
        return np.frombuffer(self.digests, np.uint64), np.frombuffer(self.places, np.uint64)

    def sorted(self) -> tuple[Digests, Digests]:
        """Return digests and places, equal digests side by side, in the order they came."""
        digests, places = self.arrays()
        order = self.order()
        return digests[order], places[order]

    def order(self) -> NDArray[np.int64]:
        """Return the order of sorted digests."""
        return np.argsort(np.frombuffer(self.digests, np.uint64), kind="stable")


@dataclass(slots=True)
class Claims:
    """Who says what of whom; two records that say different things of the same are found."""

    subjects: Column = field(default_factory=Column)
    values: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, subject: int, value: int, place: int) -> None:
        """Append one."""
        self.subjects.add(subject, place)
        self.values.append(value)

    def clashes(self) -> Iterator[tuple[int, int]]:
        """Yield the places of each claim that differs from the first of its subject, and of that one."""
        digests, places = self.subjects.sorted()
        values = np.frombuffer(self.values, np.uint64)[self.subjects.order()]
        for first, end in runs(digests):
            for at in range(first + 1, end):
                if values[at] != values[first]:
                    yield int(places[at]), int(places[first])


@dataclass(slots=True)
class DuplicateIndex:
    """Digests of all records."""

    records: Column = field(default_factory=Column)
    positives: Column = field(default_factory=Column)  # of query and key
    negatives: Column = field(default_factory=Column)
    queries: Claims = field(default_factory=Claims)  # which positives a query has
    verdicts: Claims = field(default_factory=Claims)  # which score a pair has, which label a text has

    def add(self, item: CheckedRecord) -> None:
        """Take a record up. Tasks are apart: what answers a question is not what continues it."""
        query = pair(text_hash(item.task or ""), item.query.digest)
        keys = pair(together(item.pos), together(item.neg))
        verdict = text_hash(f"{item.score} {item.label}")
        self.records.add(pair(pair(query, keys), verdict), item.place)
        if item.kind != GROUP:
            self.verdicts.add(pair(query, together(item.pos)), verdict, item.place)
            return
        if item.pos:
            self.queries.add(query, together(item.pos), item.place)
        for column, looks in ((self.positives, item.pos), (self.negatives, item.neg)):
            for one in looks:
                column.add(pair(query, one.digest), item.place)

    def find(self) -> Iterator[Repeat]:
        """Yield all repeats. What a copy repeats is reported at its first place."""
        copies = set()
        for repeat in self._duplicates():
            copies.add(repeat.place)
            yield repeat
        yield from self._contradictions()
        for place, other in self.verdicts.clashes():
            if place not in copies:
                yield Repeat("contradicting_keys", place, other)
        for place, other in self.queries.clashes():
            if place not in copies:
                yield Repeat("query_repeated", place, other)

    def _duplicates(self) -> Iterator[Repeat]:
        digests, places = self.records.sorted()
        for first, end in runs(digests):
            for at in range(first + 1, end):
                yield Repeat("duplicate_record", int(places[at]), int(places[first]))

    def _contradictions(self) -> Iterator[Repeat]:
        """Yield negatives that are positives elsewhere; two records that do it to each other contradict."""
        positives, owners = self.positives.sorted()
        negatives, places = self.negatives.arrays()
        found = []
        for begin in range(0, len(negatives), BLOCK):  # not all at once: there are seven times as many as records
            block = negatives[begin : begin + BLOCK]
            starts, ends = (np.searchsorted(positives, block, side) for side in ("left", "right"))
            for at in np.flatnonzero(ends > starts).tolist():
                place = int(places[begin + at])
                others = [int(owner) for owner in owners[starts[at] : ends[at]] if owner != place]
                if others:
                    found.append((place, others[0], int(block[at])))
        edges = {(place, other) for place, other, _ in found}
        for place, other, key in found:
            mutual = (other, place) in edges
            yield Repeat("contradicting_keys" if mutual else "negative_elsewhere_positive", place, other, key)


def together(looks: Sequence[Look]) -> int:
    """Return one digest of several texts, whatever their order and however often each is there."""
    return reduce(xor, {one.digest for one in looks}, 0)


def runs(digests: Digests) -> Iterator[tuple[int, int]]:
    """Yield the (first, end) of runs of equal digests, of two and more."""
    if not len(digests):
        return
    borders = np.flatnonzero(np.diff(digests)) + 1
    bounds = np.concatenate([[0], borders, [len(digests)]])
    for at in np.flatnonzero(np.diff(bounds) > 1).tolist():
        yield int(bounds[at]), int(bounds[at + 1])
