"""Objectives compared on the real sets: nDCG@10 per task, one base, the same number of steps.

    ZH_DATA=... python -m benchmarks.objectives --folder DIR [--samples 800] [--only plain distilled] [--json FILE]

The base is a BERT with random weights, so the table compares objectives, not embedders. Teacher scores are cosines of
TF-IDF vectors of character bigrams, made here: a scorer that knows words and no meaning.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.material import data_folder
from zh_embedder.bases.tiny import build
from zh_embedder.data.sources import read_lines

ROOT = Path(__file__).resolve().parent.parent
DIMENSIONS = ("256", "128", "64", "32")
WAYS = {  # flags besides those of every run
    "plain": ("--loss", "info_nce"),
    "margin": ("--loss", "info_nce", "--false_negative_margin", "0.1"),
    "all sides": ("--use_train_config", "--version", "sides.yaml"),
    "task config": ("--use_train_config",),
    "task config, auto": ("--use_train_config", "--version", "auto.yaml"),
    "even tasks": ("--loss", "info_nce", "--task_temperature", "0"),
    "distilled": ("--loss", "info_nce", "teacher_kl", "--teacher_temperature", "auto"),
    "ranked": ("--loss", "ranked_distillation", "--teacher_temperature", "auto"),
    "Matryoshka": ("--loss", "info_nce", "--matryoshka_dims", *DIMENSIONS),
}
COMMON = [
    *("--inbatch_same_dataset", "epoch", "--num_train_epochs", "1", "--learning_rate", "1e-3"),
    *("--per_device_train_batch_size", "32", "--train_group_size", "4", "--cos_temperature", "0.05"),
    *("--query_max_length", "96", "--key_max_length", "192", "--logging_steps", "50"),
    *("--save_strategy", "no", "--report_to", "none", "--overwrite"),
]


def score(source: Path, target: Path) -> None:
    """Write the records of a file with teacher scores."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = [json.loads(text) for _, text in read_lines(source) if isinstance(text, str) and text]
    texts = [text for row in rows for text in (row["query"], *row["pos"], *row["neg"])]
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 2), sublinear_tf=True).fit_transform(texts)
    place = 0
    with target.open("w", encoding="utf-8") as out:
        for row in rows:
            count = len(row["pos"]) + len(row["neg"])
            scores = (vectors[place + 1 : place + 1 + count] @ vectors[place].T).toarray().ravel()
            row["teacher_scores"] = [round(float(s), 4) for s in scores]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            place += count + 1


def write_versions(folder: Path) -> None:
    """Write a version whose tasks train InfoNCE with all sides, and one that finds every teacher temperature."""
    import yaml

    loss = {"name": "info_nce", "query_to_query": True, "key_to_key": True, "key_to_query": True}
    packaged = (ROOT / "instructions" / "zh_llm_embedder.yaml").read_text("utf-8")
    for name in ("sides", "auto"):
        version = yaml.safe_load(packaged)
        for task in version["tasks"].values():
            auto = {**task.get("training", {}), "teacher_temperature": "auto"}
            task["training"] = {"loss": loss} if name == "sides" else auto
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(version, allow_unicode=True), "utf-8")


def run(words: list[str], folder: Path, log: Path) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "ZH_EMBEDDER_CACHE": str(folder / "cache")}
    with log.open("w") as out:
        done = subprocess.run([sys.executable, *words], cwd=folder, env=env, stdout=out, stderr=out, check=False)
    if done.returncode:
        sys.exit(log.read_text(errors="replace")[-3000:])


def evaluate(names: list[str], folder: Path, sets: list[Path], *more: str) -> list[dict]:
    target = folder / "scores.json"
    words = ["-m", "zh_embedder.cli", "evaluate", *names, "--data", *map(str, sets), "--metrics", "ndcg@10", *more]
    run([*words, "--json", str(target)], folder, folder / "evaluate.log")
    return json.loads(target.read_text("utf-8"))


def show(rows: list[dict]) -> str:
    """Lay out: a column for each model, a line for each set and the mean."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    sets = list(dict.fromkeys(row["data"] for row in rows))
    found = {(row["model"], row["data"]): row["value"] for row in rows}
    lines = [f"| test set | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for name in sets:
        lines.append(f"| {name} | {' | '.join(f'{found[model, name]:.4f}' for model in models)} |")
    means = [sum(found[model, name] for name in sets) / len(sets) for model in models]
    return "\n".join([*lines, f"| mean | {' | '.join(f'{mean:.4f}' for mean in means)} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="keeps base, data, runs and logs")
    parser.add_argument("--samples", type=int, default=800, help="records of each training set at most")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="objectives to train")
    parser.add_argument("--json", type=Path, help="write the scores here")
    args = parser.parse_args()
    data, folder = data_folder(), args.folder.resolve()
    if data is None:
        sys.exit("ZH_DATA: names no folder with the data sets")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for source in sorted(Path(data).glob("*/*/train.jsonl*")):
        files.append(folder / f"{source.parent.parent.name}-{source.parent.name}.jsonl")
        if not files[-1].is_file():
            score(source, files[-1])
    if not (folder / "base").is_dir():
        build(folder / "base", hidden=256, layers=2, dropout=0.1)
    write_versions(folder)
    for way in args.only:
        if not (folder / way / "encoder").is_dir():
            flags = ["--output_dir", way, "--query_encoder", "base", "--train_data", *map(str, files)]
            flags += ["--max_sample_num", str(args.samples), *COMMON, "--version", "zh_llm_embedder", *WAYS[way]]
            run([str(ROOT / "run_dense.py"), *flags], folder, folder / f"{way}.log")
            print(f"trained: {way}", flush=True)
    sets = sorted(Path(data).glob("*/*/test"))
    rows = evaluate(["base", *args.only], folder, sets)
    print(show(rows), flush=True)
    cut = [way for way in ("plain", "Matryoshka") if way in args.only]
    if len(cut) == 2:
        rows += (more := evaluate(cut, folder, sets, "--dims", *DIMENSIONS))
        print(show(more), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, ensure_ascii=False, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
