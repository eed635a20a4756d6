"""HTML blocks: marked-up text below its headings. Markdown and Word files come through here too.

What a page has around its text (nav, footer, aside, forms) is left out, and its letters are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zh_embedder.text.words import UNSPACED, letters

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from bs4.element import PageElement

UNSEEN = frozenset(("script", "style", "noscript", "template", "svg", "head", "iframe", "object", "canvas"))
AROUND = frozenset(("nav", "footer", "aside", "form", "button", "select", "dialog"))
INLINE = frozenset("""
    a abbr b bdi bdo big cite code data del dfn em font i ins kbd label mark q rp rt ruby s samp small span strike
    strong sub sup time tt u var wbr
""".split())  # fmt: skip  # noqa: SIM905
HEADINGS = {f"h{level}": level for level in range(1, 7)}
CJK = rf"{UNSPACED}\u2018-\u201d\u2026\u2014\u3001-\u303f\uff01-\uff65"  # with the punctuation that takes no space
SPACES = re.compile(r"\s+")
BREAK = "\x00"  # <br>, until white space is collapsed


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A paragraph, a list item, a table or a piece of code."""

    text: str
    headings: tuple[str, ...] = ()  # above it, the outermost first


@dataclass(slots=True)
class Outline:
    """The headings that are open while a text is read, and the blocks so far."""

    blocks: list[TextBlock] = field(default_factory=list)
    open: list[tuple[int, str]] = field(default_factory=list)  # (level, text)

    def heading(self, level: int, text: str) -> None:
        """Begin a section; those of its level and below end."""
        while self.open and self.open[-1][0] >= level:
            self.open.pop()
        self.open.append((level, text))

    def add(self, text: str) -> None:
        """Add a block, if there is something in it."""
        if text.strip():
            self.blocks.append(TextBlock(text, tuple(heading for _, heading in self.open)))


def one_line(text: str) -> str:
    r"""Collapse white space: a line break between two Chinese characters goes, anything else becomes one space.

    >>> one_line(" 中文\n 换行,  next\nline ")
    '中文换行, next line'
    """

    def space(found: re.Match[str]) -> str:
        around = text[max(0, found.start() - 1) : found.start()] + text[found.end() : found.end() + 1]
        wrapped = "\n" in found[0] and re.fullmatch(f"[{CJK}]{{2}}", around)
        return "" if wrapped else " "

    return SPACES.sub(space, text).strip()


def tidy(text: str) -> str:
    """Collapse the white space of a paragraph, line by line where it has <br>."""
    return "\n".join(line for part in text.split(BREAK) if (line := one_line(part)))


class Walker:
    """One pass over a page, in the order of reading."""

    def __init__(self) -> None:
        self.outline, self.left_out = Outline(), 0
        self.paragraph: list[str] = []

    def flush(self) -> None:
        """End the paragraph."""
        self.outline.add(tidy("".join(self.paragraph)))
        self.paragraph.clear()

    def walk(self, root: Tag) -> None:
        """Read everything below a tag. No recursion: broken pages nest thousands deep."""
        stack: list[Iterator[PageElement]] = [iter(root.children)]
        ends: list[bool] = [True]  # whether leaving the tag ends a paragraph
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                if ends.pop():
                    self.flush()
            elif (inside := self.enter(node)) is not None:
                stack.append(iter(inside.children))
                ends.append(inside.name not in INLINE)

    def enter(self, node: PageElement) -> Tag | None:
        """Take in a text or a tag; returns a tag whose children are to be read."""
        from bs4 import Tag
        from bs4.element import NavigableString

        if type(node) is NavigableString:  # not its subclasses: comments, doctypes
            self.paragraph.append(str(node))
        if not isinstance(node, Tag) or node.name in UNSEEN:
            return None
        if node.name == "br":
            self.paragraph.append(BREAK)
            return None
        if node.name in AROUND or node.get("role") == "navigation" or node.has_attr("hidden"):
            self.left_out += len(letters(node.get_text()))
            return None
        if node.name not in INLINE:
            self.flush()
        return self.whole(node)

    def whole(self, node: Tag) -> Tag | None:
        """Take in a tag that is read as a whole; returns any other."""
        if node.name in HEADINGS:
            if text := one_line(node.get_text()):
                self.outline.heading(HEADINGS[node.name], text)
        elif node.name == "pre":
            self.outline.add(node.get_text().strip("\n"))
        elif node.name == "table":
            self.outline.add("\n".join(row for row in map(row_text, node.find_all("tr")) if row))
        else:
            return node
        return None


def row_text(row: Tag) -> str:
    """Lay out the row of a table: its cells with bars between."""
    cells = [one_line(cell.get_text(" ")) for cell in row.find_all(("td", "th"), recursive=False)]
    return " | ".join(cells) if any(cells) else ""


@dataclass(frozen=True, slots=True)
class Page:
    """What was read of a page."""

    title: str  # its first top heading, else its <title>, else nothing
    blocks: list[TextBlock]
    left_out: int  # letters of nav, footer and the like


def read_page(markup: str) -> Page:
    """Read HTML."""
    from bs4 import BeautifulSoup

    soup: BeautifulSoup = BeautifulSoup(markup, "html.parser")
    walker = Walker()
    walker.walk(soup)
    top = next((one_line(tag.get_text()) for tag in soup.find_all("h1")), "")
    named = one_line(soup.title.get_text()) if soup.title else ""
    return Page(top or named, walker.outline.blocks, walker.left_out)
