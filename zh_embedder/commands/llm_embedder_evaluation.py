"""`run_dense.py` without --train_data: a model, or BM25, measured on --eval_data, with LLM-Embedder's flags.

Shapes: Q queries, K keys, D dimensions, H hits.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zh_embedder.commands.evaluate import left_out_notes, report_of, show
from zh_embedder.config.evaluation import COLLATIONS
from zh_embedder.config.instructions import sides_of
from zh_embedder.config.measured_version import warn_of_contradiction
from zh_embedder.config.run_version import choose_version
from zh_embedder.core.arrays import save_array
from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import wait_for_all
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import beside_file, read_json, renamed, write_json
from zh_embedder.core.hashing import texts_hash
from zh_embedder.core.outputs import Output, Places
from zh_embedder.core.provenance import command
from zh_embedder.core.ranks import world
from zh_embedder.data.schema import text_list
from zh_embedder.data.sources import below_root
from zh_embedder.evaluation.collations import Rows, keys_found, keys_scored, mined_negatives
from zh_embedder.evaluation.find_keys import (
    at_random,
    find_keys,
    rerank,
    retrieve,
    run_of,
    with_room,
    without_own,
)
from zh_embedder.evaluation.left_out import left_out
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.measure import measure_model
from zh_embedder.evaluation.model import KEY, QUERY, Model, Vectors
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.retrieval_metrics import Run, per_query
from zh_embedder.evaluation.set_files import find_sets, name_of, read_rows
from zh_embedder.evaluation.sets import EvalSet, RetrievalSet
from zh_embedder.evaluation.unknown_texts import check_sets
from zh_embedder.models.encoder import load_encoder
from zh_embedder.models.folders import key_folder
from zh_embedder.report.page import write_report
from zh_embedder.search.bm25 import BM25Options
from zh_embedder.search.faiss_index import FLAT, Index, build, load_index, save_index
from zh_embedder.training.evaluate import read_watched

if TYPE_CHECKING:
    from zh_embedder.config.train import Arguments

logger = logging.getLogger(__name__)

INDEX_FILE, RESULT_FILE, METRICS_FILE, REPORT_FILE = "index.faiss", "result", "metrics.json", "report.html"
LOG_START = '{"date": "'
UNRULED = "; keys found become negatives as they are: data_tools.mine_negatives also drops likely false negatives"
SUFFIXES = {"collate_neg": "neg", "collate_key": "key", "collate_score": "scored"}


def evaluate(args: Arguments) -> list[Outcome]:
    """Measure as the flags say. All ranks must call this; the first one writes and shows.

    Raises:
        UserError: anything that the user can fix.
    """
    check(args)
    watched = read_watched(args.eval, [], data_root=args.data.data_root)
    model = load(args) if needs_model(args) else None
    if model is not None:
        sides = [(encoder.tokenizer, side) for side, encoder in enumerate((model.query, model.key))]
        check_sets(sides, watched.every, limit=args.model.max_unknown, base=model.name)
        if args.data.version is not None:
            warn_of_contradiction(model, watched.every, flag=f"--version {args.data.version}")
    outcomes = []
    for data in watched.every:
        if isinstance(data, RetrievalSet):
            run = keys_of(args, data, model)
            outcomes.append(outcome_of(args, data, run, model))
            if world()[0] == 0:
                write(args, data, run)
        elif model is None:
            raise UserError(f"{data.name}: a set for {data.kind}, which needs --retrieval_method dense")
        else:
            outcomes.append(measure_model(model, data)[None])
    if world()[0] == 0:
        finish(args, watched.every, outcomes)
    wait_for_all()
    return outcomes


def places(args: Arguments) -> Places:
    """Return what is read and written: results are added to a folder and to a log."""
    own, folder, root = args.eval, args.train.folder, args.data.data_root
    inputs = [below_root(spec, root) for spec in (*(own.eval_data or ()), *filter(None, (own.corpus, own.canary)))]
    outputs = [] if folder is None else [Output(flag="--output_dir", path=folder, folder=True, kept=True)]
    if own.log_path:
        path, earlier = Path(own.log_path), "a log of measurements"
        outputs.append(Output(flag="--log_path", path=path, locked=False, earlier=earlier, is_earlier=is_log))
    return Places(outputs, inputs, [args.model.query_encoder, args.model.key_encoder])


def is_log(path: Path) -> bool:
    """Whether a file is empty, or begins with a line that `finish` wrote."""
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as stream:
        return stream.read(len(LOG_START)) in ("", LOG_START)
    return False


def check(args: Arguments) -> None:
    """Refuse what cannot work together."""
    kept = [
        n for n in ("encode", "index", "result") if getattr(args.eval, f"save_{n}") or getattr(args.eval, f"load_{n}")
    ]
    if kept and args.train.folder is None:
        raise UserError(f"--save_{kept[0]}, --load_{kept[0]}: need --output_dir, the folder of these files")
    for name in kept:
        if getattr(args.eval, f"save_{name}") and getattr(args.eval, f"load_{name}"):
            raise UserError(f"--save_{name}: cannot be used with --load_{name}, expected one of them")
    if args.eval.save_to_output and args.train.folder is None:
        raise UserError("--save_to_output: needs --output_dir")
    if not args.eval.metric_names and not collations(args):
        raise reject("--metrics", " ".join(args.eval.metrics), "at least one metric within --hits")


def needs_model(args: Arguments) -> bool:
    """Whether anything is encoded."""
    return args.eval.retrieval_method == "dense" and not args.eval.load_result


def collations(args: Arguments) -> list[str]:
    """Files for other programs that were asked for among the metrics."""
    return [name for name in args.eval.metrics if name in COLLATIONS]


def load(args: Arguments) -> Model:
    """Load the model; flags that were typed override its folder."""
    given, asked = args.given, args.model
    changes: dict[str, Any] = {
        name: getattr(asked, name) for name in ("query_max_length", "key_max_length") if name in given
    }
    if "dense_metric" in given:
        changes |= {"metric": asked.dense_metric, "normalize": asked.dense_metric == "cos"}
    options = asked.load_options().for_inference()
    encoder = load_encoder(asked.query_encoder, options, changes=changes)
    asked_for = args.data.version
    if asked_for is not None or not encoder.spec.instructions:
        choice = choose_version(asked_for, asked.query_encoder, directory=args.data.instructions_dir)
        logger.info("instructions: %s", choice)
        version, default = choice.read(), args.data.default_task
        told, sides = version.instructions, sides_of(version)
        encoder.spec = replace(encoder.spec, instructions=told, default_task=default, truncation_sides=sides)
    folder = asked.key_encoder or key_folder(asked.query_encoder)
    key = encoder
    if folder and folder != asked.query_encoder:
        key = load_encoder(folder, options, flag="--key_encoder", changes=changes)
        shared = ("instructions", "default_task", "truncation_sides")
        key.spec = replace(key.spec, **{name: getattr(encoder.spec, name) for name in shared})
    for one in (encoder, key):
        one.to(args.train.device).eval()
    return Model(asked.query_encoder, encoder, key, instruct=args.data.add_instruction, dtype=args.train.dtype)


# ---- finding keys ---------------------------------------------------------------------------------------------------


def keys_of(args: Arguments, data: RetrievalSet, model: Model | None) -> Run:
    """Find the keys of each query as the flags say: query -> key -> score, best first."""
    own = args.eval
    if own.load_result:
        return read_result(args, data)
    if own.eval_method == "rerank" and data.candidates is None:
        raise UserError(
            f"--eval_method rerank: {data.name}: queries bring no keys of their own, expected records with `key`, "
            "or `pos` and `neg`"
        )
    if own.eval_method == "retrieval":
        data = replace(data, candidates=None)
    if own.retrieval_method == "no":
        return {query: {} for query in data.queries}
    if own.retrieval_method == "random":
        return at_random(data, hits=own.hits, seed=args.train.order_seed)
    if own.retrieval_method == "bm25":
        return find_keys(data, BM25Options(k1=own.k1, b=own.b), hits=own.hits)
    if model is None:
        raise AssertionError("dense retrieval has a model")
    return dense(args, data, model)


def dense(args: Arguments, data: RetrievalSet, model: Model) -> Run:
    """Find keys by vectors: exactly, or through a faiss index."""
    own = args.eval
    queries = model.vectors(list(data.queries.values()), QUERY, data.task)
    keys = None if own.load_index else key_vectors(args, data, model)
    if data.candidates is not None:
        if keys is None:
            raise UserError("--load_index: an index cannot score a query's own keys, expected --load_encode")
        return rerank(model, data, queries, keys)
    if keys is None or own.save_index or own.faiss_index_factory != FLAT:
        index = index_of(args, data, model, keys)
        return without_own(data, run_of(data, *index.search(queries, with_room(data, own.hits))), own.hits)
    rank, ranks = model.share()
    return retrieve(model, data, queries, keys[rank::ranks], hits=own.hits)


def index_of(args: Arguments, data: RetrievalSet, model: Model, keys: Vectors | None) -> Index:
    """Build the index over keys, (K, D), or read the one that an earlier run kept."""
    path, metric = place(args, data) / INDEX_FILE, model.query.spec.metric
    if keys is not None:
        index = build(keys, factory=args.eval.faiss_index_factory, metric=metric, seed=args.train.order_seed)
        if args.eval.save_index and world()[0] == 0:
            save_index(index, path)
        return index
    index = load_index(path, metric=metric)
    if len(index) != len(data.keys):
        raise reject(f"--load_index: {path}", f"{len(index)} keys", f"the {len(data.keys)} of {data.name}")
    return index


def key_vectors(args: Arguments, data: RetrievalSet, model: Model) -> Vectors:
    """Encode the keys, or read the vectors that an earlier run kept, (K, D)."""
    texts = list(data.keys.values())
    path = place(args, data) / f"{args.eval.embedding_name}.npy"
    made = {"keys": texts_hash(texts), "model": model.name, "count": len(texts), "dtype": args.train.dtype}
    described = path.with_suffix(".json")
    if args.eval.load_encode:
        if not path.is_file() or not described.is_file():
            raise UserError(f"--load_encode: {path} is not there, expected what --save_encode writes")
        found = read_json(described)
        for name in ("keys", "model"):
            if found.get(name) != made[name]:
                raise reject(f"--load_encode: {described}: {name}", found.get(name), f"{made[name]}, as in this run")
        vectors: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        return vectors
    vectors = model.vectors(texts, KEY, data.task)
    if args.eval.save_encode and world()[0] == 0:
        with renamed(path) as partial, partial.open("wb") as stream:
            save_array(stream, vectors)
        write_json(described, made)
    return vectors


# ---- files and figures ----------------------------------------------------------------------------------------------


def place(args: Arguments, data: RetrievalSet) -> Path:
    """Folder of a set's files in --output_dir."""
    return Path(str(args.train.output_dir)) / data.name.replace("/", "_")


