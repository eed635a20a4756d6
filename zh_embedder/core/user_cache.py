"""Cache folder of the user: what is dear to make and may be made again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ZH_EMBEDDER_CACHE"


def user_cache(given: str | None = None) -> Path:
    """Return the folder: the one given, else $ZH_EMBEDDER_CACHE, else ~/.cache/zh_embedder."""
    return Path(given or os.environ.get(VARIABLE) or Path("~/.cache/zh_embedder").expanduser())
