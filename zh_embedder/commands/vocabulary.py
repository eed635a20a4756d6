"""`zh-embedder vocabulary`: a tokenizer from a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from zh_embedder.core.errors import reject

DETAILS = """\
The pieces are the characters of the corpus and of the common character sets, and the most frequent words: Chinese ones
as jieba cuts them, Latin ones, numbers. A text is cut greedily, the longest piece first; a character that is no piece
is [UNK] alone. A piece is the same at the start of a run and inside it (no ##). Traditional characters are read as
Simplified ones. Each file of the corpus has the same weight, however large it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("corpus", nargs="+", help="files, folders or globs: JSON Lines with `text`, or a text a line; .gz, .zst")
    add("--output_dir", required=True, metavar="DIR", help="the tokenizer's folder; replaced if it is there")
    add("--words", type=int, default=5000, metavar="N", help="Chinese words as pieces (%(default)s)")
    add("--latin", type=int, default=1000, metavar="N", help="Latin words and numbers as pieces (%(default)s)")
    add("--min_count", type=int, default=20, metavar="N", help="of a character to be a piece (%(default)s)")
    add("--documents", type=int, metavar="N", help="count at most N texts of each file, evenly spread")
    add("--keep_traditional", action="store_true", help="do not read Traditional characters as Simplified")


def run(args: argparse.Namespace) -> None:
    """Build the tokenizer that the flags ask for."""
    from zh_embedder.bases.vocabulary import build
    from zh_embedder.data.text_files import find_texts

    for name in ("words", "latin"):
        if getattr(args, name) < 0:
            raise reject(f"--{name}", getattr(args, name), "0 or more")
    for name in ("min_count", "documents"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise reject(f"--{name}", getattr(args, name), "1 or more")
    build(
        find_texts(args.corpus),
        Path(args.output_dir).expanduser(),
        words=args.words,
        latin=args.latin,
        min_count=args.min_count,
        documents=args.documents,
        fold=not args.keep_traditional,
    )
