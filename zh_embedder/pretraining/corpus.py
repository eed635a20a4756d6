"""Pretraining corpora: files of documents as windows of token ids, made once and memory-mapped.

A prepared file is a folder named by everything that decides what it holds, so that ranks and later runs find it.
Shapes: N windows, T tokens of all of them together.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import MAX_SHOWN, UserError, summarise
from zh_embedder.core.files import beside, read_json, write_json
from zh_embedder.core.hashing import hash_of
from zh_embedder.core.locks import one_at_a_time
from zh_embedder.core.parallel import in_order, processes_for
from zh_embedder.core.progress import Bar
from zh_embedder.data.record_tables import content_hash
from zh_embedder.data.sources import kind, read_lines
from zh_embedder.data.text_files import TEXT_FILE, Reader, find_texts
from zh_embedder.pretraining.windows import Window, windows_of
from zh_embedder.text.tokens import fingerprint

logger = logging.getLogger(__name__)

FORMAT = "1"  # part of every name: a change of the layout must not find old folders
CHARACTERS_AT_ONCE = 1 << 18  # of the documents that a process cuts at a time
COUNTS = "counts.json"
PARTS = {"ids": np.int32, "starts": np.bool_, "sizes": np.int32, "lines": np.int64}  # files of a prepared folder
SHARE_STREAM = 2**32 - 2  # sets the draw of documents apart from every other


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRule:
    """What of a file is a document, and how documents are cut."""

    limit: int  # tokens of a window, special ones not among them
    field: str | None = None  # of the text; None is the first of texts.FIELDS that a line has
    title: bool = True  # a `title` goes in front of the text
    paragraphs: bool = False  # in text files blank lines separate documents; else each line is one
    share: float = 1.0  # of the documents, for trials
    dictionary: str | None = None  # of words besides jieba's own


class Document(NamedTuple):
    """One document."""

    line: int  # where it begins
    text: str


@dataclass(slots=True)
class Counts:
    """What a file came to."""

    documents: int = 0
    empty: int = 0  # without a token: skipped
    left_out: int = 0  # by `share`
    characters: int = 0
    windows: int = 0
    tokens: int = 0
    unknown: int = 0  # tokens that the vocabulary does not have


class Windows:
    """The windows of a prepared file."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path, self.counts = folder, path, Counts(**read_json(folder / COUNTS))
        loaded: dict[str, Any] = {
            name: np.memmap(folder / name, dtype, "r") if (folder / name).stat().st_size else np.empty(0, dtype)
            for name, dtype in PARTS.items()
        }
        self.ids, self.starts, self.sizes, self.lines = (loaded[name] for name in PARTS)
        self.ends = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])

    def __reduce__(self) -> Any:
        """Travel to another process by name."""
        return Windows, (self.folder, self.path)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.sizes)

    def __getitem__(self, row: int) -> Window:
        """Read one window; views of the file."""
        own = slice(int(self.ends[row]), int(self.ends[row + 1]))
        return Window(self.ids[own], self.starts[own])


# ---- reading --------------------------------------------------------------------------------------------------------


def find_corpus(specs: Sequence[str], *, data_root: str | None = None) -> list[Path]:
    """Turn files, folders and globs into files of documents, in the order given.

    Raises:
        UserError: nothing is there, or a file of another kind.
    """
    return find_texts(specs, flag="--corpus", data_root=data_root)


def documents(path: Path, rule: CorpusRule) -> Iterator[Document | UserError]:
    """Yield a file's documents; an error in the place of each wrong line."""
    plain = kind(path) == TEXT_FILE
    if plain and rule.paragraphs:
        yield from paragraphs(path)
        return
    reader = Reader((path,), rule.field, with_title=rule.title)
    for number, line in read_lines(path):
        if not line:
            continue
        try:
            yield Document(number, reader.parse(line, f"{path}:{number}", plain=plain)[1])
        except UserError as error:
            yield error


def paragraphs(path: Path) -> Iterator[Document | UserError]:
    """Yield the blocks between blank lines of a text file, their lines kept."""
    first, lines = 0, list[str]()
    for number, line in read_lines(path):
        if isinstance(line, UserError):
            yield line
            return
        if line:
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield Document(first, "\n".join(lines))
            lines = []
    if lines:
        yield Document(first, "\n".join(lines))


def drawn(found: Iterable[Document | UserError], share: float, counts: Counts) -> Iterator[Document | UserError]:
    """Leave documents out so that a share of them stays, the same ones in every run."""
    rng = np.random.default_rng(SHARE_STREAM)
    for one in found:
        if share < 1 and isinstance(one, Document) and rng.random() >= share:
            counts.left_out += 1
        else:
            yield one


def blocks(found: Iterable[Document | UserError], messages: list[str], wrong: list[int]) -> Iterator[list[Document]]:
    """Yield documents in pieces of about `CHARACTERS_AT_ONCE`; wrong lines go to `messages`, and nothing after them.

    Args:
        found: documents and errors.
        messages: gets the first errors.
        wrong: its only number counts them all.
    """
    block, characters = list[Document](), 0
    for one in found:
        if isinstance(one, UserError):
            wrong[0] += 1
            if len(messages) < MAX_SHOWN:
                messages.append(str(one))
            continue
        if wrong[0]:
            continue
        block.append(one)
        characters += len(one.text)
        if characters >= CHARACTERS_AT_ONCE:
            yield block
            block, characters = [], 0
    if block and not wrong[0]:
        yield block


