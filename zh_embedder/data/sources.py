"""Sources of training data: what --train_data names, as lines of text with their numbers."""

from __future__ import annotations

import glob
import gzip
import io
import logging
import shlex
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, nearest_path
from zh_embedder.core.files import real
from zh_embedder.text.encodings import NAMES, chinese_encoding

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json")
COMPRESSIONS = (".gz", ".zst")
TABLES = {
    ".parquet": "a Parquet file",
    ".arrow": "an Arrow file",
    ".csv": "a table (.csv)",
    ".tsv": "a table (.tsv)",
}
WORKBOOKS = (".xlsx", ".xls")
ROOT_PREFIX = "llm-embedder:"
BLOCK_BYTES = 1 << 22
BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def kind(path: Path) -> str:
    """Return the suffix that says what a file holds, its compression left out: `.jsonl` of `train.jsonl.gz`."""
    return next((suffix for suffix in reversed(path.suffixes) if suffix not in COMPRESSIONS), "")


def is_data_file(path: Path, suffixes: Sequence[str] = SUFFIXES) -> bool:
    """Whether a name in a folder is a data file: .jsonl or .json, plain, .gz or .zst."""
    return path.is_file() and kind(path) in suffixes and not path.name.startswith(".")


def find_files(
    specs: Sequence[str], *, data_root: str | None, flag: str = "--train_data", suffixes: Sequence[str] = SUFFIXES
) -> list[Path]:
    """Turn files, folders and globs, each possibly behind `llm-embedder:`, into files, in the order given.

    The same file given twice is there twice. A folder gives its data files (those with one of `suffixes`), subfolders
    included, sorted.

    Raises:
        UserError: nothing is there; the nearest name in its folder is offered.
    """
    files: list[Path] = []
    for spec in specs:
        if spec.startswith(ROOT_PREFIX) and data_root is None:
            raise UserError(f"{flag}: got {spec!r}, expected --data_root to say where {ROOT_PREFIX!r} points to")
        name = below_root(spec, data_root)
        path = Path(name).expanduser()
        if suffixes == SUFFIXES:  # records, not what convert reads
            refuse_table(path, flag)
        if path.is_dir():
            refuse_evaluation_set(path, flag)
            found = data_files(path, suffixes)
            if not found:
                raise UserError(f"{flag}: no {' or '.join(suffixes)} file (plain, .gz or .zst) in folder {name}")
        elif path.is_file():
            found = [path]
        else:
            found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]  # noqa: PTH207
        if not found and path.exists():
            raise UserError(f"{flag}: {name}: is a device or a pipe, expected a file, which can be read more than once")
        if not found:
            raise UserError(f"{flag}: no such file: {name}{nearest_path(Path(name))}")
        files.extend(found)
    say_repeated(files, flag)
    return files


def below_root(spec: str, data_root: str | None) -> str:
    """Return a path with `llm-embedder:` resolved, where it is known."""
    if data_root is None or not spec.startswith(ROOT_PREFIX):
        return spec
    return str(Path(data_root) / spec.removeprefix(ROOT_PREFIX))


def say_repeated(files: Sequence[Path], flag: str) -> None:
    """Log a line for each file that is given more than once, whichever way its path is spelt."""
    times = Counter(real(path) for path in files)
    for path, count in times.items():
        if count > 1:
            first = next(one for one in files if real(one) == path)
            logger.info("%s: %s is given %d times, and its lines are read as often", flag, first, count)


def refuse_table(path: Path, flag: str) -> None:
    """Refuse a table or a workbook, and say how its rows become records.

    Raises:
        UserError: it is one.
    """
    suffix = kind(path).lower()
    saved = path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if saved or (path.is_file() and suffix in TABLES):
        what = "a data set that `save_to_disk` wrote" if saved else TABLES[suffix]
        output = shlex.quote(f"{path.name.split('.')[0]}.jsonl")
        flags = f"--from columns --columns query=COLUMN pos=COLUMN --task TASK --output {output}"
        command = f"zh-embedder convert {shlex.quote(str(path))} {flags}"
        raise UserError(f"{flag}: {path} is {what}, expected JSON Lines: `{command}` makes them")
    if path.is_file() and suffix in WORKBOOKS:
        raise UserError(f"{flag}: {path} is a workbook, expected JSON Lines: save it as .csv and convert that")


