"""Encoded teacher: folders that `zh-embedder encode` wrote, their vectors found by the identities of the texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zh_embedder.core.arrays import save_array
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import renamed
from zh_embedder.core.hashing import file_hash, hash_of, text_identity
from zh_embedder.core.locks import one_at_a_time
from zh_embedder.core.progress import with_bar
from zh_embedder.core.ranks import world
from zh_embedder.data.teacher_vectors import FORMAT, Texts, VectorTable
from zh_embedder.data.text_files import Reader
from zh_embedder.search.vector_store import MANIFEST, Manifest, open_vectors, read_rows
from zh_embedder.training.teacher_model import FLAG


def is_encoded(path: str) -> bool:
    """Whether a path is a folder of vectors."""
    return (Path(path).expanduser() / MANIFEST).is_file()


@dataclass(frozen=True, slots=True)
class EncodedFolder:
    """A folder of vectors, with the identities of its texts."""

    path: Path
    manifest: Manifest
    table: VectorTable


def open_encoded(path: str, cache: Path) -> EncodedFolder:
    """Open a folder that `zh-embedder encode` wrote, and find out which texts it has the vectors of.

    Raises:
        UserError: it is not whole, or the files that were encoded are gone or have changed.
    """
    folder = Path(path).expanduser()
    manifest = open_vectors(folder).manifest
    target = cache / f"{hash_of(json.dumps([FORMAT, manifest.fingerprint]).encode())}.npy"
    if not target.is_file():
        with one_at_a_time(target.with_suffix(".lock")):
            if not target.is_file():
                texts = encoded_texts(folder, manifest)
                with renamed(target) as partial, partial.open("wb") as stream:
                    save_array(stream, texts)
    texts, size = np.load(target), manifest.shard_size
    shards = [(texts[n * size : (n + 1) * size], read_rows(folder, manifest, n)) for n in manifest.shards]
    return EncodedFolder(folder, manifest, VectorTable(shards))


def encoded_texts(folder: Path, manifest: Manifest) -> Texts:
    """Identities of the texts that were encoded, (N,), read from their files."""
    for file in manifest.inputs:
        path = Path(file.path)
        if not path.is_file() or file_hash(path) != file.sha256:
            what = "has changed since" if path.is_file() else "is gone"
            raise UserError(f"{FLAG}: {folder}: the file that was encoded, {path}, {what}; expected it to find texts")
    reader = Reader([Path(file.path) for file in manifest.inputs], manifest.field, manifest.with_title)
    texts = reader.texts(manifest.inputs, list(manifest.shards), shard_size=manifest.shard_size)
    bar = with_bar(texts, name=f"texts of {folder.name}", unit="texts", shown=world()[0] == 0)
    return np.fromiter((text_identity(text) for _, text in bar), np.int64, manifest.texts)
