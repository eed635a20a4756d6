"""Texts that nearly repeat each other, by MinHash over their character n-grams: signatures in memory, no texts.

datasketch makes the signatures. The search for alike ones is ours, over NumPy arrays: dictionaries of buckets take
several kilobytes for each text, sorted bands none that stays.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.errors import UserError
from zh_embedder.segment import letters

Signatures = NDArray[np.uint32]  # (N, PERMUTATIONS)

PERMUTATIONS = 128
GRAM = 3
RECALL = 0.999  # of pairs that are just alike enough: the chance that some band is equal
BUCKET = 64  # members of a bucket that each other one is compared with


def grams(text: str) -> set[bytes]:
    """Return the character n-grams of a text; a shorter text is one of its own."""
    own = letters(text) or text.strip()
    return {own[i : i + GRAM].encode() for i in range(max(1, len(own) - GRAM + 1))}


class Signer:
    """Makes signatures; two texts of the same n-grams have the same one."""

    def __init__(self) -> None:
        try:
            from datasketch import MinHash
        except ImportError:
            raise UserError(
                "--near: needs datasketch: pip install 'zh_embedder[tools]', or pip install datasketch"
            ) from None
        self.make = MinHash
        self.empty = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)

    def __call__(self, text: str) -> Signatures:
        """Return the signature of a text, (PERMUTATIONS,)."""
        hashed: Any = self.empty.copy()
        hashed.update_batch(sorted(grams(text)))
        return np.asarray(hashed.hashvalues, np.uint32)


class Collection:
    """Signatures of distinct texts, each with the number of its owner; the texts themselves are not kept."""

    def __init__(self) -> None:
        self.sign = Signer()
        self.seen: set[int] = set()
        self.owners = array("q")
        self.raw = bytearray()

    def add(self, text: str, owner: int) -> None:
        """Add a text that an owner has; of several owners of one text, the first counts."""
        if (key := hash(text)) not in self.seen:
            self.seen.add(key)
            self.owners.append(owner)
            self.raw += self.sign(text).tobytes()

    def pairs(self, near: float) -> Iterator[tuple[int, int]]:
        """Yield pairs of texts that are alike, by the numbers that they were added under; some twice."""
        yield from alike(np.frombuffer(self.raw, np.uint32).reshape(-1, PERMUTATIONS), near)


def band_rows(near: float) -> int:
    """Rows of a band: as many as find a pair that is just `near` with the chance RECALL."""
    fitting = [r for r in range(1, PERMUTATIONS + 1) if 1 - (1 - near**r) ** (PERMUTATIONS // r) >= RECALL]
    return max(fitting, default=1)


def alike(signatures: Signatures, near: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose estimated Jaccard similarity is at least `near`; of equal ones, each with the first.

    A bucket of more than BUCKET rows is compared with its first BUCKET alone.
    """
    if not len(signatures):
        return
    packed = np.ascontiguousarray(signatures).view(np.dtype((np.void, signatures.shape[1] * 4))).ravel()
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    for row, original in enumerate(first[inverse].tolist()):
        if original != row:
            yield original, row
    kept = np.sort(first)
    rows = band_rows(near)
    for start in range(0, PERMUTATIONS - rows + 1, rows):
        yield from alike_in_band(signatures, kept, slice(start, start + rows), near)


def alike_in_band(
    signatures: Signatures, kept: NDArray[np.int64], band: slice, near: float
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of one band: rows that are equal in it and alike over all."""
    part = np.ascontiguousarray(signatures[kept, band])
    packed = part.view(np.dtype((np.void, part.shape[1] * 4))).ravel()
    order = np.argsort(packed, kind="stable")
    ordered = packed[order]
    edges = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        members = kept[order[begin:end]] if end - begin > 1 else ()
        for place, one in enumerate(members[:BUCKET]):
            others = members[place + 1 :]
            same = (signatures[others] == signatures[one]).mean(axis=1) >= near
            yield from ((int(one), int(other)) for other in others[same])
