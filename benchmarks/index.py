"""Index search over a million keys: seconds and memory of exact search and of faiss indexes, and what they miss.

    python -m benchmarks.index [--keys 1000000] [--dim 256] [--queries 1000] [--hits 100] [--json index.json]

The vectors are synthetic and seeded: points around 20,000 centres in a space of 64 dimensions, turned into all
dimensions with a little noise, and queries near keys: indexes learn from such structure, and texts have it. They lie
in a folder as `zh-embedder encode` writes it. Each row is a process of its own; its memory is what belongs to it alone
(Pss_Anon), at its highest, looked at ten times a second. Set OMP_WAIT_POLICY=PASSIVE where other work runs: threads
that spin can cost more than the work.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.million import memory
from zh_embedder.core.parallel import cores
from zh_embedder.data.text_files import InputFile
from zh_embedder.search.exact import search, search_folder
from zh_embedder.search.faiss_index import build, save_index
from zh_embedder.search.vector_store import Manifest, open_vectors, start_folder, write_shard

ROOT = Path(__file__).resolve().parent.parent
CENTRES, INNER, NOISE, SHARD = 20_000, 64, 0.02, 100_000
MEMORY, DISK = "exact, in memory", "exact, from the folder"
WAYS = ("IVF4096,Flat", "HNSW32", "PQ32", "IVF4096,PQ32")
COLUMNS = ("build_s", "search_s", "queries_s", "own_mib", "mapped_mib", "file_mib", "recall@10")


def write_keys(folder: Path, keys: int, dim: int, queries: int) -> None:
    """Write a folder of vectors, and queries near some of them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, INNER), dtype=np.float32)
    turn = rng.standard_normal((INNER, dim), dtype=np.float32) / np.sqrt(INNER)
    manifest = Manifest(
        model="synthetic", weights="", tokenizer="", pooling="cls", normalize=True, metric="cos", dimension=dim,
        prompt="", max_length=0, dtype="fp32", field=None, with_title=False, shard_size=SHARD, file_format="npy",
        vector_dtype="float32", inputs=(InputFile("synthetic", keys, ""),),
    )  # fmt: skip
    asked = []
    for shard in start_folder(folder, manifest, rank=0, ranks=1, overwrite=True):
        rows = manifest.rows(shard)
        inner = centres[rng.integers(CENTRES, size=rows)] + 0.6 * rng.standard_normal((rows, INNER), dtype=np.float32)
        vectors = inner @ turn + NOISE * rng.standard_normal((rows, dim), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        write_shard(folder, manifest, shard, [str(shard * SHARD + row) for row in range(rows)], vectors)
        asked.append(vectors[: -(-queries // len(manifest.shards))])
    found = np.concatenate(asked)[:queries]
    np.save(folder / "queries.npy", found + 0.5 / np.sqrt(dim) * rng.standard_normal(found.shape, dtype=np.float32))


def work(folder: Path, way: str, hits: int) -> dict[str, float]:
    """Build and search in one way; leaves what it found next to the folder."""
    vectors, queries = open_vectors(folder), np.load(folder / "queries.npy")
    row: dict[str, float] = {}
    start = time.perf_counter()
    if way == DISK:
        found = search_folder(queries, vectors, hits=hits, device="cpu")[1]
    elif way == MEMORY:
        keys = vectors.numpy()
        row["build_s"] = time.perf_counter() - start
        start = time.perf_counter()
        found = search(queries, keys, hits=hits, device="cpu")[1]
    else:
        index = build(vectors, factory=way)
        row["build_s"] = time.perf_counter() - start
        path = folder / "index.faiss"
        save_index(index, path)
        row["file_mib"] = path.stat().st_size / 2**20
        path.unlink()
        start = time.perf_counter()
        found = index.search(queries, hits)[1]
    row["search_s"] = time.perf_counter() - start
    np.save(folder / "found.npy", found)
    return row


def measure(folder: Path, way: str, hits: int) -> dict[str, float]:
    """Run one way in a process of its own, its memory watched."""
    command = [sys.executable, "-m", "benchmarks.index", "--folder", str(folder), "--way", way, "--hits", str(hits)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    watched, peak = psutil.Process(process.pid), {"Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
    while process.poll() is None:
        peak = {name: max(value, peak[name]) for name, value in memory(watched).items()}
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{way}: failed; start it alone to see why: {' '.join(command)}")
    row = json.loads(process.stdout.read())
    return row | {"own_mib": peak["Pss_Anon"] + peak["Pss_Shmem"], "mapped_mib": peak["Pss_File"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--hits", type=int, default=100)
    parser.add_argument("--ways", nargs="+", default=WAYS, help="factories, beside exact search")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--folder", type=Path, help="keeps the vectors; by default a temporary one")
    parser.add_argument("--way", help=argparse.SUPPRESS)  # this process is a row
    args = parser.parse_args()
    if args.way:
        sys.stdout.write(json.dumps(work(args.folder, args.way, args.hits)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        write_keys(folder, args.keys, args.dim, args.queries)
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{args.keys:,} keys of {args.dim} dimensions, {args.queries} queries, {args.hits} hits, {cores()} cores")
        print(f"load before the first row: {load}")
        results = compare(folder, args)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def compare(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run everything; prints each row when it is there."""
    results = {}
    print(f"{'way':24} {' '.join(f'{name:>10}' for name in COLUMNS)}", flush=True)
    right = None
    for way in (MEMORY, DISK, *args.ways):
        row = results[way] = measure(folder, way, args.hits)
        found = np.load(folder / "found.npy")
        right = found if right is None else right
        if way == DISK and not np.array_equal(found, right):
            sys.exit("the folder gives other keys than the memory")
        hit = [len(set(one[:10]) & set(other[:10])) / 10 for one, other in zip(found, right, strict=True)]
        row["recall@10"], row["queries_s"] = float(np.mean(hit)), len(found) / row["search_s"]
        cells = (
            f"{row[name]:10.3f}" if name == "recall@10" else f"{row[name]:10,.1f}" if name in row else " " * 10
            for name in COLUMNS
        )
        print(f"{way:24} {' '.join(cells)}", flush=True)
    return results


if __name__ == "__main__":
    main()