# ---- writing --------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Documents that were cut, laid end to end."""

    documents: int
    characters: int
    empty: int
    unknown: int
    arrays: dict[str, NDArray[Any]]  # by the names of PARTS


def cut_block(tokenizer: Any, rule: CorpusRule, block: Sequence[Document]) -> Piece:
    """Cut some documents."""
    cut = windows_of(tokenizer, [d.text for d in block], limit=rule.limit, dictionary=rule.dictionary)
    lines = [document.line for document, own in zip(block, cut, strict=True) for _ in own]
    windows = [window for own in cut for window in own]
    ids = np.concatenate([np.empty(0, np.int32), *(window.ids for window in windows)])
    starts = np.concatenate([np.empty(0, np.bool_), *(window.starts for window in windows)])
    arrays = {
        "ids": ids.astype(np.int32),
        "starts": starts,
        "sizes": np.array([len(window.ids) for window in windows], np.int32),
        "lines": np.array(lines, np.int64),
    }
    unknown = 0 if tokenizer.unk_token_id is None else int((ids == tokenizer.unk_token_id).sum())
    return Piece(len(block), sum(len(d.text) for d in block), sum(not own for own in cut), unknown, arrays)


def write_windows(path: Path, target: Path, tokenizer: Any, rule: CorpusRule) -> None:
    """Cut all documents of a file into a folder; nothing is written where a line is wrong.

    Raises:
        UserError: up to 20 messages with file and line, then how many more there are.
    """
    counts, messages, wrong = Counts(), list[str](), [0]
    found = blocks(drawn(documents(path, rule), rule.share, counts), messages, wrong)
    pieces = in_order(partial(cut_block, tokenizer, rule), found, processes=processes_for(path.stat().st_size >> 16))
    bar = Bar(name=f"cutting {path.name}", unit="characters", scaled=True)
    with beside(target) as folder:
        files: dict[str, IO[bytes]] = {name: (folder / name).open("wb") for name in PARTS}
        try:
            with closing(pieces), bar:
                for piece in pieces:
                    add(piece, counts, files)
                    bar.update(piece.characters)
        finally:
            for file in files.values():
                file.close()
        if not wrong[0] and not counts.windows:
            messages, wrong = [f"{path}: the file holds no text"], [1]
        if wrong[0]:
            raise summarise(messages, total=wrong[0])
        write_json(folder / COUNTS, asdict(counts))


def add(piece: Piece, counts: Counts, files: dict[str, IO[bytes]]) -> None:
    """Append a piece to the files of a folder, and count it."""
    counts.documents += piece.documents
    counts.empty += piece.empty
    counts.characters += piece.characters
    counts.unknown += piece.unknown
    counts.windows += len(piece.arrays["sizes"])
    counts.tokens += len(piece.arrays["ids"])
    for name, array in piece.arrays.items():
        files[name].write(np.ascontiguousarray(array).tobytes())


def folder_name(path: Path, tokenizer: Any, rule: CorpusRule) -> str:
    """Name of a prepared file: a hash of all that decides what it holds.

    Raises:
        UserError: the tokenizer is no fast one, so that the places of its tokens in a text are unknown.
    """
    token_print = fingerprint(tokenizer)
    if token_print is None:
        raise UserError("--query_encoder: its tokenizer runs Python code of its own, expected a fast one")
    words = rule.dictionary and content_hash(Path(rule.dictionary))
    file = [content_hash(path), kind(path)]
    decides = [FORMAT, *file, {**asdict(rule), "dictionary": words}, token_print, version("jieba")]
    return hash_of(json.dumps(decides).encode())


def load_corpus(files: Sequence[Path], tokenizer: Any, rule: CorpusRule, *, cache: Path) -> list[Windows]:
    """Return the windows of files, prepared by whichever process comes first; the others wait for it.

    Raises:
        UserError: a line is wrong.
    """
    found = []
    for path in files:
        target = cache / folder_name(path, tokenizer, rule)
        if not target.is_dir():
            with one_at_a_time(target.with_suffix(".lock")):
                if not target.is_dir():
                    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
                    write_windows(path, target, tokenizer, rule)
        windows = Windows(target, path)
        say(windows)
        found.append(windows)
    return found


def say(windows: Windows) -> None:
    """Say what a file came to."""
    c = windows.counts
    notes = [f"{counted(c.empty, 'document')} without text skipped"] * bool(c.empty)
    notes += [f"{counted(c.left_out, 'document')} left out (--corpus_share)"] * bool(c.left_out)
    notes += [f"{c.unknown / max(1, c.tokens):.2%} of the tokens are unknown"] * bool(c.unknown)
    logger.info(
        "corpus: %s: %s, %s, %s of %s%s",
        windows.path,
        *(counted(c.documents, "document"), counted(c.characters, "character")),
        *(counted(c.windows, "window"), counted(c.tokens, "token")),
        "".join(f"; {note}" for note in notes),
    )