def result_file(args: Arguments, data: RetrievalSet) -> Path:
    """Where the keys found are kept."""
    name = f"{RESULT_FILE}.{args.eval.save_name}" if args.eval.save_name else RESULT_FILE
    return place(args, data) / f"{name}.json"


def read_result(args: Arguments, data: RetrievalSet) -> Run:
    """Read the keys that an earlier run found."""
    path = result_file(args, data)
    if not path.is_file():
        raise UserError(f"--load_result: {path} is not there, expected what --save_result writes")
    run: dict[str, dict[str, float]] = read_json(path)
    hits = list(run.values()) if isinstance(run, dict) else [None]
    if not all(isinstance(own, dict) and all(isinstance(s, int | float) for s in own.values()) for own in hits):
        raise UserError(f"--load_result: {path}: expected what --save_result writes: query -> key -> score")
    if strange := next((key for hits in run.values() for key in hits if key not in data.keys), None):
        raise reject(f"--load_result: {path}", strange, f"keys of {data.name}")
    return without_own(data, run, args.eval.hits)


def outcome_of(args: Arguments, data: RetrievalSet, run: Run, model: Model | None) -> Outcome:
    """Measure what was found."""
    items = per_query(args.eval.metric_names, data.qrels, run) if args.eval.metric_names else {}
    name = model.name if model is not None else args.eval.retrieval_method
    kind = "reranking" if args.eval.eval_method == "rerank" else "retrieval"
    role = Role.BASE if args.eval.retrieval_method == "dense" else Role.BASELINE
    values, left = over_queries(items), data.left_out
    return Outcome(name, data.name, data.task, kind, values, items=items, run=run, left_out=left, role=role)


