"""A layer that begins as what BM25 does with repeated words: each time counts less.

Mean pooling counts a piece as often as a text repeats it, n; BM25 counts it n / (n + k). One attention layer can do
that too. Every piece gets a code by which it finds its repetitions, and the first token takes the attention they leave:
n equal pieces attend with n r / (1 + n r) to each other and with the rest to the first token. What they find is taken
off what they say, so each keeps 1 / (1 + n r), and together they say n / (1 + n r): BM25's saturation with k = 1 / r.
It is a start, all of it is learnt further.

Codes, and what a piece does not weigh (see `new_base`), lie in dimensions that the last normalisation leaves out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zh_embedder.core.errors import reject

IDLE = slice(0, 20)  # dimensions that the last normalisation leaves out. Of these:
REST = slice(0, 2)  # what a piece does not weigh, with opposite signs
SINK = slice(2, 4)  # the same of the first token, so that it is told from all others
CODE = slice(4, 20)  # what a piece is known by
CODE_SHARE = 0.25  # of a state's squared length
SELF = 14.0  # score of a piece with itself; between other pieces it is about a quarter of it, either way


def make_codes(count: int, *, seed: int) -> Tensor:
    """Random codes of mean 0 and length 1, (count, width of CODE)."""
    codes = torch.randn(count, CODE.stop - CODE.start, generator=torch.Generator().manual_seed(seed))
    codes -= codes.mean(dim=1, keepdim=True)
    return codes / codes.norm(dim=1, keepdim=True)


@torch.no_grad()
def add_codes(embeddings: Any, *, first: int, seed: int) -> None:
    """Give every piece its code, and the first token its mark; what they say stays as it is.

    Rows come out normalised. A piece that weighs so much that its code has no room says a little less.

    Args:
        embeddings: those of a BERT without layers, or whose layers are the identity.
        first: id of the token that stands first, [CLS].
        seed: of the codes.
    """
    rows = embeddings.word_embeddings.weight
    width = rows.shape[1]
    said = torch.nn.functional.layer_norm(rows, (width,))
    said[:, IDLE] = 0
    said[first] = 0
    most = math.sqrt((1 - CODE_SHARE) * 0.98 * width)
    said *= (most / said.norm(dim=1, keepdim=True).clamp(min=1e-6)).clamp(max=1)
    new = said.clone()
    new[:, CODE] = make_codes(len(rows), seed=seed) * math.sqrt(CODE_SHARE * width)
    new[first, CODE] = 0
    offset = -new.sum(dim=1) / 2  # means are 0, so that normalising leaves rows as they are
    left = (width - new.square().sum(dim=1) - 2 * offset.square()).clamp(min=0).div(2).sqrt()
    new[:, REST] = torch.stack((offset + left, offset - left), dim=1)
    new[first, SINK], new[first, REST] = new[first, REST].clone(), 0
    rows.copy_(new)
    for shared in (embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight):
        shared[:, IDLE] = 0


@torch.no_grad()
def saturate(layer: Any, *, heads: int, rate: float) -> None:
    """Let a layer that is the identity begin as the saturation of repeated pieces.

    Each head compares codes and takes off its part of the dimensions.

    Args:
        layer: of a BERT whose pieces have codes.
        heads: its heads.
        rate: r, 1 / k of BM25; what stands once keeps 1 / (1 + r).

    Raises:
        UserError: a head is too narrow for a code.
    """
    attention = layer.attention.self
    width, code = attention.value.weight.shape[0], CODE.stop - CODE.start
    size = width // heads
    if size <= code:
        raise reject("--heads", heads, f"at most {width // (code + 1)}, as a head compares codes of {code} dimensions")
    for linear in (attention.query, attention.key, attention.value, layer.attention.output.dense):
        linear.weight.zero_()
        linear.bias.zero_()
    scale = math.sqrt(SELF * math.sqrt(size) / (CODE_SHARE * width))
    for start in range(0, width, size):
        for linear in (attention.query, attention.key):
            linear.weight[start : start + code, CODE] = scale * torch.eye(code)
        attention.query.bias[start + code] = math.sqrt(size) * (SELF - math.log(rate))
        attention.key.weight[start + code, SINK] = torch.tensor([1.0, -1.0]) / math.sqrt(2 * width)
    said = torch.eye(width)
    said[IDLE] = 0
    attention.value.weight.copy_(said)
    layer.attention.output.dense.weight.copy_(-said)
