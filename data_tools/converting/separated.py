"""CSV and TSV: rows with the names of their columns, from the header or by number."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from data_tools.converting.format_types import ReadOptions, Record
from data_tools.converting.source_text import open_text
from zh_embedder.core.errors import UserError, reject


class Quoted(csv.excel):
    """Commas between cells, quotes around those that need them."""


class Plain(csv.excel_tab):
    """Tabs between cells; quotes are characters like others."""

    quoting = csv.QUOTE_NONE


END = "\x00end of the file\x00"  # a line of its own, unless a quote is open
SHOWN = 60
DIALECTS: dict[str, type[csv.Dialect]] = {".csv": Quoted, ".tsv": Plain, ".txt": Plain}


def separated_rows(path: Path, options: ReadOptions, dialect: type[csv.Dialect]) -> Iterator[tuple[str, Record]]:
    """Yield rows of a CSV (quoted) or TSV (unchanged, quotes being characters there)."""
    names: list[str] | None = None
    for where, cells in separated_lines(path, options, dialect):
        if names is None:
            names = column_names(cells, options, where)
            if options.header is not False and not by_number(options):
                continue
        yield where, as_row(cells, names, where)


def separated_lines(path: Path, options: ReadOptions, dialect: type[csv.Dialect]) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) of each line that has any.

    Raises:
        UserError: it is no CSV, or a quote is never closed: all that follows would be one cell.
    """
    csv.field_size_limit(sys.maxsize)
    with open_text(path, options.encoding, newline="") as stream:
        reader = csv.reader(chain(stream, [END]), dialect=dialect)
        first, cells = 1, [""]
        try:
            for cells in reader:
                if cells == [END]:
                    return
                if cells and END not in cells[-1]:
                    yield f"{path}:{reader.line_num}", cells
                    first = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
        raise reject(
            f"{path}:{first}", cells[-1].removesuffix(END)[:SHOWN], 'a closing " for the quote that opens in this row'
        )


def by_number(options: ReadOptions) -> bool:
    """Whether columns are named by their numbers: the file then has no header, unless the options claim one."""
    parts = [part for value in options.columns.values() for part in value.split("+")]
    return options.header is not True and bool(parts) and all(part.isdigit() for part in parts)


def column_names(cells: Sequence[str], options: ReadOptions, where: str) -> list[str]:
    """Name the columns: by the header, or by their numbers from 1."""
    if options.header is False or by_number(options):
        return [str(number) for number in range(1, len(cells) + 1)]
    return header_names(cells, where)


def header_names(cells: Sequence[str], where: str) -> list[str]:
    """Return the names in a header.

    Raises:
        UserError: two columns have the same one.
    """
    names = [cell.strip() for cell in cells]
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise UserError(f"{where}: column {twice!r} is there twice, expected different names, or --no_header")
    return names


def as_row(cells: Sequence[str], names: Sequence[str], where: str) -> Record:
    """Return the cells of a line under their names."""
    if len(cells) != len(names):
        raise UserError(f"{where}: got {len(cells)} columns, expected {len(names)} ({', '.join(names)[:80]})")
    return dict(zip(names, cells, strict=True))
