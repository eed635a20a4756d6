"""Prove that no text of the test sets stands in training pairs.

python examples/nano/prove.py PAIRS... --tests SET...

Every run of 13 letters (folded, without marks and spaces) of every training text is looked up among those of the test
queries and their relevant keys, as plain strings. This is written without the code that left such pairs out, so that a
mistake there does not hide itself. Exits with 1 and shows examples where something is shared.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

LETTERS = 13


def lines(path: Path) -> Iterator[dict[str, object]]:
    """Objects of a JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        yield from map(json.loads, filter(str.strip, stream))


def runs(text: str) -> set[str]:
    """Every run of 13 letters or digits of a text."""
    kept = "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())
    return {kept[at : at + LETTERS] for at in range(len(kept) - LETTERS + 1)}


def file_of(folder: Path, name: str) -> Path:
    """A file of an evaluation set, plain or gzipped."""
    return next(path for path in (folder / name, folder / f"{name}.gz") if path.is_file())


def forbidden(folders: list[Path]) -> dict[str, str]:
    """Run -> the test text that it comes from: of queries and of relevant keys."""
    found: dict[str, str] = {}
    for folder in folders:
        rows = (line.split("\t") for line in file_of(folder, "qrels.tsv").read_text("utf-8").splitlines()[1:] if line)
        gold = {key for _, key, score in rows if float(score) > 0}
        texts = [str(row["text"]) for row in lines(file_of(folder, "queries.jsonl"))]
        texts += [str(row["text"]) for row in lines(file_of(folder, "corpus.jsonl")) if row["id"] in gold]
        for text in texts:
            found |= dict.fromkeys(runs(text), f"{folder}: {text[:60]}")
    return found


def main() -> int:
    """Look everything up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path, help="files of training records")
    parser.add_argument("--tests", nargs="+", type=Path, required=True, help="evaluation folders")
    args = parser.parse_args()
    known = forbidden(args.tests)
    print(f"{len(known):,} runs of {LETTERS} letters in the test queries and relevant keys of {len(args.tests)} sets")
    hits = 0
    for path in args.pairs:
        count = shared = 0
        for row in lines(path):
            texts = [row["query"], *row["pos"], *row.get("neg", [])]
            found = {run for text in texts for run in runs(text)} & known.keys()
            count, shared = count + 1, shared + bool(found)
            if found and shared <= 3:
                run = min(found)
                print(f"  {path.name}: {run!r} stands in {known[run]!r}")
        print(f"{path.name}: {count:,} pairs, {shared:,} share a run with a test text", flush=True)
        hits += shared
    return int(hits > 0)


if __name__ == "__main__":
    sys.exit(main())
