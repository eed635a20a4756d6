"""Token cache: the ids of whole datasets, made once and memory-mapped; a step then needs no texts and no tokenizer.

A file is named by everything that decides its ids, so that ranks and later runs find it. It is read without a copy:
what the steps touch lies in the system's page cache, which is given back where memory is short.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray

from zh_embedder.core.counts import counted
from zh_embedder.core.distributed import sum_over_ranks
from zh_embedder.core.files import renamed
from zh_embedder.core.hashing import hash_of, text_identity
from zh_embedder.core.locks import one_at_a_time
from zh_embedder.core.parallel import cores, in_order, processes_for
from zh_embedder.core.progress import Bar
from zh_embedder.core.ranks import world
from zh_embedder.data.collator import KEY, QUERY, Collator
from zh_embedder.data.train_rows import TrainSet
from zh_embedder.text.tokens import Ids, TokenKey, TokenRecord, fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

FORMAT = "3"  # part of every name: a change of the layout must not find old files
ROWS_PER_BLOCK = 512
BLOCKS_KEPT = 4096  # of whose arrays a reader remembers where they lie
SAMPLE = 64  # records of a dataset that are timed
PATIENCE = 20.0  # seconds that `auto` lets training wait for


# ---- reading --------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Arrays of `ROWS_PER_BLOCK` records, views of the file. `ends[i]` to `ends[i + 1]` is what belongs to i."""

    query_ends: NDArray[np.int32]  # of records, in query_ids
    query_ids: Ids
    key_ends: NDArray[np.int32]  # of records, in texts
    texts: NDArray[np.int64]  # identities, positives then negatives of each record
    id_ends: NDArray[np.int32]  # of keys, in ids
    ids: Ids
    positives: NDArray[np.int32]  # how many of a record's keys
    score_ends: NDArray[np.int32]  # of records, in scores
    scores: NDArray[np.float64]
    pair_scores: NDArray[np.float64]  # of records; not a number where there is none
    labels: NDArray[np.int64]  # identities; 0 where there is none
    prompts: NDArray[np.int32]  # tokens of each query's instruction


def views(batch: pa.RecordBatch) -> Block:
    """Return the arrays of a block, without a copy."""
    query, keys, texts, scores = (batch.column(name) for name in ("query", "keys", "texts", "teacher_scores"))
    parts = [query.offsets, query.values, keys.offsets, texts.values, keys.values.offsets, keys.values.values]
    parts += [batch.column("positives"), scores.offsets, scores.values]
    parts += [batch.column(name) for name in ("score", "label", "prompt")]
    return Block(*(part.to_numpy(zero_copy_only=True) for part in parts))


class TokenTable(Sequence[TokenRecord]):
    """The records of a dataset as token ids, read from a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        self.file = pa.ipc.open_file(pa.memory_map(str(path)))
        last = self.file.num_record_batches - 1
        self.size = last * ROWS_PER_BLOCK + self.file.get_batch(last).num_rows
        self.block = lru_cache(BLOCKS_KEPT)(lambda index: views(self.file.get_batch(index)))

    def __reduce__(self) -> Any:
        """Travel to another process by name."""
        return TokenTable, (self.path,)

    def __len__(self) -> int:
        """Return the number of records."""
        return self.size

    @overload
    def __getitem__(self, row: int) -> TokenRecord: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[TokenRecord]: ...
    def __getitem__(self, row: int | slice) -> TokenRecord | Sequence[TokenRecord]:
        """Read one record, or several."""
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(self.size))]
        if not 0 <= row < self.size:
            raise IndexError(row)
        block, i = self.block(row // ROWS_PER_BLOCK), row % ROWS_PER_BLOCK
        first, last = block.key_ends[i], block.key_ends[i + 1]
        texts, ends = block.texts[first:last].tolist(), block.id_ends[first : last + 1].tolist()
        keys = [TokenKey(t, block.ids[a:b]) for t, a, b in zip(texts, ends[:-1], ends[1:], strict=True)]
        positives, score, label = int(block.positives[i]), float(block.pair_scores[i]), int(block.labels[i])
        return TokenRecord(
            block.query_ids[block.query_ends[i] : block.query_ends[i + 1]],
            keys[:positives],
            keys[positives:],
            block.scores[block.score_ends[i] : block.score_ends[i + 1]].tolist() or None,
            None if math.isnan(score) else score,
            label or None,
            int(block.prompts[i]),
        )


# ---- writing --------------------------------------------------------------------------------------------------------


def schema() -> pa.Schema:
    """Return the Arrow schema of token ids."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    fields = {"query": ids, "keys": pa.list_(ids), "texts": pa.list_(pa.int64()), "positives": pa.int32()}
    numbers = {"teacher_scores": pa.list_(pa.float64()), "score": pa.float64(), "label": pa.int64()}
    numbers["prompt"] = pa.int32()
    return pa.schema({**fields, **numbers})


