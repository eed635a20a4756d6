"""ModelScope: bases named `modelscope:OWNER/NAME[@REVISION]`, downloaded with its own package into its own cache.

The package reads MODELSCOPE_ENDPOINT (or the older MODELSCOPE_DOMAIN), MODELSCOPE_CACHE and MODELSCOPE_API_TOKEN.
It takes a folder in its cache for a whole model however little of it has arrived, so what we know of each download is
kept in a file of ours: without a hub to ask, half a model would lose its pooling and its prompts without a word.
"""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zh_embedder.bases.catalogue import BASES, MODELSCOPE
from zh_embedder.bases.hub_errors import KNOWN_MODELS, HubFailure, advice, causes, kind_of
from zh_embedder.bases.load_errors import WEIGHTS
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import read_json, write_json
from zh_embedder.core.hashing import text_name
from zh_embedder.core.locks import one_at_a_time
from zh_embedder.core.user_cache import user_cache

logger = logging.getLogger(__name__)

SHAPE = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
# Weights in formats that are not read here; pickles only where there is nothing else.
LEFT_OUT = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "onnx/*", "openvino/*")
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
UNREACHABLE = ("slow", "refused", "server")  # kinds of failure after which a copy in the cache will do
FOUND: dict[Path, Path] = {}  # what this process has found, by where its state is kept


@dataclass(frozen=True, slots=True)
class ModelScopeName:
    """A model on ModelScope."""

    typed: str
    name: str
    revision: str | None

    @classmethod
    def read(cls, typed: str, *, flag: str) -> ModelScopeName:
        """Read `modelscope:OWNER/NAME[@REVISION]`.

        Raises:
            UserError: it has another shape.
        """
        found = SHAPE.fullmatch(typed.removeprefix(MODELSCOPE))
        if found is None:
            raise reject(flag, typed, f"{MODELSCOPE}OWNER/NAME or {MODELSCOPE}OWNER/NAME@REVISION")
        return cls(typed, found["name"], found["revision"])

    @property
    def state(self) -> Path:
        """Where it is kept whether the last download came to its end; each cache of ModelScope has its own."""
        place = f"{os.environ.get('MODELSCOPE_CACHE', '')} {self.typed}"
        leaf = self.typed.removeprefix(MODELSCOPE).replace("/", "--")
        return user_cache() / "modelscope" / f"{leaf}-{text_name(place)}.json"


def is_modelscope(name: str) -> bool:
    """Whether a name is one of ModelScope's, and no folder here."""
    return str(name).startswith(MODELSCOPE) and not Path(name).is_dir()  # users of Python give paths too


def local_name(name: str, *, flag: str) -> str:
    """Turn a name of ModelScope's into the folder that it was downloaded to; every other name stays as it is.

    Raises:
        UserError: it cannot be had; the message says what to do.
    """
    return str(modelscope_folder(name, flag)) if is_modelscope(name) else name


def endpoint() -> str:
    """Return the address of ModelScope, as its package reads it."""
    found = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return found if "://" in found else f"https://{found}"


def modelscope_folder(typed: str, flag: str) -> Path:
    """Return the folder of a model of ModelScope's, downloaded where it is not there yet; asked for once a process.

    Processes that need the same model at once, as ranks do, take turns: the first one downloads, the others take what
    it has found. Where the hub cannot be reached, or HF_HUB_OFFLINE is set, a whole copy in the cache serves.

    Args:
        typed: the name, with its prefix.
        flag: what the user typed it behind, for messages.

    Raises:
        UserError: the package is missing, or the model cannot be had; the message says what to do.
    """
    model = ModelScopeName.read(typed, flag=flag)
    if find_spec("modelscope") is None:
        raise UserError(
            f"{flag}: {typed}: needs the package modelscope, which is not installed: pip install modelscope"
        )
    state = model.state
    if state not in FOUND:
        came = time.time()
        waiting = f"{typed}: another process is downloading it; waiting for its end"
        with one_at_a_time(state.with_suffix(".lock"), waiting=waiting):
            FOUND[state] = found_meanwhile(state, came) or find(model, flag)
        logger.info("%s: %s", typed, FOUND[state])
    return FOUND[state]


