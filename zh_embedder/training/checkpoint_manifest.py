"""Checkpoint manifest: size and SHA-256 of every file of a checkpoint, and what is wrong with one that is not whole.

The manifest is written last, when the disk holds everything else. A checkpoint of an earlier version has none: its
files are then checked as far as they can be without it, by their own checksums and their syntax. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, reading, writing
from zh_embedder.core.files import beside_file, read_json, sync_tree
from zh_embedder.core.hashing import file_hash
from zh_embedder.models.folders import QUERY_FOLDER

MANIFEST_FILE, PLAN_FILE, STATE_FILE = "manifest.json", "plan.json", "trainer_state.json"
OPTIMIZER, SCHEDULER, ENGINE = "optimizer.pt", "scheduler.pt", "global_step*"  # the last one is DeepSpeed's folder
RANDOM_STATES = "rng_state*.pth"
FORMAT = 1
THREADS = 4  # that hash at once: hashlib lets go of the interpreter


def seal(checkpoint: Path) -> None:
    """Have the disk hold a checkpoint, then write its manifest."""
    with writing(checkpoint):
        sync_tree(checkpoint)
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = list(pool.map(file_hash, paths))
    files = {
        path.relative_to(checkpoint).as_posix(): {"bytes": path.stat().st_size, "sha256": found}
        for path, found in zip(paths, hashes, strict=True)
    }
    text = json.dumps({"format": FORMAT, "files": files}, ensure_ascii=False, indent=1)
    beside_file(checkpoint / MANIFEST_FILE, text + "\n")


def find_damage(checkpoint: Path) -> str | None:
    """Name the first file of a checkpoint that is not what was written, and what is wrong with it; None if it is whole.

    Reads everything.
    """
    if (name := missing(checkpoint)) is not None:
        return f"{name} is missing"
    try:
        files = listed(checkpoint)
        return unlisted_damage(checkpoint) if files is None else listed_damage(checkpoint, files)
    except UserError as error:
        return str(error).removeprefix(f"{checkpoint}/")
    except OSError as error:
        return f"{Path(str(error.filename or checkpoint)).name}: {error.strerror or error}"


def missing(checkpoint: Path) -> str | None:
    """Name what resuming needs and a checkpoint lacks, whether or not it has a manifest."""
    if not any(checkpoint.glob(ENGINE)):
        for name in (OPTIMIZER, SCHEDULER):
            if not (checkpoint / name).is_file():
                return name
    if not any(checkpoint.glob(RANDOM_STATES)):
        return "rng_state.pth"
    needed = (STATE_FILE, PLAN_FILE, f"{QUERY_FOLDER}/model.safetensors")
    return next((name for name in needed if not (checkpoint / name).is_file()), None)


def listed(checkpoint: Path) -> Mapping[str, Any] | None:
    """Files of a manifest; None where there is no manifest.

    Raises:
        UserError: it is not one.
    """
    path = checkpoint / MANIFEST_FILE
    if not path.is_file():
        return None
    found = read_json(path)
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values()
    ):
        raise UserError(f"{path}: lists no files")
    return files


def listed_damage(checkpoint: Path, files: Mapping[str, Any]) -> str | None:
    """Compare the files of a checkpoint with its manifest: sizes first, which cost nothing."""
    for name, entry in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"{name} has {size:,} bytes, expected {entry['bytes']:,}"
    with ThreadPoolExecutor(THREADS) as pool:
        hashes = pool.map(lambda name: file_hash(checkpoint / name), files)
        for (name, entry), found in zip(files.items(), hashes, strict=True):
            if found != entry["sha256"]:
                return f"{name} is not what was written: its SHA-256 differs from that in {MANIFEST_FILE}"
    return None


def unlisted_damage(checkpoint: Path) -> str | None:
    """Check the files of a checkpoint without a manifest by what they are."""
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint).as_posix()
        if path.is_file():
            with reading(name):
                if (found := own_damage(path)) is not None:
                    return f"{name} {found}"
    return None


def own_damage(path: Path) -> str | None:
    """What is wrong with a file by its own checksums, sizes and syntax.

    Raises:
        Exception: it cannot be read, as its library says.
    """
    if path.suffix == ".json":
        json.loads(path.read_text("utf-8"))
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np"):
            pass
    elif path.suffix in (".pt", ".pth"):
        import zipfile

        with zipfile.ZipFile(path) as archive:
            if (entry := archive.testzip()) is not None:
                return f"is damaged: the checksum of its entry {entry} differs"
    return None


def checkpoints_of(run: Path) -> Iterator[Path]:
    """Yield the checkpoints of a run, whole or not, the newest first."""
    found = [path for path in run.glob("checkpoint-*") if path.is_dir() and path.name.split("-")[-1].isdecimal()]
    yield from sorted(found, key=number_of, reverse=True)


def number_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(checkpoint.name.split("-")[-1])
