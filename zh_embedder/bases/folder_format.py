"""Folder format of sentence-transformers, as frozen data: what we write into encoder folders and read from any.

We write the older schema (module types under `sentence_transformers.models`, one boolean per pooling mode), which old
and new readers and servers all understand. A folder without these files would silently be mean-pooled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from zh_embedder.bases.fields import Fields, as_text, read_any
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import write_json

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
    include_prompt: bool = True  # pool the prompt's tokens too
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
        {"word_embedding_dimension": layout.dimension, **switches, "include_prompt": layout.include_prompt},
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


def read_layout(
    folder: Path,
    *,
    poolings: Collection[str],
    without_prompt: Collection[str] = (),
    pooling: str | None = None,
    include_prompt: bool | None = None,
) -> Layout | None:
    """Read a sentence-transformers folder, older or newer schema; None where it is none.

    Args:
        folder: the folder.
        poolings: those that we have.
        without_prompt: those of them that can leave a prompt's tokens out.
        pooling: stands in place of the folder's; the folder's `include_prompt` counts where it can.
        include_prompt: stands in place of the folder's.

    Raises:
        UserError: a field is wrong, it pools in a way that we do not have, or does with its vectors what we do not.
    """
    if not (folder / MODULES).exists():
        return None
    stages = read_stages(folder / MODULES)
    settings = Fields.read(folder / SETTINGS)
    pools = Fields.read(folder / stages["Pooling"] / "config.json")
    similarity = settings.text("similarity_fn_name") or "cosine"
    metrics = {name: ours for ours, name in SIMILARITY.items()}
    if similarity not in metrics:
        raise reject(settings.where("similarity_fn_name"), similarity, f"one of {', '.join(metrics)}")
    dimension = [pools.whole(name) for name in ("word_embedding_dimension", "embedding_dimension")]
    found = pooling or pooling_name(pools, poolings)
    if include_prompt is None:
        include_prompt = prompt_included(pools, found, without_prompt, chosen=pooling is not None)
    return Layout(
        pooling=found,
        dimension=next((value for value in dimension if value), 0),
        metric=metrics[similarity],
        max_length=maximum_length(folder),
        normalize=NORMALIZE in stages,
        dense="Dense" in stages,
        include_prompt=include_prompt,
        prompts=read_prompts(settings),
    )


def read_stages(path: Path) -> Mapping[str, str]:
    """Read modules.json: name -> folder of each stage, in their order.

    Raises:
        UserError: there are others than ours, or in another order.
    """
    entries = read_any(path)
    if not isinstance(entries, list):
        raise reject(str(path), entries, "a list of stages")
    found: list[tuple[str, str]] = []
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise reject(f"{path}: [{place}]", entry, "a JSON object")
        kind, inner = (as_text(f"{path}: [{place}].{name}", entry.get(name)) for name in ("type", "path"))
        found.append((kind.rsplit(".", 1)[-1], inner))
        if Path(inner).is_absolute() or ".." in Path(inner).parts:
            raise reject(f"{path}: [{place}].path", inner, "a folder inside this one")
    names = [name for name, _ in found]
    if names != [name for name in STAGES if name in names] or not {"Transformer", "Pooling"} <= set(names):
        raise UserError(
            f"{path}: got the stages {' -> '.join(names) or '(none)'}, expected Transformer and Pooling, and at most "
            f"one each of {', '.join(STAGES[2:])} behind them: other vectors than these cannot be made here"
        )
    if found[0][1] not in ("", "."):
        raise reject(f"{path}: [0].path", found[0][1], "'': the model itself must lie in the folder, not below it")
    return dict(found)


def read_prompts(settings: Fields) -> Mapping[str, str]:
    """Read the prompts of a folder; its `default_prompt_name` is that of texts of no side, which have none here."""
    prompts = {
        name: "" if text is None else as_text(settings.where(f"prompts.{name}"), text)
        for name, text in settings.mapping("prompts").items()
    }
    default = settings.text("default_prompt_name")
    if default is not None and default not in prompts:
        raise reject(settings.where("default_prompt_name"), default, f"one of {', '.join(prompts) or 'the prompts'}")
    return prompts


def maximum_length(folder: Path) -> int:
    """Return the tokens that a folder allows a text, 0 where it does not say; the newer schema asks the tokenizer."""
    for name, entry, low in ((LENGTHS, "max_seq_length", 1), (TOKENIZER, "model_max_length", 1)):
        length = Fields.read(folder / name).whole(entry, low=low)
        if length and length < NO_LIMIT:
            return length
    return 0


def prompt_included(fields: Fields, pooling: str, without_prompt: Collection[str], *, chosen: bool) -> bool:
    """Return whether a folder pools the prompt's tokens too; a pooling chosen instead of its own may not let it choose.

    Raises:
        UserError: it leaves them out of a pooling of its own that takes one token.
    """
    if fields.flag("include_prompt", default=True):
        return True
    if pooling not in without_prompt and not chosen:
        raise reject(
            fields.where("include_prompt"),
            False,
            f"true with the pooling {pooling}: --include_prompt True reads it so",
        )
    return pooling not in without_prompt


def pooling_name(fields: Fields, poolings: Collection[str]) -> str:
    """Return our name of a pooling, from the booleans of the older schema or the name of the newer one.

    Args:
        fields: of the file.
        poolings: those that we have.

    Raises:
        UserError: it is none of ours.
    """
    found = [name for name, switch in SENTENCE_TRANSFORMERS_SWITCH.items() if fields.flag(switch, default=False)]
    newer = fields.values.get("pooling_mode")
    if newer is not None:
        names = [
            as_text(fields.where("pooling_mode"), name) for name in (newer if isinstance(newer, list) else [newer])
        ]
        found = [NEWER_NAMES.get(name, name) for name in names]
    if len(found) != 1 or found[0] not in poolings:
        raise UserError(
            f"{fields.path}: got the pooling {' + '.join(found) or '(none)'}, expected one of {', '.join(poolings)}; "
            "--pooling_method takes another in its place"
        )
    return found[0]
