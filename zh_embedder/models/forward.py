"""Forward module: token ids of texts to representations; a Hugging Face model with heads on its states.

Shapes: N texts, T tokens of all texts together, L tokens of the longest, H hidden size, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zh_embedder.models.attention import obstacle
from zh_embedder.models.dropout import cheapen
from zh_embedder.models.gradcache import encode_in_parts
from zh_embedder.models.heads import HEADS, Representation, States, joined, represent
from zh_embedder.models.packing import enable, forward_packed, trim, trimmed_weights
from zh_embedder.models.spec import EncoderSpec, check_lengths
from zh_embedder.text.tokens import TokenBatch

PADDED_PIECES = 4  # forwards of a batch that cannot be packed, each of texts of like lengths


class Forward(nn.Module):
    """Token ids to representations."""

    def __init__(
        self,
        backbone: Any,
        tokenizer: Any,
        spec: EncoderSpec,
        *,
        pad_to_multiple_of: int | None = None,
        sub_batch_size: int | None = None,
        packing: bool = True,
    ) -> None:
        super().__init__()
        check_lengths(backbone.config, spec)
        self.backbone, self.tokenizer, self.spec = backbone, tokenizer, spec
        self.pad_to_multiple_of, self.sub_batch_size = pad_to_multiple_of, sub_batch_size
        cheapen(backbone)
        self.why_padded = enable(backbone) if packing else "packing is switched off"
        first_tokens = spec.pooling == "cls" and not any(HEADS[name].all_tokens for name in spec.heads)
        self.trimmed = self.why_padded is None and first_tokens and trim(backbone)
        size = backbone.config.hidden_size
        self.dense = nn.Linear(size, size, bias=False) if spec.dense else None
        self.layer_weights = count_layer_weights(backbone)  # before ZeRO 3 leaves each rank a part of every weight
        # The pooler of BERT-like models feeds no pooling of ours. It stays, so that a saved model has every weight of
        # its base, but it takes no gradient: DDP would wait for one.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler.requires_grad_(False)

    @property
    def config(self) -> Any:
        """The Hugging Face configuration of the model inside."""
        return self.backbone.config

    @property
    def dimension(self) -> int:
        """Dimensions of a vector."""
        return int(self.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, tokens: TokenBatch) -> Representation:
        """Representations of N texts; in sub-batches, where there is a gradient to come, by GradCache."""
        chunks = list(tokens.chunks(self.sub_batch_size))
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return joined([self.embed(chunk) for chunk in chunks])
        return encode_in_parts(self, chunks)

    def embed(self, tokens: TokenBatch) -> Representation:
        """Representations of N texts that go through the model together."""
        if self.device.type == "cuda" and self.packs():
            return represent(self, self.packed(tokens))
        # Where attention runs text by text, texts of one length are one call; and rows of like lengths waste the least.
        tokens, place = tokens.by_length()
        states = self.packed(tokens) if self.packs() else self.padded(tokens)
        return represent(self, replace(states, place=place))

    def packs(self, dtype: torch.dtype | None = None) -> bool:
        """Whether texts go through the model without padding, here and in a precision (the one of the moment)."""
        device = self.device
        if dtype is None:
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else self.backbone.dtype
        return self.why_padded is None and obstacle(device, dtype) is None

    def packed(self, tokens: TokenBatch) -> States:
        """States of texts, no padding computed; of their first tokens alone where the last layer is trimmed."""
        t, first = tokens, self.trimmed
        hidden = forward_packed(self.backbone, t.ids, t.positions, t.sizes, t.bounds, first_tokens=first)
        return States(hidden, t.bounds, first_tokens=first, prompts=t.prompts)

    def padded(self, tokens: TokenBatch) -> States:
        """States of texts, through rows of padded texts."""
        count = -(-len(tokens) // PADDED_PIECES)  # as many pieces on every rank: ZeRO 3 gathers weights in each
        hidden = torch.cat([self.padded_states(piece) for piece in tokens.chunks(count)])
        return States(hidden, tokens.bounds, prompts=tokens.prompts)

    def padded_states(self, tokens: TokenBatch) -> Tensor:
        """States of all tokens, (T, H), through rows of padded texts."""
        # On the right, whatever the tokenizer's side: on the left, padding would move absolute positions.
        ids, mask = tokens.padded(self.tokenizer.pad_token_id or 0, multiple=self.pad_to_multiple_of)
        states: Tensor = tokens.unpadded(self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state)
        return states

    def states(self, tokens: TokenBatch) -> Tensor:
        """States of all tokens of N texts, (T, H): what learning from every token wants, whatever the pooling."""
        t = tokens
        if self.packs():
            return forward_packed(self.backbone, t.ids, t.positions, t.sizes, t.bounds)
        return self.padded(t).hidden

    def computed_tokens(self, sizes: Sequence[int], dtype: torch.dtype) -> int:
        """Tokens that go through the model for texts of these lengths in a precision, padding included."""
        if self.packs(dtype):
            return sum(sizes)
        step = self.sub_batch_size or len(sizes)
        return sum(self._padded_tokens(sizes[i : i + step]) for i in range(0, len(sizes), step))

    def _padded_tokens(self, sizes: Sequence[int]) -> int:
        """Tokens of the rows that `padded` makes of texts of these lengths."""
        ordered, count = sorted(sizes, reverse=True), -(-len(sizes) // PADDED_PIECES)
        multiple = self.pad_to_multiple_of or 1
        pieces = [ordered[i : i + count] for i in range(0, len(ordered), count)]
        return sum(len(piece) * -(-piece[0] // multiple) * multiple for piece in pieces)

    def operations(self, sizes: Sequence[int]) -> float:
        """Floating point operations of a forward over texts of these lengths: two for each weight and token.

        Embeddings are looked up and the pooler is unused: neither counts. Nor does padding, nor what a trimmed last
        layer leaves out.
        """
        tokens, squares = sum(sizes), sum(size * size for size in sizes)
        layers, width = self.config.num_hidden_layers, attention_width(self.config)
        total = 2.0 * self.layer_weights * tokens + 4.0 * width * layers * squares
        if self.trimmed:
            total -= 2.0 * trimmed_weights(self.backbone) * (tokens - len(sizes)) + 4.0 * width * (squares - tokens)
        return total


def attention_width(config: Any) -> int:
    """Width of all heads together: some decoders have heads that are wider than their share of the hidden size."""
    share = int(config.hidden_size) // int(config.num_attention_heads)
    return int(config.num_attention_heads) * int(getattr(config, "head_dim", None) or share)


def count_layer_weights(backbone: Any) -> int:
    """Weights that every token is multiplied with: those of embeddings are looked up, a pooler is unused."""
    others = (backbone.get_input_embeddings(), getattr(backbone, "embeddings", None), getattr(backbone, "pooler", None))
    left_out = {weight for part in others if part is not None for weight in part.parameters()}
    return sum(weight.numel() for weight in backbone.parameters() if weight not in left_out)
