"""Turn what others publish into training records: what was guessed is said, what is dropped is counted."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path

from tqdm.auto import tqdm

from data_tools.converting.base import HUB, Format, Item, Record, Source, Wish
from data_tools.converting.dialogue import check_facts
from data_tools.converting.finish import Finisher, cleaner
from data_tools.converting.formats import FORMATS, guesses
from data_tools.converting.reading import find_encoding, head
from data_tools.converting.tools import ANSWERS
from data_tools.shared.command import call, make_parser
from data_tools.shared.record_files import as_line, lines_to
from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.data.records import short_names
from zh_embedder.data.schema import parse_line
from zh_embedder.data.sources import find_files

logger = logging.getLogger("data_tools.convert")  # __name__ is __main__ under `python -m`

EXAMPLE = "cmrc2018_trial.json --from squad --task qa --output qa.jsonl.gz"
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".zip")
OUTPUTS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
FOLDERS = ("beir", "msmarco")  # formats whose input is a folder


@dataclass(slots=True)
class Tally:
    """What came of a source."""

    read: int = 0
    records: int = 0
    merged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def lines(self, name: str, unit: str) -> Iterator[str]:
        """Yield what is said: read = in records + dropped, always."""
        inside = f" (of {self.records + self.merged:,} {unit})" if self.merged else ""
        gone = f", {self.dropped.total():,} dropped" if self.dropped else ", nothing dropped"
        yield f"{name}: {self.read:,} {unit} read, {self.records:,} records{inside}{gone}"
        for reason, count in self.dropped.most_common():
            yield f"{name}:   dropped {count:,}: {reason}"
        for note, count in self.notes.most_common():
            yield f"{name}:   {count:,}: {note}"


# ---- what was typed -------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    own = make_parser("convert", __doc__, EXAMPLE)
    own.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="files, folders, globs, or hf:NAME[:SUBSET] for a data set on the hub",
    )
    own.add_argument("--list", action="store_true", help="list the formats, with an example of each")
    own.add_argument(
        "--from",
        dest="format",
        metavar="FORMAT",
        help=f"format: {', '.join(FORMATS)} (default: guessed if unmistakable)",
    )
    own.add_argument("--output", metavar="OUT", help="file to write: .jsonl, .jsonl.gz or .jsonl.zst")
    own.add_argument("--task", help="task of all records (some formats have a default)")
    own.add_argument("--as", dest="shape", help="what to make, for formats that offer a choice (see --list)")
    add_source_flags(own.add_argument_group("where things are in the source"))
    add_making_flags(own.add_argument_group("what is made"))
    add_cleaning_flags(own.add_argument_group("cleaning, off by default"))
    return own


def add_source_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that say how a source is read."""
    group.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="FIELD=COLUMN",
        help="columns to read, such as query=title+ask neg=n1,n2",
    )
    group.add_argument("--join", default="\n", help="separator between columns joined with + (default: a line break)")
    group.add_argument(
        "--header", action="store_true", default=None, help="the table has a header line (default: detected)"
    )
    group.add_argument(
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
        "--answers", metavar="FILE", help="acebench: file of the answers (default: possible_answer/ in the same folder)"
    )


def add_making_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that say what records are made."""
    plain = Wish()
    group.add_argument("--min_relevance", type=int, default=plain.min_relevance, help="minimum relevance of a positive")
    group.add_argument(
        "--threshold", type=float, default=plain.threshold, help="pairs --as groups: minimum score of a positive"
    )
    group.add_argument("--turns", type=int, default=plain.turns, help="dialogues: number of turns before the question")
    group.add_argument(
        "--facts", default=plain.facts, help="kdconv: use only the facts that the reply repeats (`repeated`), or `all`"
    )
    group.add_argument("--template", default=plain.template, help="icl: template of an example")
    group.add_argument("--examples", type=int, default=plain.examples, help="icl: positives per record")
    group.add_argument("--wrong_examples", type=int, default=plain.wrong_examples, help="icl: negatives per record")
    group.add_argument("--seed", type=int, default=plain.seed, help="icl: random seed")


def add_cleaning_flags(group: argparse._ArgumentGroup) -> None:
    """Add flags that change or leave out texts."""
    group.add_argument(
        "--simplify", action="store_true", help="convert Traditional to Simplified Chinese with OpenCC (t2s)"
    )
    group.add_argument("--normalize", metavar="FORM", help="Unicode normal form, such as NFKC")
    group.add_argument("--min_chars", type=int, default=1, help="leave out texts shorter than this")
    group.add_argument("--limit", type=int, metavar="N", help="stop after N records")


def wish_of(args: argparse.Namespace) -> Wish:
    """Gather what readers look at."""
    check_facts(args.facts)
    values = {f.name: getattr(args, f.name) for f in fields(Wish) if f.name != "columns"}
    return Wish(columns=columns_of(args.columns), **values)


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


# ---- sources and their formats --------------------------------------------------------------------------------------


def find_sources(specs: Sequence[str], name: str | None) -> list[Source]:
    """Turn what was typed into sources, with names that tell them apart."""
    found: list[str] = []
    for spec in specs:
        path = Path(spec).expanduser()
        if spec.startswith(HUB) or (path.is_dir() and is_whole(path, name)):
            found.append(spec)
        else:
            files = find_files([spec], data_root=None, flag="INPUT", suffixes=SUFFIXES)
            found += [str(file) for file in files if not path.is_dir() or file.parent.name != ANSWERS]
    names = short_names([Path(spec.removeprefix(HUB).replace(":", "-")) for spec in found])
    return [Source(spec, plain_name(name)) for spec, name in zip(found, names, strict=True)]


def is_whole(folder: Path, name: str | None) -> bool:
    """Tell whether a folder is one source."""
    return name in FOLDERS if name is not None else bool(guesses(head(folder, "auto")))


def plain_name(name: str) -> str:
    """Leave the suffixes of a file out, for ids."""
    first, *suffixes = Path(name).name.split(".")
    kept = [suffix for suffix in suffixes if f".{suffix}" not in (*SUFFIXES, ".gz", ".zst")]
    return "-".join([*Path(name).parts[:-1], ".".join([first, *kept])])


def choose_format(source: Source, name: str | None, encoding: str) -> Format:
    """Return the format that was named, or the only one that a source can be, which is said.

    Raises:
        UserError: the name is unknown, or no name was given and the source is not unmistakable.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown_name("--from", name, FORMATS)
        if source.path.is_file() and encoding == "auto" and source.path.suffix != ".parquet":
            find_encoding(source.path)  # now, so that what it says stands above the progress bar
        return FORMATS[name]
    found = [] if source.is_hub else guesses(head(source.path, encoding))
    if len(found) != 1:
        seen = f"may be {' or '.join(found)}" if found else "is none that can be told"
        raise UserError(f"{source.spec}: the format {seen}, expected --from: {', '.join(FORMATS)}")
    logger.info("%s: read as %s (--from says otherwise)", source.spec, found[0])
    return FORMATS[found[0]]


