"""Score the keys of records with a teacher: `teacher_scores`, pos then neg (or history), for distillation.

The teacher is a cross-encoder (any sequence-classification model with one label), a language model (how likely are the
record's `answers` behind key and query; prompts of tasks in data_tools/prompts.yaml), or an embedder. Scores are kept
in a cache beside the output by the hash of model, prompt, query and key: killed and started again, nothing is scored
twice. At the end a histogram, and the --teacher_temperature that makes the targets neither flat nor one-hot.
Several ranks: `torchrun --nproc_per_node=N -m data_tools.score_teacher ...`; they share the chunks and give the same
file as one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_tools.shared.command import call, make_parser
from data_tools.shared.identity import digest, model_identity
from data_tools.shared.ranks import in_turn, start_ranks
from data_tools.shared.record_files import find_records, read_records, write_records
from data_tools.teaching.score_cache import Cache, file_of_rank, take_in
from zh_embedder.core.distributed import wait_for_all
from zh_embedder.core.errors import UserError
from zh_embedder.core.options import at_least, choose
from zh_embedder.core.ranks import world
from zh_embedder.data.schema import group_row
from zh_embedder.losses.teacher_temperature import ENTROPY, entropy_shares, find_temperature

if TYPE_CHECKING:
    from data_tools.teaching.teachers import Item, Teacher

logger = logging.getLogger("data_tools.score_teacher")  # __name__ is __main__ under `python -m`

METHODS = ("cross_encoder", "language_model", "embedder")
REDUCTIONS = ("mean", "sum")
OLD = ("teacher_scores", "pos_scores", "neg_scores")
SAMPLE = 20_000  # records that the histogram and the temperature look at
BINS, WIDTH = 12, 40
EXAMPLE = "train.jsonl --output scored.jsonl --method cross_encoder --model BAAI/bge-reranker-large"


def name_of(teacher: str, prompt: str, item: Item) -> bytes:
    """Hash of all that decides a score."""
    parts = [teacher, prompt, item.query, item.key, *item.answers]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def items_of(raw: dict[str, Any], where: str, *, answers: bool) -> list[Item]:
    """Return the keys of a record, in the order of `teacher_scores`.

    Raises:
        UserError: the record is wrong, or has no answers and a language model needs them.
    """
    from data_tools.teaching.teachers import Item

    row = group_row({name: value for name, value in raw.items() if name not in OLD}, where)
    found = tuple(raw.get("answers") or ()) if answers else ()
    if answers and not (found and all(isinstance(answer, str) and answer for answer in found)):
        raise UserError(f"{where}: answers: is missing or empty, expected the texts whose likelihood is the score")
    return [Item(row["query"], key, raw.get("task"), found) for key in (*row["pos"], *row["neg"])]


def scored(
    rows: Iterator[tuple[str, dict[str, Any]]], teacher: Teacher, identity: str, cache: Cache, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield records with their scores, a chunk at a time: what a chunk lacks is scored together, sorted by length.

    A chunk is kept whole or not at all, so that a run that was killed forms the same batches again.
    """
    while some := list(islice(rows, args.chunk)):
        wanted = [named_items(raw, where, teacher, identity, args) for where, raw in some]
        known = lacking_scored({name: item for own in wanted for name, item in own}, teacher, cache)
        for (_, raw), own in zip(some, wanted, strict=True):
            scores = [round(known[name], 6) for name, _ in own]
            yield {**{name: value for name, value in raw.items() if name not in OLD}, "teacher_scores": scores}


def named_items(
    raw: dict[str, Any], where: str, teacher: Teacher, identity: str, args: argparse.Namespace
) -> list[tuple[bytes, Item]]:
    """Return the keys of a record, each with the name of its score."""
    items = items_of(raw, where, answers=args.method == "language_model")
    return [(name_of(identity, teacher.prompt(item.task), item), item) for item in items]


def lacking_scored(every: Mapping[bytes, Item], teacher: Teacher, cache: Cache) -> dict[bytes, float]:
    """Score what the cache lacks of a chunk, and keep it; returns the scores of the whole chunk."""
    known = cache.get(list(every))
    if lacking := [name for name in every if name not in known]:
        fresh = dict(zip(lacking, teacher.scores([every[name] for name in lacking]), strict=True))
        cache.put(fresh)
        known |= fresh
    return known


def score_share(files: Sequence[Path], teacher: Teacher, identity: str, cache: Cache, args: argparse.Namespace) -> None:
    """Score this rank's chunks, in the batches that a single process would form.

    What an earlier chunk holds too is that chunk's, whoever scores it. Only keys of queries that come again can be
    such, so no others are remembered.
    """
    rank, ranks = world()
    again, seen = repeated_queries(files), set[bytes]()
    rows = (row for path in files for row in read_records(path, show_progress=rank == 0))
    for number in count():
        if not (some := list(islice(rows, args.chunk))):
            return
        mine = number % ranks == rank
        every: dict[bytes, Item] = {}
        for where, raw in some:
            repeated = digest(str(raw.get("query"))) in again
            own = named_items(raw, where, teacher, identity, args) if mine or repeated else []
            every |= {name: item for name, item in own if name not in seen}
        seen.update(name for name, item in every.items() if digest(item.query) in again)
        if mine:
            lacking_scored(every, teacher, cache)


