"""`zh-embedder pairs`: the flags of pairs from raw text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools.pairing.pair_kinds import Recipe
from zh_embedder.cli import call
from zh_embedder.core.numbers import COUNT, SEED
from zh_embedder.core.options import number_of
from zh_embedder.core.outputs import Output, Places

DETAILS = """\
Each document is cut into windows of whole sentences, and each window makes one pair:

span    a sentence of a window, or a few characters of it -> the window, mostly without that sentence
words   a few fragments of a window -> the window
next    a window -> the one before it
title   a document's title -> one of its windows (once a document)
turn    in a dialogue ("name：text" lines): a turn -> the exchange before it, and a question -> its answer

A pair's kind is its task. One file is written for each file of the corpus: batches of one file have harder
negatives."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    recipe = Recipe()
    parser.add_argument(
        "corpus",
        nargs="+",
        help="raw text: JSON Lines with `text` (and `title`), or .txt with one text per line (also .gz, .zst)",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for a NAME.jsonl per file")
    parser.add_argument(
        "--max_pairs", type=COUNT, metavar="N", help="maximum pairs per file, drawn at random (default: all)"
    )
    parser.add_argument(
        "--without", nargs="+", metavar="SET", help="evaluation sets; pairs that share text with them are left out"
    )
    parser.add_argument(
        "--shared", type=COUNT, default=13, metavar="N", help="number of letters in a row that count as shared text"
    )
    parser.add_argument(
        "--remove",
        type=number_of(Recipe, "remove"),
        default=recipe.remove,
        metavar="P",
        help="share of sentences to remove from their context",
    )
    parser.add_argument(
        "--words",
        type=number_of(Recipe, "words"),
        default=recipe.words,
        metavar="P",
        help="share of passages paired with fragments",
    )
    parser.add_argument(
        "--next",
        type=number_of(Recipe, "next"),
        default=recipe.next,
        metavar="P",
        help="share of passages paired with the next one",
    )
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def places(args: argparse.Namespace) -> Places:
    """Where the pairs go: a file for each file of the corpus, whose names are checked when it was found."""
    folder = Output(flag="--output_dir", path=Path(args.output_dir).expanduser(), folder=True, kept=True)
    return Places([folder], [*args.corpus, *(args.without or ())])


def run(args: argparse.Namespace) -> None:
    """Make the pairs that the flags ask for."""
    from data_tools.pairing.pipeline import PairOptions, make_pairs
    from zh_embedder.data.text_files import find_texts

    recipe = Recipe(words=args.words, next=args.next, remove=args.remove)
    make_pairs(
        PairOptions(
            recipe=recipe,
            corpus=find_texts(args.corpus),
            folder=Path(args.output_dir).expanduser(),
            max_pairs=args.max_pairs,
            without=args.without or (),
            shared=args.shared,
            seed=args.seed,
            overwrite=args.overwrite,
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("pairs", argv, program="python -m data_tools.make_pairs")


if __name__ == "__main__":
    sys.exit(main())
