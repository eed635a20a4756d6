"""Models to be measured: the encoder of each side, and how ranks share the encoding.

Shapes: N texts, D dimensions, W ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zh_embedder.core.distributed import gather_values
from zh_embedder.core.ranks import world
from zh_embedder.evaluation.outcome import Role
from zh_embedder.models.encoder import Encoder
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import position_limit
from zh_embedder.text.truncation import Cut, behind, cut_of

SAMPLE = 256  # texts of a side that are measured for the share that is cut
QUERY, KEY = 0, 1

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Model:
    """A model to be measured: the encoder of each side."""

    name: str
    query: Encoder
    key: Encoder
    instruct: bool = True  # with the instructions of each set's task
    dtype: str | None = None  # precision; the encoder's own where it is None
    shared: bool = True  # each rank encodes its share; False: every rank encodes everything (sharded weights)
    lengths: tuple[int | None, int | None] = (None, None)  # tokens of a query and of a key; None: the encoder's own
    role: Role = Role.BASE  # a model measured alone is the one that others would be compared with

    @classmethod
    def load(cls, name: str, *, dtype: str = "auto", instruct: bool = True) -> Model:
        """Load the folder of a run, a checkpoint or an encoder, or a hub name."""
        query = Encoder.from_pretrained(encoder_folder(name, flag="MODEL"), dtype=dtype)
        folder = key_folder(name)
        key = Encoder.from_pretrained(folder, dtype=dtype) if folder else query
        return cls(name, query, key, instruct=instruct)

    def label(self, size: int | None) -> str:
        """Name of the model with vectors cut to a number of dimensions."""
        return self.name if size is None else f"{self.name} [{size}]"

    def side(self, side: int, task: str | None) -> tuple[Encoder, str, int]:
        """Return a side's encoder, the instruction in front of its texts, and their greatest length in tokens."""
        encoder = (self.query, self.key)[side]
        # A model without instructions is measured without them.
        prompt = encoder.spec.prefix(task, side) if self.instruct and encoder.spec.instructions else ""
        return encoder, prompt, self.lengths[side] or encoder.spec.lengths[side]

    def truncation_side(self, side: int, task: str | None) -> str:
        """Return which end of a side's longer texts is cut."""
        encoder = (self.query, self.key)[side]
        return str(encoder.spec.truncation_side(task, side) or encoder.tokenizer.truncation_side)

    def conditions(self, texts: Sequence[tuple[int, Sequence[str]]], task: str | None) -> dict[str, Any]:
        """Return what a figure depends on besides the weights: instructions, lengths, and what these cut.

        Args:
            texts: of two sides, each with which side it is.
            task: of the set.
        """
        sides = [self.side(side, task) for side, _ in texts]
        cuts = [self.cut(some, side, task) for side, some in texts]
        return {
            "prompts": tuple(prompt for _, prompt, _ in sides),
            "lengths": tuple(limit for _, _, limit in sides),
            "limits": tuple(position_limit(encoder.config) for encoder, _, _ in sides),
            "truncated": tuple(cut.share for cut in cuts),
            "lost": tuple(cut.lost for cut in cuts),
        }

    def share(self) -> tuple[int, int]:
        """Return this rank and how many ranks share the work."""
        return world() if self.shared else (0, 1)

    def own_vectors(self, texts: Sequence[str], side: int, task: str | None) -> Vectors:
        """Encode this rank's share of the texts: every W-th, from its own number on."""
        (encoder, prompt, limit), (rank, ranks) = self.side(side, task), self.share()
        return encoder.encode(
            list(texts[rank::ranks]),
            prompt=prompt,
            max_length=limit,
            truncation_side=self.truncation_side(side, task),
            dtype=self.dtype,
            show_progress=world()[0] == 0,
        )

    def vectors(self, texts: Sequence[str], side: int, task: str | None) -> Vectors:
        """Encode texts, each rank its share; every rank gets the vectors of all, in their order."""
        return self.whole(self.own_vectors(texts, side, task), len(texts))

    def whole(self, own: Vectors, count: int) -> Vectors:
        """Put the rows of all ranks together, in their order."""
        ranks = self.share()[1]
        if ranks == 1:
            return own
        rows = self.gathered(own)
        found = np.empty((count, *own.shape[1:]), own.dtype)
        start = 0
        for rank in range(ranks):
            size = len(range(rank, count, ranks))
            found[rank::ranks] = rows[start : start + size]
            start += size
        return found

    def gathered(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Stack what ranks hold, which may be different numbers of rows."""
        local = torch.from_numpy(np.ascontiguousarray(rows)).to(self.query.device)
        return gather_values(local, even=False).cpu().numpy()

    def cut(self, texts: Sequence[str], side: int, task: str | None) -> Cut:
        """What is cut of a sample of texts, those that are longer than the model reads."""
        encoder, prompt, limit = self.side(side, task)
        chosen = np.random.default_rng(0).permutation(len(texts))[:SAMPLE]
        end = self.truncation_side(side, task)
        return cut_of(encoder.tokenizer, [behind(prompt, texts[int(i)], end) for i in chosen], limit)
