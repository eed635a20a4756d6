"""`zh-embedder mteb`: a model measured with the official mteb package, as a table and JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from zh_embedder.core.files import beside_file
from zh_embedder.core.outputs import Output, Places, is_result
from zh_embedder.evaluation.mteb import C_MTEB, Score, cannot_reach, measure

OUTPUT = "mteb-results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder mteb`."""
    parser.add_argument("model", metavar="MODEL", help="a run, checkpoint or encoder folder, or a hub name")
    parser.add_argument(
        "--tasks", nargs="+", metavar="NAME", help="names of mteb tasks (default: all tasks of the benchmark)"
    )
    parser.add_argument("--benchmark", default=C_MTEB, help="mteb benchmark (default: C-MTEB)")
    parser.add_argument(
        "--languages", nargs="+", metavar="CODE", help="evaluate only subsets in these languages, such as cmn"
    )
    parser.add_argument(
        "--prompts",
        nargs="+",
        default=[],
        metavar="NAME=TASK",
        help="which task's instructions to use for an mteb task or type of tasks, such as Retrieval=qa "
        "CmedqaRetrieval=law STS= (default: the model's default task or qa for retrieval and reranking; "
        "sts, if the model has it, for everything else)",
    )
    parser.add_argument("--no_instruction", action="store_true", help="evaluate without instructions")
    parser.add_argument(
        "--dtype", default="auto", help="precision: fp32, bf16, fp16, or auto: bf16 where the hardware gains, else fp32"
    )
    parser.add_argument(
        "--output_dir", default=OUTPUT, metavar="DIR", help="folder for mteb's JSON files", dest="output"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write the results as JSON: [{model, data, metric, value}, ...]"
    )


def places(args: argparse.Namespace) -> Places:
    """Where the results go; those of an earlier evaluation are replaced."""
    outputs = [Output(flag="--output_dir", path=Path(args.output), folder=True, kept=True)]
    if args.json:
        earlier = "results of an earlier evaluation"
        outputs.append(Output(flag="--json", path=Path(args.json), earlier=earlier, is_earlier=is_result))
    return Places(outputs, models=[args.model])


def run(args: argparse.Namespace) -> None:
    """Measure a model with mteb and show a table."""
    output = Path(args.output)
    there = output.exists()
    scores, missing = measure(
        args.model,
        args.tasks,
        output,
        benchmark=args.benchmark,
        languages=args.languages,
        prompts=args.prompts,
        instruct=not args.no_instruction,
        dtype=args.dtype,
    )
    if scores:
        sys.stdout.write(show(scores))
    if args.json:
        rows = [{"model": args.model, "data": s.task, "metric": s.metric, "value": s.value} for s in scores]
        beside_file(Path(args.json), json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
    if missing:
        if not there:
            remove_unfilled(output)
        raise cannot_reach(missing, output)


def remove_unfilled(folder: Path) -> None:
    """Remove folders without files in a folder that this run made, and the folder itself where nothing is left."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def show(scores: Sequence[Score]) -> str:
    """Lay scores out: a line for each task, the mean of each type, and the mean of all."""
    wide = max(4, *(len(score.task) for score in scores)) + 2
    lines = [f"{'task':{wide}}{'type':20}{'metric':20}{'score':>8}"]
    lines += [f"{s.task:{wide}}{s.kind:20}{s.metric:20}{s.value:8.4f}" for s in scores]
    kinds = dict.fromkeys(score.kind for score in scores)
    means = {kind: [score.value for score in scores if score.kind == kind] for kind in kinds}
    if len(scores) > 1:
        lines += [f"{'mean':{wide}}{kind:40}{sum(found) / len(found):8.4f}" for kind, found in means.items()]
        lines.append(f"{'mean':{wide}}{'of tasks':40}{sum(score.value for score in scores) / len(scores):8.4f}")
    return "\n".join(lines) + "\n"
