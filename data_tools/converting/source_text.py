"""Source text: encodings found and logged, zip files opened, JSON read with places for error messages."""

from __future__ import annotations

import codecs
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from data_tools.converting.arrow_tables import is_arrow, schema_of
from data_tools.converting.format_types import Head, Record
from data_tools.converting.values import Raw, shown
from zh_embedder.core.errors import UserError, nearest_path, reading
from zh_embedder.data.json_lines import check_surrogates, once, parse_object
from zh_embedder.data.sources import BLOCK_BYTES, open_bytes
from zh_embedder.text.encodings import NAMES, chinese_encoding

logger = logging.getLogger(__name__)

UTF8 = "utf-8-sig"
CHINESE_ENCODINGS = ("gb18030", "big5")  # tried after it: hardly any of their texts are valid UTF-8 too
SAMPLE_BYTES = 1 << 20  # that tell them apart
BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
NOT_OF_FILES = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "unicode-escape")
OBJECT = "{...}, an object on each line, or one array of them"
HEAD_CHARACTERS = 1 << 16


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain, .gz or .zst file, or the one file in a .zip.

    Raises:
        UserError: it is not there (the nearest name is offered), or the zip holds several files.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}{nearest_path(path)}")
    with reading(path):
        yield from unpacked(path)


