"""The main job in three minutes: train on the bundled records, measure before and after, export, search.

    make demo

Everything that it does is a command that you can type yourself; each is shown before it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

BASE = "nano-zh-static"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TASKS = sorted(p.stem for p in (HERE / "train").glob("*.jsonl"))
METRICS = ("ndcg@10", "mrr@10", "recall@10")
QUESTIONS = {
    "qa": "土星的光环到底是什么做的？",
    "tool": "明天早上七点叫一辆商务车，从家去火车站",
    "chat": "小叶榕又冒出好些长枝条，左边那根要剪吗",
}


def run(*words: str) -> None:
    """Show a command, then run it."""
    shown = [Path(word).name if word == sys.executable else word for word in words]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(min(8, os.cpu_count() or 1)))}
    done = subprocess.run(words, check=False, env=environment)
    if done.returncode:
        sys.exit(done.returncode)


def relative(path: Path) -> str:
    """Return a path as a person would type it from here."""
    return os.path.relpath(path)


def measured(output: Path) -> dict[str, dict[tuple[str, str], float]]:
    """Read what the run measured: BM25, step 0 and what was saved -> (task, metric) -> value."""
    summary = json.loads((output / "evaluation" / "summary.json").read_text("utf-8"))
    print(f"\nsaved: step {summary['step']}, the best of those measured")
    return {
        name: {(row["data"].split("/")[-1], row["metric"]): row["value"] for row in summary[name]}
        for name in ("bm25", "base", "saved")
    }


def table(found: dict[str, dict[tuple[str, str], float]]) -> str:
    """Lay before and after out side by side, with the mean over tasks, and BM25's first metric."""
    before, after, words = found["base"], found["saved"], found["bm25"]
    head = " | ".join(f"{metric:^15}" for metric in METRICS)
    lines = [f"\n{'task':12} | {head} | {METRICS[0]}"]
    lines.append(f"{'':12} | " + " | ".join(f"{'before':>6}   {'after':>6}" for _ in METRICS) + " |  BM25")
    for task in TASKS:
        cells = " | ".join(f"{before[task, m]:6.3f} → {after[task, m]:6.3f}" for m in METRICS)
        lines.append(f"{task:12} | {cells} | {words[task, METRICS[0]]:6.3f}")
    means = [(mean(before, m), mean(after, m)) for m in METRICS]
    cells = " | ".join(f"{b:6.3f} → {a:6.3f}" for b, a in means)
    lines.append(f"{'mean':12} | {cells} | {mean(words, METRICS[0]):6.3f}")
    return "\n".join(lines)


def mean(values: dict[tuple[str, str], float], metric: str) -> float:
    """Mean of a metric over the tasks."""
    return sum(values[task, metric] for task in TASKS) / len(TASKS)


def search(model: str) -> None:
    """Search the bundled test keys with sentence-transformers, from the exported folder alone."""
    from sentence_transformers import SentenceTransformer

    from zh_embedder.evaluation.read_retrieval import read_retrieval_set

    encoder = SentenceTransformer(model, device="cpu")
    print(f"\nsearching with sentence-transformers, SentenceTransformer({model!r}):")
    for task, question in QUESTIONS.items():
        keys = list(read_retrieval_set(HERE / "test" / task).keys.values())
        query = encoder.encode([question], prompt_name=task)
        scores = encoder.similarity(query, encoder.encode(keys, prompt_name=f"{task}.key"))[0]
        print(f"\n  [{task}] {question}")
        for index in scores.argsort(descending=True)[:3].tolist():
            text = keys[index].replace("\n", " / ")
            print(f"    {scores[index]:.3f}  {text[:58]}{'…' if len(text) > 58 else ''}")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder to write")
    parser.add_argument("--seed", type=int, default=42, help="of the run")
    args = parser.parse_args()
    started = time.time()
    output, exported = args.out / "run", args.out / "embedder"
    print(f"zh_embedder demo: {len(TASKS)} tasks ({', '.join(TASKS)}), records in {relative(HERE)}")
    print("No hub is asked: the base is nano-zh-static, which comes with the package.")
    from zh_embedder.core.runtime import quiet_deepspeed

    quiet_deepspeed()
    run(
        sys.executable, relative(ROOT / "run_dense.py"), "--output_dir", str(output), "--overwrite",
        "--train_data", relative(HERE / "train"), "--query_encoder", BASE, "--version", "zh_llm_embedder",
        # The base never saw an instruction: in the mean they cost it .05 before training, which training wins back.
        "--include_prompt", "True",
        "--default_task", "qa", "--inbatch_same_dataset", "epoch", "--num_train_epochs", "4", "--learning_rate", "3e-3",
        "--per_device_train_batch_size", "16", "--train_group_size", "4", "--cos_temperature", "0.05",
        "--logging_steps", "42", "--seed", str(args.seed),
        "--eval_data", relative(HERE / "test"), "--metrics", "ndcg@10", "mrr@10", "recall@10",
        "--bm25", "--eval_steps", "42", "--save_steps", "42", "--load_best_model_at_end",
        "--save_total_limit", "1",
    )  # fmt: skip
    print(table(measured(output)))
    run(sys.executable, "-m", "zh_embedder.export", str(output), str(exported), "--overwrite")
    search(str(exported))
    minutes = (time.time() - started) / 60
    print(f"""
{minutes:.1f} minutes. What to type next:
  zh-embedder versions                       # the tasks and their instructions; yours are a few lines of YAML
  python {relative(ROOT / "run_dense.py")} --help             # every flag
  torchrun --nproc_per_node=2 run_dense.py --output_dir data/outputs/mine --train_data my.jsonl \\
    --query_encoder BAAI/bge-large-zh-v1.5 --version zh_llm_embedder --inbatch_same_dataset epoch \\
    --learning_rate 2e-5 --num_train_epochs 2 --train_group_size 8 --cos_temperature 0.02
  open {output / "report.html"}       # what was won and lost, query by query
  tensorboard --logdir {output / "runs"}
""")


if __name__ == "__main__":
    main()
