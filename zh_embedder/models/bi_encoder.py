"""Bi-encoder: a query and a key encoder in one module, or one encoder for both sides; saved folder by folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zh_embedder.models.encoder import Encoder
from zh_embedder.models.folders import KEY_FOLDER, QUERY_FOLDER
from zh_embedder.text.tokens import TokenBatch


class BiEncoder(nn.Module):
    """Query and key encoder in one forward, as DDP wants it; one module where they are tied."""

    def __init__(self, query: Encoder, key: Encoder | None = None) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.projection: nn.Linear | None = None  # to a teacher's vectors, for the losses alone: never saved with us

    def project_to(self, dimension: int, *, seed: int) -> None:
        """Add a projection of vectors to a size, its rows or columns orthogonal; the same on every rank."""
        generator = torch.Generator().manual_seed(seed)
        start = torch.empty(dimension, self.query.dimension)
        nn.init.orthogonal_(start, generator=generator)
        self.projection = nn.Linear(self.query.dimension, dimension, bias=False)
        self.projection.weight.data.copy_(start)

    def forward(self, queries: TokenBatch, keys: TokenBatch, key_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of queries (B, D) and keys (B * G, D), whose key_rows (B * G,) are places in K distinct ones.

        Tied, queries and keys go through the model as one stream. Single texts have no keys but themselves.
        """
        if not len(keys):
            vectors = self.query(queries).dense
            return vectors, vectors[key_rows]
        if self.key is not None:
            return self.query(queries).dense, self.key(keys).dense[key_rows]
        vectors = self.query(queries.join(keys)).dense
        return vectors[: len(queries)], vectors[len(queries) :][key_rows]

    @property
    def config(self) -> Any:
        """The Hugging Face configuration, for engines that want its sizes."""
        return self.query.config

    def encoders(self) -> dict[str, Encoder]:
        """The encoders by the folder that holds them."""
        return {QUERY_FOLDER: self.query} | ({KEY_FOLDER: self.key} if self.key is not None else {})

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Trade compute for memory, in every encoder."""
        for encoder in self.encoders().values():
            encoder.backbone.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Trade compute for memory, under the name that transformers before 5.20 calls."""
        for encoder in self.encoders().values():
            encoder.backbone.gradient_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings, for NEFTune."""
        return self.query.backbone.get_input_embeddings()

    def save(self, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
        """Write every encoder into its folder below `folder`."""
        for name, encoder in self.encoders().items():
            prefix = "query." if encoder is self.query else "key."
            own = (
                None if state is None else {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            )
            encoder.save(folder / name, state=own)
