"""`zh-embedder evaluate`: models side by side on evaluation sets, with BM25 and with intervals, as tables and JSON."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from zh_embedder.config.instructions import read_version
from zh_embedder.config.measured_version import use_version, warn_of_contradiction
from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.core.files import beside_file, real
from zh_embedder.core.machine import resolve_dtype
from zh_embedder.core.numbers import COUNT, LENGTH, SHARE
from zh_embedder.core.outputs import Output, Places, is_result
from zh_embedder.core.provenance import manifest
from zh_embedder.evaluation.find_keys import HITS
from zh_embedder.evaluation.intervals import compare
from zh_embedder.evaluation.left_out import left_out, lines_of
from zh_embedder.evaluation.means import over_sets
from zh_embedder.evaluation.measure import METRICS, measure_bm25, measure_model
from zh_embedder.evaluation.metrics import RANKED, parse
from zh_embedder.evaluation.model import KEY, QUERY, Model
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.read_retrieval import read_eval_data
from zh_embedder.evaluation.read_set import read_set
from zh_embedder.evaluation.set_files import find_sets
from zh_embedder.evaluation.sets import KINDS, EvalSet, RetrievalSet
from zh_embedder.evaluation.unknown_tasks import check_folders, check_model
from zh_embedder.evaluation.unknown_texts import check_models
from zh_embedder.models.spec import by_default, position_limit
from zh_embedder.report.conditions import unlike, used
from zh_embedder.report.cut_texts import cut_by_models
from zh_embedder.report.figures import difference
from zh_embedder.report.page import write_report
from zh_embedder.report.page_data import Report, SetReport
from zh_embedder.search.bm25 import B_RANGE, K1, K1_RANGE, B
from zh_embedder.text.prefix import KEY_TEMPLATE
from zh_embedder.text.unknown import MAX_UNKNOWN
from zh_embedder.text.words import WORDS

logger = logging.getLogger(__name__)

T = TypeVar("T")
Table = list[dict[str, object]]
RISES, FALLS, LEVEL = "rises", "falls", "="
PLACES = 4  # of a figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder evaluate`."""
    add = parser.add_argument
    add(
        "models",
        nargs="*",
        metavar="MODEL",
        help="runs, checkpoints, encoder folders or hub names; differences are to the first",
    )
    add(
        "--data", nargs="+", required=True, metavar="SET", help="evaluation sets: folders or files; or a folder of sets"
    )
    add("--task", help="task of the sets, if they name none")
    add("--kind", choices=KINDS, help="type of the sets, if their files leave it open")
    add("--corpus", metavar="FILE", help="LLM-Embedder's corpus of keys, which `pos_index` in the data refers to")
    add(
        "--key_template", default=KEY_TEMPLATE, metavar="TEXT", help="template that turns a line of --corpus into a key"
    )
    add("--metrics", nargs="+", default=list(METRICS), help="retrieval and reranking metrics, such as ndcg@10")
    add("--hits", type=COUNT, default=HITS, metavar="N", help="number of keys to retrieve per query")
    add("--dims", nargs="+", type=COUNT, metavar="N", help="also truncate the vectors to these sizes")
    add("--no_instruction", action="store_true", help="also evaluate each model without instructions")
    add("--version", help="instruction version, by name or file, for every model; default: each model's own prompts")
    add("--instructions_dir", metavar="DIR", help="folder to search first for --version")
    add(
        "--query_max_length",
        type=LENGTH,
        metavar="N",
        help="maximum tokens of a query, for every model; default: its own",
    )
    add("--key_max_length", type=LENGTH, metavar="N", help="maximum tokens of a key, for every model; default: its own")
    add("--bm25", action="store_true", help="also evaluate BM25 on retrieval and reranking sets")
    add("--words", choices=sorted(WORDS), default="jieba", help="word segmentation for BM25")
    add("--user_dict", metavar="FILE", help="file of extra words for jieba")
    add("--k1", type=K1_RANGE, default=K1, help="BM25: how much repeated words count")
    add("--b", type=B_RANGE, default=B, help="BM25: how strongly long texts are penalised")
    add(
        "--dtype", default="auto", help="precision: fp32, bf16, fp16, or auto: bf16 where the hardware gains, else fp32"
    )
    add(
        "--max_unknown",
        type=SHARE,
        default=MAX_UNKNOWN,
        metavar="SHARE",
        help="stop where a tokenizer does not know more than this share of the characters of a set",
    )
    add("--json", metavar="FILE", help="also write the results as JSON: [{model, data, metric, value}, ...]")
    add("--report", metavar="FILE", help="also write an HTML report")


def places(args: argparse.Namespace) -> Places:
    """Where the results go; those of an earlier evaluation are replaced."""
    files = {"--json": args.json, "--report": args.report}
    outputs = [
        Output(flag=flag, path=Path(path), earlier="results of an earlier evaluation", is_earlier=is_result)
        for flag, path in files.items()
        if path
    ]
    return Places(outputs, [*args.data, *filter(None, (args.corpus, args.user_dict))], args.models)