def make_block(chosen: TrainSet, collator: Collator, rows: Sequence[int]) -> pa.RecordBatch:
    """Tokenise some records of a dataset."""
    import pyarrow as pa

    records = chosen.records.read(rows)
    texts = [text for record in records for text in record.candidates]
    query_ids, side = (collator.key_ids, KEY) if chosen.as_keys else (collator.query_ids, QUERY)
    queries = query_ids([chosen.query_text(record) for record in records])
    keys = collator.key_ids([chosen.key_text(text) for text in texts])
    identities = pa.array([text_identity(text) for text in texts], pa.int64())
    ends = ends_of([len(record.pos) + len(record.neg) for record in records])
    scores = [record.teacher_scores or [] for record in records]
    columns = [
        ragged(queries),
        pa.ListArray.from_arrays(ends, ragged(keys)),
        pa.ListArray.from_arrays(ends, identities),
        pa.array([len(record.pos) for record in records], pa.int32()),
        pa.array(scores, pa.list_(pa.float64())),
        pa.array([math.nan if record.score is None else record.score for record in records], pa.float64()),
        pa.array([0 if record.label is None else text_identity(record.label) for record in records], pa.int64()),
        pa.array([collator.prompt_tokens(chosen.query_prompt(record), side) for record in records], pa.int32()),
    ]
    return pa.record_batch(columns, schema=schema())


def ends_of(counts: Sequence[int]) -> pa.Array:
    """Return where each of some lists starts in all of them end to end, and where the last one ends."""
    import pyarrow as pa

    return pa.array(np.cumsum([0, *counts]), pa.int32())


def ragged(texts: Sequence[Ids]) -> pa.ListArray:
    """Return token ids of several texts as one Arrow array."""
    import pyarrow as pa

    flat = np.concatenate([np.empty(0, np.int32), *texts])  # single texts have no keys
    return pa.ListArray.from_arrays(ends_of([len(ids) for ids in texts]), pa.array(flat))


def write_tokens(chosen: TrainSet, target: Path, collator: Collator) -> None:
    """Tokenise a dataset into a file, block by block; written under another name and renamed."""
    import pyarrow as pa

    blocks = [range(i, min(i + ROWS_PER_BLOCK, len(chosen))) for i in range(0, len(chosen), ROWS_PER_BLOCK)]
    made = in_order(partial(make_block, chosen, collator), blocks, processes=processes_for(len(blocks)))
    bar = Bar(len(chosen), name=f"tokens of {chosen.records.name}", unit="records")
    with (
        renamed(target) as written_to,
        closing(made),
        pa.ipc.new_file(str(written_to), schema()) as writer,
        bar,
    ):
        for block in made:
            writer.write_batch(block)
            bar.update(block.num_rows)


def token_table(chosen: TrainSet, target: Path, collator: Collator) -> TokenTable:
    """Return a dataset's tokens, made by whichever process comes first; the others wait for it."""
    if not target.is_file():
        with one_at_a_time(target.with_suffix(".lock")):
            if not target.is_file():
                write_tokens(chosen, target, collator)
    return TokenTable(target)


