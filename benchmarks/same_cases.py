"""Cases of `same_figures`: short runs of real commands, and the figures that they leave behind.

Only doors that users type are taken, so that modules may move behind them. Paths are relative to the work folder, which
holds a copy of the demo's records (`demo`) and a link to the data sets (`data`).
"""

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.figures import array, compare, curves, files, json_files, of_run, read_json, records, weights
from benchmarks.same_work import Work

SHOWN = re.compile(r"^.*(?: → .*|^    -?\d\.\d{3}  .*)$", re.M)  # the demo's table and what its search finds
STATIC = "nano-zh-static"
TINY = ("--cos_temperature", 0.1, "--dtype", "fp32", "--logging_steps", 1, "--train_group_size", 4)
SGD = ("--optim", "sgd", "--learning_rate", 0.5, "--max_grad_norm", 0, "--weight_decay", 0, "--warmup_steps", 0)
GATE = (
    *("--query_encoder", STATIC, "--version", "zh_llm_embedder", "--train_data", "demo/train"),
    *("--inbatch_same_dataset", "epoch", "--num_train_epochs", 4, "--learning_rate", 3e-3, "--cos_temperature", 0.05),
    *("--per_device_train_batch_size", 16, "--train_group_size", 4, "--save_strategy", "no", "--logging_steps", 14),
    *("--eval_data", "demo/test", "--metrics", "ndcg", "--cutoffs", 10, "--eval_steps", 1000),
)
NINE = (
    *("--train_data", "data/*/*/train.jsonl*", "--query_encoder", "base", "--version", "zh_llm_embedder"),
    *("--inbatch_same_dataset", "epoch", "--max_steps", 40, "--learning_rate", 1e-3, "--train_group_size", 4),
    *("--cos_temperature", 0.05, "--query_max_length", 96, "--key_max_length", 192, "--logging_steps", 5),
)
VECTORS = """
import json, sys
import numpy as np
from zh_embedder import Encoder, open_vectors
parts = list(open_vectors("vectors"))
np.save("rows.npy", np.concatenate([np.asarray(rows) for _, rows in parts]))
json.dump([str(one) for ids, _ in parts for one in ids], open("ids.json", "w"))
encoder, texts = Encoder.from_pretrained("run"), json.load(open("texts.json"))
np.save("queries.npy", encoder.encode_queries(texts, task="qa"))
np.save("keys.npy", encoder.encode_keys(texts, task="qa"))
"""

MIXED = ("--train_data", "qa.jsonl", "chat.jsonl", "pairs.jsonl", "labels.jsonl", "--query_encoder", "base", *TINY)


def demo(work: Work) -> dict[str, Any]:
    printed = work.python(work.code / "examples" / "demo" / "demo.py", "--out", "out")
    shown = SHOWN.findall(printed)
    return {
        **of_run(work.folder / "out" / "run"),
        "shown": shown,
        "exported": weights(work.folder / "out" / "embedder"),
    }


def gate(work: Work) -> dict[str, Any]:
    return work.train("run", *GATE)


def results(work: Work) -> dict[str, Any]:
    """docs/results.md: all nine sets on two ranks, and on one with BM25."""
    work.base(hidden=256, layers=2, dropout=0.0)
    sets = ("data/tool/acebench", "data/qa/cmrc2018", "data/title/csl")
    two = ("--per_device_train_batch_size", 16, "--save_strategy", "no", "--dtype", "bf16", "--use_train_config")
    one = (
        *("--per_device_train_batch_size", 32, "--dtype", "bf16", "--eval_data", "data/tool/acebench"),
        *("--eval_steps", 0.5, "--save_steps", 0.5, "--load_best_model_at_end", "--save_total_limit", 1),
        *("--bm25_baseline", "--metrics", "ndcg", "mrr", "recall", "--cutoffs", 10),
    )
    found = {"two": work.train("two", *NINE, *two, ranks=2), "alone": work.train("alone", *NINE, *one)}
    measured = ("--data", *sets, "--metrics", "ndcg@10", "--bm25", "--json", "scores.json")
    work.python("-m", "zh_embedder.cli", "evaluate", "base", "two", "alone", *measured)
    return {**found, "evaluate": read_json(work.folder / "scores.json")}


