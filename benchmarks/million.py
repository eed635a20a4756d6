"""Training on a million records: seconds to the first step, resident memory, tokens a second.

    python benchmarks/million.py --folder DIR [--records 1000000] [--tokenised 100000] [--json million.json]

The records are synthetic and seeded: a query of 20 characters, a positive and seven negatives of 60, one key in four
shared with other records. Each row is a run of its own, started as a user starts it; the clock starts with the process
and stops at the log line of step 1. The folder keeps the records, so that a second call makes only its own cache.
Tokenising them all takes many minutes on two cores, so the rows about prepared tokens have fewer records.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from zh_embedder.bases.tiny import build, characters
from zh_embedder.core.parallel import cores

ROOT = Path(__file__).resolve().parent.parent
STEP = re.compile(r"step (\d+): .*tokens_per_second ([\d.e+]+)")
TOKENS = re.compile(r" tokens: (.*)")
QUERIES, KEYS = 32, 8  # of a step, of a group
QUERY, KEY = 20, 60  # characters
COLUMNS = {
    "first_step_s": "step 1 s",
    "first_step_cpu_s": "of cpu",
    "seconds": "all s",
    "anonymous_mib": "own MiB",
    "mapped_mib": "mapped",
    "train_tokens_s": "tokens/s",
}
SHARED = 20_000  # keys that one key in four is drawn from


def write_records(path: Path, count: int) -> None:
    """Write seeded records of random Chinese characters."""
    from tqdm.auto import tqdm

    rng = np.random.default_rng(0)
    alphabet = np.array([c for c in characters() if ord(c) > 0x3000])
    text = "".join(alphabet[rng.integers(len(alphabet), size=4_000_000)])
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out, tqdm(total=count, unit=" records", desc="writing") as bar:
        while bar.n < count:
            rows = min(10_000, count - bar.n)
            at = rng.integers(len(text) - KEY, size=(rows, KEYS + 1))
            at[:, 2::4] = rng.integers(SHARED, size=at[:, 2::4].shape) * KEY
            for query, *keys in at.tolist():
                found = [text[key : key + KEY] for key in keys]
                record = {"query": text[query : query + QUERY], "pos": found[:1], "neg": found[1:], "task": "qa"}
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
            bar.update(rows)
    partial.rename(path)


def memory(process: psutil.Process) -> dict[str, int]:
    """MiB of a process and its children: its own (anonymous), and files mapped, each page counted once."""
    sums = {"Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
    for one in [process, *process.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()[1:]
        except (OSError, psutil.Error):
            continue
        for name, kib, _ in map(str.split, lines):
            if name[:-1] in sums:
                sums[name[:-1]] += int(kib)
    return {name: kib // 1024 for name, kib in sums.items()}


def cpu_seconds(process: psutil.Process) -> float:
    """Seconds of work of a process and its children so far: they say more than the clock where others work too."""
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def start_training(
    folder: Path, data: Path, queries: int, keys: int, steps: int, *more: str, **pipes
) -> subprocess.Popen:
    """Start a training as a user does, with the base, the cache and the run in a folder."""
    flags = {
        "train_data": data,
        "query_encoder": folder / "base",
        "output_dir": folder / "run",
        "dataset_cache_dir": folder / "cache",
        "version": "none",
        "default_task": "qa",
        "inbatch_same_dataset": "epoch",
        "max_steps": steps,
        "per_device_train_batch_size": queries,
        "train_group_size": keys,
        "query_max_length": 64,
        "key_max_length": 128,
        "cos_temperature": 0.05,
        "learning_rate": 1e-4,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
    }
    command = [sys.executable, ROOT / "run_dense.py", "--overwrite", *more]
    command += [word for name, value in flags.items() for word in (f"--{name}", value)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(list(map(str, command)), env=env, **pipes)


def train(folder: Path, data: Path, steps: int, *more: str) -> dict[str, object]:
    """Run a training; returns seconds to step 1 and to the end, memory at its highest, tokens a second."""
    start, rates, said = time.perf_counter(), [], ""
    process = start_training(folder, data, QUERIES, KEYS, steps, *more, stderr=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)
    found: dict[str, object] = {}
    peak = {"Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
    looked = 0.0
    for line in process.stderr:
        said += line
        if match := TOKENS.search(line):
            found["tokens"] = match[1]
        if match := STEP.search(line):
            if not rates:
                found["first_step_s"] = round(time.perf_counter() - start, 1)
                found["first_step_cpu_s"] = round(cpu_seconds(watched), 1)
            rates.append(float(match[2]))
        if time.perf_counter() - looked > 0.5:
            looked = time.perf_counter()
            peak = {name: max(value, peak[name]) for name, value in memory(watched).items()}
    if process.wait():
        sys.exit(said)
    found |= {"seconds": round(time.perf_counter() - start, 1), "anonymous_mib": peak["Pss_Anon"] + peak["Pss_Shmem"]}
    return found | {"mapped_mib": peak["Pss_File"], "train_tokens_s": round(float(np.median(rates[1:])))}


def load(folder: Path, data: Path, steps: int, *, tokens: bool, workers: int) -> float:
    """Tokens a second of the loader alone."""
    import torch
    from transformers import AutoTokenizer

    from zh_embedder.data.collator import Collator
    from zh_embedder.data.groups import SelectionRule
    from zh_embedder.data.loader import PlanLoader, RankBatches
    from zh_embedder.data.record_tables import cache_folder
    from zh_embedder.data.records import load_datasets
    from zh_embedder.data.token_cache import with_tokens
    from zh_embedder.data.train_rows import TrainRows, TrainSet

    cache = str(folder / "cache")
    (records,) = load_datasets([data], cache_dir=cache)
    rule = SelectionRule(group_size=KEYS)
    collator = Collator(AutoTokenizer.from_pretrained(folder / "base"), query_max_length=64, key_max_length=128)
    sets = with_tokens(
        [TrainSet(records=records, task="qa", rule=rule, query_prefix="", key_prefix="")],
        collator,
        cache=cache_folder(cache, "tokens"),
        choice="always" if tokens else "never",
        device=torch.device("cpu"),
    )
    batches = RankBatches([len(records)], mode="epoch", batch_size=QUERIES, rank=0, ranks=1, seed=0)
    loader = iter(PlanLoader(TrainRows(sets, seed=0), batch_sampler=batches, collate_fn=collator, num_workers=workers))
    next(loader)
    start = time.perf_counter()
    count = sum(next(loader).tokens for _ in range(steps))
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the records; by default a temporary one")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--tokenised", type=int, default=100_000, help="records of the rows about prepared tokens")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"records-{count}.jsonl" for count in (args.records, args.tokenised)]
        for path, count in zip(files, (args.records, args.tokenised), strict=True):
            if not path.is_file():
                write_records(path, count)
        size = files[0].stat().st_size
        build(folder / "base", hidden=64, layers=1, dropout=0.0)
        results = measure(folder, *files, args.steps)
    results |= {"records": args.records, "tokenised": args.tokenised, "bytes": size, "cores": cores()}
    if args.json:
        args.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf-8")


def measure(folder: Path, whole: Path, part: Path, steps: int) -> dict[str, object]:
    """Run everything; prints each row when it is there."""
    sizes = " and ".join(f"{path.stat().st_size / 1e6:,.0f} MB ({path.name})" for path in (whole, part))
    print(f"{sizes}, {cores()} cores, {QUERIES} queries a step, {KEYS} keys each", flush=True)
    print(f"{'run':28} {' '.join(f'{title:>8}' for title in COLUMNS.values())}  tokens", flush=True)
    runs = {  # what is there is removed first, and flags; those about tokens train on the smaller file
        "nothing cached": (("records", "tokens", "hashes"), ()),
        "records cached": (("tokens",), ()),
        "tokens made first": (("tokens",), ("--token_cache", "always")),
        "tokens cached": ((), ()),
        "tokens cached, one worker": ((), ("--dataloader_num_workers", "1")),
    }
    results: dict[str, object] = {}
    for name, (removed, more) in runs.items():
        for kind in removed:
            shutil.rmtree(folder / "cache" / kind, ignore_errors=True)
        row = results[name] = train(folder, part if "tokens" in name else whole, steps, *more)
        print(f"{name:28} {' '.join(f'{row[column]:8}' for column in COLUMNS)}  {row['tokens']}", flush=True)
    for tokens in (False, True):
        for workers in (0, 1):
            name = f"loader alone, {'tokens cached' if tokens else 'from texts'}, {workers} workers"
            results[name] = round(load(folder, part, 10 * steps, tokens=tokens, workers=workers))
            print(f"{name:60} {results[name]:12,} tokens/s", flush=True)
    return results


if __name__ == "__main__":
    main()
