"""Base names: packaged bases, hub names, and what to do where one cannot be loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from zh_embedder.bases.catalogue import BASES, Hub
from zh_embedder.bases.fields import Fields
from zh_embedder.bases.folder_format import DENSE, LENGTHS
from zh_embedder.bases.load_errors import CONFIG, WEIGHTS, attempt, config_error, in_words, tokenizer_error
from zh_embedder.bases.tokenizer_backend import lower_cased
from zh_embedder.core.errors import UserError, closest, nearest, nearest_path, reject

NAMED = (CONFIG, *WEIGHTS)  # a folder with one of these may be a base


def hub_folder(name: str, *, cache_dir: str | None, token: str | None) -> Path | None:
    """Fetch the small sentence-transformers files of a hub model; None where it has none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", f"{DENSE}/*", "*_Pooling/*", "*_Normalize/*"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, cache_dir=cache_dir, token=token))
    except (HfHubHTTPError, LocalEntryNotFoundError):
        return None


def load_config(name: str, *, flag: str, **hub: Any) -> Any:
    """Load a configuration by folder or hub name.

    Args:
        name: of the folder, or on the hub.
        flag: what the user typed it behind, for messages.
        **hub: `cache_dir`, `token`, `trust_remote_code`.

    Raises:
        UserError: there is none, or a field is wrong.
    """
    from transformers import AutoConfig

    folder = Path(name).expanduser()
    if folder.is_dir():
        check_config(folder, flag=flag)
    config = attempt(lambda: AutoConfig.from_pretrained(name, **hub))
    if isinstance(config, Exception):
        raise config_error(flag, folder, config) if folder.is_dir() else unreachable(flag, name, config)
    return config


# Sizes of a model and their range. Far larger ones are no model: making it would never end.
SIZES = {
    "hidden_size": (1, 10**5),
    "num_hidden_layers": (0, 1000),
    "num_attention_heads": (1, 10**4),
    "intermediate_size": (1, 10**6),
    "vocab_size": (1, 10**8),
    "max_position_embeddings": (1, 10**8),
    "type_vocab_size": (0, 10**6),
}


def check_config(folder: Path, *, flag: str) -> None:
    """Refuse a configuration whose type or sizes are none.

    Raises:
        UserError: with the file and the field.
    """
    path = folder / CONFIG
    if not path.exists():
        raise UserError(f"{flag}: {folder}: has no {CONFIG}, expected the folder of a base")
    try:
        fields = Fields.read(path)
        kind, pad = fields.text("model_type"), fields.values.get("pad_token_id")
        for name, (low, high) in SIZES.items():
            if name in fields.values:
                fields.whole(name, low=low, high=high)
                if fields.values[name] is None or isinstance(fields.values[name], float):
                    raise reject(fields.where(name), fields.values[name], "a whole number")
        rows = fields.whole("vocab_size")
        if isinstance(pad, int) and rows is not None and pad >= rows:
            raise reject(fields.where("pad_token_id"), pad, f"below {rows}, the vocab_size")
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None
    if kind is None:
        raise UserError(f"{flag}: {path}: model_type: is missing, expected the type of the model, such as 'bert'")


def load_tokenizer(name: str, *, flag: str, settings: Path | None = None, **hub: Any) -> Any:
    """Load a tokenizer by folder or hub name; it lower-cases texts where the base's settings say so.

    Args:
        name: of the tokenizer, or of the model whose tokenizer it is.
        flag: what the user typed it behind, for messages.
        settings: the folder of the base, where that is another.
        **hub: `cache_dir`, `token`, `trust_remote_code`.

    Raises:
        UserError: there is none; the message says what to do.
    """
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    tokenizer = attempt(lambda: AutoTokenizer.from_pretrained(name, use_fast=True, **hub))
    if isinstance(tokenizer, Exception):
        raise tokenizer_error(flag, folder, tokenizer) if folder.is_dir() else unreachable(flag, name, tokenizer)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without its files
        raise UserError(f"{flag}: {name}: has no tokenizer, expected its files in the folder")
    said = Fields.read((settings or folder) / LENGTHS)
    if said.flag("do_lower_case", default=False):
        if not tokenizer.is_fast:
            raise reject(said.where("do_lower_case"), True, "false: this tokenizer is Python code of its own")
        tokenizer = lower_cased(tokenizer)
    return tokenizer


def unreachable(flag: str, name: str, error: Exception) -> UserError:
    """Say why a base that is no folder here could not be loaded."""
    if not isinstance(error, OSError | ValueError):  # it is in the cache, and damaged
        return UserError(f"{flag}: {name}: {in_words(error)}")
    return UserError(cannot_load(flag, name, error))


def cannot_load(flag: str, name: str, error: Exception) -> str:
    """Say why a base could not be loaded and what to do about it."""
    path = Path(name).expanduser()
    first = str(error).strip().split("\n")[0]
    if path.is_dir():
        return f"{flag}: {name}: not a model folder: {first}"
    near = nearest_folder(path) or nearest_base(name)
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):  # the shape of a hub name
        return (
            f"{flag}: got {name!r}, expected a folder that is there, or a hub name such as BAAI/bge-large-zh-v1.5"
            + near
        )
    return (
        f"{flag}: {name} could not be loaded: there is no such folder here, and the hub gave: {first}{near}\n"
        f"  - no network? On a machine that has one: `hf download {name} --local-dir {path.name}`, then give "
        "the copied folder\n"
        "  - behind a mirror? `export HF_ENDPOINT=https://...`\n"
        "  - downloaded before? `export HF_HUB_OFFLINE=1` reads the cache alone (--model_cache_dir, or HF_HOME)\n"
        "  - private? `export HF_TOKEN=...`\n"
        f"  - no model at hand? nano-zh, a small base that comes with this package, can be named instead of {name}, or "
        "e5-small-zh, which the package index has; `zh-embedder bases` lists more"
    )


def nearest_folder(path: Path) -> str:
    """Return `; did you mean 'x'?` for a folder that looks like a missing one, there or in the working directory."""
    if near := nearest_path(path):
        return near
    known = [entry.name for entry in Path().iterdir() if entry.is_dir() and any((entry / n).is_file() for n in NAMED)]
    found = closest(path.name, known)
    return "" if found is None else f"; did you mean './{found}'?"


def nearest_base(name: str) -> str:
    """Return `; did you mean 'e5-small-zh'?` for a name like that of a base which needs no hub."""
    return nearest(name, [base.name for base in BASES.values() if not isinstance(base.source, Hub)])
