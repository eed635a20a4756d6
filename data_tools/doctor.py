"""Say what is wrong with training data, line by line, and write a cleaned copy.

One pass over the files; texts are not kept, only digests of them (220 MB for a million records of 8 keys).
Exit code: 0 where no error was found, 1 where one was, 2 for a mistake on the command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.doctoring.fixes import FOLDER, LEDGER, write_fixed
from data_tools.doctoring.leak_checks import read_eval_texts
from data_tools.doctoring.record_checks import MIN_INSTRUCTION, Settings
from data_tools.doctoring.survey import Survey
from data_tools.doctoring.text_checks import scripts
from data_tools.shared.command import call, make_parser
from data_tools.shared.record_files import find_records
from zh_embedder.config.instructions import Version, known_versions, read_version
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import write_json

EXAMPLE = "data/train --version zh_llm_embedder --eval data/qa data/law --fix cleaned --json findings.json"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser("doctor", __doc__, EXAMPLE)
    parser.add_argument("files", nargs="+", metavar="FILES", help="training records: files, folders or globs")
    parser.add_argument("--version", help="instruction version, by name or file (default: all known ones)")
    parser.add_argument(
        "--eval", nargs="+", default=[], metavar="DIR", help="evaluation sets that must not appear in the records"
    )
    parser.add_argument(
        "--query_encoder", help="model or folder whose tokenizer measures lengths (default: lengths are not checked)"
    )
    parser.add_argument("--query_max_length", type=int, default=256, help="maximum tokens of a query")
    parser.add_argument("--key_max_length", type=int, default=256, help="maximum tokens of a key")
    parser.add_argument(
        "--train_group_size", type=int, help="keys per query in training: reports records with too few negatives"
    )
    parser.add_argument("--per_device_train_batch_size", type=int, default=16, help="queries per step on each device")
    parser.add_argument("--ranks", type=int, default=1, help="number of training processes")
    parser.add_argument(
        "--teacher_temperature", type=float, default=1.0, help="temperature where the version sets none"
    )
    parser.add_argument(
        "--near", type=float, default=0.85, help="similarity at which a negative is a near-copy of a positive"
    )
    parser.add_argument(
        "--leak_near", type=float, default=0.8, help="similarity at which a text leaks from an evaluation set"
    )
    parser.add_argument("--show", type=int, default=3, help="number of findings to show of each kind")
    parser.add_argument("--fix", metavar="OUT", help=f"write cleaned files to OUT/{FOLDER}, changes to OUT/{LEDGER}")
    parser.add_argument("--json", metavar="FILE", help="also write all findings as JSON")
    return parser


def settings_of(args: argparse.Namespace) -> Settings:
    """Turn flags into settings.

    Raises:
        UserError: a flag is wrong.
    """
    for name in ("near", "leak_near"):
        if not 0 < getattr(args, name) <= 1:
            raise reject(f"--{name}", getattr(args, name), "a share above 0 and at most 1")
    for name in ("query_max_length", "key_max_length", "per_device_train_batch_size", "ranks", "teacher_temperature"):
        if getattr(args, name) <= 0:
            raise reject(f"--{name}", getattr(args, name), "a number above 0")
    version = read_version(args.version) if args.version else None
    return Settings(
        instructions=instructions_of([version] if version else readable_versions()),
        version=version,
        near=args.near,
        leak_near=args.leak_near,
        train_group_size=args.train_group_size,
        step_batch=args.per_device_train_batch_size * args.ranks,
        teacher_temperature=args.teacher_temperature,
        tokenizer=load_tokenizer(args.query_encoder) if args.query_encoder else None,
        max_lengths=(args.query_max_length, args.key_max_length),
    )


def readable_versions() -> list[Version]:
    """Return all known versions; one that is wrong is no matter of the data."""
    found = []
    for path in known_versions().values():
        try:
            found.append(read_version(str(path)))
        except UserError:
            continue
    return found


def instructions_of(versions: Sequence[Version]) -> tuple[str, ...]:
    """Return all instructions of versions, the longest first."""
    specs = [spec for v in versions for spec in (*v.tasks.values(), *([v.default] if v.default else []))]
    texts = {text.strip() for spec in specs for text in (spec.query, spec.key)}
    return tuple(sorted((t for t in texts if len(t) >= MIN_INSTRUCTION), key=lambda t: (-len(t), t)))


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a model: lengths need no weights, which may be gigabytes.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    from zh_embedder.bases.names import cannot_load
    from zh_embedder.models.folders import encoder_folder

    try:
        found = AutoTokenizer.from_pretrained(encoder_folder(name), use_fast=True)
    except (OSError, ValueError) as error:
        raise UserError(cannot_load("--query_encoder", name, error)) from None
    if len(found) <= len(found.all_special_ids):  # what transformers makes of a folder without its files
        raise UserError(f"--query_encoder: {name}: has no tokenizer, expected its files in the folder")
    return found


def not_checked(args: argparse.Namespace) -> list[str]:
    """Say what was not looked for, and why."""
    found = []
    if not args.eval:
        found.append("leaks: name evaluation sets with --eval")
    if not args.query_encoder:
        found.append("truncation: name a model with --query_encoder")
    if not args.train_group_size:
        found.append("too few negatives: give --train_group_size")
    if scripts() is None:
        found.append("Traditional and Simplified: pip install 'zh-embedder[tools]'")
    return found


def work(args: argparse.Namespace) -> int:
    """Examine, report, and mend where asked to."""
    settings = settings_of(args)
    files = find_records(args.files)
    evals = read_eval_texts(args.eval, settings) if args.eval else None
    survey = Survey(files, settings, evals).run()
    findings, skipped = survey.findings, not_checked(args)
    lines = [*findings.lines(args.show), "", *findings.table(), ""]
    lines += [f"{survey.records:,} records in {len(files)} files, {len(survey.profiles)} datasets"]
    lines += [f"not checked: {reason}" for reason in skipped]
    if args.json:
        report = {**findings.as_json(), "records": survey.records, "files": list(map(str, files))}
        write_json(Path(args.json), {**report, "not_checked": skipped})
    if args.fix:
        written, changes = write_fixed(survey, Path(args.fix))
        lines += [f"{args.fix}/{FOLDER}: {written:,} records, {changes:,} changes in {args.fix}/{LEDGER}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if findings.errors else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; returns the exit code."""
    return call(build_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
