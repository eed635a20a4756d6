"""`zh-embedder doctor`: the flags of record checks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zh_embedder.cli import call
from zh_embedder.core.numbers import AMOUNT, COUNT, LENGTH, POSITIVE, SIMILARITY
from zh_embedder.core.outputs import Output, Places, is_result

DETAILS = """\
One pass over the files; texts are not kept, only hashes of them (220 MB for a million records of 8 keys).
Exit code: 0 if no error was found, 1 if one was (also a file that cannot be read to its end, or is not UTF-8),
2 for a mistake on the command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILES", help="training records: files, folders or globs")
    add("--version", help="instruction version, by name or file (default: all known ones)")
    add("--eval", nargs="+", default=[], metavar="DIR", help="evaluation sets that must not appear in the records")
    add("--query_encoder", help="model or folder whose tokenizer measures lengths (default: lengths are not checked)")
    add("--query_max_length", type=LENGTH, default=256, help="maximum tokens of a query")
    add("--key_max_length", type=LENGTH, default=256, help="maximum tokens of a key")
    add("--train_group_size", type=COUNT, help="keys per query in training: reports records with too few negatives")
    add("--per_device_train_batch_size", type=COUNT, default=16, help="queries per step on each device")
    add("--ranks", type=COUNT, default=1, help="number of training processes")
    add("--teacher_temperature", type=POSITIVE, default=1.0, help="temperature where the version sets none")
    add("--near", type=SIMILARITY, default=0.85, help="similarity at which a negative is a near-copy of a positive")
    add("--leak_near", type=SIMILARITY, default=0.8, help="similarity at which a text leaks from an evaluation set")
    add("--show", type=AMOUNT, default=3, help="number of findings to show of each kind")
    add("--fix", metavar="OUT", help="write cleaned files to OUT/records, changes to OUT/ledger.jsonl")
    add("--overwrite", action="store_true", help="replace an earlier cleaned copy in OUT")
    add("--json", metavar="FILE", help="also write all findings as JSON")


def places(args: argparse.Namespace) -> Places:
    """Where the cleaned copy and the findings go."""
    from data_tools.doctoring.fixes import FOLDER, LEDGER

    outputs = []
    if args.fix:
        known, earlier = (LEDGER, f"{FOLDER}/**"), "an earlier cleaned copy"
        outputs.append(Output(flag="--fix", path=Path(args.fix), folder=True, earlier=earlier, known=known))
    if args.json:
        outputs.append(Output(flag="--json", path=Path(args.json), earlier="earlier findings", is_earlier=is_result))
    return Places(outputs, [*args.files, *args.eval], overwrite=args.overwrite)


def run(args: argparse.Namespace) -> int:
    """Examine; returns 1 where an error was found."""
    from data_tools.doctoring.pipeline import DoctorOptions, examine
    from data_tools.shared.record_files import find_records

    options = DoctorOptions(
        files=find_records(args.files),
        version=args.version,
        evals=args.eval,
        query_encoder=args.query_encoder,
        query_max_length=args.query_max_length,
        key_max_length=args.key_max_length,
        train_group_size=args.train_group_size,
        per_device_train_batch_size=args.per_device_train_batch_size,
        ranks=args.ranks,
        teacher_temperature=args.teacher_temperature,
        near=args.near,
        leak_near=args.leak_near,
        examples=args.show,
        fix=Path(args.fix) if args.fix else None,
        json=Path(args.json) if args.json else None,
    )
    return 0 if examine(options) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("doctor", argv, program="python -m data_tools.doctor")


if __name__ == "__main__":
    sys.exit(main())
