"""Passages of documents: cut at sentence ends, below their headings, with whole sentences repeated as overlap.

The passages of a document without their overlaps are its text: nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from data_tools.generating.documents import Document
from data_tools.generating.limits import PASSAGE_CHARS
from zh_embedder.core.numbers import AMOUNT, whole
from zh_embedder.core.options import check_numbers, limited
from zh_embedder.text.sentences import sentences

CLAUSES = re.compile(r"(?s).+?(?:[，、,：:]\s*|$)")
BETWEEN = " > "  # headings


@dataclass(frozen=True, slots=True)
class PassageSize:
    """How long passages are, in characters."""

    longest: int = limited(400, PASSAGE_CHARS, flag="passage_chars")  # overlap included, headings not
    overlap: int = limited(60, AMOUNT)  # at most; whole sentences
    shortest: int = limited(50, AMOUNT, flag="min_chars")  # a section below this joins the next one

    def __post_init__(self) -> None:
        check_numbers(self)
        # Twice the overlap leaves room for text of its own; a short section must fit next to another.
        whole(2 * max(self.overlap, self.shortest)).check("--passage_chars", self.longest)


@dataclass(frozen=True, slots=True)
class Passage:
    """A key in the making."""

    id: str
    document: str  # its name
    headings: tuple[str, ...]  # the document's title first
    overlap: str  # the end of the passage before it, repeated
    own: str

    @property
    def body(self) -> str:
        """The text without headings."""
        return (self.overlap + self.own).strip()

    @property
    def key(self) -> str:
        """The text as it is searched for: headings in one line, then the text."""
        return f"{BETWEEN.join(self.headings)}\n{self.body}" if self.headings else self.body


def pieces(text: str, longest: int) -> Iterator[str]:
    """Yield sentences; one that is too long is cut behind its commas, and where it has none anywhere."""
    for sentence in sentences(text):
        if len(sentence) <= longest:
            yield sentence
            continue
        for clause in CLAUSES.findall(sentence):
            yield from (clause[at : at + longest] for at in range(0, len(clause), longest))


@dataclass(frozen=True, slots=True)
class Section:
    """Text below one heading."""

    headings: tuple[str, ...]
    text: str


def sections(document: Document, size: PassageSize) -> list[Section]:
    """Return the text by headings; short sections of one parent are joined, their headings in the text then."""
    found: list[Section] = []
    for headings, blocks in groupby(document.blocks, key=lambda block: block.headings):
        section = Section(headings, "\n".join(block.text for block in blocks))
        if found and (joined := join(found[-1], section, size)):
            found[-1] = joined
        else:
            found.append(section)
    return found


def join(one: Section, other: Section, size: PassageSize) -> Section | None:
    """Join a short section with the next one, if both together are a passage."""
    if len(one.text) >= size.shortest:
        return None
    common = shared(one.headings, other.headings)
    text = f"{inside(one, len(common))}\n{inside(other, len(common))}"
    return Section(common, text) if len(text) <= size.longest else None


def inside(section: Section, outer: int) -> str:
    """Return a section's text after those of its headings that the outside no longer has."""
    own = section.headings[outer:]
    return f"{BETWEEN.join(own)}\n{section.text}" if own else section.text


def shared(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    """Return the headings that two sections begin with."""
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    return tuple(one[:common])


def pack(parts: Sequence[str], size: PassageSize) -> Iterator[tuple[str, str]]:
    """Yield (overlap, own text) of passages about equally long, so that none is a mere rest.

    A passage takes sentences until it reaches its share of what is left, and never more than `size.longest`.
    """
    at, overlap, left = 0, "", sum(map(len, parts))
    while at < len(parts):
        room = size.longest - len(overlap)
        share = left / -(-left // room)
        own = parts[at]
        at += 1
        while at < len(parts) and len(own) + len(parts[at]) / 2 <= share and len(own) + len(parts[at]) <= room:
            own += parts[at]
            at += 1
        yield overlap, own
        left -= len(own)
        overlap = tail(own, size.overlap)


def tail(text: str, longest: int) -> str:
    """Return the last whole sentences of a text, at most so long together, and never all of it."""
    kept = ""
    for sentence in reversed(sentences(text)):
        if len(kept) + len(sentence) > longest:
            break
        kept = sentence + kept
    return "" if kept == text else kept


def cut_into_passages(document: Document, size: PassageSize) -> list[Passage]:
    """Cut a document.

    Args:
        document: to cut.
        size: of passages; a section's first passage has no overlap.

    Returns:
        Passages in the order of the text, with ids that number them.
    """
    found: list[Passage] = []
    for section in sections(document, size):
        title = (document.title,) if document.title and document.title not in section.headings[:1] else ()
        parts = list(pieces(section.text, size.longest - size.overlap))
        for overlap, own in pack(parts, size):
            name = f"{document.name}#{len(found) + 1}"
            found.append(Passage(name, document.name, (*title, *section.headings), overlap, own))
    return found
