"""How well an encoder retrieves: BEIR folders in, metrics per task out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zh_embedder.encoder import Encoder, encoder_folder, key_folder
from zh_embedder.eval_sets import RetrievalSet, read_retrieval_set
from zh_embedder.files import beside_file
from zh_embedder.index import search
from zh_embedder.machine import resolve_dtype
from zh_embedder.metrics import mean, measure

Table = list[dict[str, object]]
METRICS = ("ndcg@10", "mrr@10", "recall@10")


def evaluate_retrieval(
    encoder: Encoder,
    data: RetrievalSet,
    *,
    key_encoder: Encoder | None = None,
    metrics: Sequence[str] = METRICS,
    hits: int = 100,
) -> dict[str, float]:
    """Measure an encoder on one retrieval set; judged queries without text or results count as zero."""
    return evaluate_at(encoder, data, [None], key_encoder=key_encoder, metrics=metrics, hits=hits)[None]


def evaluate_at(
    encoder: Encoder,
    data: RetrievalSet,
    dimensions: Sequence[int | None],
    *,
    key_encoder: Encoder | None = None,
    metrics: Sequence[str] = METRICS,
    hits: int = 100,
) -> dict[int | None, dict[str, float]]:
    """Measure an encoder on one retrieval set, its vectors cut to so many dimensions; None leaves them whole."""
    task = data.task if encoder.spec.instructions else None  # a model without instructions is measured without them
    queries = encoder.encode_queries(list(data.queries.values()), task=task)
    keys = (key_encoder or encoder).encode_keys(list(data.keys.values()), task=task)
    names, found = list(data.keys), {}
    for size in dimensions:
        short = [v if size is None else encoder.shorten(v, size) for v in (queries, keys)]
        scores, indices = search(*short, hits=hits, metric=encoder.spec.metric)
        run = {
            query: {names[index]: float(score) for score, index in zip(row, columns, strict=True)}
            for query, row, columns in zip(data.queries, scores, indices, strict=True)
        }
        found[size] = mean(metrics, data.qrels, run)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder evaluate`."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="runs, checkpoints, encoders, or hub names")
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR", help="BEIR folders, each of one task")
    parser.add_argument("--task", help="task of the queries, if the folder does not say")
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), help="such as ndcg@10")
    parser.add_argument("--dims", nargs="+", type=int, metavar="N", help="cut vectors to so many dimensions, each once")
    parser.add_argument(
        "--dtype", default="auto", help="precision: fp32, bf16, fp16, or auto, the fastest that loses no range here"
    )
    parser.add_argument("--json", metavar="FILE", help="write [{model, data, metric, value}, ...]")


def run(args: argparse.Namespace) -> None:
    """Measure models on retrieval sets and show a table."""
    for name in args.metrics:
        measure(name)
    resolve_dtype(args.dtype, torch.device("cpu"))  # a wrong name is said before anything is read
    sets = [read_retrieval_set(folder, task=args.task) for folder in args.data]
    if len({data.name for data in sets}) < len(sets):  # the ends of the paths do not tell them apart
        sets = [replace(data, name=str(folder)) for data, folder in zip(sets, args.data, strict=True)]
    rows: Table = []
    for model in args.models:
        encoder = Encoder.from_pretrained(encoder_folder(model), dtype=args.dtype)
        key = key_folder(model)
        key_encoder = Encoder.from_pretrained(key, dtype=args.dtype) if key else None
        for data in sets:
            found = evaluate_at(encoder, data, args.dims or [None], key_encoder=key_encoder, metrics=args.metrics)
            for size, values in found.items():
                shown = model if size is None else f"{model} [{size}]"
                rows += [{"model": shown, "data": data.name, "metric": n, "value": v} for n, v in values.items()]
    sys.stdout.write(show(rows, args.metrics))
    if args.json:
        beside_file(Path(args.json), json.dumps(rows, ensure_ascii=False, indent=2) + "\n")


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
