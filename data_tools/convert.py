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
from zh_embedder.core.numbers import AMOUNT, COUNT
from zh_embedder.core.options import AUTO, any_text, number_of
from zh_embedder.core.outputs import Output, Places

EVALUATION = ("qrels.tsv", "queries.jsonl", "corpus.jsonl")
OUTPUTS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
DETAILS = "What is guessed is logged; what is dropped is counted by reason."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="files, folders, globs, or hf:NAME[:SUBSET] for a data set on the hub",
    )
    add("--list", action="store_true", help="list the formats, with an example of each")
    add(
        "--from",
        dest="format",
        metavar="FORMAT",
        help=f"format: {', '.join(FORMATS)} (default: guessed if unmistakable)",
    )
    add("--output", metavar="OUT", help="file to write: .jsonl, .jsonl.gz or .jsonl.zst")
    add("--output_eval", metavar="DIR", help="llama_index: folder to write the file to as an evaluation set as well")
    add("--overwrite", action="store_true", help="replace outputs that exist")
    add("--task", help="task of all records (some formats have a default)")
    add("--as", dest="shape", help="what to make, for formats that offer a choice (see --list)")
    add_source_flags(parser.add_argument_group("where things are in the source"))
    add_making_flags(parser.add_argument_group("what is made"))
    add_cleaning_flags(parser.add_argument_group("cleaning, off by default"))


def add_source_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that say how a source is read."""
    group.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="FIELD=COLUMN",
        help="columns to read, such as query=title+ask neg=n1,n2",
    )
    group.add_argument(
        "--join", type=any_text, default="\n", help="separator between columns joined with + (default: a line break)"
    )
    header = group.add_mutually_exclusive_group()
    header.add_argument(
        "--header", action="store_true", default=None, help="the table has a header line (default: detected)"
    )
    header.add_argument(
        "--no_header", dest="header", action="store_false", default=None, help="the table has no header line"
    )
    group.add_argument(
        "--encoding", default="auto", help="character encoding; auto detects UTF-8, UTF-16 and GB18030 and logs which"
    )
    group.add_argument("--split", help="split to read, of a data set with several (default: train)")
    group.add_argument("--queries", metavar="FILE", help="msmarco: file of the queries, if it is elsewhere")
    group.add_argument("--qrels", metavar="FILE", help="beir, msmarco: file of the judgements, if it is elsewhere")
    group.add_argument("--negatives", metavar="FILE", help="beir, msmarco: file of hard negatives, query TAB key")
    group.add_argument(
        "--labels",
        metavar="NAMES",
        help="nli: names of the classes 0, 1 and 2, such as entailment,neutral,contradiction, if labels are numbers",
    )
    group.add_argument(
        "--answers", metavar="FILE", help="acebench: file of the answers (default: possible_answer/ in the same folder)"
    )


def add_making_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that say what records are made."""
    plain = ReadOptions()
    group.add_argument(
        "--min_relevance",
        type=number_of(ReadOptions, "min_relevance"),
        default=plain.min_relevance,
        help="minimum relevance of a positive",
    )
    group.add_argument(
        "--threshold",
        type=number_of(ReadOptions, "threshold"),
        default=plain.threshold,
        help="pairs --as groups: minimum score of a positive",
    )
    group.add_argument(
        "--turns",
        type=number_of(ReadOptions, "turns"),
        default=plain.turns,
        help="dialogues: number of turns before the question",
    )
    group.add_argument(
        "--facts", default=plain.facts, help="kdconv: use only the facts that the reply repeats (`repeated`), or `all`"
    )
    group.add_argument("--template", default=plain.template, help="icl: template of an example")
    group.add_argument(
        "--examples", type=number_of(ReadOptions, "examples"), default=plain.examples, help="icl: positives per record"
    )
    group.add_argument(
        "--wrong_examples",
        type=number_of(ReadOptions, "wrong_examples"),
        default=plain.wrong_examples,
        help="icl: negatives per record",
    )
    group.add_argument("--seed", type=number_of(ReadOptions, "seed"), default=plain.seed, help="icl: random seed")


def add_cleaning_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that change or leave out texts."""
    group.add_argument(
        "--simplify", action="store_true", help="convert Traditional to Simplified Chinese with OpenCC (t2s)"
    )
    group.add_argument("--normalize", metavar="FORM", help="Unicode normal form, such as NFKC")
    group.add_argument("--min_chars", type=AMOUNT, default=1, help="leave out texts shorter than this")
    group.add_argument("--limit", type=COUNT, metavar="N", help="stop after N records")


def reading_of(args: argparse.Namespace) -> ReadOptions:
    """Gather what readers look at."""
    from data_tools.converting.dialogue import check_facts
    from data_tools.converting.labelled import check_template
    from data_tools.converting.pairs import read_labels
    from data_tools.converting.source_text import check_encoding

    check_facts(args.facts)
    check_template(args.template)
    if args.encoding != AUTO:
        check_encoding(args.encoding)
    read = {"columns": columns_of(args.columns), "labels": read_labels(args.labels)}
    return ReadOptions(**{f.name: getattr(args, f.name) for f in fields(ReadOptions)} | read)


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


def places(args: argparse.Namespace) -> Places:
    """Where the records go."""
    if args.list:
        return Places([])
    given = (args.queries, args.qrels, args.negatives, args.answers)
    outputs = [Output(flag="--output", path=output_of(args))]
    if args.output_eval is not None:
        folder = Path(args.output_eval)
        outputs.append(Output(flag="--output_eval", path=folder, folder=True, known=EVALUATION))
    return Places(outputs, [*args.inputs, *filter(None, given)], overwrite=args.overwrite)


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
            output_eval=None if args.output_eval is None else Path(args.output_eval),
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