def mining(work: Work) -> dict[str, Any]:
    """Negatives of the statutes, by words and by vectors."""
    common = ("data/law/stard/train.jsonl.gz", "--range", 0, 50, "--negatives", 7, "--audit", 10)
    work.tool("mine_negatives", *common, "--method", "bm25", "--output", "bm25.jsonl")
    judged = ("--percent", 0.95, "--max_overlap", 0.6, "--fill")
    work.tool("mine_negatives", *common, "--method", "dense", "--model", STATIC, *judged, "--output", "dense.jsonl")
    return {name: records(work.folder / f"{name}.jsonl") for name in ("bm25", "dense")}


def resumed(work: Work, ranks: int, batch: int) -> dict[str, Any]:
    """Train to the end, and again from the middle: the same bit for bit, or the case fails."""
    flags = (
        *("--train_data", "demo/train/qa.jsonl", "demo/train/chat.jsonl", "--query_encoder", "base", *TINY),
        *("--max_sample_num", 24, "--inbatch_same_dataset", "epoch", "--num_train_epochs", 3, "--learning_rate", 1e-3),
        *("--save_steps", 5, "--per_device_train_batch_size", batch, "--dataloader_num_workers", 3 - ranks),
    )
    whole = work.train("whole", *flags, ranks=ranks)
    (work.folder / "again").mkdir()
    (work.folder / "whole" / "checkpoint-5").rename(work.folder / "again" / "checkpoint-5")
    again = work.train("again", *flags, "--resume_from_checkpoint", "True", ranks=ranks)
    for what in ("losses", "weights"):
        if found := compare(whole[what], again[what]):
            raise RuntimeError(f"resumed differs from uninterrupted: {what}: {found}")
    return whole


def resume(work: Work) -> dict[str, Any]:
    work.base(hidden=32, heads=2, dropout=0.1)
    return resumed(work, ranks=1, batch=8)


def ranks(work: Work) -> dict[str, Any]:
    """Two ranks, and one with twice the batch, measured on the way; and two that are resumed."""
    work.base(hidden=32, heads=2, dropout=0.0)
    work.write_mixed()
    flags = (*MIXED, *SGD, "--inbatch_same_dataset", "epoch", "--max_steps", 10, "--eval_data", "demo/test/qa")
    found = {"one": work.train("one", *flags, "--per_device_train_batch_size", 8)}
    found["two"] = work.train("two", *flags, "--per_device_train_batch_size", 4, ranks=2)
    return {**found, "resumed": resumed(work, ranks=2, batch=4)}


def losses(work: Work) -> dict[str, Any]:
    """Kinds of records, losses and ways of computing them, a few steps each."""
    work.base(hidden=32, heads=2, dropout=0.1)
    work.write_mixed()
    same = ("--inbatch_same_dataset", "epoch", "--max_steps", 6, "--per_device_train_batch_size", 8)
    ways: Mapping[str, tuple[object, ...]] = {
        "matryoshka": (*same, "--matryoshka_dims", 32, 16, 8),
        "cached": (*same, "--sub_batch_size", 3, "--stable_distill", "--gradient_checkpointing"),
        "lora": (*same, "--lora_rank", 4, "--teacher_temperature", "auto"),
        "untied": (
            *(*same, "--tie_encoders", "False", "--kd_loss_type", "m3_kd_loss", "--dense_metric", "ip"),
            *("--train_data", "qa.jsonl", "chat.jsonl", "pairs.jsonl"),
        ),
        "padded": (
            *("--no_packing", "--random_negatives", 1, "--false_negative_margin", 0.1, "--max_steps", 6),
            *("--train_data", "demo/train/qa.jsonl", "demo/train/icl.jsonl", "--gradient_accumulation_steps", 2),
        ),
        "named": (
            *same,
            *("--loss", "triplet", "margin_mse", "angle", "contrastive", "supervised_contrastive"),
            *("--inbatch_same_dataset", "epoch-random", "--task_temperature", 0.5, "--pooling_method", "cls", "dense"),
        ),
    }
    return {name: work.train(name, *MIXED, *flags, "--learning_rate", 1e-3) for name, flags in ways.items()}


