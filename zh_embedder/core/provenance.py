"""Provenance of a result: command, data, seed, packages, machine, date."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from zh_embedder.core.ranks import started_ranks

PACKAGES = (
    "zh-embedder", "torch", "transformers", "sentence-transformers", "accelerate", "deepspeed", "peft", "datasets",
    "tokenizers", "numpy", "ir-measures", "scikit-learn", "bm25s", "jieba", "faiss-cpu", "faiss-gpu",
)  # fmt: skip
SECRET = ("token", "key", "password", "secret")


def manifest(*, data: Mapping[str, str] | None = None, **more: Any) -> dict[str, object]:
    """Tell where a result comes from.

    Args:
        data: hash of each data file's content.
        **more: anything else worth keeping, such as the seed.
    """
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        **more,
        "data": dict(data or {}),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {device}",
        "ranks": started_ranks(),
    }


def installed(package: str) -> str | None:
    """Return the version of a package, None where it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def command(argv: Sequence[str]) -> str:
    """Return a command line as it was typed, what looks like a secret left out."""
    shown: list[str] = [Path(argv[0]).name]
    hide = False
    for word in argv[1:]:
        name, equals, _ = word.partition("=")
        # `--token` and `--hub_token` name secrets; `--key_max_length` does not.
        secret = word.startswith("-") and name.lstrip("-").replace("-", "_").split("_")[-1] in SECRET
        shown.append("***" if hide else f"{name}=***" if secret and equals else word)
        hide = secret and not equals
    return shlex.join(shown)
