"""Training pairs that a corpus gives away: nobody has to write queries for a model to learn what belongs together.

Each document is cut into windows of whole sentences, and each window makes one pair:

span    a sentence, or a few characters of it, finds the window that it comes from, in which it mostly no longer stands
words   a few fragments of a window find the window
next    a window finds the one before it
title   a document's title finds one of its windows (once a document)
turn    in a dialogue ("name：text" lines), a turn finds the exchange before it, and a question its answer

A pair's kind is its task. One file is written for each file of the corpus: batches of one file have harder negatives.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.shared.command import call, make_parser
from data_tools.shared.record_files import write_records
from data_tools.shared.shingles import Shingles, evaluation_shingles
from zh_embedder.core.errors import UserError, reject
from zh_embedder.data.schema import parse_object
from zh_embedder.data.sources import is_data_file, kind, read_lines
from zh_embedder.data.text_files import TEXT_FILE, Reader, find_texts

logger = logging.getLogger("data_tools.make_pairs")  # __name__ is __main__ under `python -m`

EXAMPLE = "corpus/*.jsonl.zst --output_dir pairs --max_pairs 50000 --without data/qa/test"
SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;]*[”’」』）)]*")
TURN = re.compile(r"([^：:\s]{1,8})[：:]\s*(.+)")
WINDOW = (50, 350)  # characters: how long windows shall be is drawn anew for each
SPAN = (8, 24)  # characters
FRAGMENTS, FRAGMENT = (2, 5), (2, 6)  # how many, and characters of each
MIN_KEY = 20  # characters: a window is not emptied for the sake of a pair
MAX_TURNS = 12  # pairs of one dialogue

Pair = tuple[str, str, str]  # task, query, key


@dataclass(frozen=True, slots=True)
class Recipe:
    """How pairs are made. The shares of kinds are those of windows; what they leave of 1 is `span`."""

    words: float = 0.15
    next: float = 0.15
    remove: float = 0.8  # share of spans whose sentence is taken out of the window
    titled: float = 0.25  # share of windows with their document's title in front


def sentences(text: str) -> list[str]:
    """Cut a text behind the marks that end sentences, and at line ends; marks without letters before them are left out.

    Not `zh_embedder.text.sentences`, which keeps every character: what is made here is searched for.
    """
    return [found for part in SENTENCE.findall(text) if (found := part.strip())]


def windows(parts: Sequence[str], rng: random.Random) -> list[list[str]]:
    """Put neighbouring sentences together until each window has the length drawn for it; a last short one stays."""
    made: list[list[str]] = [[]]
    wanted = rng.randint(*WINDOW)
    for part in parts:
        if made[-1] and sum(map(len, made[-1])) + len(part) > wanted:
            made.append([])
            wanted = rng.randint(*WINDOW)
        made[-1].append(part[: WINDOW[1]])
    return [window for window in made if window]


def span_pair(window: Sequence[str], recipe: Recipe, rng: random.Random) -> tuple[str, str] | None:
    """A sentence of a window, or a span of it, and the window, mostly without the sentence."""
    long = [index for index, part in enumerate(window) if len(part) >= SPAN[0]]
    if not long:
        return None
    chosen = rng.choice(long)
    query = window[chosen]
    if rng.random() < 0.5 and len(query) > SPAN[0]:
        length = min(len(query), rng.randint(*SPAN))
        start = rng.randrange(len(query) - length + 1)
        query = query[start : start + length]
    rest = "".join(part for index, part in enumerate(window) if index != chosen)
    if rng.random() < recipe.remove:
        return (query, rest) if len(rest) >= MIN_KEY else None
    return query, "".join(window)


def fragments(window: Sequence[str], rng: random.Random) -> str:
    """A few short pieces of a window, in any order."""
    found = []
    for _ in range(rng.randint(*FRAGMENTS)):
        part, length = rng.choice(window), rng.randint(*FRAGMENT)
        start = rng.randrange(max(1, len(part) - length + 1))
        found.append(part[start : start + length].strip("，。、；：！？,.;:!? "))
    return " ".join(filter(None, found))


def turn_pairs(text: str) -> list[Pair]:
    """Pairs of a dialogue; none where lines do not begin with one of two names."""
    turns = [TURN.fullmatch(line.strip()) for line in text.split("\n") if line.strip()]
    known = [turn.groups() for turn in turns if turn]
    if len(known) < 4 or len(known) < 0.9 * len(turns) or len({name for name, _ in known}) != 2:
        return []
    made = []
    for at in range(1, len(known)):
        (before, asked), (name, said) = known[at - 1], known[at]
        if before == name:
            continue
        if at >= 3 and name == known[at - 2][0] and len(said) >= SPAN[0]:
            exchange = "\n".join(f"{who}：{what}" for who, what in known[at - 2 : at])
            made.append(("turn", said, exchange))
        elif len(asked) >= SPAN[0] and len(said) >= MIN_KEY:
            made.append(("turn", asked, said))
    return made


def document_pairs(title: str, text: str, recipe: Recipe, rng: random.Random) -> Iterator[Pair]:
    """Yield the pairs of a document; which they are depends on the document and the state of `rng` alone."""
    if turns := turn_pairs(text):
        yield from rng.sample(turns, min(len(turns), MAX_TURNS))
    cut = windows(sentences(text), rng)
    if title and cut:
        yield "title", title, "".join(rng.choice(cut[:3]))
    for index, window in enumerate(cut):
        draw, key = rng.random(), "".join(window)
        made: tuple[str, str] | None
        if draw < recipe.words:
            task, made = "words", (fragments(window, rng), key)
        elif draw < recipe.words + recipe.next:
            task, made = "next", (key, "".join(cut[index - 1])) if index else None
        else:
            task, made = "span", span_pair(window, recipe, rng)
        if made is None or not made[0].strip() or len(made[1]) < MIN_KEY:
            continue
        query, key = made
        yield task, query, f"{title}：{key}" if title and rng.random() < recipe.titled else key


def documents(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (where, title, text) of a file's lines.

    Raises:
        UserError: a line is wrong.
    """
    reader, plain = Reader([path]), kind(path) == TEXT_FILE
    for number, line in read_lines(path):
        if line:
            where = f"{path.name}:{number}"
            text = reader.parse(line, f"{path}:{number}", plain=plain)[1]
            title = "" if plain else parse_object(str(line), where, '{"text": ...}').get("title") or ""
            yield where, str(title), text


