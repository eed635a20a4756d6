"""Errors of hubs: what went wrong with a download, in words, and what to do about it.

Libraries wrap what happened in errors of their own, which often say less: the whole chain of causes is read. Types are
told by their names, so that no library is imported for their sake.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from zh_embedder.core.errors import nearest

# What happened -> names of types anywhere in the chain of causes.
KINDS = {
    "offline": ("OfflineModeIsEnabled", "CacheNotFound", "IncompleteSnapshotError"),
    "gated": ("GatedRepoError",),
    "revision": ("RevisionNotFoundError",),
    "missing": ("RepositoryNotFoundError", "NotExistError"),
    "foreign": ("FileMetadataError",),
    "address": ("UnsupportedProtocol", "InvalidURL", "MissingSchema", "LocationParseError"),
    "cut": (
        *("RemoteProtocolError", "ReadError", "ProtocolError", "IncompleteRead", "ChunkedEncodingError"),
        *("FileSizeMismatchError", "FileIntegrityError"),
    ),
    "slow": ("TimeoutException", "TimeoutError", "Timeout", "ReadTimeoutError"),
    "refused": ("ConnectError", "ProxyError", "ConnectionError"),
}
NOT_REACHED = {"NewConnectionError", "ConnectionRefusedError", "gaierror"}  # the first is a kind of timeout in urllib3
BEFORE_STATUS = ("offline", "gated", "revision", "missing")  # they say more than the HTTP status that comes with them
OF_STATUS: dict[int, str] = {401: "token", 403: "token", 404: "missing"}
# What Chinese users name most, besides the bases of the catalogue: for those who mistype one.
KNOWN_MODELS = (
    *("BAAI/bge-m3", "BAAI/bge-reranker-base", "BAAI/bge-reranker-large", "BAAI/bge-reranker-v2-m3"),
    *("intfloat/multilingual-e5-base", "intfloat/multilingual-e5-large", "hfl/chinese-roberta-wwm-ext"),
    *("Qwen/Qwen3-Embedding-0.6B", "Alibaba-NLP/gte-multilingual-base", "google-bert/bert-base-chinese"),
    *("moka-ai/m3e-base", "shibing624/text2vec-base-chinese"),
)
SHOWN = 200  # characters of what a library says
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it, the innermost last; of many files that failed, the first."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        failed = getattr(found, "failed_files", None)
        inner = next(iter(failed.values()), None) if isinstance(failed, dict) else None
        found = inner or found.__cause__ or found.__context__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error that has one."""
    response = getattr(error, "response", None)
    found = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    return found if isinstance(found, int) else None