def tools(work: Work) -> dict[str, Any]:
    """The tools before training, on the raw files."""
    raw, title = "data/raw", ("--from", "columns", "--columns", "query=3", "pos=2", "--task", "title")
    asked = ("--from", "columns", "--columns", "query=title+ask", "pos=answer", "group=title", "--task", "qa")
    ways: Mapping[str, tuple[object, ...]] = {
        "cmrc": (f"{raw}/cmrc2018/cmrc2018_trial.json",),
        "drcd": (f"{raw}/drcd", "--simplify"),
        "kdconv": (f"{raw}/kdconv",),
        "chat": (f"{raw}/kdconv", "--as", "chat"),
        "crosswoz": (f"{raw}/crosswoz",),
        "acebench": (f"{raw}/acebench",),
        "csl": (f"{raw}/csl/ts_test.tsv", *title),
        "medical": (f"{raw}/medical/neike_first500lines_gb18030.csv", *asked),
    }
    for name, words in ways.items():
        work.tool("convert", *words, "--output", f"converted/{name}.jsonl")
    checked = ("--version", "zh_llm_embedder", "--eval", "data/qa/cmrc2018/test", "--json", "doctor.json")
    work.tool("doctor", "converted", *checked, "--fix", "fixed", codes=(0, 1))
    work.tool("split", "converted/cmrc.jsonl", "--output", "split", "--ratios", 0.8, 0.1, 0.1, "--near", 0.8, "--eval")
    work.write_corpus()
    work.tool("make_pairs", "corpus.jsonl", "--output_dir", "pairs", "--without", "demo/test/qa", "--seed", 1)
    work.tool(
        "score_teacher",
        "demo/train/qa.jsonl",
        "--method",
        "embedder",
        "--model",
        STATIC,
        "--output",
        "s.jsonl",
    )
    mined = (
        "demo/train/icl.jsonl",
        "--method",
        "fused",
        "--model",
        STATIC,
        "--range",
        0,
        20,
        "--negatives",
        3,
    )
    work.tool("mine_negatives", *mined, "--output", "fused.jsonl")
    found = {name: files(work.folder / name) for name in ("converted", "fixed", "split", "pairs")}
    single = {name: records(work.folder / f"{name}.jsonl") for name in ("s", "fused")}
    return {**found, **single, "doctor": read_json(work.folder / "doctor.json")}


