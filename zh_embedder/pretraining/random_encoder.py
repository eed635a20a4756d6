"""Random encoders to pretrain: by sizes, or by the configuration of a folder."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, BertConfig

from zh_embedder.bases.tiny import build
from zh_embedder.core.errors import reject
from zh_embedder.models.encoder import Encoder
from zh_embedder.models.spec import EncoderSpec, within_positions


def character_tokenizer() -> Any:
    """Return a tokenizer of single characters, those of `tiny`."""
    with tempfile.TemporaryDirectory() as folder:
        build(folder, hidden=8, layers=1, heads=1, pooling=None)
        return AutoTokenizer.from_pretrained(folder)


def bert_config(tokenizer: Any, *, hidden: int, layers: int, heads: int, **more: Any) -> BertConfig:
    """Return the configuration of a BERT of these sizes, for a tokenizer's words.

    Args:
        tokenizer: whose words.
        hidden: hidden size.
        layers: how many.
        heads: attention heads.
        **more: `intermediate`, `positions`, `dropout`.
    """
    dropout = more.get("dropout", 0.1)
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=more.get("intermediate") or 4 * hidden,
        max_position_embeddings=more.get("positions", 512),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id or 0,
    )


def random_encoder(config: Any, tokenizer: Any, *, pooling: str, seed: int, packing: bool = True) -> Encoder:
    """Return an encoder with random weights.

    Args:
        config: of the model.
        tokenizer: of the encoder.
        pooling: what its folder will say.
        seed: of the weights.
        packing: compute no padding, where the model allows it.

    Raises:
        UserError: the model has fewer words than the tokenizer.
    """
    if config.vocab_size < len(tokenizer):
        raise reject("--tokenizer_name", len(tokenizer), f"at most {config.vocab_size} words, as the configuration has")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = AutoModel.from_config(config)
    spec = EncoderSpec(pooling=pooling, query_max_length=512, key_max_length=512)
    return Encoder(backbone.float(), tokenizer, within_positions(spec, config), packing=packing)
