"""Base names: packaged bases, hub names, and what to do where one cannot be loaded."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zh_embedder.bases.catalogue import BASES, Hub
from zh_embedder.bases.fields import Fields
from zh_embedder.bases.folder_format import DENSE, LENGTHS, MODULES
from zh_embedder.bases.hub_errors import KNOWN_MODELS, advice, hugging_face_failure, kind_of
from zh_embedder.bases.load_errors import CONFIG, WEIGHTS, attempt, config_error, in_words, tokenizer_error
from zh_embedder.bases.modelscope import local_name
from zh_embedder.bases.tokenizer_backend import lower_cased
from zh_embedder.core.errors import UserError, closest, nearest, nearest_path, reject

logger = logging.getLogger(__name__)

NAMED = (CONFIG, *WEIGHTS)  # a folder with one of these may be a base


def hub_folder(name: str, *, flag: str, cache_dir: str | None, token: str | None) -> Path:
    """Fetch the small sentence-transformers files of a hub model, so far as it has any.

    Raises:
        UserError: the hub does not give them: without them the model would be pooled in another way.
    """
    from huggingface_hub import constants, snapshot_download

    wanted = ["*.json", f"{DENSE}/*", "*_Pooling/*", "*_Normalize/*"]
    found = attempt(lambda: snapshot_download(name, allow_patterns=wanted, cache_dir=cache_dir, token=token))
    if isinstance(found, Exception):
        raise unreachable(flag, name, found, cache_dir=cache_dir)
    folder = Path(found)
    listing = folder.parents[1] / "trees" / f"{folder.name}.json"  # of the hub's files: where it is, so are all of them
    if constants.is_offline_mode() and not (folder / MODULES).is_file() and not listing.is_file():
        logger.warning(
            "%s: the cache does not tell whether it has sentence-transformers' files, which say how to pool; "
            "a run without HF_HUB_OFFLINE fetches them",
            name,
        )
    return folder


def load_config(name: str, *, flag: str, **hub: Any) -> Any:
    """Load a configuration by folder or hub name.

    Args:
        name: of the folder, or on the hub.
        flag: what the user typed it behind, for messages.
        **hub: `cache_dir`, `token`, `trust_remote_code`.

    Raises:
        UserError: there is none, or a field is wrong.
    """
    from transformers import AutoConfig

    name = local_name(name, flag=flag)
    folder = Path(name).expanduser()
    if folder.is_dir():
        check_config(folder, flag=flag)
    config = attempt(lambda: AutoConfig.from_pretrained(name, **hub))
    if isinstance(config, Exception):
        raise config_error(flag, folder, config) if folder.is_dir() else unreachable(flag, name, config, **hub)
    return config


# Sizes of a model and their range. Far larger ones are no model: making it would never end.
SIZES = {
    "hidden_size": (1, 10**5),
    "num_hidden_layers": (0, 1000),
    "num_attention_heads": (1, 10**4),
    "intermediate_size": (1, 10**6),
    "vocab_size": (1, 10**8),
    "max_position_embeddings": (1, 10**8),
    "type_vocab_size": (0, 10**6),
}


def check_config(folder: Path, *, flag: str) -> None:
    """Refuse a configuration whose type or sizes are none.

    Raises:
        UserError: with the file and the field.
    """
    path = folder / CONFIG
    if not path.exists():
        raise UserError(f"{flag}: {folder}: has no {CONFIG}, expected the folder of a base")
    try:
        fields = Fields.read(path)
        kind, pad = fields.text("model_type"), fields.values.get("pad_token_id")
        for name, (low, high) in SIZES.items():
            if name in fields.values:
                fields.whole(name, low=low, high=high)
                if fields.values[name] is None or isinstance(fields.values[name], float):
                    raise reject(fields.where(name), fields.values[name], "a whole number")
        rows = fields.whole("vocab_size")
        if isinstance(pad, int) and rows is not None and pad >= rows:
            raise reject(fields.where("pad_token_id"), pad, f"below {rows}, the vocab_size")
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None
    if kind is None:
        raise UserError(f"{flag}: {path}: model_type: is missing, expected the type of the model, such as 'bert'")


def load_tokenizer(name: str, *, flag: str, settings: Path | None = None, **hub: Any) -> Any:
    """Load a tokenizer by folder or hub name; it lower-cases texts where the base's settings say so.

    Args:
        name: of the tokenizer, or of the model whose tokenizer it is.
        flag: what the user typed it behind, for messages.
        settings: the folder of the base, where that is another.
        **hub: `cache_dir`, `token`, `trust_remote_code`.

    Raises:
        UserError: there is none; the message says what to do.
    """
    from transformers import AutoTokenizer

    name = local_name(name, flag=flag)
    folder = Path(name).expanduser()
    tokenizer = attempt(lambda: AutoTokenizer.from_pretrained(name, use_fast=True, **hub))
    if isinstance(tokenizer, Exception):
        raise tokenizer_error(flag, folder, tokenizer) if folder.is_dir() else unreachable(flag, name, tokenizer, **hub)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without its files
        raise UserError(f"{flag}: {name}: has no tokenizer, expected its files in the folder")
    said = Fields.read((settings or folder) / LENGTHS)
    if said.flag("do_lower_case", default=False):
        if not tokenizer.is_fast:
            raise reject(said.where("do_lower_case"), True, "false: this tokenizer is Python code of its own")
        tokenizer = lower_cased(tokenizer)
    return tokenizer


def unreachable(flag: str, name: str, error: Exception, *, cache_dir: str | None = None, **_hub: Any) -> UserError:
    """Say why a base that is no folder here could not be loaded, and what to do about it."""
    path = Path(name).expanduser()
    near = nearest_folder(path) or nearest_base(name)
    known = () if near else (*KNOWN_MODELS, *BASES)
    failure = hugging_face_failure(name, error, cache_dir=cache_dir, known=known)
    damaged = not isinstance(error, OSError | ValueError) or "not a valid JSON file" in str(error)
    if damaged and kind_of(error)[0] == "other":
        return UserError(
            f"{flag}: {name}: {in_words(error)}; what is in the cache is damaged: delete "
            f"{failure.cached_folder()}, and it is fetched anew"
        )
    if path.is_dir():
        return UserError(f"{flag}: {name}: not a model folder: {failure.first_line()}")
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):  # the shape of a hub name
        return UserError(
            f"{flag}: got {name!r}, expected a folder that is there, or a hub name such as BAAI/bge-large-zh-v1.5"
            + near
        )
    said = f"there is no such folder here, and {failure.said()}{near}{advice(failure)}"
    return UserError(f"{flag}: {name} could not be loaded: {said}")


@contextmanager
def loading(name: str, kind: str, *, flag: str) -> Iterator[None]:
    """Turn what transformers raises over a model by folder or hub name into one message.

    Args:
        name: of the folder, or on the hub.
        kind: what it should be, such as "a cross-encoder".
        flag: what the user typed it behind, for messages.

    Raises:
        UserError: it cannot be loaded; the message says what to do.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not Path(name).expanduser().is_dir():
            raise unreachable(flag, name, error) from None
        if not isinstance(error, OSError | ValueError):
            raise
        raise UserError(f"{name}: cannot be loaded as {kind}: {error}") from None


def nearest_folder(path: Path) -> str:
    """Return `; did you mean 'x'?` for a folder that looks like a missing one, there or in the working directory."""
    if near := nearest_path(path):
        return near
    known = [entry.name for entry in Path().iterdir() if entry.is_dir() and any((entry / n).is_file() for n in NAMED)]
    found = closest(path.name, known)
    return "" if found is None else f"; did you mean './{found}'?"


def nearest_base(name: str) -> str:
    """Return `; did you mean 'e5-small-zh'?` for a name like that of a base which needs no hub."""
    return nearest(name, [base.name for base in BASES.values() if not isinstance(base.source, Hub)])
