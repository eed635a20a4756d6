"""A base that nobody has pretrained: a BERT whose vectors mean something before its first step.

A text's vector begins as the sum of its pieces' vectors, rare pieces counting more: nearly orthogonal random
directions, weighted by inverse document frequency in a corpus. BERT normalises the length of every token's state, so
weights cannot be lengths: a piece of small weight has most of its length in two dimensions, which the last
normalisation leaves out. Layers begin as the identity: what they add to a state is zero until it is learnt. So layers
can also be put onto a base that was trained without them. The first one may begin as
BM25's saturation of repeated words.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zh_embedder.core.errors import exit_code, reject
from zh_embedder.core.options import HelpFormatter
from zh_embedder.data.text_files import find_texts, spread
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.folders import encoder_folder
from zh_embedder.models.spec import EncoderSpec
from zh_embedder.pretraining.saturation import IDLE, REST, add_codes, saturate
from zh_embedder.text.tokens import tokenize

logger = logging.getLogger(__name__)

EXAMPLE = "python -m zh_embedder.new_base vocabulary --corpus corpus/*.jsonl.zst --output_dir base --hidden_size 320"
PASSAGE = 300  # characters of a passage in which a piece counts once
LEAST, MOST = 0.02, 0.6  # weight of a piece that stands everywhere, and of one that stands nowhere


def passages(paths: Sequence[Path], count: int) -> Iterator[str]:
    """Yield passages of a corpus, about as many of each file, evenly spread over its texts."""
    for path in paths:
        for index, (_, text) in enumerate(spread(path, -(-count // len(paths)))):
            start = (index * 7919) % max(1, len(text) - PASSAGE + 1)  # not always the beginning
            yield text[start : start + PASSAGE]


def document_frequency(tokenizer: Any, texts: Iterator[str]) -> tuple[NDArray[np.int64], int]:
    """Count in how many texts each piece stands, (V,), and the texts."""
    found, total = np.zeros(len(tokenizer), np.int64), 0
    for text in texts:
        found[np.unique(tokenize(tokenizer, [text], 1 << 20)[0])] += 1
        total += 1
    return found, total


def weights(frequency: NDArray[np.int64], total: int, *, power: float, special: Sequence[int]) -> NDArray[np.float32]:
    """Weight pieces by idf: log((N + 1) / (n + 1)) / log(N + 1), to a power, between LEAST and MOST.

    Args:
        frequency: (V,) texts that a piece stands in.
        total: texts.
        power: 1.5 lies between idf on both sides of a comparison (2 in sum) and on one.
        special: ids of pieces that count least.
    """
    idf = np.log((total + 1) / (frequency + 1)) / np.log(total + 1)
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


def make_backbone(
    tokenizer: Any, *, hidden: int, layers: int, heads: int, intermediate: int, positions: int, seed: int
) -> Any:
    """Return a BERT with layers that are the identity, and positions of no effect.

    Raises:
        UserError: the heads do not divide the width.
    """
    from transformers import BertConfig, BertModel

    if hidden % heads:
        raise reject("--heads", heads, f"a divisor of the width, {hidden}")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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


def begin_layers(backbone: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Let the first layer begin as more than the identity, where that is asked for.

    Raises:
        UserError: the base has no dimensions free for it.
    """
    if args.saturate:
        norm = last_norm(backbone)
        if norm.weight[IDLE].any() or norm.bias[IDLE].any():
            raise reject(
                "--saturate", args.saturate, f"a base of `new_base`, whose first {IDLE.stop} dimensions say nothing"
            )
        add_codes(backbone.embeddings, first=tokenizer.cls_token_id, seed=args.seed)
        saturate(backbone.encoder.layer[0], heads=args.heads, rate=args.saturate)


def plain_spec(positions: int, pooling: str = "mean") -> EncoderSpec:
    """Return what a base says of itself: no instructions, whatever it was trained with, and texts as long as can be."""
    return EncoderSpec(pooling=pooling, query_max_length=positions, key_max_length=positions)