def write(args: Arguments, data: RetrievalSet, run: Run) -> None:
    """Write the keys found and the collations that were asked for."""
    if args.eval.save_result:
        beside_file(result_file(args, data), json.dumps(run, ensure_ascii=False) + "\n")
    source = find_source(args, data)
    for name in collations(args):
        rows = collate(name, args, data, run, source)
        path = collated(args, data, source, SUFFIXES[name])
        beside_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        logger.info("%s: %s, %s%s", name, path, counted(len(rows), "query"), UNRULED if name == "collate_neg" else "")


def collate(name: str, args: Arguments, data: RetrievalSet, run: Run, source: Path) -> Rows:
    """Lay out what was found in one of the ways that `config.evaluation.COLLATIONS` names."""
    if name == "collate_neg":
        answers = read_answers(source) if args.eval.filter_answers else {}
        return mined_negatives(data, run, most=args.eval.max_neg_num, answers=answers)
    return (keys_found if name == "collate_key" else keys_scored)(data, run, hits=args.eval.hits)


def find_source(args: Arguments, data: RetrievalSet) -> Path:
    """Return the file or folder that a set was read from."""
    paths = find_sets(args.eval.eval_data or [], flag="--eval_data", data_root=args.data.data_root)
    return next((path for path in paths if name_of(path) == data.name), paths[0])


