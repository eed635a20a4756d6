"""Table readers: rows with named columns from JSON Lines, CSV, TSV, parquet or the hub, turned into records."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_tools.converting.format_types import (
    HUB,
    Head,
    Raw,
    ReadOptions,
    Record,
    Source,
    SourceItem,
    as_text,
    distinct,
    identity,
)
from data_tools.converting.source_text import objects, open_text
from zh_embedder.core.errors import UserError, nearest, reject, unknown_name
from zh_embedder.data.sources import kind

FIELDS = ("query", "pos", "neg", "text1", "text2", "score", "text", "label", "id", "group", "answers", "task")
SHAPES = {"groups": ("query", "pos"), "pairs": ("text1", "text2", "score"), "labels": ("text", "label")}

# sentence-transformers' columns, the more telling first; of these names their documentation makes its examples
KNOWN_COLUMNS: tuple[tuple[frozenset[str], dict[str, str]], ...] = (
    (frozenset({"sentence1", "sentence2", "score"}), {"text1": "sentence1", "text2": "sentence2", "score": "score"}),
    (
        frozenset({"sentence_A", "sentence_B", "score"}),
        {"text1": "sentence_A", "text2": "sentence_B", "score": "score"},
    ),
    (frozenset({"sentence1", "sentence2", "label"}), {"text1": "sentence1", "text2": "sentence2", "score": "label"}),
    (frozenset({"anchor", "positive", "label"}), {"text1": "anchor", "text2": "positive", "score": "label"}),
    (frozenset({"anchor", "positive"}), {"query": "anchor", "pos": "positive"}),
    (frozenset({"query", "positive"}), {"query": "query", "pos": "positive"}),
    (frozenset({"query", "answer"}), {"query": "query", "pos": "answer"}),
    (frozenset({"question", "answer"}), {"query": "question", "pos": "answer"}),
)


class Quoted(csv.excel):
    """Commas between cells, quotes around those that need them."""


class Plain(csv.excel_tab):
    """Tabs between cells; quotes are characters like others."""

    quoting = csv.QUOTE_NONE


DIALECTS: dict[str, type[csv.Dialect]] = {".csv": Quoted, ".tsv": Plain, ".txt": Plain}

# ---- rows -----------------------------------------------------------------------------------------------------------


def rows(source: Source, options: ReadOptions) -> Iterator[tuple[str, Record]]:
    """Yield (place, row) of any table.

    Raises:
        UserError: the file is of another kind, or a row has another number of cells than the header.
    """
    if source.is_hub:
        yield from hub_rows(source, options)
        return
    suffix = kind(source.path.with_suffix("") if source.path.suffix == ".zip" else source.path)
    if suffix in DIALECTS:
        yield from separated_rows(source.path, options, DIALECTS[suffix])
    elif suffix == ".parquet":
        yield from parquet_rows(source.path)
    elif suffix in (".jsonl", ".json"):
        yield from objects(source.path, options.encoding)
    else:
        raise reject("INPUT", source.spec, "a .jsonl, .json, .csv, .tsv, .txt or .parquet file, or hf:NAME")


def separated_rows(path: Path, options: ReadOptions, dialect: type[csv.Dialect]) -> Iterator[tuple[str, Record]]:
    """Yield rows of a CSV (quoted) or TSV (unchanged, quotes being characters there)."""
    csv.field_size_limit(sys.maxsize)
    with open_text(path, options.encoding, newline="") as stream:
        reader = csv.reader(stream, dialect=dialect)
        names: list[str] | None = None
        try:
            for cells in reader:
                if not cells:
                    continue
                if names is None:
                    names = column_names(cells, options)
                    if options.header is not False and not by_number(options):
                        continue
                yield f"{path}:{reader.line_num}", as_row(cells, names, f"{path}:{reader.line_num}")
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def by_number(options: ReadOptions) -> bool:
    """Whether columns are named by their numbers: the file then has no header, unless the options claim one."""
    parts = [part for value in options.columns.values() for part in value.split("+")]
    return options.header is not True and bool(parts) and all(part.isdigit() for part in parts)


def column_names(cells: Sequence[str], options: ReadOptions) -> list[str]:
    """Name the columns: by the header, or by their numbers from 1."""
    if options.header is False or by_number(options):
        return [str(number) for number in range(1, len(cells) + 1)]
    return [cell.strip() for cell in cells]


def as_row(cells: Sequence[str], names: Sequence[str], where: str) -> Record:
    """Return the cells of a line under their names."""
    if len(cells) != len(names):
        raise UserError(f"{where}: got {len(cells)} columns, expected {len(names)} ({', '.join(names)[:80]})")
    return dict(zip(names, cells, strict=True))


def parquet_rows(path: Path) -> Iterator[tuple[str, Record]]:
    """Yield rows of a parquet file, some thousands in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:row {number}", row
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: cannot be read as parquet: {error}") from None


