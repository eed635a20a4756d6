"""Base names: packaged bases, hub names, and what to do where one cannot be loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from zh_embedder.bases.folder_format import DENSE
from zh_embedder.core.errors import UserError

PACKAGED = {"nano-zh": Path(__file__).parent / "nano_zh"}  # bases that come with the package, by name


def hub_folder(name: str, *, cache_dir: str | None, token: str | None) -> Path | None:
    """Fetch the small sentence-transformers files of a hub model; None where it has none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", f"{DENSE}/*", "*_Pooling/*", "*_Normalize/*"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, cache_dir=cache_dir, token=token))
    except (HfHubHTTPError, LocalEntryNotFoundError):
        return None


def load_tokenizer(name: str, *, flag: str, **hub: Any) -> Any:
    """Load a tokenizer by folder or hub name.

    Args:
        name: of the tokenizer, or of the model whose tokenizer it is.
        flag: what the user typed it behind, for messages.
        **hub: `cache_dir`, `token`, `trust_remote_code`.

    Raises:
        UserError: there is none; the message says what to do.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **hub)
    except (OSError, ValueError) as error:
        raise UserError(cannot_load(flag, name, error)) from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without its files
        raise UserError(f"{flag}: {name}: has no tokenizer, expected its files in the folder")
    return tokenizer


def cannot_load(flag: str, name: str, error: Exception) -> str:
    """Say why a base could not be loaded and what to do about it."""
    path = Path(name).expanduser()
    first = str(error).strip().split("\n")[0]
    if path.is_dir():
        return f"{flag}: {name}: not a model folder: {first}"
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):  # the shape of a hub name
        return f"{flag}: got {name!r}, expected a folder that is there, or a hub name such as BAAI/bge-large-zh-v1.5"
    return (
        f"{flag}: {name} could not be loaded: there is no such folder here, and the hub gave: {first}\n"
        f"  - no network? On a machine that has one: `hf download {name} --local-dir {path.name}`, then give "
        "the copied folder\n"
        "  - behind a mirror? `export HF_ENDPOINT=https://...`\n"
        "  - downloaded before? `export HF_HUB_OFFLINE=1` reads the cache alone (--model_cache_dir, or HF_HOME)\n"
        "  - private? `export HF_TOKEN=...`\n"
        f"  - no model at hand? nano-zh, a small base that comes with this package, can be named instead of {name}"
    )
