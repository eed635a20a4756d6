"""`zh-embedder convert`: the flags of conversions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from data_tools.converting.format_types import ReadOptions
from data_tools.converting.formats import FORMATS, listing
from zh_embedder.cli import call
from zh_embedder.core.errors import UserError, reject

OUTPUTS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
DETAILS = "What is guessed is logged; what is dropped is counted by reason."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="files, folders, globs; hf:NAME[:SUBSET] on the hub")
    add("--list", action="store_true", help="show the formats with an example each")
    add("--from", dest="format", metavar="FORMAT", help=f"one of {', '.join(FORMATS)}; guessed if clear")
    add("--output", metavar="OUT", help="a .jsonl file, or .jsonl.gz, .jsonl.zst")
    add("--task", help="of all records; formats of one task have it by default")
    add("--as", dest="shape", help="what to make, where a format makes several things (see --list)")
    add_source_flags(parser.add_argument_group("where things are in the source"))
    add_making_flags(parser.add_argument_group("what is made"))
    add_cleaning_flags(parser.add_argument_group("cleaning, off by default"))


def add_source_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that say how a source is read."""
    group.add_argument("--columns", nargs="+", default=[], metavar="FIELD=COLUMN", help="query=title+ask neg=n1,n2")
    group.add_argument("--join", default="\n", help="between columns joined by + (a line break)")
    group.add_argument("--header", action=argparse.BooleanOptionalAction, help="of a table; looked at by default")
    group.add_argument("--encoding", default="auto", help="auto finds UTF-8, UTF-16 and GB18030, and says so")
    group.add_argument("--split", help="of a set that has several (train)")
    group.add_argument("--queries", metavar="FILE", help="msmarco: queries, where they are elsewhere")
    group.add_argument("--qrels", metavar="FILE", help="beir, msmarco: judgements, where they are elsewhere")
    group.add_argument("--negatives", metavar="FILE", help="beir, msmarco: hard negatives, query TAB key")
    group.add_argument("--answers", metavar="FILE", help="acebench: answers (possible_answer/ beside the file)")


def add_making_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that say what records are made."""
    plain = ReadOptions()
    group.add_argument("--min_relevance", type=int, default=plain.min_relevance, help="of a positive (1)")
    group.add_argument(
        "--threshold", type=float, default=plain.threshold, help="pairs --as groups: a positive's score (1)"
    )
    group.add_argument("--turns", type=int, default=plain.turns, help="dialogues: turns in front of the question (4)")
    group.add_argument("--facts", default=plain.facts, help="kdconv: those that the reply has `repeated`, or all")
    group.add_argument("--template", default=plain.template, help="icl: how an example is laid out")
    group.add_argument("--examples", type=int, default=plain.examples, help="icl: positives of a record (1)")
    group.add_argument("--wrong_examples", type=int, default=plain.wrong_examples, help="icl: negatives (7)")
    group.add_argument("--seed", type=int, default=plain.seed, help="icl: of the draw (0)")


def add_cleaning_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that change or leave out texts."""
    group.add_argument("--simplify", action="store_true", help="Traditional to Simplified Chinese, by OpenCC (t2s)")
    group.add_argument("--normalize", metavar="FORM", help="Unicode normal form, such as NFKC")
    group.add_argument("--min_chars", type=int, default=1, help="leave out shorter texts (1)")
    group.add_argument("--limit", type=int, metavar="N", help="stop after N records")


def reading_of(args: argparse.Namespace) -> ReadOptions:
    """Gather what readers look at."""
    from data_tools.converting.dialogue import check_facts

    check_facts(args.facts)
    values = {f.name: getattr(args, f.name) for f in fields(ReadOptions) if f.name != "columns"}
    return ReadOptions(columns=columns_of(args.columns), **values)


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """Read `query=ask pos=answer`."""
    found = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise reject("--columns", pair, "FIELD=COLUMN, such as query=ask")
        found[name] = column
    return found


def output_of(args: argparse.Namespace) -> Path:
    """Return the file to write."""
    if not args.inputs:
        raise UserError("INPUT: is missing, expected files, folders or hf:NAME (--list shows the formats)")
    if args.output is None:
        raise UserError("--output: is missing, expected a file such as train.jsonl")
    if not args.output.endswith(OUTPUTS):
        raise reject("--output", args.output, f"a file that ends in {' or '.join(OUTPUTS)}")
    return Path(args.output)


def run(args: argparse.Namespace) -> None:
    """Convert, or list the formats."""
    from data_tools.converting.pipeline import ConvertOptions, convert

    if args.list:
        sys.stdout.write(listing())
        return
    convert(
        ConvertOptions(
            inputs=args.inputs,
            output=output_of(args),
            format=args.format,
            reading=reading_of(args),
            simplify=args.simplify,
            normalize=args.normalize,
            min_chars=args.min_chars,
            limit=args.limit,
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("convert", argv, program="python -m data_tools.convert")


if __name__ == "__main__":
    sys.exit(main())
