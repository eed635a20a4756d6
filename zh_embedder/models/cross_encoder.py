"""Cross-encoder: scores (query, key) pairs with any sequence-classification model that has one label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zh_embedder.bases.catalogue import BASES
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.machine import resolve_dtype
from zh_embedder.core.ranks import own_device

TOKENS = 8192  # of a batch, padding included


def batches(lengths: Sequence[int], tokens: int = TOKENS) -> Iterator[list[int]]:
    """Cut texts into batches of about one length, longest first, of bounded size; yields their places."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place], reverse=True)
    start = 0
    while start < len(order):
        count = max(1, tokens // max(1, lengths[order[start]]))
        yield order[start : start + count]
        start += count


@dataclass(frozen=True, slots=True)
class CrossEncoder:
    """A model that reads query and key together and gives one score, for inference alone."""

    model: Any
    tokenizer: Any
    max_length: int
    tokens: int = TOKENS

    @classmethod
    def load(cls, name: str, *, dtype: str = "auto", max_length: int = 512, tokens: int = TOKENS) -> CrossEncoder:
        """Load a folder or hub name.

        Raises:
            UserError: it cannot be loaded, or has more than one label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if name in BASES and not Path(name).exists():
            raise UserError(f"{name}: is an embedder, expected a cross-encoder such as BAAI/bge-reranker-large")
        device = own_device()
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForSequenceClassification.from_pretrained(name, dtype=resolve_dtype(dtype, device))
        except (OSError, ValueError) as error:
            raise UserError(f"{name}: cannot be loaded as a cross-encoder: {error}") from None
        if model.config.num_labels != 1:
            raise reject(f"{name}: num_labels", model.config.num_labels, "1: a cross-encoder that scores a pair")
        tokenizer.padding_side = "right"  # absolute positions, as BERT has them, would move otherwise
        if model.config.pad_token_id is None:  # decoders look for the last token that is none
            model.config.pad_token_id = tokenizer.pad_token_id
        return cls(model.to(device).eval(), tokenizer, max_length, tokens)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Logits of pairs, in their order; the longer text is cut where both are too long."""
        encoded = [
            self.tokenizer(query, key, truncation="longest_first", max_length=self.max_length) for query, key in pairs
        ]
        found = [0.0] * len(pairs)
        for places in batches([len(one["input_ids"]) for one in encoded], self.tokens):
            rows = self.tokenizer.pad([dict(encoded[place]) for place in places], return_tensors="pt")
            with torch.inference_mode():
                logits = self.model(**rows.to(self.model.device)).logits[:, 0].float().tolist()
            for place, score in zip(places, logits, strict=True):
                found[place] = score
        return found
