"""`zh-embedder doctor`: the flags of record checks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zh_embedder.cli import call

DETAILS = """\
One pass over the files; texts are not kept, only hashes of them (220 MB for a million records of 8 keys).
Exit code: 0 where no error was found, 1 where one was, 2 for a mistake on the command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILES", help="files, folders or globs of training records")
    add("--version", help="name or file: tasks and instructions; without it, those of all known ones")
    add("--eval", nargs="+", default=[], metavar="DIR", help="sets that must not be in the records")
    add("--query_encoder", help="model or folder whose tokenizer counts lengths; without it none are")
    add("--query_max_length", type=int, default=256, help="tokens (256)")
    add("--key_max_length", type=int, default=256, help="tokens (256)")
    add("--train_group_size", type=int, help="keys of a query: says where negatives are too few")
    add("--per_device_train_batch_size", type=int, default=16, help="queries of a rank (16)")
    add("--ranks", type=int, default=1, help="processes that will train (1)")
    add("--teacher_temperature", type=float, default=1.0, help="where the version sets none (1)")
    add("--near", type=float, default=0.85, help="likeness of a negative to a positive (0.85)")
    add("--leak_near", type=float, default=0.8, help="likeness to an evaluation text (0.8)")
    add("--show", type=int, default=3, help="findings shown of each kind (3)")
    add("--fix", metavar="OUT", help="write cleaned files to OUT/cleaned, changes to OUT/LEDGER")
    add("--json", metavar="FILE", help="write all findings")


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
