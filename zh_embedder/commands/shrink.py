"""`zh-embedder shrink`: a smaller base, of some layers and pieces of a pretrained one."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from zh_embedder.bases.folder_format import ENCODER_FILES
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError
from zh_embedder.core.numbers import AMOUNT, COUNT
from zh_embedder.core.outputs import Places, output_dir

logger = logging.getLogger(__name__)

DETAILS = """\
What is kept keeps its weights. A base that lost layers is a start, not a model: `train --teacher_encoder SOURCE`
teaches it to give the whole base's vectors again. Pieces are chosen for a Unigram tokenizer (the XLM-R family,
multilingual-e5, e5-small-zh): special tokens, single letters and common Chinese characters first, then what the
corpus has most of; each file of the corpus weighs the same. What has no piece any longer is cut into smaller pieces."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("source", help="the base: a folder or a name")
    add("--output_dir", required=True, metavar="DIR", help="folder for the smaller base")
    add("--layers", type=AMOUNT, nargs="+", metavar="N", help="layers to keep, counted from 0; default: all")
    add(
        "--pieces",
        type=COUNT,
        metavar="N",
        help="number of pieces to keep, single letters and special tokens among them (some 7,000 of multilingual-e5); "
        "default: all",
    )
    add("--corpus", nargs="+", metavar="FILE", help="texts to count pieces in, as for `vocabulary`")
    add("--documents", type=COUNT, metavar="N", help="count at most N texts of each file, evenly spread")
    add(
        "--fold_traditional",
        action="store_true",
        help="read Traditional characters as Simplified; their pieces are left out",
    )
    add("--overwrite", action="store_true", help="replace an earlier base in the folder")


def places(args: argparse.Namespace) -> Places:
    """Where the base goes."""
    target = output_dir(args.output_dir, earlier="an earlier base", known=ENCODER_FILES)
    return Places([target], args.corpus or (), [args.source], args.overwrite)


def run(args: argparse.Namespace) -> None:
    """Make the smaller base and write its folder."""
    from zh_embedder.data.text_files import find_texts
    from zh_embedder.pretraining.shrink import shrink

    if args.layers is None and args.pieces is None:
        raise UserError("--layers, --pieces: got neither, expected at least one of them")
    if args.pieces is not None and not args.corpus:
        raise UserError("--corpus: is missing, expected files to count pieces in, as --pieces is given")
    if args.pieces is None and (args.corpus or args.fold_traditional):
        raise UserError("--pieces: is not given, expected a number, as --corpus and --fold_traditional choose pieces")
    encoder = shrink(
        args.source,
        layers=args.layers,
        pieces=args.pieces,
        corpus=find_texts(args.corpus) if args.corpus else (),
        documents=args.documents,
        fold=args.fold_traditional,
    )
    target = Path(args.output_dir).expanduser()
    encoder.save(target)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    logger.info("%s: %s parameters, %s", target, f"{parameters:,}", counted(encoder.config.num_hidden_layers, "layer"))
