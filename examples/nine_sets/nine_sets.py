"""Bases before and after tuning on the nine real sets, beside BM25.

python examples/nine_sets/nine_sets.py DATA [OUT] [--bases NAME...] trains each base with each seed, measures everything
and prints two tables. A step whose result is in OUT is not done again. DATA holds the sets as DATA/*/*/train.jsonl* and
DATA/*/*/test.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from zh_embedder.core.files import read_json, write_json
from zh_embedder.evaluation.intervals import interval, paired
from zh_embedder.evaluation.measure import measure_bm25, measure_model
from zh_embedder.evaluation.model import Model
from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.evaluation.read_retrieval import read_retrieval_set

ROOT = Path(__file__).resolve().parents[2]
METRIC = "ndcg@10"
WORDS = ("bigram", "jieba")
COMMON = """--inbatch_same_dataset epoch --task_temperature 0.5 --save_steps 100000 --logging_steps 20
    --report_to none --overwrite"""
# Chosen on held-out training records (docs/measured/bases.md).
TRANSFORMER = """--per_device_train_batch_size 32 --train_group_size 2 --max_steps 320 --learning_rate 1e-4
    --warmup_steps 30 --cos_temperature 0.03"""
SETTINGS = {
    "e5-small-zh": f"{TRANSFORMER} --query_max_length 96 --key_max_length 160",
    # At most a tenth of a set's texts is cut, but for passages that are longer than all that the base reads.
    "nano-zh": f"{TRANSFORMER} --query_max_length 160 --key_max_length 512",
    "nano-zh-static": """--version none --per_device_train_batch_size 64 --train_group_size 8 --max_steps 1200
        --learning_rate 3e-3 --warmup_steps 20 --cos_temperature 0.05 --query_max_length 256 --key_max_length 512""",
}

Scores = Mapping[str, Mapping[str, float]]  # set -> query -> value


def train(base: str, seed: int, data: Path, out: Path) -> Path:
    """Tune a base on all training records with one seed, unless it is done."""
    done, minutes = out / "encoder" / "config.json", out.with_name(out.name + "-minutes")
    if not done.exists():
        command = [sys.executable, str(ROOT / "run_dense.py"), "--query_encoder", base, "--output_dir", str(out)]
        command += ["--train_data", *map(str, sorted(data.glob("*/*/train.jsonl*"))), "--seed", str(seed)]
        start = time.monotonic()
        subprocess.run([*command, *COMMON.split(), *SETTINGS[base].split()], check=True)
        minutes.write_text(f"{(time.monotonic() - start) / 60:.1f}\n")
    return out / "encoder"


def kept(path: Path, outcomes: Iterator[Outcome]) -> Scores:
    """Return the scores of a file, measured first where it is missing."""
    if not path.exists():
        write_json(path, {one.data: dict(one.items[METRIC]) for one in outcomes})
    return read_json(path)


def of_bm25(words: str, data: Path) -> Iterator[Outcome]:
    """Measure BM25 on every set."""
    for path in sorted(data.glob("*/*/test")):
        yield measure_bm25(read_retrieval_set(path), metrics=[METRIC], words=words)


def of_model(model: str, data: Path) -> Iterator[Outcome]:
    """Measure a model on every set."""
    loaded = Model.load(model)
    for path in sorted(data.glob("*/*/test")):
        yield measure_model(loaded, read_retrieval_set(path), metrics=[METRIC])[None]


def mean_of_seeds(seeds: Sequence[Scores]) -> Scores:
    """Average each query's value over the seeds."""
    return {
        name: {query: float(np.mean([one[name][query] for one in seeds])) for query in values}
        for name, values in seeds[0].items()
    }


def row(name: str, scores: Scores) -> str:
    """Format a row: the value and interval of each set, and the mean over the sets."""
    cells = [interval(list(values.values())) for values in scores.values()]
    shown = [f"{cell.value:.3f} ({cell.low:.3f}-{cell.high:.3f})" for cell in cells]
    return f"| {name} | {' | '.join(shown)} | {np.mean([cell.value for cell in cells]):.3f} |"


def difference(name: str, before: Scores, after: Scores) -> str:
    """Format a row of paired differences; * where zero lies outside the interval."""
    cells = [paired(list(before[data].values()), [after[data][q] for q in before[data]]) for data in before]
    shown = [f"{cell.value:+.3f}{'*' * cell.sure} ({cell.low:+.3f} to {cell.high:+.3f})" for cell in cells]
    return f"| {name} | {' | '.join(shown)} | {np.mean([cell.value for cell in cells]):+.3f} |"


def stronger(rows: Mapping[str, Scores]) -> Scores:
    """Of each set, the scores of the BM25 that has more there."""
    both = [rows[f"BM25, {words}"] for words in WORDS]
    return {data: max((one[data] for one in both), key=lambda found: np.mean(list(found.values()))) for data in both[0]}


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path("nine-sets"))
    parser.add_argument("--bases", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rows = {f"BM25, {words}": kept(args.out / f"bm25-{words}.json", of_bm25(words, args.data)) for words in WORDS}
    compared = []
    for base in args.bases:
        rows[base] = kept(args.out / f"{base}.json", of_model(base, args.data))
        runs = [args.out / f"{base}-{seed}" for seed in args.seeds]
        trained = [str(train(base, seed, args.data, run)) for seed, run in zip(args.seeds, runs, strict=True)]
        seeds = [
            kept(run.with_name(run.name + ".json"), of_model(model, args.data))
            for run, model in zip(runs, trained, strict=True)
        ]
        rows[f"{base}, tuned"] = mean_of_seeds(seeds)
        for run, scores in zip(runs, seeds, strict=True):
            means = [np.mean(list(values.values())) for values in scores.values()]
            print(
                f"{run.name}: mean {np.mean(means):.4f}, {run.with_name(run.name + '-minutes').read_text().strip()} min"
            )
        compared += [
            difference(f"{base}, tuned - untrained", rows[base], rows[f"{base}, tuned"]),
            difference(f"{base}, tuned - the stronger BM25", stronger(rows), rows[f"{base}, tuned"]),
        ]
    head = "| | " + " | ".join(rows["BM25, jieba"]) + " | mean |\n|" + "---|" * (len(rows["BM25, jieba"]) + 2)
    print("", head, *(row(name, scores) for name, scores in rows.items()), "", head, *compared, sep="\n")


if __name__ == "__main__":
    main()
