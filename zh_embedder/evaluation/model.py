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
from zh_embedder.text.prefix import full_text
from zh_embedder.text.tokens import cut_share

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
        own = (encoder.spec.query_max_length, encoder.spec.key_max_length)[side]
        return encoder, prompt, self.lengths[side] or own

    def conditions(self, sides: tuple[int, int], task: str | None) -> dict[str, Any]:
        """Return what a figure depends on besides the weights: instructions and lengths of two sides."""
        (_, first, limit), (_, second, other) = (self.side(side, task) for side in sides)
        return {"prompts": (first, second), "lengths": (limit, other)}

    def share(self) -> tuple[int, int]:
        """Return this rank and how many ranks share the work."""
        return world() if self.shared else (0, 1)

    def own_vectors(self, texts: Sequence[str], side: int, task: str | None) -> Vectors:
        """Encode this rank's share of the texts: every W-th, from its own number on."""
        (encoder, prompt, limit), (rank, ranks) = self.side(side, task), self.share()
        shown = world()[0] == 0
        mine = list(texts[rank::ranks])
        return encoder.encode(mine, prompt=prompt, max_length=limit, dtype=self.dtype, show_progress=shown)

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

    def truncated(self, texts: Sequence[str], side: int, task: str | None) -> float:
        """Share of a sample of texts that are longer than the model reads."""
        encoder, prompt, limit = self.side(side, task)
        chosen = np.random.default_rng(0).permutation(len(texts))[:SAMPLE]
        whole = [full_text(texts[int(i)], instruction=prompt) for i in chosen]
        return cut_share(encoder.tokenizer, whole, limit)
