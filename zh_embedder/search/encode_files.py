"""Encoding of files of texts to files of vectors.

Every rank checks all inputs first, so that a wrong line is found before hours of work and every rank knows how many
shards there will be. Then it reads, tokenises and encodes its own shards, a block of texts at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.hashing import weights_hash
from zh_embedder.core.machine import DTYPES, dtype_name, prepare
from zh_embedder.core.numbers import COUNT
from zh_embedder.core.options import check_numbers, choose, limited
from zh_embedder.core.progress import Bar
from zh_embedder.core.ranks import own_device, own_rank
from zh_embedder.data.text_files import Reader, find_texts
from zh_embedder.models.encoder import TOKENS_PER_BATCH, Encoder, load_encoder
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import EncoderSpec, by_default, position_limit
from zh_embedder.search.vector_store import (
    FILE_FORMATS,
    VECTOR_DTYPES,
    Manifest,
    Rows,
    missing_shards,
    only_writer,
    start_folder,
    write_shard,
)
from zh_embedder.text.tokens import tokenizer_hash
from zh_embedder.text.truncation import SIDES as ENDS
from zh_embedder.text.truncation import behind, tokenize_cut

logger = logging.getLogger(__name__)

BLOCK = 8192  # texts that are tokenised, sorted by length and encoded together
SHARD_SIZE = 65536
SIDES = ("query", "key")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeOptions:
    """How texts become vectors, and how these are kept."""

    task: str | None = None  # whose instruction goes in front of the texts
    side: str | None = None  # query or key; needed where the model tells the two apart
    prompt: str | None = None  # in front of the texts, instead of a task's instruction
    field: str | None = None  # of the text; by default the first there is of `text_files.FIELDS`
    with_title: bool | None = None  # the title in front of the text; by default of keys, as in evaluation
    max_length: int | None = limited(None, COUNT)  # tokens; by default the model's
    truncation_side: str | None = None  # end of longer texts that is cut; by default the task's, else the tokenizer's
    tokens_per_batch: int = limited(TOKENS_PER_BATCH, COUNT)
    dtype: str = "auto"
    shard_size: int = limited(SHARD_SIZE, COUNT)
    file_format: str = "npy"
    vector_dtype: str = "float32"
    overwrite: bool = False  # start anew; else shards that are there are kept

    @property
    def titled(self) -> bool:
        """Whether titles go in front of texts."""
        return self.side != "query" if self.with_title is None else self.with_title

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        choose("side", self.side, SIDES)
        choose("truncation_side", self.truncation_side, ENDS)
        choose("dtype", self.dtype, ("auto", *DTYPES))
        choose("format", self.file_format, FILE_FORMATS)
        choose("vector_dtype", self.vector_dtype, VECTOR_DTYPES)
        check_numbers(self)


def encode_files(
    encoder: Encoder | str,
    inputs: Sequence[str | Path],
    folder: str | Path,
    *,
    options: EncodeOptions = EncodeOptions(),
    name: str | None = None,
) -> None:
    """Encode files of texts into a folder of vectors; what an earlier, killed run has finished is kept.

    Under a launcher every rank must call this, and each writes its own shards; no rank waits for another.

    Args:
        encoder: an encoder, or what names one: a run, a checkpoint, an encoder's folder, a hub name.
        inputs: .jsonl or .txt (a text per line), plain, .gz or .zst; folders, globs.
        folder: of the vectors; `open_vectors` reads it.
        options: how.
        name: of the encoder in the manifest; by default what named it.

    Raises:
        UserError: wrong lines, options that do not go with this model, or a folder of vectors made in another way.
    """
    rank, ranks = own_rank()
    reader = Reader(find_texts([str(path) for path in inputs]), options.field, options.titled)
    encoder, name = loaded(encoder, options.side, name)
    prepare(encoder.device)
    manifest = make_manifest(encoder, reader, options, name=name, rank=rank)
    folder = Path(folder).expanduser()
    with only_writer(folder, rank):
        todo = start_folder(folder, manifest, rank=rank, ranks=ranks, overwrite=options.overwrite)
        own = len(manifest.shards[rank::ranks])
        logger.info(
            "encode: %s, %s, prompt %r%s, at most %d tokens, %s on %s",
            *(counted(manifest.texts, "text"), counted(len(manifest.shards), "shard")),
            *(manifest.prompt, ", titles in front of texts" * manifest.with_title),
            *(manifest.max_length, manifest.dtype),
            encoder.device.type,
        )
        if len(todo) < own:
            logger.info("encode: kept from an earlier run: %d of %s", own - len(todo), counted(own, "shard"))
        if todo:
            meter = Meter(manifest, todo, rank=rank, ranks=ranks)
            texts = reader.texts(manifest.inputs, todo, shard_size=manifest.shard_size)
            made = blocks(texts, encoder.tokenizer, manifest, todo)
            # On a CPU every core computes already, and tokenising is a percent of the work: a thread gains nothing.
            made = made if encoder.device.type == "cpu" else ahead(made)
            with meter.bar:
                encode_shards(
                    encoder, made, manifest, folder, tokens_per_batch=options.tokens_per_batch, on_batch=meter.add
                )
            meter.summarise()
    missing = missing_shards(folder, manifest)
    rest = (
        f"; still to come from other ranks: {len(missing)} of {counted(len(manifest.shards), 'shard')}"
        if missing
        else ""
    )
    logger.info("encode: %s%s", folder, rest)


def loaded(encoder: Encoder | str, side: str | None, name: str | None) -> tuple[Encoder, str]:
    """Load what is only named, onto this process's own device; returns the encoder and its name."""
    if isinstance(encoder, Encoder):
        return encoder, name or type(encoder).__name__
    model = load_encoder(encoder_of_side(encoder, side), flag="MODEL").to(own_device()).eval()
    return model, name or encoder


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
            whole = [behind(manifest.prompt, text, manifest.truncation_side) for _, text in some]
            tokens = tokenize_cut(tokenizer, whole, manifest.max_length)
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
        self.tokens, self.texts, self.started = 0, sum(manifest.rows(shard) for shard in todo), time.monotonic()
        own = sum(manifest.rows(shard) for shard in manifest.shards[rank::ranks])
        name = "encoding" if ranks == 1 else f"encoding, rank {rank} of {ranks}"
        self.bar = Bar(own, name=name, done=own - self.texts, shown=rank == 0)

    def seconds(self) -> float:
        """Return the time since the start."""
        return max(time.monotonic() - self.started, 1e-9)

    def add(self, texts: int, tokens: int) -> None:
        """Count what is done."""
        self.tokens += tokens
        self.bar.advance(texts, tokens)

    def summarise(self) -> None:
        """Say how fast it went."""
        texts, tokens, seconds = self.texts, self.tokens, self.seconds()
        rates = f"{texts / seconds:,.0f} texts/s, {tokens / seconds:,.0f} tokens/s"
        done = f"{counted(texts, 'text')}, {counted(tokens, 'token')}"
        logger.info("encode: %s in %.1f s: %s", done, seconds, rates)


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
    prompt = encoder.left_out([manifest.prompt], manifest.max_length)
    for block in made:
        if not ids:
            vectors = np.zeros((manifest.rows(block.shard), manifest.dimension), np.float32)
        rows = vectors[len(ids) : len(ids) + len(block.ids)]
        with encoder.encoding(manifest.dtype):
            prompts = None if prompt is None else prompt * len(block.ids)
            encoder.encode_tokens(block.tokens, rows, prompts=prompts, tokens_per_batch=tokens_per_batch, done=on_batch)
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


