"""Smaller bases: some layers and some pieces of a pretrained one, as a start for distillation.

What is kept keeps its weights. Without all of its layers a base's vectors are worth little until they are trained:
`train --teacher_encoder` teaches them to be the whole base's again.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zh_embedder.bases.charsmap import charsmap
from zh_embedder.bases.tokenizer_backend import of_content, with_backend
from zh_embedder.bases.unigram import BLANK, prune_tokenizer
from zh_embedder.bases.vocabulary import common_characters, simplified
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, reject
from zh_embedder.data.text_files import spread
from zh_embedder.models.encoder import Encoder, load_encoder

logger = logging.getLogger(__name__)

LAYER = re.compile(r"(.*\bencoder\.layer\.)(\d+)(\..*)")
AT_ONCE = 256  # texts that are cut in one go


def shrink(
    source: str,
    *,
    layers: Sequence[int] | None,
    pieces: int | None,
    corpus: Sequence[Path],
    documents: int | None = None,
    fold: bool = False,
) -> Encoder:
    """Return a base with some of its layers and pieces.

    Args:
        source: a base with a Unigram tokenizer where pieces are chosen: folder or name.
        layers: that are kept, rising, counted from 0; None keeps all.
        pieces: how many are kept; None keeps all.
        corpus: files in which pieces are counted.
        documents: count this many texts of each file at most, evenly spread.
        fold: read Traditional characters as Simplified ones, whose pieces are then needed no longer.

    Raises:
        UserError: the base has another shape or another tokenizer, or lacks such layers.
    """
    old = load_encoder(source, flag="SOURCE")
    config, state, tokenizer = deepcopy(old.backbone.config), dict(old.backbone.state_dict()), old.tokenizer
    if layers is not None:
        state = with_layers(state, layers, source=source)
        config.num_hidden_layers = len(layers)
    if pieces is not None:
        folds = simplified() if fold else {}
        content = tokenizer_content(tokenizer, folds, source=source)
        shares = piece_shares(content, corpus, documents=documents)
        kept = choose(content, shares, pieces, folds=folds)
        tokenizer = with_backend(tokenizer, of_content(prune_tokenizer(content, kept, where=source)))
        rows = old.backbone.get_input_embeddings().weight
        name = next(name for name, weight in old.backbone.named_parameters() if weight is rows)
        state[name] = state[name][torch.tensor(kept)]
        config.vocab_size, config.pad_token_id = len(kept), tokenizer.pad_token_id
        logger.info("%d of %d pieces are kept: %.2f %% of the corpus", len(kept), len(shares), 100 * shares[kept].sum())
    new = type(old.backbone)(config)
    new.load_state_dict(state)
    made = Encoder(new, tokenizer, old.spec)
    if made.dense is not None and old.dense is not None:
        made.dense.load_state_dict(old.dense.state_dict())
    return made


# ---- layers ---------------------------------------------------------------------------------------------------------


def with_layers(state: Mapping[str, Tensor], layers: Sequence[int], *, source: str) -> dict[str, Tensor]:
    """Return the weights without those of other layers, which are counted anew.

    Raises:
        UserError: the base lacks such a layer, or its layers have other names than BERT's.
    """
    found = sorted({int(match[2]) for name in state if (match := LAYER.fullmatch(name))})
    if not found:
        raise UserError(
            f"SOURCE: {source}: expected a base with layers named as BERT's, `encoder.layer.0`, to choose from"
        )
    for before, one in zip([-1, *layers], layers, strict=False):
        if not before < one <= found[-1]:
            raise reject("--layers", " ".join(map(str, layers)), f"numbers that rise, from 0 to {found[-1]}")
    new = {old: index for index, old in enumerate(layers)}
    kept: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = LAYER.fullmatch(name)
        if match is None:
            kept[name] = tensor
        elif int(match[2]) in new:
            kept[f"{match[1]}{new[int(match[2])]}{match[3]}"] = tensor
    return kept


# ---- pieces ---------------------------------------------------------------------------------------------------------


def tokenizer_content(tokenizer: Any, folds: Mapping[str, str], *, source: str) -> dict[str, Any]:
    """Return the content of tokenizer.json, with a table of characters applied behind its own normaliser.

    Raises:
        UserError: it is no Unigram tokenizer.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    if (kind := content["model"].get("type")) != "Unigram":
        raise UserError(f"SOURCE: {source}: has a {kind or 'slow'} tokenizer, expected Unigram for --pieces")
    if not folds:
        return dict(content)
    before = content["normalizer"]
    steps = before["normalizers"] if before and before["type"] == "Sequence" else [before] if before else []
    last = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap(folds)).decode()}
    return {**content, "normalizer": {"type": "Sequence", "normalizers": [*steps, last]}}


def piece_shares(content: Mapping[str, Any], corpus: Sequence[Path], *, documents: int | None) -> NDArray[np.float64]:
    """Mean over files of the share that each piece has of a file's tokens, (V,): every file weighs the same."""
    cut = of_content(content)
    cut.no_truncation()
    shares = np.zeros(cut.get_vocab_size())
    for path in corpus:
        counts = np.zeros(len(shares), np.int64)
        texts = (text for _, text in spread(path, documents, with_title=True))
        while some := list(islice(texts, AT_ONCE)):
            encodings = cut.encode_batch_fast(some, add_special_tokens=False)
            counts += np.bincount([index for one in encodings for index in one.ids], minlength=len(shares))
        shares += counts / max(1, counts.sum()) / len(corpus)
        logger.info("%s: %s", path.name, counted(int(counts.sum()), "token"))
    return shares


def choose(
    content: Mapping[str, Any], shares: NDArray[np.float64], total: int, *, folds: Mapping[str, str]
) -> list[int]:
    """Return the ids of the pieces to keep, rising.

    Kept are special tokens, the blank, ASCII characters and the Chinese characters of common character sets, which no
    text may lack; then what the corpus has most of.

    Args:
        content: of tokenizer.json, of a Unigram model.
        shares: of each piece in the corpus, (V,).
        total: pieces to keep.
        folds: characters that become others, so that no text has pieces with them.

    Raises:
        UserError: there are too few pieces, or `total` does not hold what every text may need.
    """
    names = [piece for piece, _ in content["model"]["vocab"]]
    needed = {BLANK, *map(chr, range(33, 127)), *common_characters(dict(folds))}
    kept = {token["id"] for token in content["added_tokens"]} | {i for i, name in enumerate(names) if name in needed}
    if not len(kept) <= total <= len(names):
        raise reject("--pieces", total, f"{len(kept)} (characters and special tokens) to {len(names)}")
    for index in np.argsort(-shares, kind="stable"):
        if len(kept) >= total or not shares[index]:
            break
        kept.add(int(index))
    return sorted(kept)
