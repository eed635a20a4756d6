"""Scoring pipeline: teacher, chunks of records shared among ranks, cache, records with scores, summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from data_tools.shared.ranks import in_turn, start_ranks
from data_tools.shared.record_files import read_records, write_records
from data_tools.teaching.score_cache import SUFFIX, Cache, file_of_rank, take_in
from data_tools.teaching.score_summary import advice, histogram
from data_tools.teaching.teachers import TEACHERS, Item, Teacher, TeacherSettings
from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import wait_for_all
from zh_embedder.core.errors import MAX_SHOWN, UserError, summarise
from zh_embedder.core.hashing import model_hash, sha256_of, text_hash
from zh_embedder.core.ranks import world
from zh_embedder.data.schema import group_row

logger = logging.getLogger(__name__)

OLD = ("teacher_scores", "pos_scores", "neg_scores")
SAMPLE = 20_000  # records that the histogram and the temperature look at


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions:
    """What to score, and with what."""

    files: Sequence[Path]
    output: Path
    method: str  # a row of TEACHERS
    teacher: TeacherSettings
    chunk: int = 128  # records scored and kept at a time
    cache: Path | None = None
    teacher_entropy: float = 0.5  # of the targets, as a share of the greatest: run_dense.py's --teacher_entropy

    @property
    def identity(self) -> str:
        """What decides a score, besides prompt, query and key."""
        own = self.teacher
        return json.dumps([model_hash(own.model), self.method, own.reduction, own.max_length, own.dtype])

    @property
    def cache_file(self) -> Path:
        """Where scores are kept."""
        return self.cache or self.output.with_name(f"{self.output.name}{SUFFIX}")


def score(options: ScoreOptions) -> None:
    """Write the records with the teacher's scores. All ranks must call this; the first one writes the result.

    Raises:
        UserError: anything that the user can fix.
    """
    first = start_ranks() == 0
    check_records(options)
    teacher = TEACHERS[options.method].load(options.teacher)
    identity, kept = options.identity, options.cache_file
    in_turn(lambda: take_over(kept) if first else None)
    if world()[1] > 1:
        with closing(Cache(file_of_rank(kept, world()[0]), older=kept)) as cache:
            score_share(options.files, teacher, identity, cache, options)
        wait_for_all()
    in_turn(lambda: finish(options.files, kept, teacher, identity, options) if first else None)


def check_records(options: ScoreOptions) -> None:
    """Refuse records that cannot be scored before the model is loaded and anything is written.

    Raises:
        UserError: a record is wrong, or there is none.
    """
    wrong: list[str] = []
    records = failures = replaced = 0
    for path in options.files:
        for where, raw in read_records(path, show_progress=False):
            records += 1
            replaced += any(raw.get(name) for name in OLD)
            try:
                items_of(raw, where, answers=options.method == "language_model")
            except UserError as error:
                failures += 1
                wrong += [str(error)] if len(wrong) < MAX_SHOWN else []
    if wrong:
        raise summarise(wrong, total=failures)
    if replaced and world()[0] == 0:
        logger.info("score_teacher: the teacher_scores of %s are replaced", counted(replaced, "record"))
    if not records:
        raise UserError(f"FILES: no records in {', '.join(map(str, options.files[:MAX_SHOWN]))}")


def name_of(teacher: str, prompt: str, item: Item) -> bytes:
    """Hash of all that decides a score."""
    parts = [teacher, prompt, item.query, item.key, *item.answers]
    return bytes.fromhex(sha256_of(json.dumps(parts).encode()))


def items_of(raw: dict[str, Any], where: str, *, answers: bool) -> list[Item]:
    """Return the keys of a record, in the order of `teacher_scores`.

    Raises:
        UserError: the record is wrong, or has no answers and a language model needs them.
    """
    row = group_row({name: value for name, value in raw.items() if name not in OLD}, where)
    found = tuple(raw.get("answers") or ()) if answers else ()
    if answers and not (found and all(isinstance(answer, str) and answer for answer in found)):
        raise UserError(f"{where}: answers: is missing or empty, expected the texts whose likelihood is the score")
    return [Item(row["query"], key, raw.get("task"), found) for key in (*row["pos"], *row["neg"])]


def scored(
    rows: Iterator[tuple[str, dict[str, Any]]], teacher: Teacher, identity: str, cache: Cache, options: ScoreOptions
) -> Iterator[dict[str, Any]]:
    """Yield records with their scores, a chunk at a time: what a chunk lacks is scored together, sorted by length.

    A chunk is kept whole or not at all, so that a run that was killed forms the same batches again.
    """
    while some := list(islice(rows, options.chunk)):
        wanted = [named_items(raw, where, teacher, identity, options) for where, raw in some]
        known = lacking_scored({name: item for own in wanted for name, item in own}, teacher, cache)
        for (_, raw), own in zip(some, wanted, strict=True):
            scores = [round(known[name], 6) for name, _ in own]
            yield {**{name: value for name, value in raw.items() if name not in OLD}, "teacher_scores": scores}


def named_items(
    raw: dict[str, Any], where: str, teacher: Teacher, identity: str, options: ScoreOptions
) -> list[tuple[bytes, Item]]:
    """Return the keys of a record, each with the name of its score."""
    items = items_of(raw, where, answers=options.method == "language_model")
    return [(name_of(identity, teacher.prompt(item.task), item), item) for item in items]


def lacking_scored(every: Mapping[bytes, Item], teacher: Teacher, cache: Cache) -> dict[bytes, float]:
    """Score what the cache lacks of a chunk, and keep it; returns the scores of the whole chunk."""
    known = cache.get(list(every))
    if lacking := [name for name in every if name not in known]:
        fresh = dict(zip(lacking, teacher.scores([every[name] for name in lacking]), strict=True))
        cache.put(fresh)
        known |= fresh
    return known


def score_share(files: Sequence[Path], teacher: Teacher, identity: str, cache: Cache, options: ScoreOptions) -> None:
    """Score this rank's chunks, in the batches that a single process would form.

    What an earlier chunk holds too is that chunk's, whichever rank scores it. That takes a query that comes again, so
    the keys of no others are remembered.
    """
    rank, ranks = world()
    again, seen = repeated_queries(files), set[bytes]()
    rows = (row for path in files for row in read_records(path, show_progress=rank == 0))
    for number in count():
        if not (some := list(islice(rows, options.chunk))):
            return
        mine = number % ranks == rank
        every: dict[bytes, Item] = {}
        for where, raw in some:
            repeated = text_hash(str(raw.get("query"))) in again
            own = named_items(raw, where, teacher, identity, options) if mine or repeated else []
            every |= {name: item for name, item in own if name not in seen}
        seen.update(name for name, item in every.items() if text_hash(item.query) in again)
        if mine:
            lacking_scored(every, teacher, cache)


def repeated_queries(files: Sequence[Path]) -> set[int]:
    """Return the digests of queries that several records have."""
    once, again = set[int](), set[int]()
    for path in files:
        for _, raw in read_records(path, show_progress=False):
            name = text_hash(str(raw.get("query")))
            (again if name in once else once).add(name)
    return again


def watched(records: Iterator[dict[str, Any]], sample: list[list[float]]) -> Iterator[dict[str, Any]]:
    """Pass records on, keeping the scores of the first."""
    for record in records:
        if len(sample) < SAMPLE:
            sample.append(record["teacher_scores"])
        yield record


def take_over(kept: Path) -> None:
    """Make the cache, with what ranks that were killed have left."""
    Cache(kept).close()
    if left := take_in(kept):
        logger.info("score_teacher: %s kept from the ranks of an earlier run", counted(left, "score"))


def finish(files: Sequence[Path], kept: Path, teacher: Teacher, identity: str, options: ScoreOptions) -> None:
    """Write the records, scoring what no rank has, and say how the scores lie."""
    take_in(kept)
    sample: list[list[float]] = []
    with closing(Cache(kept)) as cache:
        rows = (row for path in files for row in read_records(path))
        records = write_records(options.output, watched(scored(rows, teacher, identity, cache, options), sample))
    logger.info("score_teacher: %s in %s", counted(records, "record"), options.output)
    if sample:
        logger.info("score_teacher: scores\n%s", histogram([score for own in sample for score in own]))
        logger.info("score_teacher: %s", advice(sample, options.teacher_entropy))
