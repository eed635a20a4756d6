"""Choose the pieces of multilingual-e5-small that e5-small-zh keeps.

python examples/e5_small_zh/choose_pieces.py BASE CORPUS [--output FILE]

BASE is the folder of the whole model (its tokenizer.json is read), CORPUS a folder of JSON Lines with a field `text`.
Kept are the special tokens, every piece with a Chinese character, single ASCII characters (with and without the mark of
a blank), and every piece that occurs at least MIN_COUNT times in DOCUMENTS documents, evenly spread over the files in
the order of their names. FILE takes the ids as ids and ranges; kept_pieces.py of the package has its SHA-256.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from zh_embedder.bases.kept_pieces import write_ranges
from zh_embedder.bases.unigram import BLANK
from zh_embedder.bases.vocabulary import HAN
from zh_embedder.core.files import beside_file, read_json
from zh_embedder.core.hashing import sha256_of
from zh_embedder.data.sources import read_lines

DOCUMENTS, MIN_COUNT = 40_000, 5
CHINESE = re.compile(f"[{HAN}\uf900-\ufaff\U00020000-\U0003ffff]")
LINES_AT_ONCE = 3000


def spread(files: Sequence[Path], count: int) -> Iterator[str]:
    """Yield the lines of texts of `count` documents, evenly spread over all files; of all where there are fewer."""
    total = sum(1 for path in files for _ in read_lines(path))
    count, index = min(count, total), 0
    for path in files:
        for _, line in read_lines(path):
            if index == 0 or index * count // total != (index - 1) * count // total:
                yield from json.loads(line)["text"].split("\n")
            index += 1


def counts(tokenizer: Tokenizer, lines: Iterator[str], size: int) -> np.ndarray:
    """Count the pieces of texts."""
    found, waiting = np.zeros(size, np.int64), []
    for line in [*lines, None]:
        if line is not None:
            waiting.append(line)
        if waiting and (line is None or len(waiting) >= LINES_AT_ONCE):
            encoded = tokenizer.encode_batch_fast(waiting, add_special_tokens=False)
            ids = np.concatenate([np.array(one.ids, np.int64) for one in encoded])
            found += np.bincount(ids, minlength=size)
            waiting.clear()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, say how much of the corpus is kept, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--output", type=Path, default=Path("kept_pieces.txt"))
    args = parser.parse_args(argv)
    content = read_json(args.base / "tokenizer.json")
    pieces = [piece for piece, _ in content["model"]["vocab"]]
    files = sorted(path for path in args.corpus.iterdir() if ".jsonl" in path.suffixes)
    found = counts(Tokenizer.from_file(str(args.base / "tokenizer.json")), spread(files, DOCUMENTS), len(pieces))
    special = {token["id"] for token in content["added_tokens"]}
    kept = [
        index
        for index, piece in enumerate(pieces)
        if index in special
        or CHINESE.search(piece)
        or (len(bare := piece.removeprefix(BLANK) or piece) == 1 and (bare.isascii() or bare == BLANK))
        or found[index] >= MIN_COUNT
    ]
    text = write_ranges(kept)
    beside_file(args.output, text)
    share = found[kept].sum() / found.sum()
    print(f"{len(kept)} of {len(pieces)} pieces, {share:.4%} of the tokens; SHA-256 {sha256_of(text.encode())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