def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Yield the stream of a plain, .gz or .zst file, or of the one file in a .zip."""
    if path.suffix != ".zip":
        with open_bytes(path) as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")]
        if len(names) != 1:
            raise UserError(f"{path}: holds {len(names)} files ({', '.join(names[:5])}), expected one: unzip it")
        try:
            stream = archive.open(names[0])
        except (NotImplementedError, RuntimeError) as error:  # a compression that Python lacks, or a password
            raise UserError(f"{path}: cannot be read: {error}, expected it unzipped") from None
        with stream:
            yield stream


def decodes(path: Path, encoding: str) -> UnicodeDecodeError | None:
    """Return why a file is not in an encoding, or None."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with opened(path) as stream:
        try:
            while block := stream.read(BLOCK_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            return error
    return None


@lru_cache(maxsize=64)
def find_encoding(path: Path, *, flag: bool = True) -> str:
    """Return a file's encoding: UTF-8, UTF-16 with its mark, GB18030 or Big5; all but the first are logged.

    Args:
        path: of the file.
        flag: whether the command has --encoding, for the message.

    Raises:
        UserError: it is none of them, may be either of the last two, or is UTF-8 with damaged bytes.
    """
    with opened(path) as stream:
        start = stream.read(2)
    if start in BOMS:
        logger.info("%s: read as UTF-16, by its first two bytes", path)
        return BOMS[start]
    if decodes(path, UTF8) is None:
        return UTF8
    check_damage(path)
    with opened(path) as stream:
        found = chinese_encoding(stream.read(SAMPLE_BYTES))
    valid = [encoding for encoding in CHINESE_ENCODINGS if decodes(path, encoding) is None]
    if found in valid:
        logger.info("%s: read as %s, it is not UTF-8", path, NAMES[found])
        return found
    if valid:
        names = " or ".join(NAMES[encoding] for encoding in valid)
        how = f"--encoding {' or '.join(valid)}" if flag else f"`iconv -f {valid[0].upper()} -t UTF-8` first"
        raise UserError(f"{path}: encoding: may be {names}, expected UTF-8, or {how}")
    how = ", or --encoding NAME" if flag else ""
    raise UserError(f"{path}: encoding: neither UTF-8, GB18030 nor Big5, expected one of them{how}")


def check_damage(path: Path) -> None:
    """Refuse a file of UTF-8 with a few damaged bytes, which may well be valid in another encoding.

    Raises:
        UserError: most lines that are not ASCII are UTF-8; the message names the first that is not.
    """
    good = bad = 0
    first = ""
    with opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.isascii():
                continue
            try:
                line.decode(UTF8)
                good += 1
            except UnicodeDecodeError as error:
                bad += 1
                shown = line[error.start : error.start + 4].hex(" ")
                first = first or f"{path}:{number}: not UTF-8 at byte {error.start + 1} of the line ({shown})"
    if good > bad:
        more = f", as {bad - 1:,} more of its lines" if bad > 1 else ""
        raise UserError(f"{first}{more}; {good:,} other lines are: expected the damaged bytes put right")


@contextmanager
def open_text(path: Path, encoding: str = "auto", *, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a source as text.

    Args:
        path: of a plain or compressed file.
        encoding: a name that Python knows, or `auto`.
        newline: as for `open`; csv wants "".

    Raises:
        UserError: the name is unknown, or the file is not in that encoding.
    """
    name = find_encoding(path) if encoding == "auto" else check_encoding(encoding)
    with opened(path) as raw:
        try:
            with io.TextIOWrapper(raw, encoding=name, newline=newline) as stream:
                yield stream
        except UnicodeError as error:
            if name in ("utf-8", UTF8):
                check_damage(path)
            raise UserError(f"{path}: encoding: not {name} ({error}), expected --encoding auto or another") from None


def check_encoding(name: str) -> str:
    """Return Python's name of an encoding of text.

    Raises:
        UserError: there is none of that name.
    """
    try:
        found = codecs.lookup(name)
        found.incrementaldecoder().decode(b"", final=True)
        known = isinstance("".encode(name), bytes) and found.name not in NOT_OF_FILES
    except (LookupError, ValueError, TypeError):
        known = False
    if not known:
        raise UserError(f"--encoding: unknown name {name!r}, expected auto, utf-8, gb18030, big5, ...")
    return found.name


def text_lines(path: Path, encoding: str) -> Iterator[tuple[str, str]]:
    """Yield (`path:line`, line) of a text file, blank lines left out."""
    with open_text(path, encoding, newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if line := line.rstrip("\r\n"):
                yield f"{path}:{number}", line


def read_document(path: Path, encoding: str) -> Any:
    """Read a file that is one JSON value.

    Raises:
        UserError: it is not JSON.
    """
    with open_text(path, encoding) as stream:
        return parse(stream.read(), str(path))


def parse(text: str, where: str) -> Any:
    """Parse JSON.

    Raises:
        UserError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}:{error.lineno}: not valid JSON at column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None


def objects(path: Path, encoding: str) -> Iterator[tuple[str, Record]]:
    """Yield (place, object) of JSON Lines, or of a file that is one JSON array.

    Raises:
        UserError: something in it is no object.
    """
    with open_text(path, encoding) as stream:
        start = stream.read(HEAD_CHARACTERS).lstrip()
    if start.startswith("["):
        for number, value in enumerate(read_document(path, encoding)):
            yield f"{path}[{number}]", checked(value, f"{path}[{number}]")
        return
    for where, line in text_lines(path, encoding):
        if not line.isspace():
            yield where, parse_object(line, where, OBJECT)


def checked(value: Any, where: str) -> Record:
    """Return an object of whole characters.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, dict):
        raise UserError(f"{where}: got {shown(value)}, expected an object")
    check_surrogates(value, where)
    return value


def head(path: Path, encoding: str, split: str | None) -> Head:
    """Look at the beginning of a source."""
    if is_arrow(path):
        return Head(path, first=dict.fromkeys(schema_of(path, split).names, ""))
    if path.is_dir():
        return Head(path, names=frozenset(str(p.relative_to(path)) for p in path.rglob("*")))
    with open_text(path, encoding) as stream:
        text = stream.read(HEAD_CHARACTERS)
    return Head(path, text, first_object(text))


def first_object(text: str) -> Raw:
    """Return the first object of JSON Lines or of an array, else the cells of a first line with tabs or commas."""
    start = text.lstrip()
    if start[:1] in "{[" and start:
        try:
            value, _ = json.JSONDecoder().raw_decode(start.lstrip("[ \r\n\t"))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}
    line = start.split("\n", 1)[0].strip()
    separator = next((s for s in ("\t", "||", ",") if s in line), None)
    return dict.fromkeys(cell.strip().strip('"') for cell in line.split(separator)) if separator else {}
