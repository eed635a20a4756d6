"""Text files for encoding: JSON Lines with a field, or a text per line; checked first, then read as a stream."""

from __future__ import annotations

import dataclasses
import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import MAX_SHOWN, UserError, nearest, reject, summarise
from zh_embedder.core.hashing import file_hash, text_identity
from zh_embedder.core.progress import with_bar
from zh_embedder.data.json_lines import parse_object
from zh_embedder.data.schema import check_text
from zh_embedder.data.sources import SUFFIXES, find_files, kind, read_lines
from zh_embedder.text.prefix import field_text, line_text

logger = logging.getLogger(__name__)

TEXT_FILE = ".txt"  # one text per line
FIELDS = ("text", "query", "contents")  # the first that a line has, where no field was named
ID_FIELDS = ("_id", "id")  # BEIR's name first, as in evaluation


def find_texts(specs: Sequence[str], *, flag: str = "INPUT", data_root: str | None = None) -> list[Path]:
    """Turn files, folders and globs into files of texts, in the order given.

    Raises:
        UserError: nothing is there, or a file of another kind.
    """
    suffixes = (*SUFFIXES, TEXT_FILE)
    files = find_files(specs, data_root=data_root, flag=flag, suffixes=suffixes)
    for path in files:
        if kind(path) not in suffixes:
            raise reject(flag, str(path), f"a {', '.join(SUFFIXES)} or {TEXT_FILE} file, plain, .gz or .zst")
    return files


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that texts came from."""

    path: str
    texts: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Reader:
    """Which files, and what of a line is the text."""

    files: Sequence[Path]
    field: str | None = None  # None is the first of FIELDS that a line has
    with_title: bool = False
    titled: list[str] = dataclasses.field(
        default_factory=list, compare=False
    )  # the first place where a title went in front

    def parse(self, line: str | UserError, where: str, *, plain: bool) -> tuple[str, str]:
        """Return the id and the text of a line.

        Args:
            line: the line, or why it cannot be read.
            where: `path:line`, for messages, and the id of a line that has none.
            plain: the line is the text.

        Raises:
            UserError: the line is wrong.
        """
        if isinstance(line, UserError):
            raise line
        if plain:
            return where, line
        raw = parse_object(line, where, '{"id": ..., "text": ...}')
        name = self.field or next((name for name in FIELDS if name in raw), FIELDS[0])
        if name not in raw:
            hint = nearest(name, raw) or (";" if self.field else f" (nor is {' or '.join(FIELDS[1:])});")
            found = ", ".join(map(repr, list(raw)[:8])) or "an empty object"
            raise UserError(f"{where}: {name}: is missing{hint} found {found}; --field names the field of the text")
        if self.with_title and not self.titled and field_text(raw.get("title"), f"{where}: title"):
            self.titled.append(where)
        return text_id(raw, where), line_text(raw, where, field=name, with_title=self.with_title)

    def check(self, path: Path, messages: list[str], *, show_progress: bool) -> tuple[int, int]:
        """Check every line of a file, adding to `messages`; returns its texts, and how many lines are wrong."""
        plain, name = kind(path) == TEXT_FILE, f"checking {path.name}"
        texts = blank = wrong = empty = 0
        ids = array("q")  # 8 bytes a text: a set of names would not fit into memory for large files
        for number, line in with_bar(read_lines(path), name=name, unit="lines", shown=show_progress):
            if not line:
                blank += 1
                continue
            try:
                name_of, text = self.parse(line, f"{path}:{number}", plain=plain)
                empty += not text.strip()
                if not plain:
                    ids.append(text_identity(name_of))
            except UserError as error:
                wrong += 1
                if len(messages) < MAX_SHOWN:
                    messages.append(str(error))
            texts += 1
        if blank:
            logger.info("%s: %d blank lines skipped", path, blank)
        if empty:
            logger.warning("%s: %s, encoded all the same", path, counted(empty, "empty text"))
        if again := len(ids) - len(np.unique(np.frombuffer(ids, np.int64))) if ids else 0:
            logger.warning("%s: %s of an earlier text given again (duplicate)", path, counted(again, "id"))
        return texts, wrong

    def inputs(self, *, show_progress: bool = False) -> tuple[InputFile, ...]:
        """Check every line of every file, count the texts and hash the bytes.

        Raises:
            UserError: wrong lines, up to 20 of them by file and line, or no texts at all.
        """
        messages: list[str] = []
        found: list[InputFile] = []
        wrong = 0
        for path in self.files:
            texts, errors = self.check(path, messages, show_progress=show_progress)
            wrong += errors
            found.append(InputFile(str(path), texts, file_hash(path)))
            if not texts:
                logger.warning("%s: the file holds no texts", path)
        if wrong:
            raise summarise(messages, total=wrong)
        if not sum(file.texts for file in found):
            raise UserError(f"INPUT: no texts in {', '.join(map(str, self.files[:MAX_SHOWN]))}")
        return tuple(found)

    def texts(
        self, inputs: Sequence[InputFile], shards: Sequence[int], *, shard_size: int
    ) -> Iterator[tuple[str, str]]:
        """Yield (id, text) of some shards, in order; other shards' lines are passed over, whole files unread.

        Args:
            inputs: the files as `inputs` found them.
            shards: indices of the shards wanted.
            shard_size: texts of a shard.

        Raises:
            UserError: a line is wrong, or a file has other lines than when it was checked.
        """
        wanted, row, last = set(shards), 0, max(shards, default=-1)
        for path, file in zip(self.files, inputs, strict=True):
            first, behind = row // shard_size, (row + file.texts - 1) // shard_size
            if wanted.isdisjoint(range(first, behind + 1)):
                row += file.texts
                continue
            plain, end = kind(path) == TEXT_FILE, row + file.texts
            for number, line in read_lines(path):
                if not line:
                    continue
                shard = row // shard_size
                row += 1
                if shard > last:
                    return
                if shard in wanted:
                    yield self.parse(line, f"{path}:{number}", plain=plain)
            if row != end:
                raise UserError(f"{path}: has changed while it was read: got {row - end + file.texts} texts")


def spread(
    path: Path, count: int | None, *, with_title: bool = False, show_progress: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield (`path:line`, text) of about `count` texts of a file, evenly spread over it; all where count is None.

    Raises:
        UserError: a line is wrong, or the file has no texts.
    """
    stride, index = 1, -1
    if count is not None:
        stride = max(1, -(-sum(1 for _, line in read_lines(path) if line) // count))
    reader, plain = Reader([path], with_title=with_title), kind(path) == TEXT_FILE
    lines = ((number, line) for number, line in read_lines(path) if line)
    bar = with_bar(lines, name=path.name, unit="texts", shown=show_progress)
    for index, (number, line) in enumerate(bar):
        if index % stride == 0:
            where = f"{path}:{number}"
            yield where, reader.parse(line, where, plain=plain)[1]
    if index < 0:
        raise reject(str(path), "no texts", "a text a line, or JSON Lines with a field of text")


def text_id(raw: Mapping[str, Any], where: str) -> str:
    """Return the id that a line gives its text, or its position."""
    for name in ID_FIELDS:
        if raw.get(name) is not None:
            value = raw[name]
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise reject(f"{where}: {name}", value, "a string or a whole number")
            return check_text(str(value), f"{where}: {name}")
    return where
