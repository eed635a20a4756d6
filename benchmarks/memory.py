"""Memory of a step by its queries: plain, and GradCache with tiles.

    python -m benchmarks.memory [--queries 64 256 1024 4096] [--ways plain GradCache] [--sub_batch 32]
        [--limit 16] [--json memory.json]

Each row is a run of its own: two steps of synthetic records (a query and two keys, about 20 and 60 tokens), on a base
of four layers of 256. Its memory is what the process has of its own at most; "of steps" is that, less what it has
before the first. A run that passes the limit is stopped, and its row says so.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.million import memory, start_training, write_records
from zh_embedder.bases.tiny import build

WAYS = ("plain", "GradCache")
LOOK = 0.05  # seconds between two looks at a process


def measure(folder: Path, queries: int, limit: float, *more: str) -> dict[str, float | None]:
    """MiB at most, MiB before the first step, and seconds of both steps; None where the limit was passed."""
    log = folder / "log"
    with log.open("w+") as out:
        process = start_training(folder, folder / "records.jsonl", queries, 2, 2, *more, stderr=out, stdout=out)
        watched, peak, before, start = psutil.Process(process.pid), 0, 0, 0.0
        while process.poll() is None:
            now = memory(watched)["Pss_Anon"]
            if not start:
                before = max(before, now)
                start = time.perf_counter() if " training:\n" in log.read_text(errors="replace") else 0.0
            peak = max(peak, now)
            if peak > limit * 1024:
                process.kill()
                process.wait()
                return {"peak_mib": None, "before_mib": before, "seconds": None}
            time.sleep(LOOK)
    if process.returncode:
        sys.exit(log.read_text(errors="replace"))
    return {"peak_mib": peak, "before_mib": before, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--sub_batch", type=int, default=32, help="texts that GradCache encodes at a time")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="measure these alone")
    parser.add_argument("--limit", type=float, default=16, help="GiB at which a run is stopped")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    flags = {"plain": (), "GradCache": ("--sub_batch_size", str(args.sub_batch))}
    ways = {way: flags[way] for way in args.ways}
    results: dict[str, dict[int, dict]] = {way: {} for way in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_records(folder / "records.jsonl", max(args.queries))
        build(folder / "base", hidden=256, layers=4, dropout=0.1)
        print(f"{'queries':>8} {'way':10} {'peak MiB':>9} {'of steps':>9} {'s':>7}", flush=True)
        for queries in args.queries:
            for way, more in ways.items():
                row = results[way][queries] = measure(folder, queries, args.limit, *more)
                own = "" if row["peak_mib"] is None else row["peak_mib"] - row["before_mib"]
                peak = f"over {args.limit:g} GiB" if row["peak_mib"] is None else row["peak_mib"]
                print(f"{queries:8} {way:10} {peak:>9} {own:>9} {row['seconds'] or '':>7}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
