"""Document readers: files as blocks below their headings, a row of READERS for each kind of file."""

from __future__ import annotations

import logging
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.converting.source_text import BOMS, find_encoding, opened
from data_tools.generating.html_blocks import Outline, Page, TextBlock, read_page
from data_tools.generating.pdf_text import chapter_level, read_pdf, unwrapped
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, nearest, reject, summarise
from zh_embedder.core.files import real
from zh_embedder.core.progress import with_bar
from zh_embedder.core.strict_yaml import load_yaml
from zh_embedder.data.sources import find_files, kind
from zh_embedder.evaluation.set_files import read_rows
from zh_embedder.text.words import UNSPACED

logger = logging.getLogger(__name__)

DECLARED = re.compile(rb"charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
HEAD_BYTES = 2048
FRONT_MATTER = re.compile(r"---\n(.*?\n)(?:---|\.\.\.)\s*\n", re.DOTALL)
# Built-in styles have English names inside, also in Chinese Word; these are the others that people make.
STYLES = "\n".join(
    f"p[style-name='{name}'] => h{level}:fresh"
    for level in range(1, 7)
    for name in (f"标题 {level}", f"标题{level}", f"{level}级标题")
)
TITLE_STYLE = "p[style-name='Title'] => h1:fresh"


@dataclass(frozen=True, slots=True)
class Document:
    """A document: the unit that splits must not cut."""

    name: str  # its path below the folder that was given; of JSON Lines with the line's id
    title: str  # may be ""
    blocks: Sequence[TextBlock]


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader made of a file."""

    documents: list[Document]
    notes: Mapping[str, int]  # what was left out, by its wording


Reader = Callable[[Path, str], Read]


def decoded(path: Path) -> str:
    """Return the text of a file: in the encoding that it declares, else UTF-8, UTF-16 or GB18030, which is logged.

    Raises:
        UserError: it is none of them.
    """
    with opened(path) as stream:
        raw = stream.read()
    if kind(path).lower() in (".html", ".htm") and (found := DECLARED.search(raw[:HEAD_BYTES])):
        name = found[1].decode("ascii").lower()
        try:
            return raw.decode(name)
        except (LookupError, UnicodeDecodeError):
            logger.info("%s: is not in the encoding that it declares, %s", path, name)
    if b"\0" in raw and raw[:2] not in BOMS:
        raise UserError(f"{path}: is not text: it holds null characters, expected the format that its name says")
    return raw.decode(find_encoding(path, flag=False))


def title_of(path: Path) -> str:
    """Return a file's name as a title, where it is Chinese; `scan_0001` says nothing."""
    return path.stem if re.search(f"[{UNSPACED}]", path.stem) else ""


def of_page(page: Page, path: Path, name: str, title: str = "") -> Read:
    """Make the document of a page."""
    notes = {"letters of navigation, footers and the like": page.left_out} if page.left_out else {}
    return Read([Document(name, title or page.title or title_of(path), page.blocks)], notes)


def read_html(path: Path, name: str) -> Read:
    """HTML, by the tags of its text."""
    return of_page(read_page(decoded(path)), path, name)


def read_markdown(path: Path, name: str) -> Read:
    """Markdown with tables, and the `title` of a YAML front matter."""
    from markdown_it import MarkdownIt

    text, title = decoded(path).replace("\r\n", "\n"), ""
    if front := FRONT_MATTER.match(text):
        text, title = text[front.end() :], front_title(front[1])
    return of_page(read_page(MarkdownIt("commonmark").enable("table").render(text)), path, name, title)


def front_title(text: str) -> str:
    """Return the title of a front matter; one that is no YAML has none."""
    try:
        found: Any = load_yaml(Path("front matter"), text)
    except UserError:
        return ""
    title = found.get("title") if isinstance(found, dict) else None
    return title.strip() if isinstance(title, str) else ""


def read_docx(path: Path, name: str) -> Read:
    """Word, by its styles; pictures are left out and counted."""
    import mammoth

    pictures = 0

    def no_picture(_: object) -> dict[str, str]:
        nonlocal pictures
        pictures += 1
        return {}

    try:
        with path.open("rb") as stream:
            html = mammoth.convert_to_html(
                stream, style_map=f"{TITLE_STYLE}\n{STYLES}", convert_image=mammoth.images.img_element(no_picture)
            ).value
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; those of mammoth have no number
            raise
        raise UserError(f"{path}: cannot be read as a Word file (.docx): {error}") from None
    read = of_page(read_page(html), path, name)
    return Read(read.documents, {**read.notes, **({"pictures": pictures} if pictures else {})})


def read_pdf_file(path: Path, name: str) -> Read:
    """PDF, as far as it holds text."""
    blocks, heads = read_pdf(path)
    notes = {"lines of running heads": heads} if heads else {}
    return Read([Document(name, title_of(path), blocks)], notes)


def read_text(path: Path, name: str) -> Read:
    """Plain text: paragraphs between blank lines, chapters (第三章) as headings."""
    outline, paragraph = Outline(), list[str]()
    for line in [*decoded(path).splitlines(), ""]:
        level = chapter_level(line)
        if line.strip() and level is None:
            paragraph.append(line)
            continue
        if paragraph:
            outline.add(unwrapped(paragraph))
            paragraph.clear()
        if level is not None:
            outline.heading(level, line.strip())
    return Read([Document(name, title_of(path), outline.blocks)], {})


def read_json_lines(path: Path, name: str) -> Read:
    """JSON Lines: `text`, with `title` and `id` where they are there; each line is a document."""
    documents = []
    for where, raw in read_rows(path, '{"title": ..., "text": ...}'):
        text, title = raw.get("text"), raw.get("title") or ""
        if not isinstance(text, str):
            hint = "" if "text" in raw else nearest("text", raw)
            raise UserError(f"{where}: text: got {str(text)[:60]!r}, expected the document's text{hint}")
        if not isinstance(title, str):
            raise reject(f"{where}: title", title, "a string")
        own = next((raw[field] for field in ("id", "_id") if raw.get(field) is not None), where.rpartition(":")[2])
        blocks = [TextBlock(line.strip()) for line in text.splitlines() if line.strip()]
        documents.append(Document(f"{name}#{own}", title, blocks))
    return Read(documents, {})


READERS: Mapping[str, Reader] = {
    ".txt": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".docx": read_docx,
    ".pdf": read_pdf_file,
    ".jsonl": read_json_lines,
}
SUFFIXES = (*READERS, *map(str.upper, READERS))


def names_of(specs: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yield (file, name) of everything asked for; a file in a folder is named by its path below the folder.

    Raises:
        UserError: nothing is there, a file is of a kind that cannot be read, or two would have one name.
    """
    named: dict[str, Path] = {}
    for spec in specs:
        folder = Path(spec).expanduser()
        for path in find_files([spec], data_root=None, flag="DOCUMENTS", suffixes=SUFFIXES):
            if kind(path) not in SUFFIXES:
                hint = "; save it as .docx" if path.suffix.lower() == ".doc" else ""
                raise reject("DOCUMENTS", str(path), f"a {', '.join(READERS)} file{hint}")
            name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
            if name in named and real(named[name]) != real(path):
                raise UserError(f"DOCUMENTS: {named[name]} and {path} would both be called {name}: give one folder")
            if name not in named:
                named[name] = path
                yield path, name
        if folder.is_dir():
            say_others(folder)


def say_others(folder: Path) -> None:
    """Say which files of a folder are of no kind that is read."""
    others = Counter(kind(p) or "no suffix" for p in folder.rglob("*") if p.is_file() and kind(p) not in SUFFIXES)
    if others:
        found = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
        logger.warning("%s: %s of kinds that are not read: %s", folder, counted(others.total(), "file"), found)


def read_documents(specs: Sequence[str], *, skip_unreadable: bool = False) -> list[Document]:
    """Read all documents; what was left out is logged.

    Args:
        specs: files, folders, globs.
        skip_unreadable: leave out files that cannot be read, with a warning, instead of stopping.

    Raises:
        UserError: nothing is there, files cannot be read (all of them named), or there is no text at all.
    """
    documents: list[Document] = []
    notes: Counter[str] = Counter()
    wrong: list[str] = []
    for path, name in with_bar(list(names_of(specs)), name="reading", unit="files"):
        try:
            read = READERS[kind(path).lower()](path, name)
        except UserError as error:
            wrong.append(str(error))
            continue
        except ModuleNotFoundError as error:
            raise UserError(f"{path}: needs {error.name} to be read: pip install 'zh-embedder[documents]'") from None
        notes.update(read.notes)
        documents += read.documents
    if wrong and not skip_unreadable:
        raise UserError(f"{summarise(wrong)}\n(--skip_unreadable goes on without them)")
    for message in wrong:
        logger.warning("left out: %s", message)
    for note, count in notes.items():
        logger.info("left out: %s %s", f"{count:,}", note)
    if empty := [document.name for document in documents if not document.blocks]:
        logger.warning("%s without text (scans?): %s", counted(len(empty), "document"), ", ".join(empty[:8]))
    found = [document for document in documents if document.blocks]
    if not found:
        raise UserError(f"DOCUMENTS: no text in {', '.join(specs)[:200]}")
    return found