# ---- which datasets, and when ---------------------------------------------------------------------------------------


def fingerprints(collator: Collator) -> tuple[str, str] | None:
    """Hashes of both tokenizers; None where Python code decides the ids."""
    query = fingerprint(collator.tokenizer)
    key = query if collator.key_tokenizer is collator.tokenizer else fingerprint(collator.key_tokenizer)
    return (query, key) if query and key else None


def file_name(chosen: TrainSet, collator: Collator, prints: tuple[str, str]) -> str:
    """Name of a dataset's tokens: a hash of all that decides them."""
    parts = [(part.content, hash_of(part.rows.tobytes())) for part in chosen.records.parts]
    wording = [chosen.query_prefix, chosen.key_prefix, chosen.use_prompts, chosen.prompt_format]
    wording += [chosen.sides] if any(chosen.sides) else []  # where nothing is said, files of earlier runs are found
    decides = [FORMAT, parts, wording, collator.query_max_length, collator.key_max_length, prints]
    return hash_of(json.dumps(decides).encode()) + ".arrow"


def seconds_to_make(chosen: TrainSet, collator: Collator) -> float:
    """Estimate how long tokenising a dataset takes on all cores, by a sample."""
    rows = np.random.default_rng(0).choice(len(chosen), size=min(SAMPLE, len(chosen)), replace=False).tolist()
    start = time.perf_counter()
    make_block(chosen, collator, rows)
    blocks = -(-len(chosen) // ROWS_PER_BLOCK)
    return (time.perf_counter() - start) / len(rows) * len(chosen) / processes_for(blocks)


def with_tokens(
    sets: Sequence[TrainSet], collator: Collator, *, cache: Path, choice: str, device: torch.device
) -> tuple[TrainSet, ...]:
    """Give datasets their tokens from the cache, made before if `choice` (auto, always, never) says so.

    Every rank must call it. The first one decides for all, and the log says what, and why.
    """
    prints = fingerprints(collator) if choice != "never" else None
    paths = [  # None where the tokens must be made anew each epoch
        cache / file_name(chosen, collator, prints) if prints and not chosen.rule.shuffle_ratio else None
        for chosen in sets
    ]
    prepare = False
    if world()[0] == 0:
        missing = [chosen for chosen, path in zip(sets, paths, strict=True) if path is not None and not path.is_file()]
        prepare, why = decide(missing, collator, choice=choice, cache=cache if any(paths) else None)
        logger.info("tokens: %s", why)
    prepare = bool(sum_over_ranks(torch.tensor(float(prepare), device=device)).item())
    return tuple(
        replace(chosen, tokens=token_table(chosen, path, collator)) if path and (prepare or path.is_file()) else chosen
        for chosen, path in zip(sets, paths, strict=True)
    )


def decide(missing: Sequence[TrainSet], collator: Collator, *, choice: str, cache: Path | None) -> tuple[bool, str]:
    """Decide whether to tokenise the `missing` datasets now, and say why.

    Args:
        missing: datasets that are not in the cache.
        collator: makes tokens of them.
        choice: auto, always or never.
        cache: its folder; None where no dataset's tokens can be kept.
    """
    if choice == "never":
        return False, "made in the loader (--token_cache never)"
    if cache is None:
        return False, "made in the loader: texts are shuffled each epoch, or the tokenizer is not a fast one"
    if not missing:
        return True, f"read from the cache of earlier runs, {cache} (--token_cache never makes them anew)"
    records = counted(sum(map(len, missing)), "record")
    if choice == "always":
        return True, f"made before training, {records} (--token_cache always)"
    seconds = sum(seconds_to_make(chosen, collator) for chosen in missing)
    if seconds <= PATIENCE:
        return True, f"made before training: {records}, about {seconds:.0f} s on {cores()} cores"
    return False, (
        f"made in the loader: all {records} before step 1 would take about {seconds:.0f} s on {cores()} cores; "
        "--token_cache always makes them once, for this run and later ones"
    )
