"""Vector store: the folder that `zh-embedder encode` writes and `open_vectors` reads.

    manifest.json       all that decides the vectors, and the shards that there will be; written first
    vectors-00000.npy   (R, D), rows in the order of the input; or .safetensors, the tensor named `vectors`
    ids-00000.json      {"fingerprint": ..., "ids": [R strings]}; written last: where it is, the shard is whole

Shards are written elsewhere and renamed, each by one rank, and no rank needs a word from another: the manifest says how
many there will be, and the fingerprint in a shard says which manifest it belongs to. Shapes: R rows of a shard, D
dimensions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.arrays import save_array
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import beside_file, read_json, renamed
from zh_embedder.core.hashing import sha256_of
from zh_embedder.data.text_files import InputFile

FORMAT = 1
MANIFEST = "manifest.json"
VECTOR_FILES = (MANIFEST, "vectors-*", "ids-*", ".*")  # of a folder, with locks and what a killed run left
FILE_FORMATS = ("npy", "safetensors")
VECTOR_DTYPES = ("float32", "float16")
SHARD_SIZE = 65536  # vectors of a file
NO_KEY = -1  # index of a hit that is not there; its score is minus infinity
TENSOR = "vectors"
OURS = re.compile(r"\.?(?:vectors|ids)-(\d{5,})\.(?:npy|safetensors|json)((?:\.[^.]+\.\d+)?\.partial)?")
SHOWN = 10  # missing shards named in a message

# Fields that are kept only where they are otherwise: folders of older releases stay what they are.
USUAL: Mapping[str, object] = {"include_prompt": True, "truncation_side": None}

Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that decides the vectors of a folder. Only the model's name does not: its weights are compared instead."""

    model: str
    weights: str  # hash of every weight
    tokenizer: str  # hash
    pooling: str
    normalize: bool
    metric: str
    dimension: int
    prompt: str
    max_length: int
    dtype: str  # of the computation
    field: str | None
    with_title: bool
    shard_size: int
    file_format: str
    vector_dtype: str
    inputs: tuple[InputFile, ...]
    include_prompt: bool = True  # in pooling
    truncation_side: str | None = None  # end of longer texts that is cut; None: the right one

    @property
    def texts(self) -> int:
        """Rows of all shards."""
        return sum(file.texts for file in self.inputs)

    @property
    def shards(self) -> range:
        """Indices of the shards."""
        return range(-(-self.texts // self.shard_size))

    def rows(self, shard: int) -> int:
        """Rows of a shard; the last one may be shorter."""
        return min(self.shard_size, self.texts - shard * self.shard_size)

    def vectors_file(self, shard: int) -> str:
        """Name of a shard's vectors."""
        return f"vectors-{shard:05}.{self.file_format}"

    @staticmethod
    def ids_file(shard: int) -> str:
        """Name of a shard's ids."""
        return f"ids-{shard:05}.json"

    def content(self) -> dict[str, Any]:
        """Return the fields that are kept."""
        return {name: value for name, value in asdict(self).items() if name not in USUAL or value != USUAL[name]}

    @cached_property
    def parts(self) -> dict[str, object]:
        """What is compared, by the names that a message says."""
        settings = {name: value for name, value in self.content().items() if name not in ("model", "inputs")}
        files = {
            f"input {number}": f"{file.path} ({file.texts} texts, sha256 {file.sha256})"
            for number, file in enumerate(self.inputs, start=1)
        }
        return {**settings, **files}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what is compared."""
        return sha256_of(json.dumps(self.parts, sort_keys=True).encode())

    def differences(self, other: Manifest) -> list[str]:
        """Say in which parts another manifest differs: `name: theirs there, ours now`."""
        usual = {"include_prompt": True}  # of what is kept only where it is not as usual
        there, now = {**usual, **other.parts}, {**usual, **self.parts}
        names = [*now, *(there.keys() - now.keys())]
        return [
            f"{name}: {there.get(name)!r} there, {now.get(name)!r} now"
            for name in names
            if there.get(name) != now.get(name)
        ]

    def save(self, folder: Path) -> None:
        """Write manifest.json, with the list of shards for people who read it."""
        shards = [{"vectors": self.vectors_file(n), "ids": self.ids_file(n), "rows": self.rows(n)} for n in self.shards]
        content = {"format": FORMAT, **self.content(), "texts": self.texts, "shards": shards}
        beside_file(folder / MANIFEST, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        UserError: it is missing, torn, or written by a newer release.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: {MANIFEST}: is missing, expected a folder that `zh-embedder encode` has written")
    raw = read_json(path)
    optional = USUAL.keys() & raw.keys() if isinstance(raw, dict) else set()
    known = {field.name for field in fields(Manifest)} - USUAL.keys()
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or known - raw.keys():
        raise UserError(f"{path}: expected a manifest of `zh-embedder encode`, format {FORMAT}")
    inputs = tuple(InputFile(**file) for file in raw["inputs"])
    return Manifest(**{name: raw[name] for name in (known | optional) - {"inputs"}}, inputs=inputs)


# ---- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def only_writer(folder: Path, rank: int) -> Iterator[None]:
    """Let no second process write the same shards: a cluster that sets no RANK would start many that are all rank 0.

    Raises:
        UserError: another process is at it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".rank-{rank}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another process is writing here as rank {rank}; for several processes start "
            "`torchrun --nproc_per_node=N -m zh_embedder.cli encode ...`, which tells each which rank it is"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def start_folder(folder: Path, manifest: Manifest, *, rank: int, ranks: int, overwrite: bool) -> list[int]:
    """Prepare a folder for the shards of a rank (`rank`, `rank + ranks`, ...), keeping those that are whole.

    Args:
        folder: where to write; made where missing.
        manifest: of this run.
        rank: of this process.
        ranks: how many there are.
        overwrite: keep nothing.

    Returns:
        The shards that this rank still has to make, in order.

    Raises:
        UserError: the folder holds vectors that were made in another way; the message says what differs.
    """
    if not overwrite and (folder / MANIFEST).is_file():
        differences = manifest.differences(read_manifest(folder))
        if differences:
            parts = "\n".join(f"  - {part}" for part in differences)
            raise UserError(f"{folder}: holds vectors that were made in another way; --overwrite starts anew:\n{parts}")
    folder.mkdir(parents=True, exist_ok=True)
    own = manifest.shards[rank::ranks]
    keep = set() if overwrite else {shard for shard in own if is_whole(folder, manifest, shard)}
    wanted = {name for n in keep for name in (manifest.vectors_file(n), manifest.ids_file(n))}
    for path in list(folder.iterdir()):
        ours = OURS.fullmatch(path.name)
        if ours and int(ours[1]) % ranks == rank and path.name not in wanted:
            path.unlink(missing_ok=True)
    if rank == 0:
        manifest.save(folder)
    return [shard for shard in own if shard not in keep]


def write_shard(folder: Path, manifest: Manifest, shard: int, ids: Sequence[str], vectors: Rows) -> None:
    """Write a shard: vectors (R, D), then its ids, which say that it is whole."""
    rows = np.ascontiguousarray(vectors, dtype=manifest.vector_dtype)
    with renamed(folder / manifest.vectors_file(shard)) as partial:
        if manifest.file_format == "npy":
            with partial.open("wb") as stream:
                save_array(stream, rows)
        else:
            from safetensors.numpy import save_file

            save_file({TENSOR: rows}, partial)
    content = {"fingerprint": manifest.fingerprint, "ids": list(ids)}
    beside_file(folder / manifest.ids_file(shard), json.dumps(content, ensure_ascii=False) + "\n")


# ---- reading --------------------------------------------------------------------------------------------------------


def is_whole(folder: Path, manifest: Manifest, shard: int) -> bool:
    """Whether a shard is there, all of it, and made as the manifest says."""
    try:
        read_ids(folder, manifest, shard)
        read_rows(folder, manifest, shard)
    except (UserError, OSError):
        return False
    return True


def read_ids(folder: Path, manifest: Manifest, shard: int) -> list[str]:
    """Read the ids of a shard.

    Raises:
        UserError: they are torn, or belong to vectors that were made in another way.
    """
    path = folder / manifest.ids_file(shard)
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("fingerprint") != manifest.fingerprint:
        raise UserError(f"{path}: made in another way than {MANIFEST} says")
    ids: list[str] = raw["ids"]
    if len(ids) != manifest.rows(shard):
        raise reject(str(path), len(ids), f"{manifest.rows(shard)} ids")
    return ids


def read_rows(folder: Path, manifest: Manifest, shard: int) -> Rows:
    """Map the vectors of a shard into memory, (R, D), read only.

    Raises:
        UserError: they are torn, or not what the manifest says.
    """
    path = folder / manifest.vectors_file(shard)
    shape, dtype = (manifest.rows(shard), manifest.dimension), np.dtype(manifest.vector_dtype)
    try:
        rows: Rows
        if manifest.file_format == "npy":
            rows = np.load(path, mmap_mode="r")
        else:
            rows = np.memmap(path, dtype, mode="r", offset=safetensors_start(path)).reshape(shape)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: is torn: {error}") from None
    if rows.shape != shape or rows.dtype != dtype:
        raise reject(str(path), f"{rows.dtype} {rows.shape}", f"{dtype} {shape}")
    return rows


def safetensors_start(path: Path) -> int:
    """Return where the only tensor begins: behind the header, whose length is in the first 8 bytes."""
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    return 8 + header


class Vectors:
    """The vectors of a whole folder, shard by shard from the disk. Read only.

    >>> keys = open_vectors("corpus-vectors")  # doctest: +SKIP
    >>> for ids, rows in keys:  # doctest: +SKIP
    ...     scores = queries @ rows.T
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    def __len__(self) -> int:
        """Return the number of vectors."""
        return self.manifest.texts

    @property
    def dimension(self) -> int:
        """Dimensions of a vector."""
        return self.manifest.dimension

    def __iter__(self) -> Iterator[tuple[list[str], Rows]]:
        """Yield (ids, vectors (R, D)) of each shard, memory-mapped, in the order of the input."""
        return (self.shard(index) for index in self.manifest.shards)

    def shard(self, index: int) -> tuple[list[str], Rows]:
        """Return the ids and vectors (R, D) of one shard, memory-mapped."""
        return read_ids(self.folder, self.manifest, index), read_rows(self.folder, self.manifest, index)

    def ids(self) -> list[str]:
        """Return the ids of all rows."""
        return [name for shard in self.manifest.shards for name in read_ids(self.folder, self.manifest, shard)]

    def numpy(self) -> Rows:
        """Return all rows, (len, dimension), in memory."""
        return np.concatenate([read_rows(self.folder, self.manifest, shard) for shard in self.manifest.shards])


def missing_shards(folder: Path, manifest: Manifest) -> list[int]:
    """Shards that are not there yet, or not whole."""
    return [shard for shard in manifest.shards if not is_whole(folder, manifest, shard)]


def open_vectors(folder: str | Path) -> Vectors:
    """Open a folder that `zh-embedder encode` has written.

    Raises:
        UserError: it is not such a folder, or not complete; the message says which shards are missing.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    missing = missing_shards(folder, manifest)
    if missing:
        shown = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        raise UserError(
            f"{folder}: {len(missing)} of {len(manifest.shards)} shards are missing ({shown}): the same "
            "`zh-embedder encode` again goes on where it stopped"
        )
    return Vectors(folder, manifest)
