"""PDF text as blocks: running heads removed, wrapped lines joined, bookmarks and chapters as headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import east_asian_width

from data_tools.generating.html_blocks import Outline, TextBlock, one_line
from zh_embedder.core.errors import UserError
from zh_embedder.text.words import letters

CHAPTER = re.compile(r"\s*第\s*[〇零一二三四五六七八九十百千两\d]+\s*([编篇卷部章回节])(?!.*[。！？；]\s*$)")
LEVELS = {**dict.fromkeys("编篇卷部", 1), **dict.fromkeys("章回", 2), "节": 3}
LONGEST_HEADING = 40
ENDS = "。！？!?；;：:…"
CLOSING = "”’」』）》】\"')"
EDGE = 2  # lines at the top and bottom of a page that may be running heads
FEWEST_PAGES = 3  # below this nothing repeats often enough to be a running head
NARROW = 40  # columns: shorter lines are lists and verse, not wrapped text
SLACK = 3  # columns by which wrapped lines differ, because punctuation may not begin a line


def chapter_level(line: str) -> int | None:
    """Recognise a heading such as 第三章 or 第二节 by its looks; returns its level."""
    found = CHAPTER.match(line) if len(line.strip()) <= LONGEST_HEADING else None
    return LEVELS[found[1]] if found else None


def width(line: str) -> int:
    """Columns that a line takes: 2 for a Chinese character."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in line)


def is_sentence_end(line: str) -> bool:
    """Recognise a line that ends with a sentence."""
    return line.rstrip().rstrip(CLOSING).endswith(tuple(ENDS))


def unwrapped(lines: Sequence[str]) -> str:
    """Join the lines of a paragraph where they were cut by width alone: all but the last are equally long.

    Other lines (verse, lists, addresses) stay lines.
    """
    widths = [width(line.rstrip()) for line in lines]
    if len(lines) > 1 and min(widths[:-1]) >= max(NARROW, max(widths) - SLACK):
        return one_line("\n".join(lines))
    return "\n".join(line.strip() for line in lines)


def read_pdf(path: Path) -> tuple[list[TextBlock], int]:
    """Read a PDF; returns its blocks, and how many lines were left out as running heads.

    Raises:
        UserError: it is broken or locked.
    """
    import pypdfium2 as pdfium

    try:
        with pdfium.PdfDocument(path) as document:
            pages = [page.get_textpage().get_text_bounded().splitlines() for page in document]
            marks = {letters(mark.get_title()): mark.level + 1 for mark in document.get_toc()}
    except pdfium.PdfiumError as error:
        raise UserError(f"{path}: cannot be read as PDF: {error}") from None
    kept, dropped = without_running_heads([[line for line in page if line.strip()] for page in pages])
    return blocks_of((line for page in kept for line in page), marks), dropped


def without_running_heads(pages: Sequence[Sequence[str]]) -> tuple[list[list[str]], int]:
    """Leave out lines at the edges of pages that most pages have, page numbers aside; returns how many they were."""
    marks = [{edge(page, at) for at in places(page)} for page in pages]
    counts = Counter(mark for own in marks for mark in own)
    often = {mark for mark, count in counts.items() if count >= FEWEST_PAGES and 2 * count > len(pages)}
    kept = [
        [line for at, line in enumerate(page) if at not in places(page) or edge(page, at) not in often]
        for page in pages
    ]
    return kept, sum(map(len, pages)) - sum(map(len, kept))


def places(page: Sequence[str]) -> set[int]:
    """Where running heads may be."""
    return {at for at in (*range(EDGE), *range(len(page) - EDGE, len(page))) if 0 <= at < len(page)}


def edge(page: Sequence[str], at: int) -> str:
    """Return a line as it is compared from page to page: without its numbers."""
    return re.sub(r"\d+", "#", one_line(page[at]))


def blocks_of(lines: Iterable[str], marks: dict[str, int] | None = None) -> list[TextBlock]:
    """Make paragraphs of lines: one ends with a line that is short and ends a sentence, or before a heading.

    Args:
        lines: of the whole text, none of them blank.
        marks: folded headings -> level; chapters (第三章) are headings anyway.
    """
    every = list(lines)
    widest = max(map(width, every), default=0)
    outline, paragraph = Outline(), list[str]()

    def flush() -> None:
        outline.add(one_line("\n".join(paragraph)))
        paragraph.clear()

    for line in every:
        level = (marks or {}).get(letters(line)) or chapter_level(line)
        if level is not None:
            flush()
            outline.heading(level, one_line(line))
            continue
        paragraph.append(line)
        if is_sentence_end(line) and width(line.rstrip()) < widest - SLACK:
            flush()
    flush()
    return outline.blocks