def queries(work: Work) -> dict[str, Any]:
    """Queries for documents, written by the recorded endpoint."""
    endpoint, source = (
        work.code / "examples/from_documents/recorded_endpoint.py",
        "data/raw/cmrc2018/cmrc2018_trial.json",
    )
    work.python(endpoint, "documents", source, "--output", "docs")
    words = work.command(endpoint, "serve", source, "--port", 0)
    server = subprocess.Popen(words, cwd=work.folder, env=work.environment, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[-1]
        asked = ("--model", "recorded", "--base_url", url, "--tasks", "qa", "--limit", 40)
        work.tool("generate_queries", "docs", "--output", "q.jsonl", "--corpus", "passages.jsonl", *asked)
    finally:
        server.terminate()
        server.wait()
    return {name: records(work.folder / f"{name}.jsonl") for name in ("q", "passages")}


def use(work: Work) -> dict[str, Any]:
    """A small run with instructions: encoded, measured, exported."""
    work.base(hidden=64, heads=2, dropout=0.0)
    work.write_mixed()
    found = {"run": work.train("run", *MIXED, "--inbatch_same_dataset", "epoch", "--max_steps", 4)}
    cli = ("-m", "zh_embedder.cli")
    work.python(*cli, "encode", "run", "demo/test/*/corpus.jsonl", "--side", "key", "--task", "qa", "--output_dir",
                "vectors", "--shard_size", 50)  # fmt: skip
    texts = [row["text"] for row in work.lines("demo/test/qa/queries.jsonl")]
    (work.folder / "texts.json").write_text(json.dumps(texts), "utf-8")
    work.python("-c", VECTORS)
    found["vectors"] = {name: array(np.load(work.folder / f"{name}.npy")) for name in ("rows", "queries", "keys")}
    sets = ("demo/test", "demo/train/title.jsonl", "pairs.jsonl", "labels.jsonl")
    shown = ("--bm25", "--dims", 32, "--no-instruction", "--json", "scores.json")
    work.python(*cli, "evaluate", STATIC, "run", "--data", *sets, *shown)
    work.python("-m", "zh_embedder.export", "run", "exported", "--default_task", "qa")
    work.python(*cli, "export", STATIC, "half", "--half")
    folders = {name: work.folder / name for name in ("run/encoder", "exported", "half")}
    found["exported"] = {name: [weights(folder), json_files(folder)] for name, folder in folders.items()}
    return {**found, "ids": read_json(work.folder / "ids.json"), "evaluate": read_json(work.folder / "scores.json")}


def bases(work: Work) -> dict[str, Any]:
    """A vocabulary, a base that has learnt nothing, and pretraining with both objectives."""
    work.write_corpus()
    work.python(
        "-m", "zh_embedder.vocabulary", "corpus.jsonl", "--output_dir", "pieces", "--words", 500, "--latin", 100
    )
    new = ("--corpus", "corpus.jsonl", "--hidden_size", 64, "--heads", 2, "--layers", 1, "--intermediate", 32)
    work.python("-m", "zh_embedder.new_base", "pieces", "--output_dir", "base", *new)
    common = ("--corpus", "corpus.jsonl", "--tokens_per_device", 2048, "--logging_steps", 1, "--dtype", "fp32")
    short = ("--max_steps", 6, "--max_seq_length", 128, "--validation_share", 0.05, "--learning_rate", 1e-3)
    found = {"vocabulary": json_files(work.folder / "pieces"), "base": weights(work.folder / "base")}
    for objective in ("mlm", "retromae"):
        words = ("--query_encoder", "base", "--objective", objective, "--output_dir", objective)
        work.python("-m", "zh_embedder.pretrain", *words, *common, *short)
        found[objective] = {"curves": curves(work.folder / objective), "weights": weights(work.folder / objective)}
    return found


def llm_embedder(work: Work) -> dict[str, Any]:
    """LLM-Embedder's evaluation: `run_dense.py` without --train_data."""
    rows = work.lines("demo/train/qa.jsonl")[:30]
    work.write("corpus.jsonl", [{"title": "", "text": row["pos"][0]} for row in rows])
    asked = [{"query": row["query"], "pos_index": [i], "task": "qa", "answers": [row["pos"][0][:6]]}
             for i, row in enumerate(rows[:20])]  # fmt: skip
    work.write("eval.jsonl", asked)
    work.write("rerank.jsonl", [{**asked[i], "key": [row["pos"][0], *row["neg"]], "pos_index": [0]}
                                for i, row in enumerate(rows[:20])])  # fmt: skip
    common = ("--query_encoder", STATIC, "--version", "zh_llm_embedder", "--hits", 20, "--cutoffs", 1, 10)
    searched = ("--eval_data", "eval.jsonl", "--corpus", "corpus.jsonl", "--save_to_output", "--save_result")
    metrics = ("mrr", "recall", "ndcg")
    ways: Mapping[str, tuple[object, ...]] = {
        "dense": (*searched, "--metrics", *metrics, "collate_neg", "collate_score", "--filter_answers"),
        "bm25": (*searched, "--metrics", *metrics, "collate_key", "--retrieval_method", "bm25"),
        "rerank": ("--eval_data", "rerank.jsonl", "--eval_method", "rerank", "--metrics", *metrics),
    }
    found = {}
    for name, words in ways.items():
        work.python(work.code / "run_dense.py", "--output_dir", name, *words, *common)
        kept = [read_json(path) for path in sorted((work.folder / name).rglob("result.json"))]
        measured = read_json(work.folder / name / "metrics.json")
        found[name] = {"metrics": measured, "found": kept, "written": list(files(work.folder / name).values())}
    return found


Case = Callable[[Work], dict[str, Any]]
CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        *(demo, gate, results, mining, resume, ranks, losses, tools, queries, use, bases, llm_embedder),
    )
}  # fmt: skip