def choose_shape(own: Format, shape: str | None) -> str:
    """Return what is made of a format."""
    if shape is None:
        return own.shapes[0]
    if shape not in own.shapes:
        raise unknown_name(f"--as ({own.name})", shape, own.shapes)
    return shape


def choose_task(own: Format, wish: Wish, source: Source) -> str | None:
    """Return the task of records that name none."""
    if wish.task is not None:
        return wish.task
    task = own.tasks.get(wish.shape or "")
    if task is not None:
        logger.info("%s: task %s (--task says otherwise)", source.spec, task)
    elif not own.carries_task and "task" not in wish.columns:
        raise UserError(f"{source.spec}: --task: is missing, expected a name that the version has, such as qa")
    return task


# ---- records --------------------------------------------------------------------------------------------------------


class Ids:
    """Ids given so far: one that a source gives twice gets a number."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def distinct(self, name: str) -> str:
        """Return the id, or `id#2` where it was there."""
        own, number = name, 1
        while hash(own) in self.seen:
            number += 1
            own = f"{name}#{number}"
        self.seen.add(hash(own))
        return own


def with_bar(items: Iterator[Item], name: str, unit: str) -> Iterator[Item]:
    """Yield items behind a bar, which begins with the first: what readers say before stands above it."""
    for first in items:
        yield from tqdm(chain([first], items), desc=name, unit=f" {unit}", delay=5, leave=False)


def finished(items: Iterable[Item], finisher: Finisher, tally: Tally) -> Iterator[tuple[str, Record]]:
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


def converted(source: Source, args: argparse.Namespace, ids: Ids, tally: Tally, own: Format) -> Iterator[str]:
    """Yield the lines of a source."""
    wish = wish_of(args)
    wish = replace(wish, shape=choose_shape(own, wish.shape))
    task = choose_task(own, wish, source)
    clean = cleaner(simplify=args.simplify, normalize=args.normalize)
    finisher = Finisher(clean, max(1, args.min_chars), task, override=wish.task is not None)
    for where, record in finished(with_bar(own.read(source, wish), source.name, own.unit), finisher, tally):
        if record["id"] != (name := ids.distinct(record["id"])):
            tally.notes["ids that the source gives twice, numbered"] += 1
            record["id"] = name
        line = as_line(record)
        parse_line(line, where)
        yield line


def convert(args: argparse.Namespace) -> int:
    """Do the work."""
    if args.list:
        sys.stdout.write(listing())
        return 0
    output = output_of(args)
    written, ids = 0, Ids()
    tallies: list[tuple[Source, Format, Tally]] = []
    with lines_to(output) as stream:
        for source in find_sources(args.inputs, args.format):
            own, tally = choose_format(source, args.format, args.encoding), Tally()
            tallies.append((source, own, tally))
            for line in converted(source, args, ids, tally, own):
                stream.write(line)
                written += 1
                if args.limit is not None and written >= args.limit:
                    break
            if args.limit is not None and written >= args.limit:
                logger.info("stopped at --limit %d", args.limit)
                break
        say(tallies)
        if not written:
            raise UserError(f"{output}: nothing to write: no record came of {', '.join(args.inputs)[:200]}")
    logger.info("%s: %s records written", output, f"{written:,}")
    return 0


def say(tallies: Sequence[tuple[Source, Format, Tally]]) -> None:
    """Say what came of each source."""
    for source, own, tally in tallies:
        for line in tally.lines(source.name, own.unit):
            logger.info("%s", line)


def listing() -> str:
    """Lay the formats out."""
    blocks = []
    for own in FORMATS.values():
        shapes = f"\n    --as {' | '.join(own.shapes)}" if len(own.shapes) > 1 else ""
        blocks.append(f"{own.name}: {own.about}{shapes}\n    {own.example}\n")
    return "\n".join(blocks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; returns the exit code."""
    return call(parser(), convert, argv)


if __name__ == "__main__":
    sys.exit(main())
