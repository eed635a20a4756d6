"""`zh-embedder new-base`: an untrained base from a tokenizer and a corpus, or more layers for a base."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path

from zh_embedder.bases.folder_format import ENCODER_FILES
from zh_embedder.core.errors import UserError, nearest_path
from zh_embedder.core.numbers import COUNT
from zh_embedder.core.options import number_of
from zh_embedder.core.outputs import Places, output_dir
from zh_embedder.pretraining.shape import POWER, Shape

logger = logging.getLogger(__name__)

DETAILS = """\
A text's vector begins as the sum of its pieces' vectors: nearly orthogonal random directions, weighted by inverse
document frequency in the corpus. Layers begin as the identity: what they add to a state is zero until it is learnt. So
layers can also be put onto a base that was trained without them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add, plain = parser.add_argument, Shape()
    add(
        "source",
        help="a tokenizer folder; or a run or base made here, which gets more layers and loses its instructions",
    )
    add("--output_dir", required=True, metavar="DIR", help="folder for the base")
    add("--corpus", nargs="+", metavar="FILE", help="texts to count tokens in, as for `vocabulary`")
    add("--passages", type=COUNT, default=40000, metavar="N", help="number of passages of the corpus to count in")
    add("--power", type=POWER, default=1.5, help="exponent of the token weights")
    add(
        "--hidden_size",
        type=number_of(Shape, "hidden_size"),
        default=plain.hidden_size,
        metavar="N",
        help="hidden size of a new base",
    )
    add(
        "--num_layers",
        type=number_of(Shape, "num_layers"),
        default=plain.num_layers,
        metavar="N",
        help="number of layers, including those of the base",
    )
    add(
        "--num_heads",
        type=number_of(Shape, "num_heads"),
        default=plain.num_heads,
        metavar="N",
        help="number of attention heads",
    )
    add(
        "--intermediate_size",
        type=number_of(Shape, "intermediate_size"),
        default=plain.intermediate_size,
        metavar="N",
        help="width of feed-forward layers",
    )
    add(
        "--max_positions",
        type=number_of(Shape, "max_positions"),
        default=plain.max_positions,
        metavar="N",
        help="maximum tokens of a text",
    )
    add("--seed", type=number_of(Shape, "seed"), default=plain.seed, help="random seed")
    add("--overwrite", action="store_true", help="replace an earlier base in the folder")


def places(args: argparse.Namespace) -> Places:
    """Where the base goes."""
    target = output_dir(args.output_dir, earlier="an earlier base", known=ENCODER_FILES)
    return Places([target], args.corpus or (), [args.source], args.overwrite)


def run(args: argparse.Namespace) -> None:
    """Build a base and write its folder."""
    from zh_embedder.data.text_files import find_texts
    from zh_embedder.models.folders import encoder_folder
    from zh_embedder.pretraining.static_base import build, deepen

    names = [field.name for field in fields(Shape)]
    shape = Shape(**{name: getattr(args, name) for name in names})
    target = Path(args.output_dir).expanduser()
    source = Path(encoder_folder(args.source, flag="SOURCE"))
    if source.is_file():
        raise UserError(f"SOURCE: {source}: is a file, expected the folder of a tokenizer or of a base")
    if not source.is_dir():
        raise UserError(f"SOURCE: no such folder: {source}{nearest_path(source)}")
    if (source / "config.json").is_file():
        encoder = deepen(source, shape)
    elif args.corpus:
        encoder = build(source, find_texts(args.corpus), shape, count=args.passages, power=args.power)
    else:
        raise UserError("--corpus: is missing, expected files to count pieces in, as SOURCE is a tokenizer and no base")
    encoder.save(target)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    logger.info("%s: %d parameters, %d layers of %d", target, parameters, shape.num_layers, encoder.dimension)
