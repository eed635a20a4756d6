"""Source groups: records that belong together, and the drawing of whole groups for splits without leaks."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.hashing import text_hash


class Unions:
    """Members that share a mark belong together, directly or through others; marks are kept as hashes."""

    def __init__(self) -> None:
        self.parent = array("q")
        self.first: dict[int, int] = {}  # hash of a mark -> member that had it first

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.parent)

    def add(self, marks: Iterable[str]) -> int:
        """Add a member with what ties it to others; returns its number."""
        index = len(self.parent)
        self.parent.append(index)
        for mark in marks:
            self.join(index, self.first.setdefault(text_hash(mark), index))
        return index

    def join(self, one: int, other: int) -> None:
        """Tie two members together."""
        self.parent[self.root(one)] = self.root(other)

    def root(self, index: int) -> int:
        """Return the representative of all that belong together with this one."""
        while self.parent[index] != index:
            self.parent[index] = self.parent[self.parent[index]]
            index = self.parent[index]
        return index

    def roots(self) -> NDArray[np.int64]:
        """Number of the group of each member."""
        return np.asarray([self.root(index) for index in range(len(self.parent))], np.int64)


def sizes_of(numbers: NDArray[np.int64]) -> dict[int, int]:
    """Members of each group."""
    return dict(zip(*(part.tolist() for part in np.unique(numbers, return_counts=True)), strict=True))


def draw_groups(
    order: Iterable[int], sizes: Sequence[Mapping[int, int]], wanted: Sequence[int], *, limit: float = 2
) -> set[int]:
    """Draw whole groups until every dataset has what is wanted of it, and never much more.

    Args:
        order: of the groups.
        sizes: for each dataset, how many of its records a group has.
        wanted: for each dataset, how many records.
        limit: times what is wanted that a dataset may give at most.
    """
    drawn: set[int] = set()
    have = [0] * len(sizes)
    for group in order:
        here = [size.get(group, 0) for size in sizes]
        lacking = any(n and h < w for n, h, w in zip(here, have, wanted, strict=True))
        too_much = any(h + n > max(limit * w, 1) for n, h, w in zip(here, have, wanted, strict=True) if n)
        if lacking and not too_much:
            drawn.add(group)
            have = [h + n for h, n in zip(have, here, strict=True)]
    return drawn
