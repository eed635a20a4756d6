"""Split records into parts that share nothing: no group, no query, no positive, and with --near no near-duplicate."""

from __future__ import annotations

import argparse
import logging
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.converting.base import Record
from data_tools.converting.finish import realign
from data_tools.shared.command import call, make_parser
from data_tools.shared.identity import digest
from data_tools.shared.minhash import Collection
from data_tools.shared.record_files import as_line, find_records, lines_to, read_records
from data_tools.splitting.eval_folders import write_eval_sets
from data_tools.splitting.proof import prove
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import write_json
from zh_embedder.data.records import short_names
from zh_embedder.data.schema import Row, parse_line
from zh_embedder.data.source_groups import Unions, draw_groups, sizes_of
from zh_embedder.data.text_files import find_texts

logger = logging.getLogger("data_tools.split")  # __name__ is __main__ under `python -m`

EXAMPLE = "qa.jsonl.gz --output_dir data/qa --ratios 0.9 0.05 0.05 --near 0.8 --eval"
NAMES = ("train", "dev", "test")
REST = "rest"
SLACK = 0.05  # an estimate from 128 hashes is off by 0.035: clusters take in what is nearly near enough


@dataclass(frozen=True, slots=True)
class Census:
    """What the first pass keeps of all records: numbers and hashes."""

    groups: NDArray[np.int64]  # (N,) records that belong together have one number
    datasets: NDArray[np.int64]  # (N,) which file and task
    names: Sequence[str]  # of the datasets
    keys: NDArray[np.uint64]  # (N,) hash of what a record holds, for an order that no file decides
    positives: Mapping[int, int]  # hash of a positive -> a record that has it; empty where nobody asks


# ---- what was typed -------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    own = make_parser("split", __doc__, EXAMPLE)
    own.add_argument("files", nargs="+", metavar="FILES", help="training records: files, folders or globs")
    own.add_argument(
        "--output_dir",
        required=True,
        metavar="DIR",
        help="folder for train.jsonl, dev.jsonl, ... (compressed if the input is)",
        dest="output",
    )
    how = own.add_mutually_exclusive_group(required=True)
    how.add_argument("--ratios", nargs="+", type=float, metavar="R", help="share of each part; must sum to 1")
    how.add_argument("--counts", nargs="+", metavar="N", help="number of records in each part, one of them `rest`")
    own.add_argument("--names", nargs="+", help="names of the parts (default: train dev test)")
    own.add_argument(
        "--near", type=float, metavar="J", help="keep texts of at least this similarity in the same part, such as 0.8"
    )
    own.add_argument("--groups_per_file", action="store_true", help="treat a group name as unique to its file")
    own.add_argument(
        "--clean_negatives", action="store_true", help="remove negatives that are positives in another part"
    )
    own.add_argument("--eval", action="store_true", help="also write BEIR folders of all parts but the first")
    own.add_argument(
        "--corpus", nargs="+", default=[], metavar="FILE", help="texts to add to the corpora of those BEIR folders"
    )
    own.add_argument("--seed", type=int, default=0, help="random seed")
    return own


def shares(args: argparse.Namespace) -> dict[str, float | int | None]:
    """Return what is wanted of each part: a share, a count, or None for the rest.

    Raises:
        UserError: the numbers do not fit together.
    """
    given = args.ratios if args.ratios is not None else args.counts
    flag = "--ratios" if args.ratios is not None else "--counts"
    names = args.names or NAMES[: len(given)]
    if len(names) != len(given) or len(set(names)) != len(names) or len(given) < 2:
        raise UserError(
            f"{flag}: got {len(given)} numbers for the parts {' '.join(names)}, expected one for each of two or more"
        )
    if args.ratios is not None:
        if min(given) < 0 or abs(sum(given) - 1) > 1e-6:
            raise reject("--ratios", given, "shares of 0 or more that are 1 together")
        largest = max(range(len(given)), key=given.__getitem__)
        return {name: None if i == largest else share for i, (name, share) in enumerate(zip(names, given, strict=True))}
    if given.count(REST) != 1 or not all(n == REST or n.isdigit() for n in given):
        raise reject("--counts", given, f"whole numbers, and one {REST!r}, such as {REST} 500 500")
    return {name: None if n == REST else int(n) for name, n in zip(names, given, strict=True)}