def read_sets(args: argparse.Namespace) -> list[EvalSet]:
    """Read every set that was named, under names that tell them apart."""
    paths = without_repeats(find_sets(args.data, flag="--data"), key=real, flag="--data")
    if args.corpus and not Path(args.corpus).is_file():
        raise UserError(f"--corpus: no such file: {args.corpus}")
    sets: list[EvalSet] = []
    for path in paths:
        if args.corpus and path.is_file():
            sets.append(read_eval_data(path, args.corpus, task=args.task, key_template=args.key_template))
        else:
            sets.append(read_set(path, task=args.task, kind=args.kind))
    if len({data.name for data in sets}) < len(sets):  # the ends of the paths do not tell them apart
        sets = [replace(data, name=str(path)) for data, path in zip(sets, paths, strict=True)]
    return sets


def without_repeats(items: Sequence[T], *, key: Callable[[T], object], flag: str) -> list[T]:
    """Keep the first of what is named more than once, and say so: a second would count twice in the means."""
    found: dict[object, T] = {}
    for item in items:
        if key(item) in found:
            logger.warning("%s: %s is named more than once and measured once", flag, item)
        found.setdefault(key(item), item)
    return list(found.values())


def check_hits(metrics: Sequence[str], hits: int) -> None:
    """Refuse a cutoff beyond the keys that are retrieved: the figure would be that of fewer keys.

    Raises:
        UserError: with the metric and the flag.
    """
    for name in metrics:
        cutoff = parse(name, RANKED[0], flag="--metrics").cutoff
        if cutoff is not None and cutoff > hits:
            raise reject("--hits", hits, f"{cutoff} or more, which {name} needs")


def outcomes_of(args: argparse.Namespace, sets: Sequence[EvalSet]) -> Iterable[Outcome]:
    """Measure every model, each loaded once, and BM25. The first model is the base, in the first way to use it."""
    role = Role.BASE
    version = None if args.version is None else read_version(args.version, directory=args.instructions_dir)
    for name in args.models:
        model = with_lengths(Model.load(name, dtype=args.dtype), args)
        if version is not None:
            use_version(model, version)
            warn_of_contradiction(model, sets, flag=f"--version {args.version}")
        ways = [model]
        if args.task:
            check_task(model, args.task)
        check_model(name, [model.query.spec, model.key.spec], sets)
        if args.no_instruction and told(model, sets):
            ways.append(replace(model, name=f"{name} (no instruction)", instruct=False))
        elif args.no_instruction:
            logger.info("%s has no instructions for these sets: one row each, --no_instruction adds none", name)
        for way in ways:
            for data in sets:
                sizes = args.dims or [None]
                found = measure_model(way, data, metrics=args.metrics, hits=args.hits, dimensions=sizes).values()
                for place, outcome in enumerate(found):
                    yield replace(outcome, role=Role.VARIANT if place or way is not model else role)
        role = Role.TRAINED
    if args.bm25:
        for data in sets:
            if isinstance(data, RetrievalSet):
                yield measure_bm25(
                    data,
                    metrics=args.metrics,
                    hits=args.hits,
                    words=args.words,
                    dictionary=args.user_dict,
                    k1=args.k1,
                    b=args.b,
                )


def with_lengths(model: Model, args: argparse.Namespace) -> Model:
    """Return a model that reads as many tokens as the flags say.

    Raises:
        UserError: it cannot read so many.
    """
    lengths = (args.query_max_length, args.key_max_length)
    for flag, encoder, length in zip(("query", "key"), (model.query, model.key), lengths, strict=True):
        limit = position_limit(encoder.config)
        if length is not None and length > (limit or length):
            raise reject(f"--{flag}_max_length", length, f"{limit} at most, what {model.name} can read")
    return replace(model, lengths=lengths)


def told(model: Model, sets: Sequence[EvalSet]) -> bool:
    """Tell whether a model has an instruction for any of the sets."""
    return any(model.side(side, data.task)[1] for data in sets for side in (QUERY, KEY))


def check_task(model: Model, task: str) -> None:
    """Refuse a task that a model does not know; say so where it has no instructions, or one for every task.

    Raises:
        UserError: with the nearest task that it knows.
    """
    known = model.query.spec.instructions
    if said := by_default(model.query.spec, task):
        logger.info("--task %s: %s: %s", task, model.name, said)
    elif known and task not in known:
        raise unknown_name("--task", task, known)


