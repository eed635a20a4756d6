"""`zh-embedder split`: the flags of leak-free splits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zh_embedder.cli import call
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.names import check_name
from zh_embedder.core.numbers import SEED, SIMILARITY, real, whole
from zh_embedder.core.outputs import Output, Places

NAMES = ("train", "dev", "test")
REST = "rest"
REPORT = "split.json"
RATIO = real(above=0, below=1)  # a part of none or all is no part
PART = whole(0, also={REST: "what the others leave"})
DETAILS = """\
With --near, no near-duplicates either. The written files are checked again: the exit code is 1 if parts share
anything."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILES", help="training records: files, folders or globs")
    add(
        "--output_dir",
        required=True,
        metavar="DIR",
        help="folder for train.jsonl, dev.jsonl, ... (compressed if the input is)",
        dest="output",
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--ratios", nargs="+", type=RATIO, metavar="R", help="share of each part; must sum to 1")
    how.add_argument(
        "--counts", nargs="+", type=PART, metavar="N", help="number of records in each part, one of them `rest`"
    )
    add("--names", nargs="+", help="names of the parts (default: train dev test)")
    add(
        "--near",
        type=SIMILARITY,
        metavar="J",
        help="keep texts of at least this similarity in the same part, such as 0.8",
    )
    add("--groups_per_file", action="store_true", help="treat a group name as unique to its file")
    add("--clean_negatives", action="store_true", help="remove negatives that are positives in another part")
    add("--eval", action="store_true", help="also write BEIR folders of all parts but the first")
    add("--corpus", nargs="+", default=[], metavar="FILE", help="texts to add to the corpora of those BEIR folders")
    add("--seed", type=SEED, default=0, help="random seed")
    add("--overwrite", action="store_true", help="replace an earlier split in --output_dir")


def places(args: argparse.Namespace) -> Places:
    """Where the parts go: a folder of its own, since two draws in one folder would share records."""
    names = args.names or NAMES
    parts = [f"{name}{end}" for name in names for end in (".jsonl", ".jsonl.gz", ".jsonl.zst", "/**")]
    folder = Output(
        flag="--output_dir", path=Path(args.output), folder=True, earlier="an earlier split", known=(REPORT, *parts)
    )
    return Places([folder], [*args.files, *args.corpus], overwrite=args.overwrite)


def shares(args: argparse.Namespace) -> dict[str, float | int | None]:
    """Return what is wanted of each part: a share, a count, or None for the rest.

    Raises:
        UserError: the numbers do not fit together.
    """
    given = args.ratios if args.ratios is not None else args.counts
    flag = "--ratios" if args.ratios is not None else "--counts"
    names = [check_name("--names", name, what="a part") for name in args.names or NAMES[: len(given)]]
    if args.names and (len(names) != len(given) or len(set(names)) != len(names)):
        raise reject("--names", " ".join(names), f"{len(given)} different names, as many as numbers in {flag}")
    if len(names) != len(given) or len(set(names)) != len(names) or len(given) < 2:
        raise UserError(
            f"{flag}: got {len(given)} numbers for the parts {' '.join(names)}, expected one for each of two or more"
        )
    if args.ratios is not None:
        if abs(sum(given) - 1) > 1e-6:
            raise reject("--ratios", given, "shares that are 1 together")
        largest = max(range(len(given)), key=given.__getitem__)
        return {name: None if i == largest else share for i, (name, share) in enumerate(zip(names, given, strict=True))}
    if given.count(REST) != 1:
        raise reject("--counts", given, f"whole numbers, and one {REST!r}, such as {REST} 500 500")
    return {name: None if n == REST else n for name, n in zip(names, given, strict=True)}


def run(args: argparse.Namespace) -> int:
    """Split; returns 1 where parts share something."""
    from data_tools.shared.record_files import find_records
    from data_tools.splitting.pipeline import SplitOptions, split
    from zh_embedder.data.text_files import find_texts

    options = SplitOptions(
        wanted=shares(args),
        files=find_records(args.files),
        folder=Path(args.output),
        near=args.near,
        groups_per_file=args.groups_per_file,
        clean_negatives=args.clean_negatives,
        eval_folders=args.eval,
        corpus=find_texts(args.corpus, flag="--corpus") if args.corpus else (),
        seed=args.seed,
    )
    return 0 if split(options) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("split", argv, program="python -m data_tools.split")


if __name__ == "__main__":
    sys.exit(main())
