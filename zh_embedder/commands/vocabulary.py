"""`zh-embedder vocabulary`: a tokenizer from a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from zh_embedder.bases.folder_format import TOKENIZER_FILES
from zh_embedder.core.numbers import AMOUNT, COUNT
from zh_embedder.core.outputs import Places, output_dir

DETAILS = """\
The pieces are the characters of the corpus and of the common character sets, and the most frequent words: Chinese ones
as jieba cuts them, Latin ones, numbers. A text is cut greedily, the longest piece first; a character that is no piece
becomes [UNK]. A piece is the same at the start of a run and inside it (no ##). Traditional characters are read as
Simplified ones. Each file of the corpus has the same weight, however large it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add(
        "corpus",
        nargs="+",
        help="texts: JSON Lines with `text`, or .txt with one text per line (also .gz, .zst), folders or globs",
    )
    add("--output_dir", required=True, metavar="DIR", help="folder for the tokenizer")
    add("--words", type=AMOUNT, default=5000, metavar="N", help="number of Chinese words in the vocabulary")
    add("--latin", type=AMOUNT, default=1000, metavar="N", help="number of Latin words and numbers in the vocabulary")
    add("--min_count", type=COUNT, default=20, metavar="N", help="minimum count of a character")
    add("--documents", type=COUNT, metavar="N", help="count at most N texts of each file, evenly spread")
    add(
        "--keep_traditional",
        action="store_true",
        help="keep Traditional characters instead of reading them as Simplified",
    )
    add("--overwrite", action="store_true", help="replace an earlier tokenizer in the folder")


def places(args: argparse.Namespace) -> Places:
    """Where the tokenizer goes."""
    target = output_dir(args.output_dir, earlier="an earlier tokenizer", known=TOKENIZER_FILES)
    return Places([target], args.corpus, overwrite=args.overwrite)


def run(args: argparse.Namespace) -> None:
    """Build the tokenizer that the flags ask for."""
    from zh_embedder.bases.vocabulary import build
    from zh_embedder.data.text_files import find_texts

    target = Path(args.output_dir).expanduser()
    build(
        find_texts(args.corpus),
        target,
        words=args.words,
        latin=args.latin,
        min_count=args.min_count,
        documents=args.documents,
        fold=not args.keep_traditional,
    )
