"""Hashes of texts, files, models and settings: the same in every process and on every machine.

The only module that imports hashlib. A changed value here means other caches, other splits and runs that cannot be
resumed: tests/core/test_hashing.py pins them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")


# ---- texts ----------------------------------------------------------------------------------------------------------


def bytes_hash(content: bytes) -> int:
    """64-bit hash of bytes."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    """64-bit hash of a text; two of a million texts share one with probability 3e-8. Lone surrogates are allowed."""
    return bytes_hash(text.encode("utf-8", "surrogatepass"))


def text_identity(text: str) -> int:
    """63-bit hash of a text, for int64 tensors; never 0, which means no text."""
    return nonzero_63_bits(text_hash(text))


def ids_identity(ids: Any) -> int:
    """63-bit hash of an array of token ids; never 0."""
    return nonzero_63_bits(bytes_hash(ids.tobytes()))


def nonzero_63_bits(value: int) -> int:
    """The high 63 of 64 bits, 1 instead of 0."""
    return value >> 1 or 1


def text_name(text: str) -> str:
    """64-bit hash of a text in hexadecimal, for ids in files."""
    return text_hash(text).to_bytes(8, "little").hex()


def texts_hash(texts: Iterable[str]) -> str:
    """128-bit hash of several texts, in order, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(f"{len(text)}\n{text}".encode())  # with the length: [ab] is not [a, b]
    return digest.hexdigest()


# ---- settings -------------------------------------------------------------------------------------------------------


def hash_of(content: bytes) -> str:
    """128-bit hash of bytes in hexadecimal, for names of cached files."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def sha256_of(content: bytes) -> str:
    """SHA-256 of bytes in hexadecimal, for what users may check with other programs."""
    return hashlib.sha256(content).hexdigest()


# ---- files and models -----------------------------------------------------------------------------------------------


def file_hash(path: Path, *, salt: bytes | None = None) -> str:
    """SHA-256 of a file's content in hexadecimal.

    Args:
        path: of the file.
        salt: what else decides how the content is read: gives a 128-bit hash of salt and content, for names of caches.
    """
    with path.open("rb") as stream:
        if salt is None:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(salt, digest_size=16)).hexdigest()


def files_hashes(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's content, in order; names do not count."""
    return [file_hash(path) for path in paths]


def model_hash(name: str) -> str:
    """Hash of the files of a model's folder, before it is loaded; for a model on a hub, its name."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = sorted({path for pattern in MODEL_FILES for path in folder.rglob(pattern)})
    return sha256_of("".join(f"{path.relative_to(folder)} {file_hash(path)}\n" for path in files).encode())


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Hash of a loaded model's weights by name, whatever files they came from."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
