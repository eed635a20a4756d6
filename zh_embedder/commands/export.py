"""An encoder folder of ours -> a folder for sentence-transformers, with prompts, a model card and proven parity."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zh_embedder.core.counts import counted
from zh_embedder.core.outputs import Places
from zh_embedder.export.sentence_transformers import export
from zh_embedder.export.sentence_transformers import places as places_of
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import read_spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder export`."""
    parser.add_argument("encoder", help="a run, checkpoint or encoder folder")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--default_task", help="task whose instructions encode_query and encode_document use")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    parser.add_argument("--half", action="store_true", help="store the weights in fp16: half the size, loaded as fp32")


def folders_of(args: argparse.Namespace) -> dict[str, str]:
    """Return the source of each folder to write: of a run with two encoders, both, each into a folder below."""
    key = key_folder(args.encoder)
    if key is None:
        return {args.out: args.encoder}
    return {str(Path(args.out) / "query"): encoder_folder(args.encoder), str(Path(args.out) / "key"): key}


def places(args: argparse.Namespace) -> Places:
    """Where the exports go."""
    return places_of(args.encoder, *map(Path, folders_of(args)), overwrite=args.overwrite)


def run(args: argparse.Namespace) -> None:
    """Export and say how equal the vectors are."""
    folders = folders_of(args)
    for out, source in folders.items():
        found = export(source, out, default_task=args.default_task, overwrite=args.overwrite, half=args.half)
        sys.stdout.write(f"exported {out}\n")
        sys.stdout.write(
            f"parity with sentence-transformers: max |diff| {found.largest:.1e} over "
            f"{counted(len(found.by_prompt), 'prompt')}\n"
        )
        spec = read_spec(Path(out))
        if spec is not None and not spec.include_prompt:
            sys.stdout.write(
                "note: include_prompt: false: sentence-transformers leaves the tokens of a prompt (`prompt_name`, "
                "`prompt`) out of the mean; readers that do not know this setting, such as text-embeddings-inference, "
                "make other vectors\n"
            )
