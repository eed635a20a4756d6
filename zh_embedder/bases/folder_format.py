"""Folder format of sentence-transformers, as frozen data: what we write into encoder folders and read from any.

We write the older schema (module types under `sentence_transformers.models`, one boolean per pooling mode), which old
and new readers and servers all understand. A folder without these files would silently be mean-pooled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json, write_json

MODULES, SETTINGS, LENGTHS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
TOKENIZER = "tokenizer_config.json"
POOLING, DENSE, NORMALIZE = "1_Pooling", "2_Dense", "Normalize"
# All that a folder of an encoder may hold, that of an earlier save first.
TOKENIZER_FILES = (
    "tokenizer.json", TOKENIZER, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "*.model", "chat_template.jinja",
)  # fmt: skip
ENCODER_FILES = (
    MODULES, SETTINGS, LENGTHS, "config.json", "generation_config.json", "zh_embedder.json", "*.safetensors",
    "*.safetensors.index.json", "README.md", "[0-9]_*/config.json", "[0-9]_*/*.safetensors", *TOKENIZER_FILES,
)  # fmt: skip
STAGES = ("Transformer", "Pooling", "Dense", NORMALIZE)
NO_LIMIT = 10**6  # transformers writes 1e30 where a tokenizer has no maximum
# Every switch of a sentence-transformers `1_Pooling/config.json` in the older schema, also of poolings that we lack.
SENTENCE_TRANSFORMERS_SWITCH: Mapping[str, str] = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last_token": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
}
NEWER_NAMES = {"lasttoken": "last_token", "mean_sqrt_len_tokens": "mean_sqrt_len", "weightedmean": "weighted_mean"}
SIMILARITY = {"cos": "cosine", "ip": "dot", "l2": "euclidean"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What a sentence-transformers folder says about how vectors are made."""

    pooling: str
    dimension: int
    metric: str
    max_length: int
    normalize: bool = True
    dense: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)


def modules(layout: Layout) -> list[dict[str, object]]:
    """Return the entries of modules.json."""
    stages = [("Transformer", ""), ("Pooling", POOLING)]
    if layout.dense:
        stages.append(("Dense", DENSE))
    if layout.normalize:
        stages.append((NORMALIZE, f"{len(stages)}_{NORMALIZE}"))
    return [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(stages)
    ]


def write_layout(folder: Path, layout: Layout) -> None:
    """Write the sentence-transformers files beside the weights (the dense layer's weights are the caller's)."""
    switches = {switch: name == layout.pooling for name, switch in SENTENCE_TRANSFORMERS_SWITCH.items()}
    write_json(folder / MODULES, modules(layout))
    write_json(folder / LENGTHS, {"max_seq_length": layout.max_length, "do_lower_case": False})
    write_json(
        folder / POOLING / "config.json",
        {"word_embedding_dimension": layout.dimension, **switches, "include_prompt": True},
    )
    write_json(
        folder / SETTINGS,
        {
            "__version__": {name: version(name) for name in ("sentence-transformers", "transformers", "torch")},
            "prompts": dict(layout.prompts),
            "default_prompt_name": None,
            "similarity_fn_name": SIMILARITY[layout.metric],
        },
    )
    for module in modules(layout):
        (folder / str(module["path"])).mkdir(parents=True, exist_ok=True)


def read_layout(folder: Path, *, poolings: Collection[str], pooling: str | None = None) -> Layout | None:
    """Read a sentence-transformers folder, older or newer schema; None where it is none.

    Args:
        folder: the folder.
        poolings: those that we have.
        pooling: stands in place of the folder's.

    Raises:
        UserError: it pools in a way that we do not have, or does with its vectors what we do not.
    """
    if not (folder / MODULES).is_file():
        return None
    found = [(str(m["type"]).rsplit(".", 1)[-1], folder / str(m["path"])) for m in read_json(folder / MODULES)]
    stages = dict(found)
    if len(stages) < len(found) or not set(stages) <= set(STAGES):
        names = " -> ".join(name for name, _ in found)
        raise UserError(f"{folder / MODULES}: got the stages {names}, expected at most one each of {', '.join(STAGES)}")
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    pooling_file = stages.get("Pooling", folder / POOLING) / "config.json"
    pools = read_json(pooling_file) if pooling_file.is_file() else {}
    metric = {name: ours for ours, name in SIMILARITY.items()}.get(
        settings.get("similarity_fn_name") or "cosine", "cos"
    )
    return Layout(
        pooling=pooling or pooling_name(pools, poolings, pooling_file),
        dimension=int(pools.get("word_embedding_dimension") or pools.get("embedding_dimension") or 0),
        metric=metric,
        max_length=maximum_length(folder),
        normalize=NORMALIZE in stages,
        dense="Dense" in stages,
        prompts={name: text or "" for name, text in (settings.get("prompts") or {}).items()},
    )


def maximum_length(folder: Path) -> int:
    """Return the tokens that a folder allows a text, 0 where it does not say; the newer schema asks the tokenizer."""
    for name, entry in ((LENGTHS, "max_seq_length"), (TOKENIZER, "model_max_length")):
        length = read_json(folder / name).get(entry) if (folder / name).is_file() else None
        if length and length < NO_LIMIT:
            return int(length)
    return 0


def pooling_name(config: Mapping[str, object], poolings: Collection[str], path: Path) -> str:
    """Return our name of a pooling, from the booleans of the older schema or the name of the newer one."""
    newer = config.get("pooling_mode")
    chosen = [name for name, switch in SENTENCE_TRANSFORMERS_SWITCH.items() if config.get(switch)]
    if isinstance(newer, str):
        chosen = [NEWER_NAMES.get(newer, newer)]
    if len(chosen) != 1 or chosen[0] not in poolings or config.get("include_prompt") is False:
        raise UserError(f"{path}: this pooling is not one of {', '.join(poolings)}: {dict(config)}")
    return chosen[0]
