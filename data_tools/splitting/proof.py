"""Split proof, computed anew from the files that were written: what two parts have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.shared.minhash import Collection
from data_tools.shared.record_files import as_line, read_records
from zh_embedder.core.hashing import text_hash
from zh_embedder.data.schema import parse_line

KINDS = ("groups", "queries", "positives")


@dataclass(slots=True)
class Proof:
    """What is shared, by kind; near-duplicates where they were asked for."""

    shared: dict[str, int]
    checked: dict[str, int]
    near: float | None = None
    near_pairs: int | None = None
    as_negatives: dict[str, int] = field(default_factory=dict)  # part -> positives of others among its negatives

    @property
    def holds(self) -> bool:
        """Whether nothing is shared."""
        return not any(self.shared.values()) and not self.near_pairs

    def as_dict(self) -> dict[str, Any]:
        """The figures."""
        return {
            "shared": self.shared,
            "checked": self.checked,
            "near_duplicates": self.near_pairs,
            "positives_of_other_parts_among_negatives": self.as_negatives,
        }

    def lines(self) -> Iterator[str]:
        """Yield the lines of the summary."""
        for kind in KINDS:
            yield f"proof: shared {kind} {self.shared[kind]:,} (of {self.checked[kind]:,})"
        if self.near_pairs is not None:
            yield f"proof: near-duplicates across parts {self.near_pairs:,} (Jaccard {self.near} or more)"
        for name, count in self.as_negatives.items():
            if count:
                yield f"{name}: {count:,} positives of other parts stand among its negatives, which ties nothing"
        yield "proof: " + ("holds" if self.holds else "FAILS")


class PartsByText:
    """Which part has a text, by hash."""

    def __init__(self) -> None:
        self.parts: dict[int, int] = {}

    def add(self, text: str, part: int) -> bool:
        """Add a text; returns whether it is new."""
        key = text_hash(text)
        before = self.parts.get(key, 0)
        self.parts[key] = before | 1 << part
        return not before

    def shared(self) -> int:
        """Count what several parts have."""
        return sum(parts & (parts - 1) != 0 for parts in self.parts.values())


def prove(written: Mapping[str, Sequence[Path]], *, near: float | None, groups_per_file: bool) -> Proof:
    """Read what was written and count what two parts share.

    Args:
        written: the files of each part.
        near: similarity from which texts count as near-duplicates; None does not look.
        groups_per_file: a group's name counts within files of one name.
    """
    seen = {kind: PartsByText() for kind in KINDS}
    negatives = PartsByText()
    texts = Collection() if near is not None else None
    for number, (part, files) in enumerate(written.items()):
        for path in files:
            name = path.name if groups_per_file and path.parent.name == part else ""
            for where, raw in read_records(path):
                row, _ = parse_line(as_line(raw), where)
                if row["group"] is not None:
                    seen["groups"].add(f"{name} {row['group']}", number)
                own = [text.strip() for text in (row["query"], *row["pos"]) if text]
                seen["queries"].add(own[0], number)
                for text in own[1:]:
                    seen["positives"].add(text, number)
                for text in row["neg"]:
                    negatives.add(text.strip(), number)
                for text in own if texts is not None else ():
                    texts.add(text, number)  # type: ignore[union-attr]
    pairs = None
    if texts is not None and near is not None:
        owners = texts.owners
        pairs = len({pair for pair in texts.pairs(near) if owners[pair[0]] != owners[pair[1]]})
    shared = {kind: one.shared() for kind, one in seen.items()}
    checked = {kind: len(one.parts) for kind, one in seen.items()}
    return Proof(shared, checked, near, pairs, crossing(negatives, seen["positives"], list(written)))


def crossing(negatives: PartsByText, positives: PartsByText, names: Sequence[str]) -> dict[str, int]:
    """Count, for each part, the positives of other parts that are negatives there."""
    counts = dict.fromkeys(names, 0)
    for key, parts in positives.parts.items():
        there = negatives.parts.get(key, 0) & ~parts
        for number, name in enumerate(names):
            counts[name] += there >> number & 1
    return counts
