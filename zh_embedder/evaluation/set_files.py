"""Files of evaluation sets: where they are, their lines, ids and names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, nearest_path, reading, reject
from zh_embedder.data.json_lines import parse_object
from zh_embedder.data.schema import GROUP, empty_row
from zh_embedder.data.sources import read_lines

BEIR = ("queries.jsonl", "corpus.jsonl", "qrels.tsv")
FLAG_EMBEDDING = ("test_queries.jsonl", "corpus.jsonl", "test_qrels.jsonl")
PARQUET = ".parquet"
PARTS = ("queries", "corpus")  # of a retrieval set, as its Parquet files or their folders are called
PIECE = re.compile(r"-\d{5}-of-\d{5}.*")  # of a Parquet file in several pieces: dev-00000-of-00001-930bf3b8.parquet
LINE_IDS = ("_id", "id")  # of a query and of a key: BEIR's name first, since its lines may have an `id` of their own
QUERY_IDS = ("qid", "query-id", "query_id")  # of a judgement
KEY_IDS = ("docid", "pid", "corpus-id", "corpus_id", "doc_id", "doc-id")
TRAIN, TEST = "train.jsonl", "test.jsonl"  # of a folder of labelled texts
PAIRS = '{"text1": ..., "text2": ..., "score": ...}'
LABELS = '{"text": ..., "label": ...}'
QUERIES = '{"query": ..., "pos": [...], "neg": [...]}'
RANKED = '{"query": ..., "key": [...], "pos_index": [...]}'
EXAMPLES = (PAIRS, LABELS, QUERIES, RANKED)
ALIASES = {"positive": "pos", "negative": "neg"}  # mteb's names in C-MTEB's reranking files


def find_sets(specs: Sequence[str], *, flag: str, data_root: str | None = None) -> list[Path]:
    """Turn what was typed behind --eval_data or --data into folders and files, `llm-embedder:` looked up.

    A folder that holds no set itself means the sets below it.

    Raises:
        UserError: nothing is there; the nearest name is offered.
    """
    found: list[Path] = []
    for spec in specs:
        name = spec.removeprefix("llm-embedder:")
        if name != spec and data_root is None:
            raise UserError(f"{flag}: got {spec!r}, expected --data_root to say where it points to")
        path = (Path(data_root) / name if name != spec and data_root else Path(name)).expanduser()
        if not path.exists():
            raise UserError(f"{flag}: no such file or folder: {path}{nearest_path(path)}")
        found += [path] if path.is_file() or is_set(path) else (sorted(below(path)) or [path])
    return found


def is_set(folder: Path) -> bool:
    """Whether a folder, or its `test/`, is a set of some kind."""
    names = (BEIR[0], FLAG_EMBEDDING[0])
    return (
        has(folder, TEST)
        or has_parquet(folder)
        or any(has(place, name) for place in (folder, folder / "test") for name in names)
    )


def below(folder: Path) -> Iterator[Path]:
    """Yield the sets below a folder."""
    for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if is_set(inner):
            yield inner
        else:
            yield from below(inner)


def find(folder: Path, name: str, expected: Sequence[str]) -> Path:
    """Return a file of a folder, plain or compressed."""
    for suffix in ("", ".gz", ".zst"):
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    kind = "a BEIR" if expected is BEIR else "FlagEmbedding's"
    raise UserError(f"{folder}: {name}: is missing, expected {kind} folder: {', '.join(expected)}")


def has(folder: Path, name: str) -> bool:
    """Whether a folder holds a file, plain or compressed."""
    return any((folder / f"{name}{suffix}").is_file() for suffix in ("", ".gz", ".zst"))


def has_parquet(folder: Path) -> bool:
    """Whether a folder keeps queries and corpus as Parquet files."""
    return all(of_part(folder, part) for part in PARTS)


def of_part(folder: Path, part: str) -> list[Path]:
    """Return the Parquet files of the queries or of the corpus."""
    loose = [file for place in (folder, folder / "data") for file in files(place, (PARQUET,)) if split_of(file) == part]
    return files(folder / part, (PARQUET,)) or loose


def files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files of a folder with one of these suffixes, plain or compressed, sorted."""
    if not folder.is_dir():
        return []
    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [path for path in names if plain(path).suffix in suffixes]


def plain(path: Path) -> Path:
    """Return a path without the suffix of its compression."""
    return path.with_suffix("") if path.suffix in (".gz", ".zst") else path


def split_of(path: Path) -> str:
    """Return the split that a file's name says: dev of dev.tsv and of dev-00000-of-00001.parquet."""
    return PIECE.sub("", plain(path).stem)


def name_of(path: Path) -> str:
    """Short name of a set: the last two parts of its path that say something."""
    parts = [part for part in path.parts if part not in ("test", "/", "..", ".")]
    return "/".join(parts[-2:])


def read_rows(path: Path, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`path:line`, object) of a file of JSON Lines, blank lines left out, or of a Parquet file's rows.

    Raises:
        UserError: a line is no object, or the file cannot be read.
    """
    if path.suffix == PARQUET:
        yield from parquet_rows(path)
        return
    for number, text in read_lines(path):
        if isinstance(text, UserError):
            raise text
        if text:
            yield f"{path}:{number}", parse_object(text, f"{path}:{number}", example)


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`path: row`, columns by name) of a Parquet file, some rows at a time."""
    from pyarrow.parquet import ParquetFile

    number = 0
    with reading(path), ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row


def identity(raw: Mapping[str, Any], where: str, *names: str) -> str:
    """Return the id of a line, under the first of these names that it has, as a string."""
    name = next((name for name in names if raw.get(name) is not None), names[0])
    value = raw.get(name)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise reject(f"{where}: {name}", value, "a string or a whole number")


def task_of(raw: Mapping[str, Any], where: str) -> str | None:
    """Return the task that a line names, or None."""
    task = empty_row(GROUP, {"task": raw.get("task")}, where)["task"]
    return None if task is None else str(task)


def only_task(tasks: set[Any], where: str) -> str | None:
    """Return the task that all lines name, or None.

    Raises:
        UserError: they name several.
    """
    if len(tasks) > 1:
        raise UserError(f"{where}: queries of several tasks ({', '.join(map(str, tasks))}), expected one")
    return next(iter(tasks), None)


def lines_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`path:line`, object) of a file, mteb's names turned into ours.

    Raises:
        UserError: a line is no object, or there is none.
    """
    empty = True
    for where, raw in read_rows(path, " or ".join(EXAMPLES)):
        empty = False
        yield where, {ALIASES.get(name, name): value for name, value in raw.items()}
    if empty:
        raise UserError(f"{path}: got no lines, expected some such as {' or '.join(EXAMPLES)}")
