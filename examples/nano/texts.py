"""Draw texts to distil from out of pairs, each as the query or key that it is.

python examples/nano/texts.py PAIRS... --output texts.jsonl [--each 10000] draws as many pairs of each file and writes
their texts in random order, each with its side, as `run_dense.py` takes texts alone to learn a teacher's vectors from.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path


def texts_of(pairs: Path, each: int, drawn: random.Random) -> Iterator[tuple[str, str | None]]:
    """Yield query and first positive of randomly drawn pairs, with their side; a key's is the usual one."""
    lines = pairs.read_text("utf-8").splitlines()
    drawn.shuffle(lines)
    for line in lines[:each]:
        record = json.loads(line)
        yield record["query"], "query"
        yield record["pos"][0], None


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--each", type=int, default=10_000, help="pairs drawn of each file")
    args = parser.parse_args()
    drawn = random.Random(1)
    found = list(dict.fromkeys(text for path in sorted(args.pairs) for text in texts_of(path, args.each, drawn)))
    drawn.shuffle(found)
    with args.output.open("w", encoding="utf-8") as file:
        for text, side in found:
            file.write(json.dumps({"text": text} | ({"side": side} if side else {}), ensure_ascii=False) + "\n")
    print(f"{args.output}: {len(found):,} texts")


if __name__ == "__main__":
    main()
