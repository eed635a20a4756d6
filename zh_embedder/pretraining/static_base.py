"""Untrained bases: a BERT whose vectors mean something before its first step.

A text's vector begins as the sum of its pieces' vectors, rare pieces counting more: nearly orthogonal random
directions, weighted by inverse document frequency in a corpus. BERT normalises the length of every token's state, so
weights cannot be lengths: a piece of small weight has most of its length in two dimensions, which the last
normalisation leaves out. Layers begin as the identity: what they add to a state is zero until it is learnt. So layers
can also be put onto a base that was trained without them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, reject
from zh_embedder.data.text_files import spread
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.parts import check_weights
from zh_embedder.models.spec import EncoderSpec
from zh_embedder.pretraining.shape import IDLE, Shape
from zh_embedder.text.tokens import tokenize

logger = logging.getLogger(__name__)

REST = slice(0, 2)  # of the IDLE dimensions: what a piece does not weigh, with opposite signs
PASSAGE = 300  # characters of a passage in which a piece counts once
LEAST, MOST = 0.02, 0.6  # weight of a piece that is in every text, and of one that is in none


def passages(paths: Sequence[Path], count: int) -> Iterator[str]:
    """Yield passages of a corpus, about as many of each file, evenly spread over its texts."""
    for path in paths:
        for index, (_, text) in enumerate(spread(path, -(-count // len(paths)))):
            start = (index * 7919) % max(1, len(text) - PASSAGE + 1)  # not always the beginning
            yield text[start : start + PASSAGE]


def document_frequency(tokenizer: Any, texts: Iterator[str]) -> tuple[NDArray[np.int64], int]:
    """Count in how many texts each piece occurs, (V,), and the texts."""
    found, total = np.zeros(len(tokenizer), np.int64), 0
    for text in texts:
        found[np.unique(tokenize(tokenizer, [text], 1 << 20)[0])] += 1
        total += 1
    return found, total


def weights(frequency: NDArray[np.int64], total: int, *, power: float, special: Sequence[int]) -> NDArray[np.float32]:
    """Weight pieces by idf: log((N + 1) / (n + 1)) / log(N + 1), to a power, between LEAST and MOST.

    Args:
        frequency: (V,) texts that contain a piece.
        total: texts.
        power: 1.5 lies between idf on both sides of a comparison (2 in sum) and on one.
        special: ids of pieces that count least.
    """
    idf = np.log((total + 1) / (frequency + 1)) / np.log(total + 1)
    with np.errstate(all="ignore"):  # a power that lets all but the rarest vanish is a choice
        weight = MOST * np.clip(idf, 0, 1).astype(np.float32) ** power
    weight[list(special)] = 0
    return np.maximum(weight, LEAST)


def piece_vectors(weight: NDArray[np.float32], width: int, *, seed: int) -> Tensor:
    """Random directions whose share outside the IDLE dimensions is each piece's weight, (V, width).

    Rows have mean 0 and length sqrt(width), so that normalisation leaves them as they are: with a mean of its own, what
    is idle would come back in every other dimension, the same for all pieces.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(weight), width, generator=generator)
    rows[:, IDLE] = 0
    rows[:, IDLE.stop :] -= rows[:, IDLE.stop :].mean(dim=1, keepdim=True)
    share = torch.from_numpy(weight).unsqueeze(1)
    rows = share * rows / rows.norm(dim=1, keepdim=True)
    rows[:, REST] = (1 - share**2).sqrt() * torch.tensor([1.0, -1.0]) / 2**0.5
    return rows * width**0.5


@torch.no_grad()
def as_identity(layers: Any) -> None:
    """Let layers hand on what they get: what they add is zero, and their normalisations change nothing."""
    for layer in layers:
        for part in (layer.attention.output, layer.output):
            part.dense.weight.zero_()
            part.dense.bias.zero_()
            part.LayerNorm.weight.fill_(1)
            part.LayerNorm.bias.zero_()


def last_norm(backbone: Any) -> Any:
    """Return the normalisation that a text's states come out of."""
    layers = backbone.encoder.layer
    return layers[-1].output.LayerNorm if len(layers) else backbone.embeddings.LayerNorm


