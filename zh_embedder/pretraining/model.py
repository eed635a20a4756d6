"""Pretraining model: an encoder, its output layer, and for RetroMAE a decoder; saved as an encoder folder.

Shapes: N windows, T tokens of all of them together, M predicted tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zh_embedder.models.encoder import Encoder
from zh_embedder.models.folders import QUERY_FOLDER
from zh_embedder.models.packing import first_position
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.pretraining.batches import WindowBatch
from zh_embedder.pretraining.heads import HEAD_FILE, Decoder, Found, Head, part, save_head
from zh_embedder.training.checkpoints import load_weights

OBJECTIVES = {
    "mlm": "predict masked words from their context",
    "retromae": "mlm, and reconstruct the whole text from its vector and half of its words with a one-layer decoder",
}


class Predicted(NamedTuple):
    """Sums over the predicted tokens of a batch; zero for a decoder that is not there."""

    loss: Tensor  # (), with gradient
    right: Tensor  # ()
    decoder_loss: Tensor  # (), with gradient
    decoder_right: Tensor  # ()


class MaskedLM(nn.Module):
    """Token ids with masks -> losses, in one forward, as DDP wants it."""

    def __init__(self, encoder: Encoder, head: Head, decoder: Decoder | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.decoder = encoder, head, decoder
        encoder.trimmed = False  # every token's last state is wanted
        if encoder.dense is not None:
            encoder.dense.requires_grad_(False)  # it belongs to vectors, which are not trained here

    @property
    def config(self) -> Any:
        """The Hugging Face configuration, for engines that want its sizes."""
        return self.encoder.config

    def words(self) -> nn.Embedding:
        """Word embeddings, which are the output layer too."""
        found: nn.Embedding = self.encoder.backbone.get_input_embeddings()
        return found

    def forward(self, batch: WindowBatch) -> Predicted:
        """Predict what is masked; the output layer sees predicted tokens alone."""
        tokens, words = batch.tokens, self.words()
        states = self.encoder.states(tokens)  # (T, H)
        found = self.head.predict(states[batch.places], batch.labels, words.weight)
        if self.decoder is None or batch.whole is None or batch.visible is None or batch.decoded is None:
            none = found.loss.new_zeros(())
            return Predicted(*found, none, none)
        vectors = POOLINGS[self.encoder.spec.pooling](states, tokens.bounds)  # (N, H)
        again = self.decoder(vectors, words(batch.whole), tokens, batch.visible)  # (T, H)
        said: Found = self.head.predict(again[batch.decoded], batch.whole[batch.decoded], words.weight)
        return Predicted(*found, *said)

    def operations(self, sizes: Sequence[int], predicted: int, decoded: int) -> float:
        """Floating point operations of a forward: the encoder's, and two for each weight of the other layers."""
        total = self.encoder.operations(sizes)
        logits = self.words().weight.numel() + self.head.dense.weight.numel()
        total += 2.0 * logits * (predicted + decoded)
        if self.decoder is not None and decoded:
            layers = sum(m.weight.numel() for m in self.decoder.modules() if isinstance(m, nn.Linear))
            longest, hidden = max(sizes), self.encoder.dimension
            total += 2.0 * layers * len(sizes) * longest + 4.0 * hidden * len(sizes) * longest**2
        return total

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Trade compute for memory."""
        self.encoder.backbone.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Trade compute for memory, under the name that transformers before 5.20 calls."""
        self.encoder.backbone.gradient_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings, for NEFTune."""
        return self.words()

    # ---- folders --------------------------------------------------------------------------------------------------

    def save(self, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the encoder folder below `folder`, with what only pretraining needs next to its weights."""
        own = dict(state) if state is not None else self.state_dict()
        self.encoder.save(folder / QUERY_FOLDER, state=part(own, "encoder."))
        others = {name: tensor for name, tensor in own.items() if not name.startswith("encoder.")}
        save_head(others, folder / QUERY_FOLDER)

    def load(self, folder: Path) -> None:
        """Take the weights of a checkpoint."""
        load_weights(self.encoder, folder / QUERY_FOLDER)
        saved = load_file(folder / QUERY_FOLDER / HEAD_FILE)
        self.head.load_state_dict(part(saved, "head."))
        if self.decoder is not None:
            self.decoder.load_state_dict(part(saved, "decoder."))


def make_decoder(encoder: Encoder, positions: int) -> Decoder:
    """Return a fresh decoder, whose positions are those of its base where it has them."""
    words = encoder.backbone.get_input_embeddings()
    decoder = Decoder(encoder.config, words, positions)
    table = getattr(getattr(encoder.backbone, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding) and table.embedding_dim == encoder.dimension:
        first = first_position(encoder.config)
        usable = table.weight.detach()[first : first + positions]
        with torch.no_grad():
            decoder.positions.weight[: len(usable)] = usable
    return decoder


def fill_decoder(decoder: Decoder, name: str) -> str:
    """Give a decoder the weights that an earlier run left with its encoder; returns where they come from."""
    saved = Path(name) / HEAD_FILE
    found = part(load_file(saved), "decoder.") if saved.is_file() else {}
    own = {key: tensor.shape for key, tensor in decoder.state_dict().items()}
    if {key: tensor.shape for key, tensor in found.items()} != own:
        return "fresh"
    decoder.load_state_dict(found)
    return f"read from {HEAD_FILE} of the base"
