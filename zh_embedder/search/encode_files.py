"""Files of texts to files of vectors: `zh-embedder encode`.

Every rank checks all inputs first, so that a wrong line is found before hours of work and every rank knows how many
shards there will be. Then it reads, tokenises and encodes its own shards, a block of texts at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.machine import DTYPES, dtype_name, prepare
from zh_embedder.core.ranks import own_device, own_rank
from zh_embedder.data.text_files import FIELDS, Reader, find_texts
from zh_embedder.models.encoder import TOKENS_PER_BATCH, Encoder
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import EncoderSpec, position_limit
from zh_embedder.search.vector_store import (
    FILE_FORMATS,
    SHARD_SIZE,
    VECTOR_DTYPES,
    Manifest,
    Rows,
    missing_shards,
    only_writer,
    start_folder,
    write_shard,
)
from zh_embedder.text.tokens import tokenize

logger = logging.getLogger(__name__)

BLOCK = 8192  # texts that are tokenised, sorted by length and encoded together
SIDES = ("query", "key")
T = TypeVar("T")


# ---- encoding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Texts of one shard that are sorted by length and go through the model together."""

    shard: int
    ids: list[str]
    tokens: list[list[int]]


def blocks(
    texts: Iterator[tuple[str, str]], tokenizer: Any, manifest: Manifest, shards: Sequence[int]
) -> Iterator[Block]:
    """Tokenise the (id, text) of some shards by blocks that never cross the end of a shard."""
    for shard in shards:
        rows = manifest.rows(shard)
        for start in range(0, rows, BLOCK):
            # Not one text more is asked for: where the next one is wrong, this shard is still made.
            some = list(islice(texts, min(BLOCK, rows - start)))
            tokens = tokenize(tokenizer, [manifest.prompt + text for _, text in some], manifest.max_length)
            yield Block(shard, [name for name, _ in some], tokens)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Make the next item in a thread of its own while the present one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


class Meter:
    """What this process has encoded: a progress bar, and a line for the log."""

    def __init__(self, manifest: Manifest, todo: Sequence[int], *, rank: int, ranks: int) -> None:
        from tqdm.auto import tqdm

        self.tokens, self.texts, self.started = 0, sum(manifest.rows(shard) for shard in todo), time.monotonic()
        own = sum(manifest.rows(shard) for shard in manifest.shards[rank::ranks])
        name = "encoding" if ranks == 1 else f"encoding, rank {rank} of {ranks}"
        self.bar = tqdm(
            total=own, initial=own - self.texts, desc=name, unit=" texts", delay=5, leave=False, disable=rank > 0
        )

    def seconds(self) -> float:
        """Return the time since the start."""
        return max(time.monotonic() - self.started, 1e-9)

    def add(self, texts: int, tokens: int) -> None:
        """Count what is done."""
        self.tokens += tokens
        self.bar.set_postfix_str(f"{self.tokens / self.seconds():,.0f} tokens/s", refresh=False)
        self.bar.update(texts)

    def summarise(self) -> None:
        """Say how fast it went."""
        texts, tokens, seconds = self.texts, self.tokens, self.seconds()
        rates = f"{texts / seconds:,.0f} texts/s, {tokens / seconds:,.0f} tokens/s"
        logger.info("encode: %d texts, %d tokens in %.1f s: %s", texts, tokens, seconds, rates)


def encode_shards(
    encoder: Encoder,
    made: Iterator[Block],
    manifest: Manifest,
    folder: Path,
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    on_batch: Callable[[int, int], None] = lambda _texts, _tokens: None,
) -> None:
    """Encode blocks and write each shard as soon as its last block is done.

    Raises:
        UserError: vectors that are not finite.
    """
    ids: list[str] = []
    for block in made:
        if not ids:
            vectors = np.zeros((manifest.rows(block.shard), manifest.dimension), np.float32)
        rows = vectors[len(ids) : len(ids) + len(block.ids)]
        with encoder.encoding(manifest.dtype):
            encoder.encode_tokens(block.tokens, rows, tokens_per_batch=tokens_per_batch, done=on_batch)
        ids += block.ids
        if len(ids) == len(vectors):
            write_shard(folder, manifest, block.shard, ids, finite(vectors, ids, manifest))
            ids = []


