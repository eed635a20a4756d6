"""Pretraining batches: windows packed by tokens, masks, layout, and the plan of an epoch.

The plan is a function of (lengths, seed, epoch), masks of (seed, epoch, row): ranks, workers and resuming change
nothing. Rows are global: those of the second file follow those of the first.

Shapes: N windows of a rank's step, T tokens of them together, L of the longest, M predicted tokens, S steps of an
epoch, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zh_embedder.core.errors import UserError
from zh_embedder.data.batch import DeviceBatch
from zh_embedder.data.groups import row_rng
from zh_embedder.data.loader import EpochBatches
from zh_embedder.data.plan import PLAN_STREAM
from zh_embedder.pretraining.corpus import Windows
from zh_embedder.pretraining.masking import NOTHING, Masked, MaskRule, draw_visible, mask
from zh_embedder.text.tokens import Ids, TokenBatch, concatenate, tokenize

Ints = NDArray[np.int64]
HELD_OUT_STREAM = 2**32 - 3  # sets the draw of documents to be measured on apart from every other
FIXED_EPOCH = 2**32 - 4  # of the masks of windows that are measured: the same at every step


class Plan(NamedTuple):
    """All steps of an epoch: part p, that of rank p % R in step p // R, has `rows[bounds[p]:bounds[p + 1]]`."""

    rows: Ints
    bounds: Ints  # (S * R + 1,)


