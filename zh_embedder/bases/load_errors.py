"""Errors of transformers' loaders, with the file of the base and the field that they are about.

A damaged file can make a loader raise anything: KeyError, TypeError, AssertionError, bare Exceptions of Rust code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from zh_embedder.bases.fields import Fields
from zh_embedder.bases.tokenizer_backend import parse
from zh_embedder.core.errors import UserError, explain

Found = TypeVar("Found")
CONFIG = "config.json"
TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", TOKENIZER_JSON)
VOCABULARIES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def attempt(load: Callable[[], Found]) -> Found | Exception:
    """Call a loader; whatever it raises over its files is returned, a panic of Rust code included.

    Raises:
        MemoryError: there is too little for the base, whatever its files say.
    """
    try:
        return load()
    except MemoryError:
        raise
    except Exception as error:
        return error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return RuntimeError(str(error))


def in_words(error: Exception) -> str:
    """What an error says, in one line; the name of its type in front where its own words are too few."""
    text = explain(error, reading=True) or " ".join(str(error).split())
    if isinstance(error, OSError | ValueError) or " " in text:
        return text[:300]
    return f"{type(error).__name__}: {text}"[:300]


def config_error(flag: str, folder: Path, error: Exception) -> UserError:
    """Say what is wrong with the configuration of a folder."""
    return with_field(flag, folder / CONFIG, error)


def with_field(flag: str, path: Path, error: Exception) -> UserError:
    """Say what is wrong with a JSON file, its field in front where the error names it or its value."""
    field = guilty(Fields.read(path).values, str(error))
    return UserError(f"{flag}: {path}: {f'{field}: ' if field else ''}{in_words(error)}")


def guilty(values: Mapping[str, Any], text: str) -> str | None:
    """Return the field that an error is about: one that it names, else one whose value it shows."""
    for name in values:
        if re.search(rf"\b{re.escape(name)}\b", text):
            return str(name)
    return next((n for n, value in values.items() if isinstance(value, str) and len(value) > 1 and value in text), None)


def weights_path(folder: Path) -> Path:
    """Return the file that weights are read from; the folder itself where there is none."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), folder)


def tokenizer_error(flag: str, folder: Path, error: Exception) -> UserError:
    """Say which file of a tokenizer is damaged.

    Raises:
        UserError: one is no JSON object.
    """
    if not any((folder / name).exists() for name in (*TOKENIZER_FILES, *VOCABULARIES)):
        return UserError(f"{flag}: {folder}: has no tokenizer, expected its files in the folder")
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            try:
                Fields.read(folder / name)
            except UserError as found:
                return UserError(f"{flag}: {found}")
    whole = folder / TOKENIZER_JSON
    if whole.is_file() and isinstance(broken := attempt(lambda: parse(whole)), Exception):
        return UserError(f"{flag}: {whole}: {in_words(broken)}")
    settings = folder / TOKENIZER_CONFIG
    if guilty(Fields.read(settings).values, str(error)) or not whole.is_file():
        return with_field(flag, settings, error)
    return with_field(flag, whole, error)


def pieces_path(name: str) -> Path | str:
    """Return the file that a folder's tokenizer has its pieces from; the name itself where it is no folder."""
    files = [Path(name).expanduser() / file for file in (TOKENIZER_JSON, *VOCABULARIES)]
    return next((path for path in files if path.is_file()), name)