def finite(vectors: NDArray[np.float32], ids: Sequence[str], manifest: Manifest) -> Rows:
    """Return vectors (R, D) as they are kept.

    Raises:
        UserError: some are not finite; the message names the first.
    """
    kept: Rows = vectors.astype(manifest.vector_dtype, copy=False)
    good = np.isfinite(kept).all(axis=1)
    if not good.all():
        raise UserError(
            f"{ids[int(good.argmin())]}: its vector is not finite (--dtype {manifest.dtype}, --vector_dtype "
            f"{manifest.vector_dtype}); --dtype fp32 --vector_dtype float32 shows whether the model is at fault"
        )
    return kept


# ---- what decides the vectors ---------------------------------------------------------------------------------------


def weights_hash(encoder: Encoder) -> str:
    """Hash every weight by its name, wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash what makes tokens of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(f"{tokenizer.truncation_side} {content}".encode()).hexdigest()


def prompt_and_length(args: argparse.Namespace, spec: EncoderSpec) -> tuple[str, int]:
    """Return what stands in front of the texts, and their longest length.

    Raises:
        UserError: queries and keys are encoded in different ways, and the flags do not say which these texts are.
    """
    lengths = (spec.query_max_length, spec.key_max_length)
    if args.prompt is not None:
        if args.task is not None:
            raise UserError("--task: cannot be used with --prompt, expected one of them")
        length = max(lengths) if args.side is None else lengths[SIDES.index(args.side)]
        return args.prompt, args.max_length or length
    prompts = (spec.prefix(args.task, 0), spec.prefix(args.task, 1))
    if args.side is None and (prompts[0] != prompts[1] or (args.max_length is None and lengths[0] != lengths[1])):
        both = " and ".join(
            f"{side} ({prompt!r}, {length} tokens)"
            for side, prompt, length in zip(SIDES, prompts, lengths, strict=True)
        )
        raise UserError(f"--side: is missing; this model tells {both} apart, expected one of the two")
    side = SIDES.index(args.side or "key")
    return prompts[side], args.max_length or lengths[side]


def make_manifest(args: argparse.Namespace, encoder: Encoder, reader: Reader, *, rank: int) -> Manifest:
    """Gather all that decides the vectors; checks the inputs.

    Raises:
        UserError: wrong lines, or flags that do not go with this model.
    """
    spec = encoder.spec
    prompt, max_length = prompt_and_length(args, spec)
    low, limit = encoder.tokenizer.num_special_tokens_to_add() + 1, position_limit(encoder.config)
    if max_length < low:  # the tokenizer would not cut at all
        raise reject("--max_length", max_length, f"{low} or more: special tokens count too")
    if limit and max_length > limit:
        raise reject("--max_length", max_length, f"at most {limit}, the positions of this model")
    return Manifest(
        model=args.model,
        dtype=dtype_name(args.dtype, encoder.device),
        weights=weights_hash(encoder),
        tokenizer=tokenizer_hash(encoder.tokenizer),
        pooling=spec.pooling,
        normalize=spec.normalize,
        metric=spec.metric,
        dimension=encoder.dimension,
        prompt=prompt,
        max_length=max_length,
        field=args.field,
        with_title=args.with_title,
        shard_size=args.shard_size,
        file_format=args.format,
        vector_dtype=args.vector_dtype,
        inputs=reader.inputs(show_progress=rank == 0),
    )


# ---- the command ----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `zh-embedder encode`."""
    parser.add_argument("model", metavar="MODEL", help="a run, checkpoint or encoder folder, or a hub name")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="texts: .jsonl or .txt files with one text per line (also .gz, .zst), folders or globs",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for the vectors")
    parser.add_argument("--task", help="task whose instruction to prepend to the texts")
    parser.add_argument(
        "--side", choices=SIDES, help="what the texts are; required if the model treats queries and keys differently"
    )
    parser.add_argument("--prompt", help="text to prepend instead of a task's instruction")
    parser.add_argument("--field", help=f"name of the text field (default: the first of {', '.join(FIELDS)})")
    parser.add_argument(
        "--with_title", action="store_true", help="prepend the `title` field, if there is one, to the text"
    )
    parser.add_argument(
        "--max_length", type=positive, metavar="N", help="maximum tokens of a text (default: the model's)"
    )
    parser.add_argument(
        "--tokens_per_batch",
        type=positive,
        default=TOKENS_PER_BATCH,
        metavar="N",
        help="tokens per forward pass",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="precision: fp32, bf16, fp16, or auto, the fastest without loss of range",
    )
    parser.add_argument("--shard_size", type=positive, default=SHARD_SIZE, metavar="N", help="texts per shard")
    parser.add_argument("--format", choices=FILE_FORMATS, default="npy", help="file format of the shards")
    parser.add_argument(
        "--vector_dtype", choices=VECTOR_DTYPES, default="float32", help="precision of the vectors on disk"
    )
    parser.add_argument("--overwrite", action="store_true", help="start over instead of keeping the shards that exist")


