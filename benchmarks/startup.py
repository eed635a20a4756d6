"""Start of commands: seconds of `zh-embedder --help` and of a training of 10 steps, in two checkouts by turns.

    python -m benchmarks.startup --against ../older --repeat 7

Both run with this Python and its packages, in a folder of their own, alone on the machine; the median of each is shown,
and of their ratios in each turn.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = (
    "train", "--query_encoder", "nano-zh-static", "--train_data", str(ROOT / "examples/demo/train/qa.jsonl"),
    "--output_dir", "out",
    "--max_steps", "10", "--per_device_train_batch_size", "8", "--train_group_size", "2", "--report_to", "none",
    "--dataset_cache_dir", "cache", "--dtype", "fp32", "--save_strategy", "no",
)  # fmt: skip
COMMANDS = {"zh-embedder --help": ("--help",), "zh-embedder convert --help": ("convert", "--help"), "10 steps": TRAIN}


def seconds(checkout: Path, words: tuple[str, ...], folder: Path) -> float:
    """Run a command of a checkout to its end; returns its seconds by the clock."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "zh_embedder.cli", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def main() -> None:
    """Measure and print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, help="another checkout, such as an older commit's")
    parser.add_argument("--repeat", type=int, default=7, help="turns")
    args = parser.parse_args()
    checkouts = {"before": args.against.resolve(), "after": ROOT}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in COMMANDS.items():
            taken: dict[str, list[float]] = {which: [] for which in checkouts}
            for turn in range(args.repeat + 1):
                for which in sorted(checkouts, reverse=bool(turn % 2)):
                    found = seconds(checkouts[which], words, Path(folder))
                    if turn:  # the first turn fills the caches
                        taken[which].append(found)
            medians = {which: statistics.median(values) for which, values in taken.items()}
            ratio = statistics.median(a / b for a, b in zip(taken["after"], taken["before"], strict=True))
            print(f"{name:28} before {medians['before']:7.3f} s  after {medians['after']:7.3f} s  ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
