"""nDCG@10 of models and of BM25, with 95 % intervals: python examples/nano_static/table.py MODEL... --data SET...

`random:MODEL` is a twin of a model: its shape and tokenizer with random weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zh_embedder.evaluation.intervals import interval
from zh_embedder.evaluation.measure import measure_bm25, measure_model
from zh_embedder.evaluation.model import Model
from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.evaluation.set_files import find_sets
from zh_embedder.models.encoder import Encoder, load_encoder

METRIC = "ndcg@10"
RANDOM = "random:"


def load(name: str, folder: str) -> Model:
    """Load a model, or make a twin of it with random weights."""
    if not name.startswith(RANDOM):
        return Model.load(name)
    import torch
    from transformers import AutoModel

    torch.manual_seed(0)
    like = load_encoder(name.removeprefix(RANDOM))
    Encoder(AutoModel.from_config(like.config), like.tokenizer, like.spec).save(Path(folder) / "twin")
    return Model.load(str(Path(folder) / "twin"))


def rows(args: argparse.Namespace) -> Iterator[tuple[str, list[Outcome]]]:
    """Name and outcomes of each row of the table."""
    sets = [read_retrieval_set(path) for path in find_sets(args.data, flag="--data")]
    for words in ("bigram", "jieba"):
        yield f"BM25, {words}", [measure_bm25(data, metrics=[METRIC], words=words) for data in sets]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            model = load(name, folder)
            yield name, [measure_model(model, data, metrics=[METRIC])[None] for data in sets]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders, names, or random:MODEL")
    parser.add_argument("--data", nargs="+", required=True, help="retrieval sets")
    for index, (name, found) in enumerate(rows(parser.parse_args())):
        if not index:
            print("| | " + " | ".join(one.data for one in found) + " | mean |\n|" + "---|" * (len(found) + 2))
        cells = [interval(list(one.items[METRIC].values())) for one in found]
        shown = [f"{cell.value:.3f} ({cell.low:.3f}-{cell.high:.3f})" for cell in cells]
        print(f"| {name} | {' | '.join(shown)} | {np.mean([cell.value for cell in cells]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
