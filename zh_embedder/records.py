"""Training files -> checked Arrow tables, memory-mapped, cached by content; the records of one task are one dataset."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.errors import MAX_SHOWN, UserError, nearest, summarise
from zh_embedder.selection import Record
from zh_embedder.validation import GROUP, parse_line

if TYPE_CHECKING:
    from datasets import Dataset as ArrowTable
    from datasets import Features

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json")
COMPRESSIONS = (".gz", ".zst")
ROOT_PREFIX = "llm-embedder:"
SCHEMA = "1"  # part of every cache key: a change of the row format must not find old tables
ROWS_PER_WRITE = 2000
BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one table that belong to one dataset."""

    table: ArrowTable
    rows: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDataset:
    """The records of one task in one data file (or in several small ones, merged)."""

    name: str
    task: str | None  # None: records without a task
    kind: str
    path: str
    parts: tuple[Part, ...]
    in_batch_negatives: bool = True
    has_teacher: bool = False  # every record has teacher scores
    some_teacher: bool = False
    has_negatives: bool = False  # some record has negatives of its own
    has_history: bool = False  # some record leaves its positive to the teacher

    def __len__(self) -> int:
        """Return the number of records."""
        return sum(len(part.rows) for part in self.parts)

    def __getitem__(self, row: int) -> Record:
        """Read one record."""
        for part in self.parts:
            if row < len(part.rows):
                raw = part.table[int(part.rows[row])]
                return Record(raw["query"], raw["pos"], raw["neg"], raw["teacher_scores"], raw["prompt"])
            row -= len(part.rows)
        raise IndexError(row)

    def line(self, row: int) -> int:
        """Line of a record in its file."""
        for part in self.parts:
            if row < len(part.rows):
                return int(part.table[int(part.rows[row])]["line"])
            row -= len(part.rows)
        raise IndexError(row)


# ---- files ----------------------------------------------------------------------------------------------------------


def is_data_file(path: Path) -> bool:
    """Tell whether a name in a folder is a data file: .jsonl or .json, plain, .gz or .zst."""
    suffixes = [s for s in path.suffixes if s not in COMPRESSIONS]
    return path.is_file() and bool(suffixes) and suffixes[-1] in SUFFIXES and not path.name.startswith(".")


def find_files(specs: Sequence[str], *, data_root: str | None, flag: str = "--train_data") -> list[Path]:
    """Turn files, folders and globs, each possibly behind `llm-embedder:`, into files, in the order given.

    The same file given twice is there twice. A folder gives its data files, subfolders included, sorted.

    Raises:
        UserError: nothing is there; the nearest name beside it is offered.
    """
    files: list[Path] = []
    for spec in specs:
        name = spec
        if spec.startswith(ROOT_PREFIX):
            if data_root is None:
                raise UserError(f"{flag}: got {spec!r}, expected --data_root to say where {ROOT_PREFIX!r} points to")
            name = str(Path(data_root) / spec.removeprefix(ROOT_PREFIX))
        path = Path(name).expanduser()
        if path.is_dir():
            found = [p for p in sorted(path.rglob("*")) if is_data_file(p)]
            if not found:
                raise UserError(f"{flag}: no .jsonl or .json file (plain, .gz or .zst) in folder {name}")
        elif path.is_file():
            found = [path]
        else:
            found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]  # noqa: PTH207
        if not found:
            beside = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
            raise UserError(f"{flag}: no such file: {name}{nearest(path.name, beside)}")
        files.extend(found)
    return files


def open_bytes(path: Path) -> IO[bytes]:
    """Open a plain, gzip or zstandard file for reading."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def read_lines(path: Path) -> Iterator[tuple[int, str | UserError]]:
    """Yield (line number, text) of every line, or an error in the text's place; blank lines are yielded as ''."""
    try:
        with open_bytes(path) as stream:
            for number, raw in enumerate(stream, start=1):
                if number == 1 and raw[:2] in BOMS:
                    yield 1, UserError(f"{path}:1: the file is {BOMS[raw[:2]]}, expected UTF-8")
                    return
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    yield number, UserError(f"{path}:{number}: {not_utf8(raw, error)}")
    except (OSError, EOFError, zlib.error) as error:
        yield 0, UserError(f"{path}: cannot be read: {error}")


def not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    """Say which byte is wrong, and what the encoding seems to be."""
    if b"\x00" in raw:
        return f"not UTF-8 (byte {error.start + 1}), it looks like UTF-16: convert it with `iconv -f UTF-16LE -t UTF-8`"
    with suppress(UnicodeDecodeError):
        raw.decode("gb18030")
        return f"not UTF-8 (byte {error.start + 1}), it looks like GB18030: convert it with `iconv -f GB18030 -t UTF-8`"
    return f"not UTF-8 (byte {error.start + 1}), expected a UTF-8 file"


# ---- the Arrow cache ------------------------------------------------------------------------------------------------


def cache_folder(given: str | None) -> Path:
    """Return where prepared tables live: the flag, else $ZH_EMBEDDER_CACHE, else ~/.cache/zh_embedder."""
    chosen = given or os.environ.get("ZH_EMBEDDER_CACHE") or str(Path("~/.cache/zh_embedder").expanduser())
    return Path(chosen) / "records"


