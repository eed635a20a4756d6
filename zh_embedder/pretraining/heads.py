"""Pretraining heads: the output layer of masked-language models, and RetroMAE's decoder.

The output layer is tied to the word embeddings, as in every BERT-like model, and sees predicted tokens alone.

Shapes: M predicted tokens, H hidden size, E width of the word embeddings, V tokens of the vocabulary, N texts, T tokens
of all of them together, L tokens of the longest.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM
from transformers.activations import ACT2FN

from zh_embedder.core.errors import UserError
from zh_embedder.core.files import renamed
from zh_embedder.text.tokens import TokenBatch

logger = logging.getLogger(__name__)

HEAD_FILE = "pretraining.safetensors"  # next to the weights of an encoder: what only pretraining needs
LOGITS_AT_ONCE = 1 << 26  # where a step has more than four times as many, they are made again for the gradient
SPREAD = 0.02  # standard deviation of fresh weights, BERT's

# Where families keep dense layer, norm and tied output layer of their heads.
HEADS = (
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"),
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
    ("head.dense", "head.norm", "decoder"),
    ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    ("predictions.dense", "predictions.LayerNorm", "predictions.decoder"),
)


class Found(NamedTuple):
    """What predicting came to, summed over tokens."""

    loss: Tensor  # (), with gradient
    right: Tensor  # (), tokens whose word was the likeliest


class Head(nn.Module):
    """Dense layer, activation, norm, and the word embeddings as the output layer."""

    def __init__(
        self, hidden: int, words: int, width: int, activation: str = "gelu", *, epsilon: float = 1e-12
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(words))
        self.activation = ACT2FN[activation]
        nn.init.normal_(self.dense.weight, std=SPREAD)
        nn.init.zeros_(self.dense.bias)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """States (M, H) and word embeddings (V, E) -> logits (M, V)."""
        return F.linear(self.norm(self.activation(self.dense(states))), embeddings, self.bias)

    def predict(self, states: Tensor, labels: Tensor, embeddings: Tensor) -> Found:
        """Cross-entropy of the right words, (M, H) and (M,) -> sums; in bounded memory, however many they are."""
        at_once = max(1, LOGITS_AT_ONCE // len(embeddings))
        if len(labels) <= 4 * at_once:
            return Found(*self.losses(states, labels, embeddings))
        parts = [
            checkpoint(self.losses, own, right, embeddings, use_reentrant=False)
            for own, right in zip(states.split(at_once), labels.split(at_once), strict=True)
        ]
        return Found(sum(loss for loss, _ in parts), sum(right for _, right in parts))

    def losses(self, states: Tensor, labels: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of a part."""
        logits = self(states, embeddings).float()
        right = (logits.detach().argmax(-1) == labels).sum() if len(labels) else logits.new_zeros(())
        return F.cross_entropy(logits, labels, reduction="sum"), right


class Decoder(nn.Module):
    """RetroMAE's decoder: one layer that says a text again from its vector and what it may see of it.

    Xiao et al. 2022 (arXiv 2205.12035), enhanced decoding: queries are the sentence vector at every position, keys and
    values the word embeddings with the sentence vector in front.
    """

    def __init__(self, config: Any, words: nn.Embedding, positions: int) -> None:
        super().__init__()
        hidden, width = int(config.hidden_size), words.embedding_dim
        self.heads = int(config.num_attention_heads)
        self.positions = nn.Embedding(positions, hidden)
        self.widen = nn.Linear(width, hidden, bias=False) if width != hidden else nn.Identity()
        inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.seen_norm, self.out_norm, self.last_norm = (nn.LayerNorm(hidden, eps=1e-12) for _ in range(3))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=SPREAD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, vectors: Tensor, words: Tensor, tokens: TokenBatch, visible: Tensor) -> Tensor:
        """Vectors (N, H), word embeddings of all tokens (T, E) and what each sees (N, L, L) -> states (T, H)."""
        count, longest = visible.shape[:2]
        places = self.positions.weight[:longest]  # (L, H)
        owners = torch.repeat_interleave(tokens.bounds.diff().long(), output_size=len(words))  # (T,)
        flat = self.seen_norm(self.widen(words) + places[tokens.positions])
        seen = flat.new_zeros(count, longest, flat.shape[-1]).index_put((owners, tokens.positions), flat)
        seen = torch.cat([vectors.to(seen.dtype).unsqueeze(1), seen[:, 1:]], dim=1)  # (N, L, H)
        asked = vectors.unsqueeze(1) + places  # (N, L, H)
        query, key, value = (
            layer(x).view(count, longest, self.heads, -1).transpose(1, 2)
            for layer, x in ((self.query, asked), (self.key, seen), (self.value, seen))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible.unsqueeze(1))
        mixed = mixed.transpose(1, 2)[owners, tokens.positions].flatten(1)  # (T, H): padding is left behind
        states = self.out_norm(asked[owners, tokens.positions] + self.out(mixed))
        last: Tensor = self.last_norm(states + self.down(F.gelu(self.up(states))))
        return last


# ---- where they come from -------------------------------------------------------------------------------------------


def make_head(config: Any, words: nn.Embedding) -> Head:
    """Return a fresh output layer for a model.

    Raises:
        UserError: the model is none that predicts masked words.
    """
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(
            f"--query_encoder: a {config.model_type} model does not predict masked words, expected a BERT-like base"
        )
    known = (getattr(config, name, None) for name in ("hidden_act", "hidden_activation", "activation"))
    activation = next((name for name in known if isinstance(name, str)), "gelu")
    epsilon = getattr(config, "layer_norm_eps", None) or getattr(config, "norm_eps", None) or 1e-12
    return Head(int(config.hidden_size), words.num_embeddings, words.embedding_dim, activation, epsilon=epsilon)


def fill_head(head: Head, name: str, config: Any, **hub: Any) -> str:
    """Give a head the weights that its base has for it; returns where they come from, for the log.

    Args:
        head: fresh.
        name: folder or hub name of the base.
        config: of the base.
        **hub: how hub names are loaded.
    """
    saved = Path(name) / HEAD_FILE
    if saved.is_file():
        head.load_state_dict(part(load_file(saved), "head."))
        return f"read from {HEAD_FILE} of the base"
    if not any("MaskedLM" in kind or "PreTraining" in kind for kind in config.architectures or ()):
        return "fresh: the base has none"
    model, info = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **hub)
    for dense, norm, output in HEADS:
        try:
            layers = [model.get_submodule(path) for path in (dense, norm, output)]
        except AttributeError:
            continue
        lost = [key for key in info["missing_keys"] if key.startswith((dense, norm))]
        if lost:
            return f"fresh: the base lacks {', '.join(sorted(lost))}"
        with torch.no_grad():
            copy_layer(layers[0], head.dense)
            copy_layer(layers[1], head.norm)
            if layers[2].bias is not None:
                head.bias.copy_(layers[2].bias)
        return f"that of the base ({type(model).__name__})"
    return f"fresh: where {type(model).__name__} keeps its own is not known"


def copy_layer(source: Any, target: Any) -> None:
    """Copy weight and bias; a bias that the source has not is zero."""
    target.weight.copy_(source.weight)
    if source.bias is None:
        target.bias.zero_()
    else:
        target.bias.copy_(source.bias)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def save_head(state: dict[str, Tensor], folder: Path) -> None:
    """Write head and decoder next to an encoder's weights."""
    with renamed(folder / HEAD_FILE) as partial:
        save_file({name: tensor.detach().float().contiguous().cpu() for name, tensor in state.items()}, partial)