def collated(args: Arguments, data: RetrievalSet, source: Path, suffix: str) -> Path:
    """Where a collation goes: next to the set, or into --output_dir."""
    stem = source.name.split(".")[0]
    name = ".".join(part for part in (stem, suffix, args.eval.save_name) if part) + ".jsonl"
    if args.eval.save_to_output:
        return place(args, data) / name
    return source.parent / name


def read_answers(source: Path) -> dict[str, list[str]]:
    """Read the `answers` of queries, by the query's text."""
    path = source if source.is_file() else next(iter(sorted(source.rglob("*queries.jsonl*"))), source)
    if not path.is_file():
        return {}
    rows = read_rows(path, "{...}")
    return {str(raw.get("query", raw.get("text"))): text_list(raw, "answers", where) for where, raw in rows}


def finish(args: Arguments, sets: Sequence[EvalSet], outcomes: Sequence[Outcome]) -> None:
    """Show the figures, and keep them where the flags say."""
    measured = [outcome for outcome in outcomes if outcome.values]
    if measured:
        sys.stdout.write(left_out_notes(sets) + show(measured))
    rows = [
        {"data": o.data, "model": o.model, "kind": o.kind, "metrics": dict(o.values)} | left_out(o) for o in measured
    ]
    if (folder := args.train.folder) is not None and measured:
        write_json(folder / METRICS_FILE, rows)
        write_report(report_of(measured, sets, settings=asdict(args.eval)), folder / REPORT_FILE)
    if args.eval.log_path:
        path = Path(args.eval.log_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = {"date": now, "command": command(sys.argv), "results": rows}
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