def steps_of(lengths: Ints, tokens_per_step: int) -> int:
    """Return the number of steps of an epoch, whatever its shuffle."""
    return max(1, -(-int(lengths.sum()) // tokens_per_step))


def plan_tokens(lengths: Ints, *, tokens_per_rank: int, ranks: int, seed: int, epoch: int) -> Plan:
    """Shuffle windows and cut them into parts of as many tokens as can be; each window once.

    A window belongs to the part that its middle lies in, so a part has at most half a window more than its share, and
    the parts of a step are those that one rank of their tokens together would have.

    Args:
        lengths: tokens of each window, special ones included.
        tokens_per_rank: most tokens of a part, but for that half a window.
        ranks: parts of a step.
        seed: the run's.
        epoch: from 0.
    """
    rows = np.random.default_rng((seed, epoch, PLAN_STREAM)).permutation(len(lengths))
    own = lengths[rows]
    parts = steps_of(lengths, tokens_per_rank * ranks) * ranks
    doubled_middle = 2 * np.cumsum(own) - own
    part = doubled_middle * parts // (2 * int(own.sum()))
    return Plan(rows, np.searchsorted(part, np.arange(parts + 1)))


class WindowRequest(NamedTuple):
    """One window of a step, with all that a worker must know of the step."""

    epoch: int
    row: int
    counts: bool  # False where a rank that has no window of a step takes one: it predicts nothing
    step_rows: tuple[int, ...]


class TokenBatches(EpochBatches):
    """The steps of one rank, epoch by epoch."""

    def __init__(self, lengths: Ints, *, tokens_per_rank: int, rank: int, ranks: int, seed: int) -> None:
        self.lengths, self.tokens_per_rank = lengths, tokens_per_rank
        self.rank, self.ranks, self.seed = rank, ranks, seed

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return steps_of(self.lengths, self.tokens_per_rank * self.ranks)

    def __iter__(self) -> Iterator[list[WindowRequest]]:
        """Yield the window requests of each step."""
        epoch = self.epoch
        rows, bounds = plan_tokens(
            self.lengths, tokens_per_rank=self.tokens_per_rank, ranks=self.ranks, seed=self.seed, epoch=epoch
        )
        for step in range(len(self)):
            first = step * self.ranks
            whole = tuple(rows[bounds[first] : bounds[first + self.ranks]].tolist())
            mine = rows[bounds[first + self.rank] : bounds[first + self.rank + 1]].tolist()
            if mine:
                yield [WindowRequest(epoch, row, True, whole) for row in mine]
            else:
                yield [WindowRequest(epoch, int(rows[step % len(rows)]), False, whole)]


class WindowExample(NamedTuple):
    """One window as the model sees it."""

    request: WindowRequest
    ids: Ids  # as they are, special tokens around them
    masked: Masked
    visible: NDArray[np.bool_] | None  # (L, L) of RetroMAE's decoder


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Special tokens in front of a text and behind it."""

    before: Ids
    behind: Ids

    @classmethod
    def of(cls, tokenizer: Any) -> Surroundings:
        """Find out what a tokenizer puts around a text."""
        (whole,) = tokenize(tokenizer, ["一"], 512)
        bare = tokenizer.backend_tokenizer.encode("一", add_special_tokens=False).ids
        place = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return cls(np.array(whole[:place], np.int32), np.array(whole[place + len(bare) :], np.int32))

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self.before) + len(self.behind)


class WindowRows(Dataset[WindowExample]):
    """All windows of a corpus, by request: the same request gives the same example in any process."""

    def __init__(
        self,
        files: Sequence[Windows],
        around: Surroundings,
        rule: MaskRule,
        *,
        seed: int,
        decoder_probability: float | None = None,
    ) -> None:
        self.files, self.around, self.rule, self.seed = tuple(files), around, rule, seed
        self.decoder_probability = decoder_probability  # of a token to be hidden from RetroMAE's decoder
        self.offsets = np.cumsum([0, *map(len, files)])

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self.offsets[-1])

    def locate(self, row: int) -> tuple[Windows, int]:
        """Global row -> (file, its row)."""
        file = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return self.files[file], row - int(self.offsets[file])

    def where(self, row: int) -> str:
        """Name the document of a window by file and line."""
        file, own = self.locate(row)
        return f"{file.path}:{file.lines[own]}"

    def lengths(self, rows: Ints | None = None) -> Ints:
        """Tokens of windows, special ones included."""
        sizes = np.concatenate([file.sizes for file in self.files]).astype(np.int64) + len(self.around)
        return sizes if rows is None else sizes[rows]

    def __getitem__(self, request: WindowRequest) -> WindowExample:
        """Read and mask one window."""
        file, own = self.locate(request.row)
        window, around = file[own], self.around
        ids = np.concatenate([around.before, window.ids, around.behind])
        starts = np.zeros(len(ids), bool)
        starts[len(around.before) : len(ids) - len(around.behind)] = window.starts
        rng = row_rng(self.seed, request.epoch, 0, request.row)
        masked = mask(ids, starts, self.rule, rng)
        if not request.counts:
            masked = Masked(masked.ids, NOTHING, NOTHING)
        hidden = self.decoder_probability
        return WindowExample(request, ids, masked, None if hidden is None else draw_visible(len(ids), hidden, rng))


class Chosen(Dataset[WindowExample]):
    """Some windows of a corpus, counted anew."""

    def __init__(self, rows: WindowRows, chosen: Ints) -> None:
        self.rows, self.chosen = rows, chosen

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.chosen)

    def __getitem__(self, request: WindowRequest) -> WindowExample:
        """Read and mask one window; its mask is that of its row in the corpus."""
        example = self.rows[request._replace(row=int(self.chosen[request.row]))]
        return example._replace(request=request)

    def lengths(self) -> Ints:
        """Tokens of windows, special ones included."""
        return self.rows.lengths(self.chosen)

    def where(self, row: int) -> str:
        """Name the document of a window by file and line."""
        return self.rows.where(int(self.chosen[row]))


def hold_out(rows: WindowRows, *, share: float, most_tokens: int, seed: int) -> tuple[Chosen, Chosen]:
    """Hold a share of the documents out of training: (windows to train, windows to be measured on).

    Args:
        rows: of the corpus.
        share: of the documents; 0 holds none out.
        most_tokens: no further documents are held out where they would have more tokens together.
        seed: of the draw.

    Raises:
        UserError: the corpus is a single document.
    """
    every = np.arange(len(rows))
    if not share:
        return Chosen(rows, every), Chosen(rows, every[:0])
    begins = [np.diff(file.lines, prepend=-1) != 0 for file in rows.files]
    document = np.cumsum(np.concatenate(begins)) - 1
    tokens = np.bincount(document, weights=rows.lengths())
    if len(tokens) < 2:
        raise UserError("--validation_share: the corpus is a single document, expected more, or --validation_share 0")
    order = np.random.default_rng((seed, HELD_OUT_STREAM)).permutation(len(tokens))
    order = order[: min(len(tokens) - 1, max(1, round(share * len(tokens))))]
    fits = np.cumsum(tokens[order]) <= most_tokens
    fits[0] = True
    out = np.isin(document, order[fits])
    return Chosen(rows, every[~out]), Chosen(rows, every[out])


# ---- batches --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WindowBatch(DeviceBatch):
    """What one rank trains on in one step; windows of one length side by side, the longest first."""

    tokens: TokenBatch  # N windows as the encoder sees them
    places: Tensor  # (M,) of the predicted tokens among all T
    labels: Tensor  # (M,)
    step_rows: tuple[int, ...]
    # Of RetroMAE's decoder, else None.
    whole: Tensor | None = None  # (T,) the tokens as they are
    visible: Tensor | None = None  # (N, L, L) what each token sees
    decoded: Tensor | None = None  # (D,) places of the tokens that the decoder predicts


@dataclass(frozen=True, slots=True)
class WindowCollator:
    """Examples of one rank's step -> WindowBatch."""

    hidden: NDArray[np.bool_]  # (V,) tokens that are never predicted

    def __call__(self, examples: Sequence[WindowExample]) -> WindowBatch:
        """Lay windows end to end."""
        examples = sorted(examples, key=lambda example: -len(example.ids))
        tokens = concatenate([example.masked.ids for example in examples])
        firsts = np.cumsum([0, *tokens.sizes[:-1]])
        places = [example.masked.places + first for example, first in zip(examples, firsts, strict=True)]
        batch = WindowBatch(
            tokens=tokens,
            places=torch.from_numpy(np.concatenate(places)),
            labels=torch.from_numpy(np.concatenate([example.masked.labels for example in examples])),
            step_rows=examples[0].request.step_rows,
        )
        return batch if examples[0].visible is None else self.with_decoder(batch, examples)

    def with_decoder(self, batch: WindowBatch, examples: Sequence[WindowExample]) -> WindowBatch:
        """Add what RetroMAE's decoder sees, and predicts: every token but special ones."""
        longest = max(batch.tokens.sizes)
        visible = np.zeros((len(examples), longest, longest), bool)
        visible[:, :, 0] = True  # rows of padding see something too, or they would be no numbers
        for row, example in zip(visible, examples, strict=True):
            if example.visible is not None:
                row[: len(example.ids), : len(example.ids)] = example.visible
        counts = np.repeat([example.request.counts for example in examples], batch.tokens.sizes)
        whole = np.concatenate([example.ids for example in examples]).astype(np.int64)
        return replace(
            batch,
            whole=torch.from_numpy(whole),
            visible=torch.from_numpy(visible),
            decoded=torch.from_numpy(np.flatnonzero(~self.hidden[whole] & counts)),
        )
