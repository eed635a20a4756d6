"""Encoder folders inside runs and checkpoints."""

from __future__ import annotations

from pathlib import Path

from zh_embedder.bases.modelscope import is_modelscope, local_name
from zh_embedder.bases.names import PACKAGED

QUERY_FOLDER, KEY_FOLDER = "encoder", "key_encoder"


def encoder_folder(name_or_path: str, *, flag: str = "model") -> str:
    """Turn the folder of a run or checkpoint into its `encoder/`, and names of bases into their folders.

    Args:
        name_or_path: of a folder; of a packaged base; of one of ModelScope's, which is downloaded; any other stays.
        flag: what the user typed it behind, for messages.

    Raises:
        UserError: it cannot be downloaded.
    """
    if is_modelscope(name_or_path):
        return local_name(name_or_path, flag=flag)
    path = Path(name_or_path).expanduser()
    if name_or_path in PACKAGED and not path.is_dir():  # a folder here comes first, as with hub names
        return str(PACKAGED[name_or_path])
    inner = path / QUERY_FOLDER
    if (inner / "config.json").is_file():
        return str(inner)
    return str(path) if path.is_dir() else str(name_or_path)


def key_folder(name_or_path: str) -> str | None:
    """Return the folder of a run's or checkpoint's key encoder; None where one encoder serves both sides."""
    inner = Path(name_or_path).expanduser() / KEY_FOLDER
    return str(inner) if (inner / "config.json").is_file() else None
