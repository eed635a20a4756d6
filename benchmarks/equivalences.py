"""Loss equivalences: naive version, two ranks against one, tiles, GradCache; largest differences.

    python -m benchmarks.equivalences

Gradients of the naive versions (tests/losses/test_retrieval.py, tests/losses/test_pairs.py) are central differences in
double precision. Two ranks are two processes (gloo, tests/core/test_distributed.py). GradCache goes through a BERT of
three layers with dropout, in fp32, next to the same sub-batches with all graphs kept.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import multiprocessing as mp

from tests.backbones import build
from tests.core import test_distributed
from tests.losses import test_pairs, test_retrieval
from tests.models.test_gradcache import SPEC, Pad, all_kept, texts_of
from zh_embedder.data.schema import GROUP, LABELLED
from zh_embedder.losses import tiles
from zh_embedder.losses.batch import LossBatch, VectorBatch
from zh_embedder.losses.table import LOSSES, LossTerm, data_of, total_loss
from zh_embedder.models import forward

STEP = 1e-6  # of a central difference
QUERIES, KEYS = 6, 3


def variants() -> list[tuple[str, dict]]:
    """Each loss once, with the first of its tested options."""
    first: dict[str, dict] = {}
    for name, options in [*test_retrieval.VARIANTS, *test_pairs.VARIANTS]:
        first.setdefault(name, options)
    return list(first.items())


def batch_of(name: str) -> tuple[LossBatch, object]:
    """Return a batch that fits a loss, and the naive version."""
    if LOSSES[name].data == GROUP:
        return test_retrieval.make_batch(d=4), test_retrieval.naive
    return test_pairs.of_kind(test_pairs.make_step(d=4), name), test_pairs.naive


def with_vectors(batch: LossBatch, queries: torch.Tensor, keys: torch.Tensor, name: str) -> LossBatch:
    kind = LOSSES[name].data
    changed = replace(batch, queries=queries, keys=queries if kind == LABELLED else keys)
    return changed if kind == GROUP else replace(changed, step_queries=queries)


def to_naive(name: str, options: dict) -> float:
    """Largest difference of a gradient from the slope of the naive version."""
    batch, naive = batch_of(name)
    vectors = [batch.queries.clone().requires_grad_(), batch.keys.clone().requires_grad_()]
    LOSSES[name](with_vectors(batch, *vectors, name), **options).backward()
    worst = 0.0
    for side, vector in enumerate(vectors):
        if vector.grad is None:
            continue
        for place in range(vector.numel()):
            values = []
            for sign in (1, -1):
                moved = [v.detach().clone() for v in vectors]
                moved[side].view(-1)[place] += sign * STEP
                values.append(naive(name, with_vectors(batch, *moved, name), **options))
            slope = (values[0] - values[1]) / (2 * STEP)
            worst = max(worst, abs(slope - vector.grad.view(-1)[place].item()))
    return worst


def in_tiles(name: str, options: dict) -> float:
    """Largest difference of a gradient in tiles of one query from that of the whole."""
    batch, _ = batch_of(name)
    found = []
    for tile in (tiles.TILE, 1):
        vectors = [batch.queries.clone().requires_grad_(), batch.keys.clone().requires_grad_()]
        with patch.object(tiles, "TILE", tile):
            total_loss(with_vectors(batch, *vectors, name), (LossTerm(name=name, options=options),)).backward()
        found.append([v.grad for v in vectors if v.grad is not None])
    return largest(*found)


def cached(name: str, options: dict) -> float:
    """Largest difference of a weight's gradient with GradCache from that with all graphs kept, dropout on."""
    model = build("Bert", dropout=0.2)
    found = []
    for encode in (forward.encode_in_parts, all_kept):
        encoder = forward.Forward(model, Pad(), SPEC, sub_batch_size=4).train()
        encoder.zero_grad()
        torch.manual_seed(0)
        with patch.object(forward, "encode_in_parts", encode):
            vectors = encoder(texts_of(QUERIES * (1 + KEYS))).dense
        LOSSES[name](step_of(vectors, name), **options).backward()
        found.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    return largest(*found)


def step_of(vectors: torch.Tensor, name: str) -> LossBatch:
    """Return a step of one process from the vectors of its texts."""
    size = KEYS if LOSSES[name].data == GROUP else 1
    queries, keys = vectors[:QUERIES], vectors[QUERIES : QUERIES * (1 + size)]
    if LOSSES[name].data == LABELLED:
        keys = queries
    texts = torch.arange(1, len(keys) + 1)
    return VectorBatch(
        queries=queries,
        keys=keys,
        group=torch.arange(len(keys)).view(QUERIES, size),
        weights=torch.full((QUERIES,), 1 / QUERIES),
        key_texts=texts,
        positive_texts=texts[::size].view(-1, 1),
        key_counts=torch.ones(len(keys), dtype=torch.bool),
        teacher=torch.linspace(0, 1, QUERIES * size).view(QUERIES, size),
        step_queries=queries,
        query_texts=texts[:QUERIES],
        targets=torch.linspace(0, 1, QUERIES),
        labels=torch.arange(QUERIES) % 2 + 1,
    )


def largest(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def two_ranks() -> dict[str, float]:
    """Largest difference of each loss's gradient on two ranks from that of one process, all of its cases."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(test_distributed.work, args=(folder,), nprocs=test_distributed.WORLD)
        found = torch.load(Path(folder) / "0.pt")["cases"]
    worst: dict[str, float] = {}
    for case, (_, gradient) in found.items():
        name = test_distributed.TERMS[case[0]][0]
        alone = test_distributed.gradient(case, rank=0, ranks=1, step_rows=test_distributed.UNIQUE[case[1]])[1]
        worst[name] = max(worst.get(name, 0.0), (gradient - alone).abs().max().item())
    return worst


def main() -> None:
    ranks = two_ranks()
    print("| loss | learns from | naive | two ranks | tiles | GradCache |")
    print("|---|---|---|---|---|---|")
    for name, options in variants():
        tiles = "none needed" if LOSSES[name].whole_step else f"{in_tiles(name, options):.0e}"
        row = [f"{to_naive(name, options):.0e}", f"{ranks[name]:.0e}", tiles, f"{cached(name, options):.0e}"]
        print(f"| `{name}` | {data_of(LOSSES[name])} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