def kind_of(error: BaseException) -> tuple[str, int | None]:
    """Return what happened, a key of KINDS, `server`, `disk`, `files` or `other`, and the HTTP status if any."""
    chain = list(causes(error))
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    status = next((found for one in chain if (found := status_of(one)) is not None), None)
    text = " ".join(str(one) for one in chain)
    failed = status is not None and status >= HTTPStatus.BAD_REQUEST
    named = {kind: bool(names & set(types)) for kind, types in KINDS.items()}
    signs = (  # the first that is there decides
        ("token", "Invalid credentials" in text),
        *((kind, named[kind]) for kind in BEFORE_STATUS),
        (OF_STATUS.get(status or 0, "server"), failed),
        ("cut", named["cut"] or "Consistency check failed" in text),
        ("refused", bool(names & NOT_REACHED)),
        *((kind, named[kind]) for kind in ("address", "foreign", "slow", "refused")),
        ("disk", any(isinstance(one, OSError) and one.errno is not None for one in chain)),
        ("files", "does not appear to have" in text or "Unrecognized model" in text),
    )
    return next((kind for kind, there in signs if there), "other"), status


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFailure:
    """A model that a hub did not give."""

    name: str  # of the model, as the hub knows it
    endpoint: str
    error: BaseException
    cache: str  # where downloads are kept
    offline: bool = False  # nothing may be fetched
    known: tuple[str, ...] = ()  # names that the one may be meant for

    def kind(self) -> tuple[str, int | None]:
        """What happened, and the HTTP status."""
        kind, status = kind_of(self.error)
        # Without a hub to ask, all that is known is that the cache lacks something.
        return ("offline" if self.offline and kind in ("other", "files", "refused", "slow") else kind), status

    def said(self) -> str:
        """Say what happened."""
        kind, status = self.kind()
        hub = f"the hub {shown_address(self.endpoint)}"
        code = "" if status is None else f" ({status})"
        near = nearest(self.name, self.known) if self.name not in self.known else ""
        return {
            "offline": f"HF_HUB_OFFLINE is set, and not all of it is in the cache {self.cache}{near}",
            "gated": f"{hub} gives it only to accounts that have accepted its terms{code}",
            "revision": f"{hub} has no such revision of it{code}",
            "missing": f"{hub} has no model of that name, or hides it from those without its token{code}{near}",
            "token": f"{hub} does not let this token, or the lack of one, have it{code}",
            "foreign": f"{hub} does not answer as a hub of models does",
            "cut": f"the download from {hub} ended early",
            "slow": f"{hub} did not answer in time{near}",
            "refused": f"{hub} cannot be reached: {self.innermost()}{near}",
            "address": f"HF_ENDPOINT is {shown_address(self.endpoint)!r}, which is no address",
            "server": f"{hub} answered {status} {phrase(status)}",
            "files": f"{hub} has it, but not as a model that can be loaded: {self.first_line()}",
            "disk": f"the cache {self.cache} cannot be used: {self.innermost()}",
            "other": f"{hub} did not give it: {self.first_line()}{near}",
        }[kind]

    def cached_folder(self) -> Path:
        """Where Hugging Face's package keeps it."""
        return Path(self.cache) / f"models--{self.name.replace('/', '--')}"

    def first_line(self) -> str:
        """Return the first line of what the library says, without secrets."""
        line = without_tokens(str(self.error).strip().split("\n")[0])
        return line if len(line) <= SHOWN else f"{line[:SHOWN].rpartition(' ')[0]} ..."

    def innermost(self) -> str:
        """Return what the system said, at the bottom of the chain of causes."""
        *_, last = causes(self.error)
        text = last.strerror if isinstance(last, OSError) and last.strerror else " ".join(str(last).split())
        return without_tokens(text)[:SHOWN] or type(last).__name__


def phrase(status: int | None) -> str:
    """Return the words of an HTTP status."""
    return next((one.phrase for one in HTTPStatus if one == status), "")


def shown_address(endpoint: str) -> str:
    """Return an address without the user and password that may be in it."""
    parts = urlsplit(endpoint)
    return endpoint if "@" not in parts.netloc else parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def without_tokens(text: str) -> str:
    """Return a text in which the tokens of the environment are `***`."""
    for name in TOKENS:
        if token := os.environ.get(name, "").strip():
            text = text.replace(token, "***")
    return text


def hugging_face_failure(
    name: str, error: BaseException, *, cache_dir: str | None, known: tuple[str, ...] = ()
) -> HubFailure:
    """Describe what the hub of HF_ENDPOINT, or Hugging Face's own, did not give."""
    from huggingface_hub import constants

    return HubFailure(
        name=name,
        endpoint=constants.ENDPOINT,
        error=error,
        cache=cache_dir or str(constants.HF_HUB_CACHE),
        offline=constants.is_offline_mode(),
        known=known,
    )


