"""`zh-embedder encode`: files of texts to a folder of vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from zh_embedder.core.machine import DTYPES
from zh_embedder.core.options import any_text, number_of
from zh_embedder.core.outputs import Output, Places
from zh_embedder.core.ranks import first_rank
from zh_embedder.data.text_files import FIELDS
from zh_embedder.models.encoder import TOKENS_PER_BATCH
from zh_embedder.search.encode_files import SHARD_SIZE, SIDES, EncodeOptions, encode_files
from zh_embedder.search.vector_store import FILE_FORMATS, VECTOR_DTYPES, VECTOR_FILES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder encode`."""
    parser.add_argument("model", metavar="MODEL", help="a run, checkpoint or encoder folder, or a hub name")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="texts: .jsonl or .txt files with one text per line (also .gz, .zst), folders or globs",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for the vectors")
    parser.add_argument("--task", help="task whose instruction to prepend to the texts")
    parser.add_argument(
        "--side", choices=SIDES, help="what the texts are; required if the model treats queries and keys differently"
    )
    parser.add_argument("--prompt", type=any_text, help="text to prepend instead of a task's instruction")
    parser.add_argument("--field", help=f"name of the text field (default: the first of {', '.join(FIELDS)})")
    title = parser.add_mutually_exclusive_group()
    title.add_argument(
        "--with_title",
        action="store_true",
        default=None,
        help="prepend the `title` field, if there is one, to the text (default: to keys, as evaluate and mine do)",
    )
    title.add_argument(
        "--no_title", action="store_false", dest="with_title", default=None, help="leave the `title` field out"
    )
    parser.add_argument(
        "--max_length",
        type=number_of(EncodeOptions, "max_length"),
        metavar="N",
        help="maximum tokens of a text (default: the model's)",
    )
    parser.add_argument(
        "--tokens_per_batch",
        type=number_of(EncodeOptions, "tokens_per_batch"),
        default=TOKENS_PER_BATCH,
        metavar="N",
        help="tokens per forward pass",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="precision: fp32, bf16, fp16, or auto: bf16 where the hardware gains, else fp32",
    )
    parser.add_argument(
        "--shard_size",
        type=number_of(EncodeOptions, "shard_size"),
        default=SHARD_SIZE,
        metavar="N",
        help="texts per shard",
    )
    parser.add_argument("--format", choices=FILE_FORMATS, default="npy", help="file format of the shards")
    parser.add_argument(
        "--vector_dtype", choices=VECTOR_DTYPES, default="float32", help="precision of the vectors on disk"
    )
    parser.add_argument("--overwrite", action="store_true", help="start over instead of keeping the shards that exist")


def places(args: argparse.Namespace) -> Places:
    """Where the vectors go; shards of the same vectors that are there stay."""
    if first_rank():
        path = Path(args.output_dir).expanduser()
        folder = Output(
            flag="--output_dir",
            path=path,
            folder=True,
            kept=True,
            locked=False,
            earlier="earlier vectors",
            known=VECTOR_FILES,
        )
        return Places([folder], args.inputs, [args.model])
    return Places([])


def run(args: argparse.Namespace) -> None:
    """Encode files of texts into a folder of vectors; what an earlier, killed run has finished is kept."""
    options = EncodeOptions(
        task=args.task,
        side=args.side,
        prompt=args.prompt,
        field=args.field,
        with_title=args.with_title,
        max_length=args.max_length,
        tokens_per_batch=args.tokens_per_batch,
        dtype=args.dtype,
        shard_size=args.shard_size,
        file_format=args.format,
        vector_dtype=args.vector_dtype,
        overwrite=args.overwrite,
    )
    encode_files(args.model, args.inputs, args.output_dir, options=options)