def data_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the data files of a folder, sorted; what is skipped is counted in a line: hidden files, other suffixes."""
    found, hidden, others = list[Path](), list[Path](), list[Path]()
    for path in sorted(folder.rglob("*")):
        in_sight = not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ours = kind(path) in suffixes
        if (in_sight or ours) and path.is_file():
            (found if in_sight and ours else others if in_sight else hidden).append(path)
    for skipped, why in ((hidden, "hidden or in a hidden folder"), (others, f"neither {' nor '.join(suffixes)}")):
        if skipped:
            logger.info("%s: %s skipped, %s, such as %s", folder, counted(len(skipped), "file"), why, skipped[0])
    return found


def refuse_evaluation_set(folder: Path, flag: str) -> None:
    """Refuse to train on an evaluation set, whose files hold no records.

    Raises:
        UserError: queries, corpus and judgements are there.
    """
    if flag != "--train_data":
        return
    for place in (folder, folder / "test"):
        if all(any(place.glob(pattern)) for pattern in ("*queries.jsonl*", "*corpus.jsonl*", "*qrels*")):
            raise UserError(f"{flag}: {place}: these look like an evaluation set: --eval_data")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a plain, gzip or zstandard file for reading."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


class Block(NamedTuple):
    """Whole lines of a file."""

    first: int  # number of the first of them
    raw: bytes


def read_blocks(path: Path) -> Iterator[Block | UserError]:
    """Yield a file's lines, some megabytes at a time; where it cannot be read on, an error in their place."""
    number = 1
    try:
        with open_bytes(path) as stream:
            while raw := stream.read(BLOCK_BYTES):
                raw += stream.readline()
                yield Block(number, raw)
                number += raw.count(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        yield UserError(f"{path}: cannot be read: {error}")


def block_lines(path: Path, block: Block) -> Iterator[tuple[int, str | UserError]]:
    """Yield (line number, text) of every line; at an error, which comes in the text's place, the file ends."""
    if block.first == 1 and block.raw[:2] in BOMS:
        yield 1, UserError(f"{path}:1: the file is {BOMS[block.raw[:2]]}, expected UTF-8")
        return
    encoding = "utf-8-sig" if block.first == 1 else "utf-8"
    whole = block.raw.removesuffix(b"\n")
    try:
        yield from enumerate(map(str.strip, whole.decode(encoding).split("\n")), start=block.first)
    except UnicodeDecodeError:
        for number, raw in enumerate(whole.split(b"\n"), start=block.first):
            try:
                yield number, raw.decode(encoding if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield number, UserError(f"{path}:{number}: {not_utf8(raw, error)}")
                return  # a file in another encoding is one mistake, not one for each of its lines


def read_lines(path: Path) -> Iterator[tuple[int, str | UserError]]:
    """Yield (line number, text) of every line, or an error in the text's place; blank lines are yielded as ''."""
    for block in read_blocks(path):
        if isinstance(block, UserError):
            yield 0, block
            return
        for number, text in block_lines(path, block):
            yield number, text
            if isinstance(text, UserError):
                return


# First bytes of packed files, and what to do with one that is named as if it were plain.
PACKED = {
    b"\x1f\x8b": "it is packed with gzip, expected a name that ends in .gz",
    b"\x28\xb5\x2f\xfd": "it is packed with zstd, expected a name that ends in .zst",
    b"PK\x03\x04": "it is a zip archive (or a workbook), expected it unpacked",
    b"\xfd7zXZ": "it is packed with xz, expected it unpacked",
    b"BZh": "it is packed with bzip2, expected it unpacked",
}
UTF_16_NULLS = 0.1  # share of bytes


def not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    """Say which byte is wrong, and what the encoding seems to be."""
    at, place = f"not UTF-8 (byte {error.start + 1})", raw[error.start : error.start + 4].hex(" ")
    if (packed := next((how for magic, how in PACKED.items() if raw.startswith(magic)), None)) is not None:
        return f"{at}, {packed}"
    if raw.count(0) > UTF_16_NULLS * len(raw):  # of letters and digits every other byte is one
        return f"{at}, it looks like UTF-16: convert it with `iconv -f UTF-16LE -t UTF-8`"
    before = raw[: error.start].decode("utf-8", "ignore")
    valid = [] if not before.isascii() else [encoding for encoding in ("gb18030", "big5") if is_valid(raw, encoding)]
    if not valid:  # what is before it is UTF-8, so it is a damaged byte
        return f"{at[:-1]}: {place}), expected a UTF-8 file"
    found = chinese_encoding(raw)
    name = NAMES[found or valid[0]]
    how = "it looks like" if found or len(valid) == 1 else f"it may be {NAMES[valid[1]]} or"
    return f"{at}, {how} {name}: convert it with `iconv -f {name.upper()} -t UTF-8`"


def is_valid(raw: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding."""
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