def make_backbone(tokenizer: Any, hidden: int, shape: Shape) -> Any:
    """Return a BERT with layers that are the identity, and positions of no effect.

    Raises:
        UserError: the heads do not divide the width.
    """
    from transformers import BertConfig, BertModel

    heads = shape.num_heads
    if hidden % heads:
        if shape.num_layers:
            raise reject("--num_heads", heads, f"a divisor of the width, {hidden}")
        heads = 1  # without layers nothing has heads, but whoever reads the configuration may check them
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_positions,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        backbone = BertModel(config)  # with its pooler, which readers of the folder would report as missing
    with torch.no_grad():
        backbone.embeddings.position_embeddings.weight.zero_()
        backbone.embeddings.token_type_embeddings.weight.zero_()
    as_identity(backbone.encoder.layer)
    return backbone


def grow(old: Any, new: Any) -> None:
    """Put what a base has learnt into one with more layers behind its own: its vectors stay what they are."""
    state = old.state_dict()
    with torch.no_grad():
        new.load_state_dict({**new.state_dict(), **state})
        behind = last_norm(old)
        last_norm(new).weight.copy_(behind.weight)
        last_norm(new).bias.copy_(behind.bias)
        if len(new.encoder.layer) > len(old.encoder.layer):
            layers = len(old.encoder.layer)
            norm = new.encoder.layer[layers - 1].output.LayerNorm if layers else new.embeddings.LayerNorm
            norm.weight.fill_(1)
            norm.bias.zero_()


def plain_spec(positions: int, pooling: str = "mean") -> EncoderSpec:
    """Return what a base says of itself: no instructions, whatever it was trained with, and texts as long as can be."""
    return EncoderSpec(pooling=pooling, query_max_length=positions, key_max_length=positions)


def deepen(source: Path, shape: Shape) -> Encoder:
    """Return a base or run with more layers and without instructions; its vectors stay what they are.

    Raises:
        UserError: the source has more layers than are asked for, or another shape.
    """
    old = load_encoder(str(source), flag="SOURCE")
    new = make_backbone(old.tokenizer, old.config.hidden_size, shape)
    if len(new.encoder.layer) < len(old.backbone.encoder.layer):
        raise reject("--num_layers", shape.num_layers, f"at least {len(old.backbone.encoder.layer)}, those of {source}")
    sizes = {name: parameter.shape for name, parameter in new.named_parameters()}
    for name, parameter in old.backbone.named_parameters():
        if parameter.shape != (wanted := sizes.get(name, ())):
            raise UserError(
                f"SOURCE: {source}: {name} has {tuple(parameter.shape)} weights, expected {tuple(wanted)}: "
                "layers can be added to a base of `new-base`, with its --intermediate_size and --max_positions"
            )
    grow(old.backbone, new)
    return Encoder(new, old.tokenizer, plain_spec(shape.max_positions, old.spec.pooling))


def build(source: Path, corpus: Sequence[Path], shape: Shape, *, count: int = 40_000, power: float = 1.5) -> Encoder:
    """Make a base of a tokenizer.

    Args:
        source: the tokenizer's folder.
        corpus: files in which pieces are counted.
        shape: sizes.
        count: passages of the corpus to count in.
        power: of the weights of pieces.
    """
    from zh_embedder.bases.names import load_tokenizer

    tokenizer = load_tokenizer(str(source), flag="SOURCE")
    frequency, total = document_frequency(tokenizer, passages(corpus, count))
    weight = weights(frequency, total, power=power, special=tokenizer.all_special_ids)
    backbone = make_backbone(tokenizer, shape.hidden_size, shape)
    with torch.no_grad():
        backbone.embeddings.word_embeddings.weight.copy_(piece_vectors(weight, shape.hidden_size, seed=shape.seed))
        last_norm(backbone).weight[IDLE] = 0
    check_weights(backbone, (), (), where=str(source))
    logger.info("pieces counted in %s; mean weight %.3f", counted(total, "passage"), float(weight.mean()))
    return Encoder(backbone, tokenizer, plain_spec(shape.max_positions))
