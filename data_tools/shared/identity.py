"""What things are known by: texts by 8 bytes, files by their content, models by what lies in their folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")


def digest(text: str) -> int:
    """Hash of a text, 64 bits, the same in every process: two of a million texts share one with probability 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_hashes(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's content, in order: names do not count."""
    return [file_hash(path) for path in paths]


def model_identity(name: str) -> str:
    """Hash of a model's folder; of a hub's model its name."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    whole = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.rglob(pattern)}):
        whole.update(f"{path.relative_to(folder)} {file_hash(path)}\n".encode())
    return whole.hexdigest()
