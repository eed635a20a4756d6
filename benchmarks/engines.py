"""Engine equivalence: ten steps of each on two CPU ranks against one process; the largest difference of a weight.

    python -m benchmarks.engines

AdamW at a learning rate of 1e-3 without clipping, no dropout, fp32, InfoNCE and KL, 8 queries a step, repeated rows
among them; with GradCache (sub-batches of 5 texts) and without.
"""

import json
import tempfile
from pathlib import Path

from tests.processes import ROOT, run, torchrun, weights
from zh_embedder.bases.tiny import build

STAGES = {f"DeepSpeed ZeRO {n}": ("--deepspeed", ROOT / "configs" / "deepspeed" / f"stage{n}.json") for n in range(4)}
CACHED = ("--sub_batch_size", 5)


def ground(folder: Path) -> None:
    """Write a base, a dataset of 24 scored records, and one of 5, which fills no step."""
    build(folder / "base", hidden=32, heads=2, dropout=0.0)
    for task, count in (("qa", 24), ("chat", 5)):
        lines = (ROOT / "examples" / "demo" / "train" / f"{task}.jsonl").read_text("utf-8").splitlines()[:count]
        rows = [json.loads(line) for line in lines]
        for row in rows:
            row["teacher_scores"] = [2.0, *[i % 3 / 2 for i in range(len(row["neg"]))]]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{task}.jsonl").write_text(text, "utf-8")


def train(folder: Path, out: str, batch: int, *more: object, ranks: int = 1) -> dict:
    flags = (
        "--output_dir", out, "--query_encoder", "base", "--train_data", "qa.jsonl", "chat.jsonl",
        "--inbatch_same_dataset", "epoch", "--max_steps", 10, "--train_group_size", 4, "--cos_temperature", 0.1,
        "--dtype", "fp32", "--report_to", "none", "--max_unknown", 1,
        "--per_device_train_batch_size", batch, "--learning_rate", 1e-3,
        "--max_grad_norm", 0, "--warmup_steps", 0, "--overwrite", *more,
    )  # fmt: skip
    run(*flags, cwd=folder, **({"launcher": torchrun(ranks)} if ranks > 1 else {}))
    return weights(folder / out / "encoder")


def apart(one: dict, other: dict) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ground(folder)
        alone = train(folder, "alone", 8)
        print(f"weights moved by up to {apart(weights(folder / 'base'), alone):.3f}\n", flush=True)
        print("| engine | plain | GradCache |\n|---|---|---|", flush=True)
        print(f"| one process | 0 | {apart(alone, train(folder, 'cached', 8, *CACHED)):.0e} |", flush=True)
        for name, more in {"DDP, two ranks": (), **STAGES}.items():
            found = [apart(alone, train(folder, "two", 4, *more, *extra, ranks=2)) for extra in ((), CACHED)]
            print(f"| {name} | {found[0]:.0e} | {found[1]:.0e} |", flush=True)


if __name__ == "__main__":
    main()