def notes(outcomes: Sequence[Outcome], *, version: str | None = None, without: bool = False) -> str:
    """Say how each model was measured, how that differs from the base, and of which sets much is cut.

    Args:
        outcomes: of all models.
        version: --version, whose instructions all used; None: each its own.
        without: all were measured without instructions too.
    """
    base = {outcome.data: outcome for outcome in outcomes if outcome.role is Role.BASE}
    found: list[str] = []
    for model in dict.fromkeys(outcome.model for outcome in outcomes if outcome.role is Role.TRAINED):
        own = [outcome for outcome in outcomes if outcome.model == model and outcome.data in base]
        pairs = [(base[outcome.data], outcome) for outcome in own]
        found += [words.english for words in unlike(pairs, without=without)]
    found += used(outcomes, version=version)
    found += [words.english for words in cut_by_models(outcomes)]
    return "".join(f"note: {line}\n" for line in dict.fromkeys(found)) + "\n" * bool(found)


def left_out_notes(sets: Sequence[EvalSet]) -> str:
    """Say what each set leaves out, a line for each reason."""
    found = [line for data in sets for line in lines_of(data.name, data)]
    return "".join(f"note: {line}\n" for line in found) + "\n" * bool(found)


def run(args: argparse.Namespace) -> None:
    """Measure models on evaluation sets and show tables."""
    check_hits(args.metrics, args.hits)
    args.models = without_repeats([*map(str, args.models)], key=str, flag="MODEL")
    resolve_dtype(args.dtype, torch.device("cpu"), flag="--dtype")  # a wrong name is said before anything is read
    if not args.models and not args.bm25:
        raise UserError("MODEL: is missing, expected a model to measure, or --bm25")
    if args.version is not None:
        read_version(args.version, directory=args.instructions_dir)  # a mistake in it is found before anything is read
    sets = read_sets(args)
    sys.stdout.write(left_out_notes(sets))  # before the work, not only before the figures
    sys.stdout.flush()
    check_models(args.models, sets, limit=args.max_unknown)
    if args.version is None:
        check_folders(args.models, sets, task=args.task)
    outcomes = list(outcomes_of(args, sets))
    rows = rows_of(outcomes)
    sys.stdout.write(notes(outcomes, version=args.version, without=args.no_instruction) + show(outcomes))
    if args.json:
        beside_file(Path(args.json), json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
    if args.report:
        write_report(report_of(outcomes, sets, settings=vars(args)), Path(args.report))


def report_of(outcomes: Sequence[Outcome], sets: Sequence[EvalSet], *, settings: Mapping[str, object]) -> Report:
    """Lay outcomes out as a page to look at."""
    return Report(
        title="evaluation",
        sets=[SetReport(data, [o for o in outcomes if o.data == data.name]) for data in sets],
        curves={},
        losses={},
        settings=settings,
        manifest=manifest(),
    )


def rows_of(outcomes: Sequence[Outcome]) -> Table:
    """Lay outcomes out as rows of JSON."""
    return [
        {"model": outcome.model, "data": outcome.data, "metric": metric, "value": value} | left_out(outcome)
        for outcome in outcomes
        for metric, value in outcome.values.items()
    ]


# ---- tables ---------------------------------------------------------------------------------------------------------


def show(outcomes: Sequence[Outcome]) -> str:
    """Lay results out, a table for each list of metrics: a line for each model and set, and the means of each model."""
    tables: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        tables.setdefault(tuple(outcome.values), []).append(outcome)
    return "\n".join(table(metrics, found) for metrics, found in tables.items())


def table(metrics: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """Lay out the results of sets that have the same metrics."""
    models = list(dict.fromkeys(outcome.model for outcome in outcomes))
    base = {outcome.data: outcome for outcome in outcomes if outcome.role is Role.BASE}
    wide = max(len(name) for name in [*models, "model"])
    against = f"  {metrics[0]} against {next(iter(base.values())).model}" if base and len(models) > 1 else ""
    lines = [f"{'model':{wide}}  {'data':24} " + " ".join(f"{name:>10}" for name in metrics) + against]
    for model in models:
        own = [outcome for outcome in outcomes if outcome.model == model]
        for outcome in own:
            other = None if outcome.role is Role.BASE else base.get(outcome.data)
            change = "" if other is None else "  " + shown(other, outcome, metrics[0])
            lines.append(
                f"{model:{wide}}  {outcome.data[:24]:24} " + cells(outcome.values[m] for m in metrics) + change
            )
        if len(own) > 1:
            lines.append(f"{model:{wide}}  {'mean':24} " + cells(over_sets(own, name) for name in metrics))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def cells(values: Iterable[float | None]) -> str:
    """Lay out numbers of a line; a missing one leaves its place empty."""
    return " ".join(" " * 10 if value is None else f"{value:10.4f}" for value in values)


def shown(before: Outcome, after: Outcome, metric: str) -> str:
    """Lay out a difference with its interval of 95 %: whether the model rises, falls, or nobody can tell."""
    change = compare(before, after, metric)
    if change is None:
        return ""
    word = LEVEL if not change.sure else RISES if change.value > 0 else FALLS
    by = difference(before.values[metric], after.values[metric], PLACES)
    return f"{by} [{change.low:+.4f}, {change.high:+.4f}] {word}"