@dataclass(slots=True)
class Sample:
    """At most `size` of a stream, each with the same chance; all where size is None."""

    size: int | None
    rng: random.Random
    seen: int = 0
    kept: list[tuple[str, Pair]] = field(default_factory=list)

    def add(self, where: str, pair: Pair) -> None:
        """Offer a pair."""
        self.seen += 1
        if self.size is None or len(self.kept) < self.size:
            self.kept.append((where, pair))
        elif (place := self.rng.randrange(self.seen)) < self.size:
            self.kept[place] = where, pair


def make_file(
    path: Path, target: Path, recipe: Recipe, *, seed: int, max_pairs: int | None, forbidden: Shingles | None
) -> int:
    """Make the pairs of one file, leave out what must not be learnt, and write them; returns how many."""
    from tqdm.auto import tqdm

    sample = Sample(max_pairs, random.Random(f"{seed} {path.name}"))
    for where, title, text in tqdm(documents(path), desc=path.name, unit=" texts", delay=5, leave=False):
        for pair in document_pairs(title, text, recipe, random.Random(f"{seed} {where}")):
            sample.add(where, pair)
    sample.rng.shuffle(sample.kept)
    kept = sample.kept if forbidden is None else [one for one in sample.kept if not forbidden.hit(one[1][1:])]
    rows = ({"query": q, "pos": [k], "task": task, "group": where} for where, (task, q, k) in kept)
    count = write_records(target, rows)
    tasks = Counter(task for _, (task, _, _) in kept)
    dropped = f", {len(sample.kept) - count:,} dropped for the evaluation sets" if forbidden else ""
    shown = ", ".join(f"{task} {number:,}" for task, number in tasks.most_common())
    logger.info("%s: %d pairs found, %d drawn%s: %s", path.name, sample.seen, len(sample.kept), dropped, shown)
    return count


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser, recipe = make_parser("make_pairs", __doc__, EXAMPLE), Recipe()
    parser.add_argument(
        "corpus",
        nargs="+",
        help="raw text: JSON Lines with `text` (and `title`), or .txt with one text per line (also .gz, .zst)",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for a NAME.jsonl per file")
    parser.add_argument(
        "--max_pairs", type=int, metavar="N", help="maximum pairs per file, drawn at random (default: all)"
    )
    parser.add_argument(
        "--without", nargs="+", metavar="SET", help="evaluation sets; pairs that share text with them are left out"
    )
    parser.add_argument(
        "--shared", type=int, default=13, metavar="N", help="number of letters in a row that count as shared text"
    )
    parser.add_argument(
        "--remove",
        type=float,
        default=recipe.remove,
        metavar="P",
        help="share of sentences to remove from their context",
    )
    parser.add_argument(
        "--words",
        type=float,
        default=recipe.words,
        metavar="P",
        help="share of passages paired with fragments",
    )
    parser.add_argument(
        "--next", type=float, default=recipe.next, metavar="P", help="share of passages paired with the next one"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser


def run(args: argparse.Namespace) -> None:
    """Make the pairs that the flags ask for."""
    for name in ("remove", "words", "next"):
        if not 0 <= getattr(args, name) <= 1:
            raise reject(f"--{name}", getattr(args, name), "a share between 0 and 1")
    if args.words + args.next > 1:
        raise reject("--words and --next", args.words + args.next, "at most 1 together")
    if args.max_pairs is not None and args.max_pairs < 1:
        raise reject("--max_pairs", args.max_pairs, "1 or more")
    folder = Path(args.output_dir).expanduser()
    targets = {path: folder / f"{path.name.split('.')[0]}.jsonl" for path in find_texts(args.corpus)}
    if len(set(targets.values())) < len(targets):
        raise reject("corpus", ", ".join(path.name for path in targets), "files of different names")
    if not args.overwrite and (there := [str(path) for path in targets.values() if is_data_file(path)]):
        raise UserError(f"--output_dir: {', '.join(there)}: is there already; --overwrite replaces it")
    forbidden = evaluation_shingles(args.without, args.shared) if args.without else None
    recipe = Recipe(words=args.words, next=args.next, remove=args.remove)
    total = sum(
        make_file(path, target, recipe, seed=args.seed, max_pairs=args.max_pairs, forbidden=forbidden)
        for path, target in targets.items()
    )
    logger.info("%s: %d pairs", folder, total)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    return call(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