def repeated_queries(files: Sequence[Path]) -> set[int]:
    """Return the digests of queries that several records have."""
    once, again = set[int](), set[int]()
    for path in files:
        for _, raw in read_records(path, show_progress=False):
            name = digest(str(raw.get("query")))
            (again if name in once else once).add(name)
    return again


def histogram(scores: Sequence[float]) -> str:
    """Draw how scores are spread, a line for each interval."""
    counts, edges = np.histogram(scores, bins=BINS)
    most = max(1, int(counts.max()))
    lines = [
        f"{low:10.4f} .. {high:10.4f} {count:8,} {'#' * round(WIDTH * int(count) / most)}"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return "\n".join(lines)


def advice(sample: Sequence[Sequence[float]], share: float) -> str:
    """Say which temperature to train with, and how flat the targets are without it."""
    try:
        temperature = find_temperature(sample, share)
    except UserError as error:
        return f"no temperature to recommend: {error}"
    now = entropy_shares(sample, 1.0).mean()
    return (
        f"--teacher_temperature {temperature:g} (mean entropy of the targets {share:g} of the greatest possible; "
        f"{now:.3f} at temperature 1)"
    )


def watched(records: Iterator[dict[str, Any]], sample: list[list[float]]) -> Iterator[dict[str, Any]]:
    """Pass records on, keeping the scores of the first."""
    for record in records:
        if len(sample) < SAMPLE:
            sample.append(record["teacher_scores"])
        yield record


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = make_parser("score_teacher", __doc__, EXAMPLE)
    parser.add_argument("files", nargs="+", metavar="FILES", help="records with pos and neg, or history")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="file for the records with their teacher_scores"
    )
    parser.add_argument(
        "--method", default="cross_encoder", metavar="NAME", help=f"kind of teacher: {', '.join(METHODS)}"
    )
    parser.add_argument("--model", required=True, metavar="MODEL", help="teacher model: a folder or hub name")
    parser.add_argument(
        "--prompts", type=Path, metavar="YAML", help="YAML file of the tasks' prompts, for a language model"
    )
    parser.add_argument("--reduction", default="mean", help="how to combine an answer's tokens: mean or sum")
    parser.add_argument("--max_length", type=int, help="maximum tokens (default: 512; for a language model 2048)")
    parser.add_argument("--tokens_per_batch", type=int, default=8192, help="tokens per batch, including padding")
    parser.add_argument(
        "--dtype", default="auto", help="precision: fp32, bf16, fp16, or auto, the fastest without loss of range"
    )
    parser.add_argument("--chunk", type=int, default=128, help="records to score and save at a time")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="file for the cache of scores (default: OUTPUT.scores.sqlite)"
    )
    parser.add_argument(
        "--teacher_entropy",
        type=float,
        default=ENTROPY,
        help="target entropy of the recommended temperature, as a share of the maximum",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Score.

    Raises:
        UserError: anything that the user can mend.
    """
    choose("method", args.method, METHODS)
    choose("reduction", args.reduction, REDUCTIONS)
    for name in ("chunk", "tokens_per_batch", "max_length"):
        at_least(name, getattr(args, name), 1)
    files = find_records(args.files)
    from data_tools.teaching.teachers import PROMPTS, TEACHERS, TeacherSettings

    settings = TeacherSettings(
        model=args.model,
        dtype=args.dtype,
        max_length=args.max_length,
        tokens=args.tokens_per_batch,
        prompts=args.prompts or PROMPTS,
        reduction=args.reduction,
    )
    first = start_ranks() == 0
    teacher = TEACHERS[args.method].load(settings)
    identity = json.dumps([model_identity(args.model), args.method, args.reduction, args.max_length, args.dtype])
    kept = args.cache or args.output.with_name(f"{args.output.name}.scores.sqlite")
    in_turn(lambda: take_over(kept) if first else None)
    if world()[1] > 1:
        with closing(Cache(file_of_rank(kept, world()[0]), older=kept)) as cache:
            score_share(files, teacher, identity, cache, args)
        wait_for_all()
    in_turn(lambda: finish(files, kept, teacher, identity, args) if first else None)


def take_over(kept: Path) -> None:
    """Make the cache, with what ranks that were killed have left."""
    Cache(kept).close()
    if left := take_in(kept):
        logger.info("score_teacher: takes over %d scores that an earlier run's ranks have left", left)


def finish(files: Sequence[Path], kept: Path, teacher: Teacher, identity: str, args: argparse.Namespace) -> None:
    """Write the records, scoring what no rank has, and say how the scores lie."""
    take_in(kept)
    sample: list[list[float]] = []
    with closing(Cache(kept)) as cache:
        rows = (row for path in files for row in read_records(path))
        records = write_records(args.output, watched(scored(rows, teacher, identity, cache, args), sample))
    logger.info("score_teacher: %d records in %s", records, args.output)
    if sample:
        logger.info("score_teacher: scores\n%s", histogram([score for own in sample for score in own]))
        logger.info("score_teacher: %s", advice(sample, args.teacher_entropy))


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; returns the exit code."""
    return call(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
