"""Table readers: rows with named columns from JSON Lines, CSV, TSV, Arrow or the hub, turned into records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from data_tools.converting.arrow_tables import (
    Classes,
    arrow_rows,
    hub_classes,
    hub_rows,
    is_arrow,
    saved_classes,
    schema_of,
)
from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, identity
from data_tools.converting.separated import DIALECTS, separated_rows
from data_tools.converting.source_text import objects
from data_tools.converting.values import Raw, as_part, pick_name, text_of, texts_of, unread
from zh_embedder.core.errors import UserError, nearest, reject, unknown_name
from zh_embedder.data.sources import kind
from zh_embedder.text.empty_cells import is_empty

FIELDS = ("query", "pos", "neg", "text1", "text2", "score", "text", "label", "id", "group", "answers", "task")
NAMES = ("id", "group", "task")
KEYS = ("pos", "neg")
NUMBER = re.compile(r"-?[0-9]{1,9}")
CLASS_COLUMNS = ("label", "gold_label", "labels")
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


# ---- rows -----------------------------------------------------------------------------------------------------------


def rows(source: Source, options: ReadOptions) -> Iterator[tuple[str, Record]]:
    """Yield (place, row) of any table.

    Raises:
        UserError: the file is of another kind, or a row has another number of cells than the header.
    """
    if source.is_hub:
        yield from hub_rows(source.spec, options.split)
        return
    if is_arrow(source.path):
        schema_of(source.path, options.split)
        yield from arrow_rows(source.path, options.split)
        return
    suffix = kind(source.path.with_suffix("") if source.path.suffix == ".zip" else source.path)
    if suffix in DIALECTS:
        yield from separated_rows(source.path, options, DIALECTS[suffix])
    elif suffix in (".jsonl", ".json"):
        yield from objects(source.path, options.encoding)
    else:
        raise reject("INPUT", source.spec, "a .jsonl, .json, .csv, .tsv, .txt or .parquet file, or hf:NAME")


def json_rows(source: Source, options: ReadOptions) -> Iterator[tuple[str, Record]]:
    """Yield (place, row) of a format that is published as JSON, and copied to Parquet and the hub.

    Raises:
        UserError: something in it is no object.
    """
    if source.is_hub or is_arrow(source.path):
        yield from rows(source, options)
    else:
        yield from objects(source.path, options.encoding)


def classes(source: Source, options: ReadOptions) -> Classes:
    """Return what the numbers in a table's columns are called, where the table itself says so."""
    if source.is_hub:
        return hub_classes(source.spec, options.split)
    return saved_classes(source.path, options.split) if is_arrow(source.path) else {}


def with_classes(row: Raw, named: Classes) -> Raw:
    """Return a row with the names of its classes; a number below 0 means none."""
    own = {column: class_name(row.get(column), names) for column, names in named.items()}
    return dict(row) | own if own else row


def class_name(value: Any, names: Sequence[str]) -> str | None:
    """Return what a numbered class is called."""
    if isinstance(value, str):
        return value
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


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
    named = classes(source, options)
    recognise = not columns
    for number, (where, row) in enumerate(rows(source, options), start=1):
        if shape is None:
            columns = columns or recognised(row, where)
            shape = shape_of(columns)
            check_columns(columns, row, where)
            if recognise and shape == "pairs":
                score = columns["score"]
                check_scores(source.spec, score, (row.get(score) for _, row in rows(source, options)))
            named = {column: names for column, names in named.items() if columns.get("score") != column}
        own = columns | numbered_negatives(columns, row)
        record = to_record(Row(with_classes(row, named), where, options.join), own, shape, identity(source, number))
        left = {name for field in KEYS for part in parts_of(own.get(field, ""), row) for name in unread(row.get(part))}
        note = f"records whose keys have the fields {', '.join(sorted(left))}, left out" if left else ""
        yield SourceItem(where, record, note=note)


def check_scores(spec: str, column: str, values: Iterable[Any]) -> None:
    """Refuse labels that may be the classes of inference pairs: whole numbers of 0 to 2, with 2 among them.

    Raises:
        UserError: they may be; --columns score=COLUMN says that they are scores.
    """
    if column not in CLASS_COLUMNS:
        return
    found = set()
    for value in values:
        number = class_number(value)
        if (number is None and not is_empty(str(value))) or (number is not None and number > 2):
            return
        found.add(number)
    if 2 in found:
        raise UserError(
            f"{spec}: {column}: holds only whole numbers up to 2, which may be scores or classes of inference pairs. "
            "Expected --from nli --labels with the names of 0, 1 and 2, such as entailment,neutral,contradiction; or, "
            f"for scores, --columns text1=... text2=... score={column}"
        )


def class_number(value: Any) -> int | None:
    """Return the number of a class, which pandas may have written as `1.0`; None where it is none."""
    if isinstance(value, str):
        text = value.strip().removesuffix(".0")
        return int(text) if NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        return None
    return int(value)


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


class Row(NamedTuple):
    """A row of a table, its place, and what columns are joined with."""

    cells: Raw
    where: str
    join: str

    def cell(self, value: str) -> Any:
        """Return the value of a column, or of several joined; what a row of JSON leaves out is empty."""
        if value in self.cells or "+" not in value:
            return self.cells.get(value)
        parts = [as_part(self.cells.get(part), f"{self.where}: {part}") for part in value.split("+")]
        return self.join.join(part for part in parts if part)

    def texts(self, value: str) -> list[str]:
        """Return the texts of one or several columns, each a text or a list."""
        names = [value] if value in self.cells else value.split(",")
        return [text for name in names for text in texts_of(self.cell(name), f"{self.where}: {name}")]


def to_record(row: Row, columns: Raw, shape: str, name: str) -> Record:
    """Make a record of one row."""
    record: Record = {}
    for field in SHAPES[shape]:
        value = columns[field]
        if field == "pos":
            record[field] = row.texts(value)
            continue
        found = row.cell(value)
        is_number = isinstance(found, int) and not isinstance(found, bool)
        as_it_is = field == "score" or (field == "label" and is_number)
        record[field] = found if as_it_is else text_of(found, f"{row.where}: {value}")
    if shape == "groups":
        for field in ("neg", "answers"):
            if field in columns and (found := row.texts(columns[field])):
                record[field] = found
    own = {field: row.cell(columns[field]) for field in NAMES if field in columns}
    record["id"] = pick_name(own, ("id",), row.where, name)
    record["group"] = pick_name(own, ("group",), row.where, record["id"])
    if task := pick_name(own, ("task",), row.where, ""):
        record["task"] = task
    return record


def is_known_table(head: Head) -> bool:
    """Recognise sentence-transformers' columns."""
    names = set(head.first)
    return any(known <= names for known, _ in KNOWN_COLUMNS) and not names & {"pos", "genre", "level"}
