"""Conversion pipeline: sources, formats, cleaning, one output file, and counts of what was dropped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO

from data_tools.converting.format_types import Format, ReadOptions, Record, Source, SourceItem
from data_tools.converting.formats import FORMATS
from data_tools.converting.record_cleaning import Finisher, cleaner
from data_tools.converting.sources import choose_format, choose_shape, choose_task, find_sources
from data_tools.shared.record_files import as_line, lines_to
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import beside
from zh_embedder.core.hashing import text_hash
from zh_embedder.core.numbers import AMOUNT, COUNT
from zh_embedder.core.options import check_numbers, limited
from zh_embedder.core.progress import with_bar
from zh_embedder.data.schema import parse_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """What to convert, and how."""

    inputs: Sequence[str]  # files, folders, globs, names on the hub
    output: Path
    output_eval: Path | None = None
    format: str | None = None  # None: guessed
    reading: ReadOptions = ReadOptions()
    simplify: bool = False
    normalize: str | None = None
    min_chars: int = limited(1, AMOUNT)
    limit: int | None = limited(None, COUNT)

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(slots=True)
class Tally:
    """What came of a source."""

    read: int = 0
    records: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def lines(self, name: str, unit: str) -> Iterator[str]:
        """Yield the lines of the summary: read = in records + dropped, always."""
        inside = f" (of {self.records + self.merged:,} {unit})" if self.merged else ""
        gone = f", {self.dropped.total():,} dropped" if self.dropped else ", nothing dropped"
        yield f"{name}: {self.read:,} {unit} read, {counted(self.records, 'record')}{inside}{gone}"
        for reason, count in self.dropped.most_common():
            yield f"{name}:   dropped {count:,}: {reason}"
        for note, count in self.notes.most_common():
            yield f"{name}:   {count:,}: {note}"


class Ids:
    """Ids given so far: one that a source gives twice gets a number."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def distinct(self, name: str) -> str:
        """Return the id, or `id#2` where it was there."""
        own, number = name, 1
        while text_hash(own) in self.seen:
            number += 1
            own = f"{name}#{number}"
        self.seen.add(text_hash(own))
        return own


def with_late_bar(items: Iterator[SourceItem], name: str, unit: str) -> Iterator[SourceItem]:
    """Yield items behind a bar, which begins with the first: what readers log first appears above it."""
    for first in items:
        yield from with_bar(chain([first], items), name=name, unit=unit)


def finished(items: Iterable[SourceItem], finisher: Finisher, tally: Tally) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) of what readers made, counting everything."""
    for item in items:
        tally.read += item.of
        done = finisher(item)
        tally.notes.update(done.notes)
        if done.record is None:
            tally.dropped[done.reason] += item.of
            continue
        tally.records += 1
        tally.merged += item.of - 1
        yield item.where, done.record


def converted(source: Source, own: Format, options: ConvertOptions, ids: Ids, tally: Tally) -> Iterator[str]:
    """Yield the lines of a source."""
    reading = replace(options.reading, shape=choose_shape(own, options.reading.shape))
    task = choose_task(own, reading, source)
    clean = cleaner(simplify=options.simplify, normalize=options.normalize)
    finisher = Finisher(clean, max(1, options.min_chars), task, override=reading.task is not None)
    for where, record in finished(with_late_bar(own.read(source, reading), source.name, own.unit), finisher, tally):
        if record["id"] != (name := ids.distinct(record["id"])):
            tally.notes["ids that the source gives twice, numbered"] += 1
            record["id"] = name
        line = as_line(record)
        check_characters(line, where)
        parse_line(line, where)
        yield line


def check_characters(line: str, where: str) -> None:
    """Refuse half of a surrogate pair, wherever it came from: no file can hold it."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        around = ascii(line[max(0, error.start - 10) : error.start + 1])
        raise UserError(f"{where}: holds half of a surrogate pair ({around}), expected whole characters") from None


def convert(options: ConvertOptions) -> int:
    """Write the records of all sources; returns how many.

    Raises:
        UserError: anything that the user can fix.
    """
    sources = [
        (source, choose_format(source, options.format, options.reading))
        for source in find_sources(options.inputs, options.format)
    ]
    if options.output_eval is not None:
        check_evaluation(sources)
    with ExitStack() as stack:
        stream = stack.enter_context(lines_to(options.output))
        written = write_all(sources, options, stream)
        if not written:
            raise UserError(f"{options.output}: nothing to write: no record came of {', '.join(options.inputs)[:200]}")
        made = evaluation_set(*sources[0], options, stack)
    logger.info("%s: %s written", options.output, counted(written, "record"))
    if made:
        logger.info("%s: %s", options.output_eval, made)
    return written


def write_all(sources: Sequence[tuple[Source, Format]], options: ConvertOptions, stream: IO[str]) -> int:
    """Write the records of all sources; returns how many."""
    written, ids = 0, Ids()
    tallies: list[tuple[Source, Format, Tally]] = []
    for source, own in sources:
        tally = Tally()
        tallies.append((source, own, tally))
        for line in converted(source, own, options, ids, tally):
            stream.write(line)
            written += 1
            if options.limit is not None and written >= options.limit:
                break
        if options.limit is not None and written >= options.limit:
            logger.info("stopped at --limit %d", options.limit)
            break
    say(tallies)
    return written


def evaluation_set(source: Source, own: Format, options: ConvertOptions, stack: ExitStack) -> str:
    """Write --output_eval; returns what was written, in words."""
    if options.output_eval is None or own.write_evaluation is None:
        return ""
    return own.write_evaluation(source, options.reading, stack.enter_context(beside(options.output_eval)))


def check_evaluation(sources: Sequence[tuple[Source, Format]]) -> None:
    """Refuse --output_eval for several sources, or for one that holds no judgements.

    Raises:
        UserError: it is so.
    """
    if len(sources) != 1:
        raise UserError(f"--output_eval: got {len(sources)} inputs, expected one")
    own = sources[0][1]
    if own.write_evaluation is None:
        known = ", ".join(name for name, row in FORMATS.items() if row.write_evaluation is not None)
        raise UserError(f"--output_eval: got an input of {own.name}, expected one of {known}")


def say(tallies: Sequence[tuple[Source, Format, Tally]]) -> None:
    """Say what came of each source."""
    for source, own, tally in tallies:
        for line in tally.lines(source.name, own.unit):
            logger.info("%s", line)