# What to do, by what happened; the likeliest first. {site} is the hub's address, {leaf} the name without its owner.
HUGGING_FACE = {
    "offline": ("online", "elsewhere", "copy", "mirror"),
    "gated": ("terms", "mirror"),
    "revision": ("mirror",),
    "missing": ("private", "mirror", "copy"),
    "token": ("token", "mirror"),
    "foreign": ("address",),
    "address": ("address",),
    "cut": ("again", "patience", "mirror", "copy"),
    "slow": ("again", "patience", "mirror", "copy", "cache"),
    "refused": ("mirror", "copy", "cache"),
    "server": ("again", "mirror", "copy", "cache"),
    "disk": ("elsewhere",),
    "files": ("other",),
    "other": ("copy", "mirror", "cache", "private"),
}
HUGGING_FACE_LINES = {
    "again": "try again: files that have arrived whole stay in the cache, only the others are fetched",
    "patience": "a slow line? `export HF_HUB_DOWNLOAD_TIMEOUT=60 HF_HUB_ETAG_TIMEOUT=60` (seconds, else 10)",
    "terms": "accept them at {site}/{name}, then `export HF_TOKEN=...` of that account",
    "private": "private? `export HF_TOKEN=...`",
    "token": "`export HF_TOKEN=...` of an account that may read it; an old token may have expired",
    "address": "HF_ENDPOINT is the address of a hub or of a mirror, such as https://hf-mirror.com",
    "mirror": "behind a mirror? `export HF_ENDPOINT=https://hf-mirror.com`; or from ModelScope: modelscope:{name}",
    "online": "`unset HF_HUB_OFFLINE` fetches it",
    "elsewhere": "another cache? HF_HOME says where it is, in training --model_cache_dir too",
    "copy": "no network? On a machine that has one: `hf download {name} --local-dir {leaf}`, then give the "
    "copied folder",
    "cache": "downloaded before? `export HF_HUB_OFFLINE=1` reads the cache alone (HF_HOME says where it is)",
    "other": "name another: its page {site}/{name} shows its files",
}
MODELSCOPE = {
    "offline": ("online", "elsewhere", "copy"),
    "missing": ("token", "hub", "address"),
    "token": ("token", "hub"),
    "cut": ("again", "patience", "copy"),
    "slow": ("again", "patience", "copy"),
    "refused": ("address", "copy", "hub"),
    "server": ("again", "hub", "copy"),
    "disk": ("elsewhere",),
}
MODELSCOPE_LINES = {
    "again": "try again: what has arrived stays in the cache, only the rest is fetched",
    "patience": "a slow line? `export MODELSCOPE_DOWNLOAD_TIMEOUT=300 MODELSCOPE_API_TIMEOUT=300` (seconds, else 60)",
    "token": "private? `export MODELSCOPE_API_TOKEN=...` of an account that may read it",
    "address": "another site? `export MODELSCOPE_ENDPOINT=https://...`",
    "hub": "it may be on Hugging Face's hub, or a mirror of it: {name}, without `modelscope:`",
    "online": "`unset HF_HUB_OFFLINE` fetches it",
    "elsewhere": "another cache? MODELSCOPE_CACHE says where it is",
    "copy": "no network? On a machine that has one: `modelscope download --model {name} --local_dir {leaf}`, then give "
    "the copied folder",
}
NO_HUB = (
    "no model at hand? nano-zh, a small base that comes with this package, can be named instead of {name}, or "
    "e5-small-zh, which the package index has; `zh-embedder bases` lists more"
)


def advice(failure: HubFailure, *, modelscope: bool = False) -> str:
    """Return what to do, each on a line of its own."""
    kind, owned = failure.kind()[0], "/" in failure.name
    if modelscope:
        lines = [MODELSCOPE_LINES[key] for key in MODELSCOPE.get(kind, ("copy", "hub"))]
    else:
        lines = [HUGGING_FACE_LINES[key] for key in HUGGING_FACE[kind]]
    own = {"name": failure.name, "leaf": failure.name.rpartition("/")[2], "site": shown_address(failure.endpoint)}
    if not owned:  # ModelScope's names all have an owner
        lines = [line.partition("; or from ModelScope")[0] for line in lines]
    return "".join(f"\n  - {line.format(**own)}" for line in [*lines, NO_HUB])