def build(args: argparse.Namespace) -> Encoder:
    """Make the base that the flags ask for."""
    from transformers import AutoTokenizer

    source = Path(encoder_folder(args.source))
    shape = {name: getattr(args, name) for name in ("layers", "heads", "intermediate", "positions", "seed")}
    if (source / "config.json").is_file():
        old = load_encoder(str(source), flag="SOURCE")
        new = make_backbone(old.tokenizer, hidden=old.config.hidden_size, **shape)
        if len(new.encoder.layer) < len(old.backbone.encoder.layer):
            raise reject("--layers", args.layers, f"at least {len(old.backbone.encoder.layer)}, those of {source}")
        if args.saturate and len(old.backbone.encoder.layer):
            raise reject(
                "--saturate", args.saturate, f"a SOURCE without layers, as pieces of {source} lose their codes in them"
            )
        grow(old.backbone, new)
        begin_layers(new, old.tokenizer, args)
        return Encoder(new, old.tokenizer, plain_spec(args.positions, old.spec.pooling))
    if not args.corpus:
        raise reject("--corpus", args.corpus, "files to count pieces in, as SOURCE is a tokenizer and no base")
    tokenizer = AutoTokenizer.from_pretrained(source)
    frequency, total = document_frequency(tokenizer, passages(find_texts(args.corpus), args.passages))
    weight = weights(frequency, total, power=args.power, special=tokenizer.all_special_ids)
    backbone = make_backbone(tokenizer, hidden=args.hidden_size, **shape)
    with torch.no_grad():
        backbone.embeddings.word_embeddings.weight.copy_(piece_vectors(weight, args.hidden_size, seed=args.seed))
        last_norm(backbone).weight[IDLE] = 0
    begin_layers(backbone, tokenizer, args)
    logger.info("pieces counted in %d passages; mean weight %.3f", total, float(weight.mean()))
    return Encoder(backbone, tokenizer, plain_spec(args.positions))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(prog="python -m zh_embedder.new_base", description=__doc__)
    parser.formatter_class, parser.epilog = HelpFormatter, f"example: {EXAMPLE}"
    parser.add_argument(
        "source",
        help="a tokenizer folder; or a run or base made here, which gets more layers and loses its instructions",
    )
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for the base; replaced if it exists")
    parser.add_argument("--corpus", nargs="+", metavar="FILE", help="texts to count tokens in, as for `vocabulary`")
    parser.add_argument(
        "--passages",
        type=int,
        default=40000,
        metavar="N",
        help="number of passages of the corpus to count in",
    )
    parser.add_argument("--power", type=float, default=1.5, help="exponent of the token weights")
    parser.add_argument("--hidden_size", type=int, default=320, metavar="N", help="hidden size of a new base")
    parser.add_argument(
        "--num_layers",
        type=int,
        default=0,
        metavar="N",
        help="number of layers, including those of the base",
        dest="layers",
    )
    parser.add_argument(
        "--num_heads",
        type=int,
        default=5,
        metavar="N",
        help="number of attention heads",
        dest="heads",
    )
    parser.add_argument(
        "--intermediate_size",
        type=int,
        default=768,
        metavar="N",
        help="width of feed-forward layers",
        dest="intermediate",
    )
    parser.add_argument(
        "--saturate",
        type=float,
        default=0.0,
        metavar="R",
        help="initialise the first layer as BM25's saturation of repeated words with k = 1 / R (0: identity)",
    )
    parser.add_argument(
        "--max_positions",
        type=int,
        default=512,
        metavar="N",
        help="maximum tokens of a text",
        dest="positions",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    return parser


def run(args: argparse.Namespace) -> None:
    """Build a base and write its folder."""
    least = {"passages": 1, "hidden_size": 2 * IDLE.stop, "heads": 1, "intermediate": 1, "positions": 3, "saturate": 0}
    least["layers"] = 1 if args.saturate else 0
    for name, limit in least.items():
        if getattr(args, name) < limit:
            raise reject(f"--{name}", getattr(args, name), f"{limit} or more")
    encoder = build(args)
    encoder.save(args.output_dir)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    logger.info("%s: %d parameters, %d layers of %d", args.output_dir, parameters, args.layers, encoder.dimension)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    from zh_embedder.core.runtime import parse_command

    args = parse_command("new-base", make_parser(), argv)
    return exit_code(lambda: run(args))
