"""Character map: a table of characters, as the `Precompiled` normaliser of the tokenizers library reads it.

It lies inside tokenizer.json, so that every reader of the file folds Traditional into Simplified characters. Plain
`Replace` normalisers, one for each of 4,098 characters, give the same texts a thousand times slower (20 ms instead of
0.02 ms for 276 characters), and none of our libraries writes such a table.
The format is SentencePiece's: the size of a trie in bytes (little-endian uint32), the trie, and the replacements, each
ended by a zero byte. The trie is a double array of uint32 units as the Darts-clone library lays it out: a unit holds
the byte that leads to it (bits 0 to 7), whether its node ends a key (bit 8), and an offset (bits 10 to 30); the
children of the unit at p are at p ^ offset ^ byte, and the value of a key at p ^ offset, with bit 31 set.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Mapping
from typing import Any

from zh_embedder.core.errors import reject

BLOCK = 256  # children of a node lie in one block of this many units
LEAF = 1 << 8
VALUE = 1 << 31
MAX_OFFSET = 1 << 21
LONGEST_CLUSTER = 5  # bytes of a letter and its accents that are looked up together

Node = dict[int, Any]  # byte -> Node; -1 -> the value of the key that ends here
END = -1


def make_trie(keys: Mapping[bytes, int]) -> Node:
    """Nest the bytes of keys, the value of each under END."""
    root: Node = {}
    for key, value in keys.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, {})
        node[END] = value
    return root


class DoubleArray:
    """A trie laid out in units; `units` is the result."""

    def __init__(self, root: Node) -> None:
        self.units = [0] * BLOCK
        self.used = {0}
        self.bases: set[int] = set()  # a unit says its byte, not its parent: two nodes at one base would share children
        # Where the search for a base continues, for ends of keys and for branches: holes that it leaves are few.
        self.reached = {True: 0, False: 0}
        self.place(0, root)

    def free_base(self, children: list[int]) -> int:
        """Find a base of which every child's unit is free, the array growing where none is."""
        is_end = children == [0]
        base = self.reached[is_end]
        while base in self.bases or any(base ^ child in self.used for child in children):
            base += 1
        self.reached[is_end] = base
        while base >= len(self.units):
            self.units += [0] * BLOCK
        return base

    def place(self, position: int, node: Node) -> None:
        """Give the children of a node, which has its unit already, theirs."""
        children = sorted(0 if byte == END else byte for byte in node)
        base = self.free_base(children)
        offset = position ^ base
        if offset >= MAX_OFFSET:
            raise reject("charsmap", f"{len(self.units)} units", f"fewer than {MAX_OFFSET}")
        self.units[position] |= offset << 10 | (LEAF if END in node else 0)
        self.used |= {base ^ child for child in children}
        self.bases.add(base)
        for byte, child in node.items():
            if byte == END:
                self.units[base] = VALUE | child
            else:
                self.units[base ^ byte] = byte
                self.place(base ^ byte, child)


def is_cluster(text: str) -> bool:
    """Whether the reader looks a text up: one character, or a letter with accents of at most LONGEST_CLUSTER bytes."""
    accents = all(unicodedata.combining(one) for one in text[1:])
    return len(text) == 1 or (len(text) > 1 and accents and len(text.encode()) <= LONGEST_CLUSTER)


def charsmap(table: Mapping[str, str]) -> bytes:
    """Lay out what each character becomes, for `tokenizers.normalizers.Precompiled`.

    Args:
        table: character, or letter with accents behind it -> its replacement; what is not in it stays. Of a letter with
            accents the reader takes the shortest entry that it begins with, and leaves the rest of it out.

    Raises:
        UserError: a key is empty or longer than what the reader looks up, or a zero byte is in it or its replacement.
    """
    values: dict[bytes, int] = {}
    blob = bytearray()
    for character, becomes in sorted(table.items()):
        if not is_cluster(character) or "\0" in character + becomes:
            raise reject("charsmap", f"{character!r}: {becomes!r}", "a single character, and no zero byte")
        values[character.encode()] = len(blob)
        blob += becomes.encode() + b"\0"
    units = DoubleArray(make_trie(values)).units
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + bytes(blob)
