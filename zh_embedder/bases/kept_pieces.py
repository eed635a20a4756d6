"""Ids of multilingual-e5-small's pieces that e5-small-zh keeps, as they come with the package.

Chosen by examples/e5_small_zh/choose_pieces.py. The file has ids and ranges of ids (`7-12`, both ends kept), rising.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from zh_embedder.core.errors import UserError, reading
from zh_embedder.core.hashing import sha256_of

PIECES = Path(__file__).parent / "e5_small" / "kept_pieces.txt"
SHA256 = "8b5374f6444057041333c48134f3571ceda0f0223741177d937e6fbcaa699fff"


def e5_small_zh_pieces(path: Path = PIECES) -> list[int]:
    """Return the ids, rising.

    Raises:
        UserError: the file of the package is missing or another.
    """
    with reading(path):
        content = path.read_bytes()
    if (found := sha256_of(content)) != SHA256:
        raise UserError(
            f"{path}: got SHA-256 {found}, expected {SHA256}: the installed package is damaged; install it again"
        )
    return list(read_ranges(content.decode()))


def read_ranges(text: str) -> Iterator[int]:
    """Yield the ids of a text of ids and ranges."""
    for word in text.split():
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def write_ranges(ids: Iterable[int], *, width: int = 120) -> str:
    """Return rising ids as a text of ids and ranges, in lines of a width."""
    runs: list[list[int]] = []
    for one in ids:
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    lines = [""]
    for first, last in runs:
        word = str(first) if first == last else f"{first}-{last}"
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return "".join(f"{line}\n" for line in lines)
