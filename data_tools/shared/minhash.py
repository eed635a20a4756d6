"""MinHash near-duplicates over character n-grams: signatures in memory, no texts.

A signature is the least of each of P random hashes over the n-grams of a text: two texts agree in each with the
probability of their Jaccard similarity (Broder 1997). Signatures are cut into bands; texts that agree in all rows of
some band are looked at. Bands are kept as sorted arrays of their hashes: dictionaries of buckets take several kilobytes
for each text. `Collection` finds all pairs of many texts (split), `Index` the neighbours of one among many (doctor).

    N texts, P permutations, B bands of R rows, G n-grams of a text
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.hashing import text_hash
from zh_embedder.text.words import letters

Signatures = NDArray[np.uint32]  # (N, P)
BandKeys = NDArray[np.uint64]  # (N, B)

SEED = 0x5EED
RECALL = 0.999  # of pairs that are just alike enough: the chance that some band is equal
BUCKET = 64  # members of a bucket that each other one is compared with
BLOCK = 4096  # n-grams hashed at a time: a text of a million characters must not take gigabytes


class Signer:
    """Makes signatures of texts; two texts of the same n-grams have the same one, in every process."""

    def __init__(self, *, gram: int, permutations: int) -> None:
        rng = np.random.default_rng([SEED, gram, permutations])
        self.gram, self.permutations = gram, permutations
        self.weights = rng.integers(1 << 63, size=gram, dtype=np.uint64) * 2 + 1
        self.scale = (rng.integers(1 << 31, size=permutations, dtype=np.uint32) * 2 + 1)[:, None]
        self.shift = rng.integers(1 << 32, size=permutations, dtype=np.uint32)[:, None]

    def __call__(self, text: str) -> Signatures:
        """Return the signature of a text, (P,); one shorter than an n-gram is an n-gram of its own."""
        hashed = self.hashes(text)  # (G,)
        parts = [hashed[at : at + BLOCK] for at in range(0, len(hashed), BLOCK)]
        least = [(self.scale * part + self.shift).min(axis=1) for part in parts]  # (P, G) -> (P,)
        return least[0] if len(least) == 1 else np.minimum.reduce(least)

    def hashes(self, text: str) -> NDArray[np.uint32]:
        """Hash every n-gram, (G,): sum of weights times characters, its high half (Dietzfelbinger et al. 1997)."""
        raw = text.ljust(self.gram, "\0").encode("utf-32-le", "surrogatepass")
        codes = np.frombuffer(raw, np.uint32).astype(np.uint64)
        grams = len(codes) - self.gram + 1
        mixed = np.zeros(grams, np.uint64)
        for place, weight in enumerate(self.weights):
            mixed += weight * codes[place : place + grams]
        return (mixed >> np.uint64(32)).astype(np.uint32)


def band_rows(near: float, permutations: int) -> int:
    """Rows of a band: as many as find a pair that is just `near` with the chance RECALL, 1 - (1 - near^R)^(P/R)."""
    fitting = [r for r in range(1, permutations + 1) if 1 - (1 - near**r) ** (permutations // r) >= RECALL]
    return max(fitting, default=1)


def band_keys(signatures: Signatures, rows: int) -> BandKeys:
    """Hash the bands of signatures, (N, P) -> (N, B): equal where all rows are; the number of a band counts."""
    bands = signatures.shape[1] // rows
    parts = signatures[:, : bands * rows].reshape(len(signatures), bands, rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), parts.shape[:2]).copy()
    for row in range(rows):
        keys = (keys ^ parts[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


class Index:
    """Texts that can be asked for those that may be nearly equal to another; the caller decides which are."""

    def __init__(self, signer: Signer, texts: list[str], near: float) -> None:
        self.signer, self.rows = signer, band_rows(near, signer.permutations)
        signatures = np.stack([signer(text) for text in texts]) if texts else np.zeros((0, 1), np.uint32)
        keys = band_keys(signatures, self.rows if texts else 1)
        order = np.argsort(keys, axis=None, kind="stable")
        self.keys = keys.ravel()[order]  # (N * B,) sorted
        self.owners = order // max(1, keys.shape[1])

    def __call__(self, text: str) -> list[int]:
        """Return the numbers of texts that share a band with this one, in order."""
        wanted = band_keys(self.signer(text)[None], self.rows)[0]
        first, last = (np.searchsorted(self.keys, wanted, side) for side in ("left", "right"))
        hits = np.flatnonzero(last > first).tolist()
        return sorted({owner for hit in hits for owner in self.owners[first[hit] : last[hit]].tolist()})


class Collection:
    """Signatures of distinct texts, each with the number of its owner; the texts themselves are not kept."""

    def __init__(self, *, gram: int = 3, permutations: int = 128, plain: Callable[[str], str] = letters) -> None:
        self.sign, self.plain = Signer(gram=gram, permutations=permutations), plain
        self.seen: set[int] = set()
        self.owners = array("q")
        self.raw = bytearray()

    def add(self, text: str, owner: int) -> None:
        """Add a text that an owner has; of several owners of one text, the first counts."""
        if (key := text_hash(text)) not in self.seen:
            self.seen.add(key)
            self.owners.append(owner)
            self.raw += self.sign(self.plain(text) or text.strip()).tobytes()

    def pairs(self, near: float) -> Iterator[tuple[int, int]]:
        """Yield pairs of texts that are alike, by the numbers that they were added under; some twice."""
        yield from alike(np.frombuffer(self.raw, np.uint32).reshape(-1, self.sign.permutations), near)


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
    rows = band_rows(near, signatures.shape[1])
    for start in range(0, signatures.shape[1] - rows + 1, rows):
        keys = band_keys(np.ascontiguousarray(signatures[kept, start : start + rows]), rows)[:, 0]
        yield from alike_in_band(signatures, kept, keys, near)


def alike_in_band(
    signatures: Signatures, kept: NDArray[np.int64], keys: NDArray[np.uint64], near: float
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of one band: rows of one key, (N,), that are alike over all."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    edges = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    for at in np.flatnonzero(np.diff(edges) > 1).tolist():
        members = kept[order[edges[at] : edges[at + 1]]]
        for place, one in enumerate(members[:BUCKET]):
            others = members[place + 1 :]
            same = (signatures[others] == signatures[one]).mean(axis=1) >= near
            yield from ((int(one), int(other)) for other in others[same])