@lru_cache(maxsize=1024)
def _hash(path: Path, _size: int, _modified: int) -> str:
    digest = hashlib.blake2b(SCHEMA.encode(), digest_size=16)
    digest.update(path.suffix.encode() if path.suffix in COMPRESSIONS else b"")  # the same bytes read differently
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """Hash of a file's bytes and of the row format."""
    stat = path.stat()
    return _hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


def features() -> Features:
    """Return the Arrow schema of rows."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    return Features(
        {
            "line": Value("int64"),
            "kind": text,
            "task": text,
            "query": text,
            "pos": List(Value("large_string")),
            "neg": List(Value("large_string")),
            "prompt": text,
            "teacher_scores": List(number),
            "score": number,
            "label": text,
        }
    )


def write_table(path: Path, target: Path) -> None:
    """Check every line of a file and write its rows as an Arrow file; nothing is written where a line is wrong.

    Raises:
        UserError: up to 20 messages with file and line, then how many more there are.
    """
    from datasets.arrow_writer import ArrowWriter
    from tqdm.auto import tqdm

    messages: list[str] = []
    wrong = blank = written = 0
    ignored: set[str] = set()
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    writer = ArrowWriter(path=str(beside), features=features(), writer_batch_size=ROWS_PER_WRITE)
    try:
        for number, text in tqdm(read_lines(path), desc=f"reading {path.name}", unit=" records", delay=5, leave=False):
            try:
                if isinstance(text, UserError):
                    raise text
                if not text:
                    blank += 1
                    continue
                row, unknown = parse_line(text, f"{path}:{number}")
            except UserError as error:
                wrong += 1
                if len(messages) < MAX_SHOWN:
                    messages.append(str(error))
                continue
            ignored |= unknown
            if not wrong:
                writer.write({**row, "line": number})
                written += 1
        if not wrong and not written:
            messages, wrong = [f"{path}: the file holds no records"], 1
        if wrong:
            raise summarise(messages, total=wrong)
        writer.finalize()
        beside.rename(target)
    finally:
        writer.close()
        beside.unlink(missing_ok=True)
    if blank:
        logger.info("%s: %d blank lines skipped", path, blank)
    if ignored:
        logger.info("%s: fields that training does not use: %s", path, ", ".join(sorted(ignored)))


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Let one process of a machine work while the others wait for it; leaves nothing behind where the work fails."""
    from filelock import FileLock

    created = [folder for folder in lock.parents if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)  # one that failed meanwhile has taken it away
        try:
            yield
        except UserError:
            lock.unlink(missing_ok=True)
            with suppress(OSError):  # a folder that is not empty stays: another process has put something there
                for folder in created or [lock.parent]:
                    folder.rmdir()
            raise


def load_table(path: Path, cache: Path) -> ArrowTable:
    """Return a file's rows as a memory-mapped table, prepared once by whichever process comes first.

    Ranks need no word from each other: the file's content names the table, and a lock makes the others wait.
    """
    from datasets import Dataset

    target = cache / f"{content_hash(path)}.arrow"
    if not target.is_file():
        with one_at_a_time(target.with_suffix(".lock")):
            if not target.is_file():
                write_table(path, target)
    return Dataset.from_file(str(target))


# ---- datasets -------------------------------------------------------------------------------------------------------


def column(table: ArrowTable, name: str) -> Any:
    """One column as an Arrow array."""
    return table.data.column(name)


def list_lengths(table: ArrowTable, name: str) -> NDArray[np.int64]:
    """Length of each row's list; 0 where it is absent."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(column(table, name)), 0)).astype(np.int64)


def split_tasks(path: Path, table: ArrowTable, name: str) -> list[TaskDataset]:
    """Return the datasets of one file: one for each (task, kind) in it, in order of first appearance."""
    import pyarrow.compute as pc

    joined = pc.binary_join_element_wise(pc.fill_null(column(table, "task"), ""), column(table, "kind"), "\t")
    encoded = joined.combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices)
    pos, neg, scored = (list_lengths(table, field) for field in ("pos", "neg", "teacher_scores"))
    found = []
    for code, both in enumerate(encoded.dictionary.to_pylist()):
        task, kind = both.rsplit("\t", 1)
        rows = np.flatnonzero(codes == code)
        found.append(
            TaskDataset(
                name=f"{task or 'no task'}:{name}",
                task=task or None,
                kind=kind,
                path=str(path),
                parts=(Part(table, rows),),
                in_batch_negatives=not in_folder_without_in_batch(path),
                has_teacher=bool(scored[rows].min() > 0),
                some_teacher=bool(scored[rows].max() > 0),
                has_negatives=bool(neg[rows].max() > 0),
                has_history=bool(pos[rows].min() == 0),
            )
        )
    return found


def in_folder_without_in_batch(path: Path) -> bool:
    """FlagEmbedding's rule: a file or folder name ending in `no_in_batch_neg` switches in-batch negatives off."""
    stem = path.name.split(".")[0]
    return stem.endswith("no_in_batch_neg") or path.parent.name.endswith("no_in_batch_neg")


