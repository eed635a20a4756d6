"""`zh-embedder mine`: the flags of hard-negative mining."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools.mining.false_negatives import REFERENCES, RefusalLimits
from data_tools.shared.record_files import find_records
from zh_embedder.cli import call
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.names import check_name
from zh_embedder.core.numbers import AMOUNT, COUNT, FINITE, SEED
from zh_embedder.core.options import any_text, choose, number_of
from zh_embedder.core.outputs import Output, Places, is_result, next_to
from zh_embedder.core.ranks import first_rank
from zh_embedder.search.bm25 import B_RANGE, K1, K1_RANGE, B

METHODS = ("dense", "bm25", "fused", "random")
DETAILS = """\
Candidates come from --corpus, or from all pos and neg of the files (each task has its own), by vectors (dense), BM25,
both fused by reciprocal ranks, or at random. Of the ranks in --range, --negatives are drawn. Known positives
of the query (in any of the files), near copies of its positives, and what --percent, --margin, --filter_answers and
--cross_encoder reject are left out. If interrupted, rerun the same command to resume: it gives the same file.
Several ranks: `torchrun --nproc_per_node=N -m zh_embedder.cli mine ...`.

The flags of LLM-Embedder (--retrieval_method, --hits, --max_neg_num, --filter_answers) and of FlagEmbedding's hn_mine
(--input_file, --output_file, --candidate_pool, --range_for_sampling, --negative_number, --use_gpu_for_searching) work
as they do there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add("files", nargs="*", metavar="FILES", help="records with query and pos: files, folders or globs")
    add("--input_file", nargs="+", default=[], metavar="FILE", help="the same as FILES, as hn_mine spells it")
    add("--output", metavar="FILE", help="file for the records with their new neg (.gz and .zst compress)")
    add("--save_name", metavar="NAME", help="LLM-Embedder's way to name the output: FILE.neg.NAME.jsonl")
    add_finding(parser)
    add_judging(parser)
    add("--seed", type=SEED, default=0, help="random seed")
    add("--audit", type=AMOUNT, default=100, metavar="N", help="number of queries to show in OUTPUT.audit.html")
    add("--block", type=COUNT, default=1024, help="records to mine and save at a time")
    add("--shard_size", type=COUNT, default=65536, help="keys per shard of vectors")
    add("--work_dir", type=Path, metavar="DIR", help="folder for vectors and indexes, kept afterwards")
    add("--overwrite", action="store_true", help="start over instead of resuming an earlier run, and replace OUTPUT")


def add_finding(parser: argparse.ArgumentParser) -> None:
    """Flags that say where candidates come from."""
    own = parser.add_argument_group("candidates")
    own.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="FILE",
        help="keys to mine from: JSON Lines or .txt (default: all pos and neg of the records)",
    )
    own.add_argument("--method", default="dense", metavar="NAME", help=f"how to find candidates: {', '.join(METHODS)}")
    own.add_argument(
        "--model", metavar="MODEL",
        help="model for vectors: a run, checkpoint, encoder or sentence-transformers folder, or a hub name",
    )  # fmt: skip
    own.add_argument("--no_instruction", action="store_true", help="encode without the model's instructions")
    own.add_argument(
        "--query_instruction_for_retrieval",
        type=any_text,
        metavar="TEXT",
        help="instruction for queries, instead of the model's",
    )
    own.add_argument(
        "--faiss_index_factory", default="Flat", help="faiss index factory string, such as IVF4096,Flat; Flat is exact"
    )
    own.add_argument(
        "--use_gpu_for_searching", action="store_true", help="hn_mine's flag, no effect: a GPU is used if there is one"
    )
    own.add_argument("--search_batch_size", type=COUNT, help="hn_mine's flag, no effect")
    own.add_argument("--words", default="jieba", help="word segmentation for BM25: jieba or bigram")
    own.add_argument("--user_dict", metavar="FILE", help="file of extra words for jieba")
    own.add_argument("--k1", type=K1_RANGE, default=K1, help="BM25: how much repeated words count")
    own.add_argument("--b", type=B_RANGE, default=B, help="BM25: how strongly long texts are penalised")
    own.add_argument(
        "--dtype", default="auto", help="precision: fp32, bf16, fp16, or auto: bf16 where the hardware gains, else fp32"
    )
    own.add_argument(
        "--range",
        type=AMOUNT,
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="use candidates of ranks FIRST+1 to LAST (default: 10 210)",
    )
    own.add_argument("--range_for_sampling", metavar="10-210", help="the same as --range, as hn_mine spells it")
    own.add_argument(
        "--hits", type=COUNT, help="use candidates of ranks 1 to N and take the best, as LLM-Embedder does"
    )