def found_meanwhile(state: Path, came: float) -> Path | None:
    """Return the folder that another process has filled since this one came."""
    if not state.is_file() or state.stat().st_mtime < came:
        return None
    known = read_json(state)
    return Path(known["folder"]) if known["whole"] else None


def find(model: ModelScopeName, flag: str) -> Path:
    """Download a model, or find it in the cache where the hub cannot be reached."""
    from huggingface_hub.constants import is_offline_mode

    state = model.state
    before = read_json(state) if state.is_file() else None
    if is_offline_mode():
        return cached(model, flag, None, broken=before is not None and not before["whole"])
    write_json(state, {"whole": False, "folder": ""})
    try:
        folder = download(model)
    except Exception as error:
        begun = any(getattr(one, "failed_files", None) for one in causes(error))
        if not begun:  # nothing has been changed: what was known of the copy in the cache is true still
            restore(state, before)
        if kind_of(error)[0] not in UNREACHABLE:
            raise failure(model, flag, error) from None
        return cached(model, flag, error, broken=begun or (before is not None and not before["whole"]))
    write_json(state, {"whole": True, "folder": str(folder)})
    return folder


def restore(state: Path, before: Any) -> None:
    """Put back what was known of a model."""
    if before is None:
        state.unlink(missing_ok=True)
    else:
        write_json(state, before)


def cached(model: ModelScopeName, flag: str, error: Exception | None, *, broken: bool) -> Path:
    """Return the copy in the cache.

    Args:
        model: which.
        flag: what the user typed it behind.
        error: why the hub could not be asked; None where it must not be.
        broken: the last download of it did not come to its end.

    Raises:
        UserError: there is none, or not a whole one.
    """
    try:
        folder = snapshot(model, local_files_only=True)
    except Exception as lacking:
        raise failure(model, flag, error or lacking) from None
    if broken or any(folder.rglob("*.incomplete")):
        raise failure(model, flag, error or FileNotFoundError(str(folder)), broken=folder)
    if error is not None:
        said = failure_of(model, error).said()
        logger.warning("%s: %s; the copy in the cache is used, which may be older", model.typed, said)
    return folder


def download(model: ModelScopeName) -> Path:
    """Download what is needed of a model; files that are there and unchanged are not fetched again."""
    folder = snapshot(model, ignore_patterns=list(LEFT_OUT))
    if not any((folder / name).is_file() for name in WEIGHTS):
        snapshot(model, allow_patterns=list(PICKLES))
    return folder


def snapshot(model: ModelScopeName, **options: Any) -> Path:
    """Let the package fetch or find a model."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore", FutureWarning)  # MODELSCOPE_DOMAIN has a newer name
        try:
            from modelscope.hub.snapshot_download import snapshot_download
        except ImportError as error:
            raise UserError(f"modelscope cannot be imported: {error}; pip install --upgrade modelscope") from error
        return Path(snapshot_download(model.name, revision=model.revision, **options))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the package's reports of failed files off the terminal: they become one message of ours."""
    theirs = [logging.getLogger(f"modelscope_hub.{name}") for name in ("download", "legacy_api")]

    def is_news(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    for one in theirs:
        one.addFilter(is_news)
    try:
        yield
    finally:
        for one in theirs:
            one.removeFilter(is_news)


def failure_of(model: ModelScopeName, error: BaseException) -> HubFailure:
    """Describe what ModelScope did not give."""
    from huggingface_hub.constants import is_offline_mode

    kept = os.environ.get("MODELSCOPE_CACHE") or str(Path("~/.cache/modelscope").expanduser())
    offline, known = is_offline_mode(), (*KNOWN_MODELS, *BASES)
    return HubFailure(name=model.name, endpoint=endpoint(), error=error, cache=kept, offline=offline, known=known)


def failure(model: ModelScopeName, flag: str, error: BaseException, *, broken: Path | None = None) -> UserError:
    """Say what ModelScope did not give, and what to do about it."""
    if isinstance(error, UserError):
        return UserError(f"{flag}: {model.typed}: {error}")
    found = failure_of(model, error)
    part = "" if broken is None else f"; of an earlier download, a part is in {broken}"
    text = f"{flag}: {model.typed} could not be loaded: {found.said()}{part}{advice(found, modelscope=True)}"
    return UserError(text)
