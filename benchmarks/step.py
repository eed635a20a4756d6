"""Seconds of a training step and texts/s of encoding, for short, mixed and long texts, on this machine.

    make bench
    python benchmarks/step.py --hidden 512 --layers 4 --json step.json

Texts are drawn from the bundled records. Medians over the steps; machines are noisy, so compare within one run.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from zh_embedder.arguments import cpu_gains_from_bf16
from zh_embedder.encoder import Encoder
from zh_embedder.losses import EmbeddedBatch, info_nce
from zh_embedder.tiny import build
from zh_embedder.tokens import concatenate, tokenize

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo" / "train"
LENGTHS = {"short": (16, 24), "mixed": (16, 256), "long": (480, 512)}  # tokens


def token_ids(encoder, shape, count, rng):
    """Texts of a shape: bundled records end to end, cut at random lengths."""
    records = [json.loads(line) for path in sorted(DEMO.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    texts = ["".join([r["query"], *r["pos"][:1], *r["neg"]]) * 2 for r in records]
    low, high = LENGTHS[shape]
    chosen = [texts[i] for i in rng.integers(len(texts), size=count)]
    return [tokenize(encoder.tokenizer, [text], int(rng.integers(low, high + 1)))[0] for text in chosen]


def train_step(encoder, optimizer, ids, *, queries, group, dtype):
    """Encode, InfoNCE, backward, update."""
    with torch.autocast(encoder.device.type, dtype, enabled=dtype is not torch.float32):
        vectors = encoder(concatenate(ids).to(encoder.device)).float()
    device = vectors.device
    keys = vectors[queries:]
    batch = EmbeddedBatch(
        queries=vectors[:queries],
        keys=keys,
        group=torch.arange(len(keys), device=device).view(queries, group),
        weights=torch.full((queries,), 1 / queries, device=device),
        key_texts=torch.arange(1, len(keys) + 1, device=device),
        positive_texts=torch.zeros(queries, 1, dtype=torch.int64, device=device),
        key_counts=torch.ones(len(keys), dtype=torch.bool, device=device),
    )
    info_nce(batch, temperature=0.02).backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(encoder, shape, args, dtype):
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-5, fused=True)
    count = args.queries * (1 + args.group)
    seconds, tokens = [], []
    encoder.train()
    for _ in range(args.steps + 1):
        ids = token_ids(encoder, shape, count, rng)
        start = time.perf_counter()
        train_step(encoder, optimizer, ids, queries=args.queries, group=args.group, dtype=dtype)
        seconds.append(time.perf_counter() - start)
        tokens.append(sum(map(len, ids)))
    seconds, tokens = seconds[1:], tokens[1:]  # the first is warm-up
    encoder.eval()
    ids = token_ids(encoder, shape, args.texts, rng)
    out = np.zeros((len(ids), encoder.dimension), np.float32)
    start = time.perf_counter()
    encoder.encode_tokens(ids, out, tokens_per_batch=8192, show_progress=False)
    encoding = time.perf_counter() - start
    return {
        "texts": shape,
        "step_seconds": statistics.median(seconds),
        "train_tokens_per_second": statistics.median(t / s for t, s in zip(tokens, seconds, strict=True)),
        "encode_texts_per_second": len(ids) / encoding,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--texts", type=int, default=128, help="texts to encode")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="write the rows here")
    args = parser.parse_args()
    gains = args.device == "cuda" or cpu_gains_from_bf16()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        base = build(Path(folder) / "base", hidden=args.hidden, layers=args.layers)
        for dtype in (torch.float32, torch.bfloat16) if gains else (torch.float32,):
            encoder = Encoder.from_pretrained(str(base), device=args.device)
            for shape in LENGTHS:
                rows.append({"dtype": str(dtype).removeprefix("torch."), **measure(encoder, shape, args, dtype)})
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{args.layers} layers of {args.hidden}, {args.queries} queries x {args.group} keys; encoding in fp32")
    print(f"{'dtype':10} {'texts':6} {'step (s)':>9} {'train tokens/s':>15} {'encode texts/s':>15}")
    for row in rows:
        print(
            f"{row['dtype']:10} {row['texts']:6} {row['step_seconds']:9.3f} "
            f"{row['train_tokens_per_second']:15.0f} {row['encode_texts_per_second']:15.1f}"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