def add_judging(parser: argparse.ArgumentParser) -> None:
    """Flags that say what may be a negative."""
    own = parser.add_argument_group("negatives")
    own.add_argument("--negatives", type=COUNT, default=15, metavar="N", help="number of negatives per record")
    own.add_argument(
        "--take",
        choices=("random", "top"),
        help="how to choose among the candidates (default: random; with --hits, top)",
    )
    own.add_argument(
        "--fill", action="store_true", help="add random keys if too few candidates are left, as hn_mine does"
    )
    own.add_argument("--keep_neg", action="store_true", help="append mined negatives to the existing neg")
    own.add_argument(
        "--margin", type=number_of(RefusalLimits, "margin"), help="keep candidates that score below positive - MARGIN"
    )
    own.add_argument(
        "--percent",
        type=number_of(RefusalLimits, "percent"),
        help="keep candidates that score below positive * PERCENT (NV-Retriever: 0.95)",
    )
    own.add_argument(
        "--positive", default="lowest", help="positive to compare with, of several: lowest, highest or mean"
    )
    own.add_argument(
        "--max_overlap",
        type=number_of(RefusalLimits, "overlap"),
        default=0.8,
        help="maximum Jaccard overlap of character 3-grams with a positive; 1: off",
    )
    own.add_argument("--filter_answers", action="store_true", help="reject keys that contain one of `answers`")
    own.add_argument(
        "--cross_encoder", metavar="MODEL", help="reject keys that this cross-encoder scores above the positive"
    )
    own.add_argument(
        "--cross_encoder_margin",
        type=FINITE,
        default=0.0,
        help="reject keys that --cross_encoder scores above positive - MARGIN",
    )


def window_of(args: argparse.Namespace) -> tuple[int, int]:
    """Return (first, last): ranks first + 1 .. last are looked at.

    Raises:
        UserError: two flags say it, or wrongly.
    """
    given = [name for name in ("range", "range_for_sampling", "hits") if getattr(args, name) is not None]
    if len(given) > 1:
        raise UserError(f"--{given[0]}: cannot be used with --{given[1]}, expected one of them")
    if args.range_for_sampling is not None:
        parts = args.range_for_sampling.split("-")
        if len(parts) != 2:
            raise reject("--range_for_sampling", args.range_for_sampling, "two ranks such as 10-210")
        args.range = [AMOUNT.read("--range_for_sampling", part) for part in parts]
    first, last = args.range or ((0, args.hits) if args.hits is not None else (10, 210))
    if not 0 <= first < last:
        raise reject(f"--{(*given, 'range')[0]}", (first, last), "0 <= FIRST < LAST")
    return first, last


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant."""
    choose("method", args.method, METHODS)
    choose("positive", args.positive, tuple(REFERENCES))
    if not args.files and not args.input_file:
        raise UserError("FILES: are missing, expected files of records")
    if (args.output is None) == (args.save_name is None):
        raise UserError("--output: expected the file to write, or LLM-Embedder's --save_name")
    if args.save_name is not None:
        check_name("--save_name", args.save_name, what="an output")


def output_of(args: argparse.Namespace, files: Sequence[Path]) -> Path:
    """Where to write."""
    if args.output is not None:
        return Path(args.output).expanduser()
    return files[0].with_name(f"{files[0].name.partition('.')[0]}.neg.{args.save_name}.jsonl")


def places(args: argparse.Namespace) -> Places:
    """Where the records and the audit go."""
    check(args)
    if not first_rank():
        return Places([])
    from data_tools.mining.pipeline import SETTINGS, work_folder

    files = [*args.files, *args.input_file]
    path = output_of(args, [Path(name) for name in files])
    audit, work = next_to("--output", path, ".audit.html"), args.work_dir or work_folder(path)
    outputs = [
        Output(
            flag="--output" if args.output else "--save_name",
            path=path,
            earlier="that of an unfinished run",
            is_earlier=lambda _: (work / SETTINGS).is_file(),
        ),
        Output(flag="--output", path=audit, earlier="an earlier audit", is_earlier=is_result),
        Output(flag="--work_dir", path=work, folder=True, kept=True, locked=False),
    ]
    return Places(outputs, [*files, *args.corpus], [args.model, args.cross_encoder], args.overwrite)


def run(args: argparse.Namespace) -> None:
    """Mine."""
    first, last = window_of(args)
    files = find_records([*args.files, *args.input_file])
    from data_tools.mining.blocks import MiningSettings
    from data_tools.mining.pipeline import Job, mine
    from zh_embedder.data.text_files import find_texts

    limits = RefusalLimits(args.margin, args.percent, args.max_overlap, args.filter_answers, args.positive)
    settings = MiningSettings(
        method=args.method,
        first=first,
        last=last,
        negatives=args.negatives,
        shuffled=(args.take or ("top" if args.hits is not None else "random")) == "random",
        fill=args.fill,
        keep_neg=args.keep_neg,
        seed=args.seed,
        block=args.block,
        limits=limits,
        cross_margin=args.cross_encoder_margin,
    )
    job = Job(
        files=files,
        output=output_of(args, files),
        settings=settings,
        corpus=find_texts(args.corpus, flag="--corpus") if args.corpus else (),
        model=args.model,
        instruct=not args.no_instruction,
        query_prompt=args.query_instruction_for_retrieval,
        cross_encoder=args.cross_encoder,
        factory=args.faiss_index_factory,
        words=args.words,
        user_dict=args.user_dict,
        k1=args.k1,
        b=args.b,
        dtype=args.dtype,
        shard_size=args.shard_size,
        audit=args.audit,
        work_dir=args.work_dir,
        overwrite=args.overwrite,
    )
    mine(job)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("mine", argv, program="python -m data_tools.mine_negatives")


if __name__ == "__main__":
    sys.exit(main())