# ---- first pass: who belongs together -------------------------------------------------------------------------------


def texts_of(row: Row) -> list[str]:
    """Return what must not be in two parts: a record's query and its positives."""
    return [text for text in (row["query"], *row["pos"]) if text]


def marks(row: Row, file: str) -> Iterator[str]:
    """Yield what ties a record to others."""
    if row["group"] is not None:
        yield f"group {file} {row['group']}"
    yield from (f"text {text.strip()}" for text in texts_of(row))


def content_key(row: Row, seed: int) -> int:
    """Hash what a record holds; the same in every process and on every machine."""
    return digest("\x1f".join([str(seed), *map(str, (row["task"], row["group"])), *texts_of(row)]))


def take_census(files: Sequence[Path], args: argparse.Namespace) -> Census:
    """Read all records once."""
    unions, datasets, keys = Unions(), array("q"), array("Q")
    names: dict[str, int] = {}
    near = Collection() if args.near is not None else None
    positives: dict[int, int] = {}
    for path, short in zip(files, short_names(files), strict=True):
        for where, raw in read_records(path):
            row, _ = parse_line(as_line(raw), where)
            index = unions.add(marks(row, short if args.groups_per_file else ""))
            datasets.append(names.setdefault(f"{short}:{row['task']}", len(names)))
            keys.append(content_key(row, args.seed))
            for text in texts_of(row) if near is not None else ():
                near.add(text, index)  # type: ignore[union-attr]
            if args.clean_negatives:
                positives |= {hash(text.strip()): index for text in row["pos"]}
    if not len(unions):
        raise UserError(f"FILES: no records in {', '.join(map(str, files))}")
    if near is not None:
        for one, other in near.pairs(args.near - SLACK):
            unions.join(near.owners[one], near.owners[other])
    return Census(unions.roots(), np.asarray(datasets), list(names), np.asarray(keys, np.uint64), positives)


# ---- who goes where -------------------------------------------------------------------------------------------------


def assign(census: Census, wanted: Mapping[str, float | int | None]) -> NDArray[np.int64]:
    """Return the part of each record, (N,): whole groups, each dataset in proportion.

    Groups are taken in the order of the least hash among their records: neither the order of lines nor that of files
    changes where a group goes.
    """
    order = ordered_groups(census)
    counts = np.bincount(census.datasets, minlength=len(census.names))
    sizes = [sizes_of(census.groups[census.datasets == d]) for d in range(len(counts))]
    rest = next(i for i, share in enumerate(wanted.values()) if share is None)
    part_of = dict.fromkeys(order, rest)
    for number, share in enumerate(wanted.values()):
        if number == rest or not share:
            continue
        part = share if isinstance(share, float) else share / counts.sum()
        quotas = [max(1, round(part * n)) for n in counts.tolist()]
        for group in draw_closely([g for g in order if part_of[g] == rest], sizes, quotas):
            part_of[group] = number
    return np.asarray([part_of[group] for group in census.groups.tolist()], np.int64)


def draw_closely(order: Sequence[int], sizes: Sequence[Mapping[int, int]], quotas: Sequence[int]) -> set[int]:
    """Draw groups that fit; where they leave a dataset below half of its quota, larger ones too."""
    drawn = draw_groups(order, sizes, quotas, limit=1)
    reached = [sum(size.get(group, 0) for group in drawn) for size in sizes]
    if all(2 * have >= quota for have, quota in zip(reached, quotas, strict=True)):
        return drawn
    return draw_groups(order, sizes, quotas)


def ordered_groups(census: Census) -> list[int]:
    """Return the groups in the order of the least key in each."""
    order = np.lexsort((census.keys, census.groups))
    groups = census.groups[order]
    firsts = order[np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])]
    return census.groups[firsts[np.argsort(census.keys[firsts], kind="stable")]].tolist()


# ---- second pass: writing -------------------------------------------------------------------------------------------


def outputs(files: Sequence[Path], folder: Path, names: Sequence[str]) -> list[list[Path]]:
    """Return for each file its file of each part: DIR/train.jsonl, or of several files DIR/train/NAME.jsonl."""
    found = []
    for short in short_names(files):
        stem, _, suffixes = Path(short).name.partition(".")
        suffix = ".jsonl" + next((f".{s}" for s in suffixes.split(".") if s in ("gz", "zst")), "")
        inner = "-".join([*Path(short).parts[:-1], stem])
        found.append([folder / (f"{name}{suffix}" if len(files) == 1 else f"{name}/{inner}{suffix}") for name in names])
    return found


