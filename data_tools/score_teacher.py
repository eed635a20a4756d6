"""`zh-embedder score`: the flags of teacher scores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zh_embedder.cli import call
from zh_embedder.core.numbers import COUNT, real
from zh_embedder.core.options import choose
from zh_embedder.core.outputs import Output, Places, next_to
from zh_embedder.core.ranks import first_rank

if TYPE_CHECKING:
    from data_tools.teaching.pipeline import ScoreOptions

METHODS = ("cross_encoder", "language_model", "embedder")
REDUCTIONS = ("mean", "sum")
ENTROPY = 0.5
ENTROPY_RANGE = real(above=0, below=1)
DETAILS = """\
`teacher_scores` are those of pos, then neg (or of history). The teacher is a cross-encoder (any sequence-classification
model with one label), a language model (how likely the record's `answers` are after key and query; prompts are in
data_tools/teaching/prompts.yaml), or an embedder. Scores are cached next to the output under the hash of model,
prompt, query and key: if interrupted, rerun the same command, and nothing is scored twice. At the end it shows a
histogram, and the --teacher_temperature that makes the targets neither flat nor one-hot.
Several ranks: `torchrun --nproc_per_node=N -m zh_embedder.cli score ...`; they share the chunks and give the same file
as one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILES", help="records with pos and neg, or history")
    add("--output", required=True, type=Path, metavar="FILE", help="file for the records with their teacher_scores")
    add("--overwrite", action="store_true", help="replace OUTPUT if it exists; needless with its cache next to it")
    add("--method", default="cross_encoder", metavar="NAME", help=f"kind of teacher: {', '.join(METHODS)}")
    add("--model", required=True, metavar="MODEL", help="teacher model: a folder or hub name")
    add("--prompts", type=Path, metavar="YAML", help="YAML file of the tasks' prompts, for a language model")
    add("--reduction", default="mean", help="how to combine an answer's tokens: mean or sum")
    add("--max_length", type=COUNT, help="maximum tokens (default: 512; for a language model 2048)")
    add("--tokens_per_batch", type=COUNT, default=8192, help="tokens per batch, including padding")
    add(
        "--dtype", default="auto", help="precision: fp32, bf16, fp16, or auto: bf16 where the hardware gains, else fp32"
    )
    add("--chunk", type=COUNT, default=128, help="records to score and save at a time")
    add("--cache", type=Path, metavar="FILE", help="file for the cache of scores (default: OUTPUT.scores.sqlite)")
    add(
        "--teacher_entropy",
        type=ENTROPY_RANGE,
        default=ENTROPY,
        help="target entropy of the recommended temperature, as a share of the maximum",
    )


def places(args: argparse.Namespace) -> Places:
    """Where the records go; those that an earlier start of the same command wrote from its cache are replaced."""
    from data_tools.teaching.score_cache import SUFFIX

    if not first_rank():
        return Places([])
    kept = args.cache or next_to("--output", args.output, SUFFIX)
    output = Output(
        flag="--output", path=args.output, earlier="that of an earlier start", is_earlier=lambda _: kept.is_file()
    )
    cache = Output(flag="--cache", path=kept, kept=True, locked=False)
    return Places([output, cache], [*args.files, *filter(None, [args.prompts])], [args.model], args.overwrite)


def options_of(args: argparse.Namespace) -> ScoreOptions:
    """Turn the flags into options."""
    choose("method", args.method, METHODS)
    choose("reduction", args.reduction, REDUCTIONS)
    from data_tools.shared.record_files import find_records

    files = find_records(args.files)
    from data_tools.teaching.pipeline import ScoreOptions
    from data_tools.teaching.teachers import PROMPTS, TeacherSettings

    teacher = TeacherSettings(
        model=args.model,
        dtype=args.dtype,
        max_length=args.max_length,
        tokens=args.tokens_per_batch,
        prompts=args.prompts or PROMPTS,
        reduction=args.reduction,
    )
    return ScoreOptions(
        files=files,
        output=args.output,
        method=args.method,
        teacher=teacher,
        chunk=args.chunk,
        cache=args.cache,
        teacher_entropy=args.teacher_entropy,
    )


def run(args: argparse.Namespace) -> None:
    """Score."""
    options = options_of(args)
    from data_tools.teaching.pipeline import score

    score(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("score", argv, program="python -m data_tools.score_teacher")


if __name__ == "__main__":
    sys.exit(main())