def hub_rows(source: Source, options: ReadOptions) -> Iterator[tuple[str, Record]]:
    """Yield rows of a data set on the hub: `hf:NAME` or `hf:NAME:SUBSET`, with --split (train)."""
    name, _, subset = source.spec.removeprefix(HUB).partition(":")
    split = options.split or "train"
    try:
        from datasets import load_dataset

        table = load_dataset(name, subset or None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source.spec}: cannot be loaded: {str(error).splitlines()[0][:200]}. Without a network (or with "
            "HF_HUB_OFFLINE=1) only data sets in the cache load: download the files elsewhere (`hf download "
            f"--repo-type dataset {name}`) and give their paths"
        ) from None
    names = {column: kind.names for column, kind in table.features.items() if hasattr(kind, "names")}
    for number, row in enumerate(table):
        yield (
            f"{source.spec}:row {number}",
            row | {column: label_name(row[column], own) for column, own in names.items()},
        )


def label_name(value: int | None, names: Sequence[str]) -> str | None:
    """Return what a numbered label is called; numbers below 0 mean none."""
    return names[value] if value is not None and value >= 0 else None


# ---- records --------------------------------------------------------------------------------------------------------


def read_columns(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Make records of rows whose columns the user named: `--columns query=ask pos=answer group=title`."""
    if not options.columns:
        raise UserError("--columns: is missing, expected such as query=ask pos=answer group=title")
    yield from mapped(source, options, dict(options.columns))


def read_known(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Make records of rows with sentence-transformers' column names."""
    yield from mapped(source, options, dict(options.columns))


def mapped(source: Source, options: ReadOptions, columns: dict[str, str]) -> Iterator[SourceItem]:
    """Make a record of every row."""
    shape: str | None = None
    for number, (where, row) in enumerate(rows(source, options), start=1):
        if shape is None:
            columns = columns or recognised(row, where)
            shape = shape_of(columns)
            columns.update(numbered_negatives(columns, row))
            check_columns(columns, row, where)
        yield SourceItem(where, to_record(row, columns, shape, identity(source, number), options))


def recognised(row: Raw, where: str) -> dict[str, str]:
    """Return which column is which, by sentence-transformers' names."""
    for names, columns in KNOWN_COLUMNS:
        if names <= row.keys():
            return dict(columns)
    known = "; ".join(" ".join(sorted(names)) for names, _ in KNOWN_COLUMNS)
    raise UserError(
        f"{where}: columns: found {', '.join(map(repr, row))}, expected one of: {known}; or --columns query=... pos=..."
    )


def shape_of(columns: Raw) -> str:
    """Return the kind of record that columns make."""
    for shape, needed in SHAPES.items():
        if set(needed) <= columns.keys():
            return shape
    for name in columns:
        if name not in FIELDS:
            raise unknown_name("--columns", name, FIELDS)
    hint = " and ".join(f"{name}=..." for name in SHAPES["groups"])
    raise UserError(
        f"--columns: got {', '.join(columns)}, expected {hint}; or text1, text2 and score; or text and label"
    )


def numbered_negatives(columns: Raw, row: Raw) -> dict[str, str]:
    """Return the columns of negatives that go by sentence-transformers' names, where none were named."""
    if "neg" in columns or "pos" not in columns:
        return {}
    found = [name for name in row if name == "negative" or name.startswith("negative_")]
    return {"neg": ",".join(found)} if found else {}


def check_columns(columns: Raw, row: Raw, where: str) -> None:
    """Refuse a field that records do not have, and a column that the table does not have."""
    for name, value in columns.items():
        if name not in FIELDS:
            raise unknown_name("--columns", name, FIELDS)
        for part in parts_of(value, row):
            if part not in row:
                hint = nearest(part, map(str, row)) or ";"
                raise UserError(f"{where}: --columns {name}={value}: no column {part!r}{hint} found {', '.join(row)}")


def parts_of(value: str, row: Raw) -> list[str]:
    """Return the columns that a value names: one, several to be joined (`a+b`), or several lists (`a,b`)."""
    if value in row:
        return [value]
    return [part for piece in value.split(",") for part in ([piece] if piece in row else piece.split("+"))]


def cell(row: Raw, value: str, join: str) -> Any:
    """Return the value of a column, or of several joined."""
    if value in row:
        return row[value]
    return join.join(text for text in (as_text(row[part]) for part in value.split("+")) if text.strip())


def texts(row: Raw, value: str, join: str) -> list[str]:
    """Return the texts of one or several columns, each a text or a list."""
    names = [value] if value in row else value.split(",")
    found = [cell(row, name, join) for name in names]
    return distinct([as_text(t) for one in found for t in (one if isinstance(one, list) else [one]) if t is not None])


def to_record(row: Raw, columns: Raw, shape: str, name: str, options: ReadOptions) -> Record:
    """Make a record of one row."""
    own = cell(row, columns["id"], options.join) if "id" in columns else name
    record: Record = {}
    for field in SHAPES[shape]:
        value = columns[field]
        record[field] = texts(row, value, options.join) if field == "pos" else cell(row, value, options.join)
    if shape == "groups":
        record["query"] = as_text(record["query"])
        for field in ("neg", "answers"):
            if field in columns and (found := texts(row, columns[field], options.join)):
                record[field] = found
    record["id"] = as_text(own)
    record["group"] = as_text(cell(row, columns["group"], options.join)) if "group" in columns else record["id"]
    if "task" in columns:
        record["task"] = as_text(row[columns["task"]])
    return record


def is_known_table(head: Head) -> bool:
    """Recognise sentence-transformers' columns."""
    names = set(head.first)
    return any(known <= names for known, _ in KNOWN_COLUMNS) and not names & {"pos", "genre", "level"}