def load_datasets(files: Sequence[Path], *, cache_dir: str | None) -> list[TaskDataset]:
    """Load files as datasets: one for each task in each file; a file given twice gives two.

    Raises:
        UserError: the wrong lines of all files, up to 20 of them, then how many more there are.
    """
    cache, messages, found = cache_folder(cache_dir), [], []
    wrong = 0
    for path, name in zip(files, short_names(files), strict=True):
        try:
            found.extend(split_tasks(path, load_table(path, cache), name))
        except UserError as error:
            messages.extend(str(error).split("\n")[:MAX_SHOWN])
            wrong += error.total
    if messages:
        raise summarise(messages, total=wrong)
    return found


def short_names(files: Sequence[Path]) -> list[str]:
    """Return the shortest tails of the paths that tell different files apart; a repeated file gets a number."""
    depth = 1
    distinct = list(dict.fromkeys(files))
    while depth < 6 and len({path.parts[-depth:] for path in distinct}) < len(distinct):
        depth += 1
    names, seen = [], dict.fromkeys(distinct, 0)
    for path in files:
        seen[path] += 1
        tail = "/".join(path.parts[-depth:])
        names.append(tail if seen[path] == 1 else f"{tail} ({seen[path]})")
    return names


def keep_rows(dataset: TaskDataset, keep: Sequence[NDArray[np.int64]]) -> TaskDataset:
    """Return the dataset with only the given rows of each part."""
    from dataclasses import replace

    return replace(dataset, parts=tuple(Part(p.table, rows) for p, rows in zip(dataset.parts, keep, strict=True)))


def filter_scores(dataset: TaskDataset, *, minimum: float | None, margin: float | None) -> TaskDataset:
    """Drop records whose best teacher score is below `minimum`, or whose best and worst differ by less than `margin`.

    Records without scores stay: there is nothing to judge them by.
    """
    if minimum is None and margin is None:
        return dataset
    kept = []
    for part in dataset.parts:
        scores = column(part.table, "teacher_scores").take(part.rows).to_pylist()
        keep = [
            not s or ((minimum is None or max(s) >= minimum) and (margin is None or max(s) - min(s) >= margin))
            for s in scores
        ]
        kept.append(part.rows[np.asarray(keep, bool)])
    return keep_rows(dataset, kept)


def limit_rows(dataset: TaskDataset, count: int | None, *, seed: int) -> TaskDataset:
    """Keep `count` records drawn at random, in file order."""
    if count is None or len(dataset) <= count:
        return dataset
    drawn = np.sort(np.random.default_rng((seed, len(dataset))).choice(len(dataset), size=count, replace=False))
    kept, start = [], 0
    for part in dataset.parts:
        inside = drawn[(drawn >= start) & (drawn < start + len(part.rows))] - start
        kept.append(part.rows[inside])
        start += len(part.rows)
    return keep_rows(dataset, kept)


def merge_small(datasets: Sequence[TaskDataset], *, small: int, drop: int) -> tuple[list[TaskDataset], list[str]]:
    """FlagEmbedding's `small_threshold` and `drop_threshold`.

    The datasets of one folder and task with fewer than `small` records become one; a merged one below `drop` records is
    dropped.

    Returns:
        The datasets, and a line for everything that was merged or dropped.
    """
    from dataclasses import replace

    kept: list[TaskDataset] = []
    small_ones: dict[tuple[str, str | None, str, bool], list[TaskDataset]] = {}
    for dataset in datasets:
        if len(dataset) >= small:
            kept.append(dataset)
        else:
            key = (str(Path(dataset.path).parent), dataset.task, dataset.kind, dataset.in_batch_negatives)
            small_ones.setdefault(key, []).append(dataset)
    notes = []
    for (folder, task, _, _), group in small_ones.items():
        merged = replace(
            group[0],
            name=group[0].name
            if len(group) == 1
            else f"{task or 'no task'}:{Path(folder).name} ({len(group)} small files)",
            parts=tuple(part for dataset in group for part in dataset.parts),
            has_teacher=all(d.has_teacher for d in group),
            some_teacher=any(d.some_teacher for d in group),
            has_negatives=any(d.has_negatives for d in group),
            has_history=any(d.has_history for d in group),
        )
        if len(merged) < drop:
            notes.append(f"drop_threshold {drop}: {merged.name} dropped, {len(merged)} records")
            continue
        if len(group) > 1:
            notes.append(f"small_threshold {small}: {merged.name} holds {', '.join(d.name for d in group)}")
        kept.append(merged)
    return kept, notes


def check_trainable(datasets: Sequence[TaskDataset]) -> None:
    """Refuse record kinds that no built loss can learn from."""
    for dataset in datasets:
        if dataset.kind != GROUP:
            line = dataset.parts[0].table[int(dataset.parts[0].rows[0])]["line"]
            raise UserError(
                f"{dataset.path}:{line}: {dataset.kind} records cannot be trained on yet: InfoNCE and distillation "
                "need query and pos; losses for scored pairs and labelled texts come with a later release"
            )