def positive(text: str) -> int:
    """Read a whole number above zero; argparse says what was wrong."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected 1 or more")
    return number


def encoder_of_side(model: str, side: str | None) -> str:
    """Return which encoder makes vectors of a side: of a run with two, the side's own.

    Raises:
        UserError: there are two, and no side was named.
    """
    key = key_folder(model)
    if key is None:
        return model
    if side is None:
        raise UserError(f"--side: is missing; this run has two encoders, expected one of {' and '.join(SIDES)}")
    return key if side == "key" else encoder_folder(model)


def run(args: argparse.Namespace) -> None:
    """Encode files of texts into a folder of vectors; what an earlier, killed run has finished is kept."""
    rank, ranks = own_rank()
    reader = Reader(find_texts(args.inputs), args.field, args.with_title)
    device = own_device()
    prepare(device)
    encoder = Encoder.from_pretrained(encoder_of_side(args.model, args.side), device=device)
    manifest, folder = make_manifest(args, encoder, reader, rank=rank), Path(args.output_dir).expanduser()
    with only_writer(folder, rank):
        todo = start_folder(folder, manifest, rank=rank, ranks=ranks, overwrite=args.overwrite)
        own = len(manifest.shards[rank::ranks])
        logger.info(
            "encode: %d texts, %d shards, prompt %r, at most %d tokens, %s on %s",
            *(manifest.texts, len(manifest.shards), manifest.prompt, manifest.max_length, manifest.dtype),
            encoder.device.type,
        )
        if len(todo) < own:
            logger.info("encode: %d of %d shards are there already and are kept", own - len(todo), own)
        if todo:
            meter = Meter(manifest, todo, rank=rank, ranks=ranks)
            texts = reader.texts(manifest.inputs, todo, shard_size=manifest.shard_size)
            made = blocks(texts, encoder.tokenizer, manifest, todo)
            # On a CPU every core computes already, and tokenising is a percent of the work: a thread gains nothing.
            made = made if encoder.device.type == "cpu" else ahead(made)
            with meter.bar:
                encode_shards(
                    encoder, made, manifest, folder, tokens_per_batch=args.tokens_per_batch, on_batch=meter.add
                )
            meter.summarise()
    missing = missing_shards(folder, manifest)
    rest = f"; {len(missing)} of {len(manifest.shards)} shards are still to come from other ranks" if missing else ""
    logger.info("encode: %s%s", folder, rest)