def without_shared(raw: Record, census: Census, parts: NDArray[np.int64], part: int) -> Record:
    """Return a record without the negatives that are positives of another part, nor their scores."""
    negatives = raw.get("neg") or []
    owners = [census.positives.get(hash(text.strip())) for text in negatives]
    keep = [i for i, owner in enumerate(owners) if owner is None or parts[owner] == part]
    if len(keep) == len(negatives):
        return raw
    record = dict(raw)
    realign(record, "neg", keep)
    return record


def write_parts(
    files: Sequence[Path], places: Sequence[Sequence[Path]], parts: NDArray[np.int64], census: Census
) -> list[list[Path]]:
    """Write every record to its part; returns the files of each part that hold any."""
    written: list[list[Path]] = [[] for _ in places[0]]
    index = cleaned = 0
    for path, own in zip(files, places, strict=True):
        counts = [0] * len(own)
        with ExitStack() as stack_:
            streams = [stack_.enter_context(lines_to(place)) for place in own]
            for _, raw in read_records(path):
                part = int(parts[index])
                record = without_shared(raw, census, parts, part) if census.positives else raw
                cleaned += record is not raw
                streams[part].write(as_line(record))
                counts[part] += 1
                index += 1
        for part, (place, count) in enumerate(zip(own, counts, strict=True)):
            if count:
                written[part].append(place)
            else:
                place.unlink()
                logger.warning("%s: nothing: the groups of %s are too large for its share", place, path.name)
    if census.positives:
        logger.info("%d records lost negatives that are positives of another part", cleaned)
    return written


def check_places(files: Sequence[Path], places: Sequence[Sequence[Path]]) -> None:
    """Refuse to write over what is read."""
    reading = {path.resolve() for path in files}
    for place in (place for own in places for place in own):
        if place.resolve() in reading:
            raise reject("--output_dir", str(place), "a folder other than that of FILES")


def split(args: argparse.Namespace) -> int:
    """Do the work; returns 1 where the proof fails."""
    wanted = shares(args)
    if args.near is not None and not SLACK < args.near <= 1:
        raise reject("--near", args.near, "a similarity up to 1, such as 0.8")
    if args.corpus and not args.eval:
        raise UserError("--corpus: needs --eval, because it adds texts to those folders")
    files, corpus = find_records(args.files), find_texts(args.corpus, flag="--corpus") if args.corpus else ()
    folder = Path(args.output)
    places = outputs(files, folder, list(wanted))
    check_places(files, places)
    census = take_census(files, args)
    parts = assign(census, wanted)
    written = dict(zip(wanted, write_parts(files, places, parts, census), strict=True))
    sets = write_eval_sets({name: own for name, own in list(written.items())[1:]}, corpus) if args.eval else []
    report = describe(census, parts, list(wanted)) | {"eval": [str(path) for path in sets]}
    proof = prove(written, near=args.near, groups_per_file=args.groups_per_file)
    write_json(folder / "split.json", {"seed": args.seed, "near": args.near, **report, "proof": proof.as_dict()})
    for line in (*lines_of(report), *proof.lines()):
        logger.info("%s", line)
    return 0 if proof.holds else 1


def describe(census: Census, parts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Count records and groups of each part and dataset."""
    counted = {
        name: {
            "records": int((parts == number).sum()),
            "groups": len(np.unique(census.groups[parts == number])),
            "datasets": {
                dataset: int(((parts == number) & (census.datasets == d)).sum())
                for d, dataset in enumerate(census.names)
            },
        }
        for number, name in enumerate(names)
    }
    largest = max(sizes_of(census.groups).values())
    return {"parts": counted, "largest_group": largest}


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is said of the parts."""
    for name, part in report["parts"].items():
        each = ", ".join(f"{dataset} {count:,}" for dataset, count in part["datasets"].items())
        yield f"{name}: {part['records']:,} records in {part['groups']:,} groups ({each})"
    yield f"the largest group of records that belong together: {report['largest_group']:,}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; returns the exit code: 1 where parts share something."""
    return call(parser(), split, argv)


if __name__ == "__main__":
    sys.exit(main())
