"""`zh-embedder evaluate`: models side by side on evaluation sets, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zh_embedder.eval_sets import EvalSet, find_sets, read_retrieval_set
from zh_embedder.evaluation import METRICS, Model, measure_model
from zh_embedder.files import beside_file
from zh_embedder.machine import resolve_dtype
from zh_embedder.metrics import measure
from zh_embedder.outcome import Outcome

Table = list[dict[str, object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder evaluate`."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="runs, checkpoints, encoders, or hub names")
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR", help="sets, each of one task")
    parser.add_argument("--task", help="task of the queries, if the folder does not say")
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), help="of retrieval and reranking: ndcg@10, ...")
    parser.add_argument("--dims", nargs="+", type=int, metavar="N", help="cut vectors to so many dimensions, each once")
    parser.add_argument(
        "--dtype", default="auto", help="precision: fp32, bf16, fp16, or auto, the fastest that loses no range here"
    )
    parser.add_argument("--json", metavar="FILE", help="write [{model, data, metric, value}, ...]")


def read_sets(specs: Sequence[str], *, task: str | None) -> list[EvalSet]:
    """Read every set that was named, under names that tell them apart."""
    paths = find_sets(specs, flag="--data")
    sets: list[EvalSet] = [read_retrieval_set(path, task=task) for path in paths]
    if len({data.name for data in sets}) < len(sets):  # the ends of the paths do not tell them apart
        sets = [replace(data, name=str(path)) for data, path in zip(sets, paths, strict=True)]
    return sets


def run(args: argparse.Namespace) -> None:
    """Measure models on evaluation sets and show a table."""
    for name in args.metrics:
        measure(name)
    resolve_dtype(args.dtype, torch.device("cpu"))  # a wrong name is said before anything is read
    sets = read_sets(args.data, task=args.task)
    outcomes: list[Outcome] = []
    for name in args.models:
        model = Model.load(name, dtype=args.dtype)
        for data in sets:
            outcomes += measure_model(model, data, metrics=args.metrics, dimensions=args.dims or [None]).values()
    rows = rows_of(outcomes)
    sys.stdout.write(show(rows, args.metrics))
    if args.json:
        beside_file(Path(args.json), json.dumps(rows, ensure_ascii=False, indent=2) + "\n")


def rows_of(outcomes: Sequence[Outcome]) -> Table:
    """Lay outcomes out as rows of JSON."""
    return [
        {"model": outcome.model, "data": outcome.data, "metric": metric, "value": value}
        for outcome in outcomes
        for metric, value in outcome.values.items()
    ]


def show(rows: Table, metrics: Sequence[str]) -> str:
    """Lay results out: a line for each model and set, and the mean of each model where there are several sets."""
    found = {(str(r["model"]), str(r["data"]), str(r["metric"])): float(str(r["value"])) for r in rows}
    models = list(dict.fromkeys(str(r["model"]) for r in rows))
    sets = list(dict.fromkeys(str(r["data"]) for r in rows))
    wide = max(len(name) for name in [*models, "model"])
    lines = [f"{'model':{wide}}  {'data':24} " + " ".join(f"{name:>10}" for name in metrics)]
    for model in models:
        for data in sets:
            cells = " ".join(f"{found[model, data, name]:10.4f}" for name in metrics)
            lines.append(f"{model:{wide}}  {data[:24]:24} {cells}")
        if len(sets) > 1:
            means = [sum(found[model, data, name] for data in sets) / len(sets) for name in metrics]
            lines.append(f"{model:{wide}}  {'mean':24} " + " ".join(f"{mean:10.4f}" for mean in means))
    return "\n".join(lines) + "\n"