def prompt_and_length(options: EncodeOptions, spec: EncoderSpec) -> tuple[str, int]:
    """Return the prefix of the texts, and their longest length.

    Raises:
        UserError: queries and keys are encoded in different ways, and the options do not say which these texts are.
    """
    lengths = spec.lengths
    if options.prompt is not None:
        if options.task is not None:
            raise UserError("--task: cannot be used with --prompt, expected one of them")
        length = max(lengths) if options.side is None else lengths[SIDES.index(options.side)]
        return options.prompt, options.max_length or length
    prompts = (spec.prefix(options.task, 0), spec.prefix(options.task, 1))
    if options.task is not None and (said := by_default(spec, options.task)):
        logger.info("--task %s: %s", options.task, said)
    if options.side is None and (prompts[0] != prompts[1] or (options.max_length is None and lengths[0] != lengths[1])):
        both = " and ".join(
            f"{side} ({prompt!r}, {length} tokens)"
            for side, prompt, length in zip(SIDES, prompts, lengths, strict=True)
        )
        raise UserError(f"--side: is missing; this model tells {both} apart, expected one of the two")
    side = SIDES.index(options.side or "key")
    return prompts[side], options.max_length or lengths[side]


def cut_side(encoder: Encoder, options: EncodeOptions) -> str | None:
    """Return the end of longer texts that is cut; None where it is the right one, as it was in earlier releases."""
    usual, asked = encoder.tokenizer.truncation_side, options.truncation_side
    if asked is None and options.prompt is None:
        asked = encoder.spec.truncation_side(options.task, SIDES.index(options.side or "key"))
    side = asked or usual
    return None if side == usual == "right" else side


def make_manifest(encoder: Encoder, reader: Reader, options: EncodeOptions, *, name: str, rank: int) -> Manifest:
    """Gather all that decides the vectors; checks the inputs.

    Raises:
        UserError: wrong lines, or options that do not go with this model.
    """
    spec = encoder.spec
    prompt, max_length = prompt_and_length(options, spec)
    low, limit = encoder.tokenizer.num_special_tokens_to_add() + 1, position_limit(encoder.config)
    if max_length < low:  # the tokenizer would not cut at all
        raise reject("--max_length", max_length, f"{low} or more: special tokens count too")
    if limit and max_length > limit:
        raise reject("--max_length", max_length, f"at most {limit}, the positions of this model")
    inputs = reader.inputs(show_progress=rank == 0)
    return Manifest(
        model=name,
        dtype=dtype_name(options.dtype, encoder.device),
        weights=weights_hash(encoder.state_dict()),
        tokenizer=tokenizer_hash(encoder.tokenizer),
        pooling=spec.pooling,
        include_prompt=spec.include_prompt,
        normalize=spec.normalize,
        metric=spec.metric,
        dimension=encoder.dimension,
        prompt=prompt,
        max_length=max_length,
        truncation_side=cut_side(encoder, options),
        field=options.field,
        with_title=bool(reader.titled),
        shard_size=options.shard_size,
        file_format=options.file_format,
        vector_dtype=options.vector_dtype,
        inputs=inputs,
    )


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
