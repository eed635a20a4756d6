"""Part files: where the records of each part are written, and the writing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.converting.format_types import Record
from data_tools.converting.record_cleaning import realign
from data_tools.shared.record_files import as_line, lines_to, read_records
from data_tools.splitting.census import Census
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import reject
from zh_embedder.core.files import real
from zh_embedder.core.hashing import text_hash
from zh_embedder.data.records import short_names

logger = logging.getLogger(__name__)

COMPRESSED = (".gz", ".zst")


def outputs(files: Sequence[Path], folder: Path, names: Sequence[str]) -> list[list[Path]]:
    """Return for each file its file of each part: DIR/train.jsonl, or of several files DIR/train/NAME.jsonl."""
    found = []
    taken: set[str] = set()
    for path, short in zip(files, short_names(files), strict=True):
        suffix = ".jsonl" + (path.suffix if path.suffix in COMPRESSED else "")
        plain = "-".join([*Path(short).parts[:-1], stem_of(path)])
        # A file given twice, and `a-b/c` next to `a/b-c`, would share a name and replace each other.
        inner = next(
            one for one in chain([plain], (f"{plain}-{n}" for n in range(2, len(files) + 1))) if one not in taken
        )
        taken.add(inner)
        found.append([folder / (f"{name}{suffix}" if len(files) == 1 else f"{name}/{inner}{suffix}") for name in names])
    return found


def stem_of(path: Path) -> str:
    """Return the name of a record file without what says its kind; other dots are part of it."""
    return path.name.removesuffix(path.suffix if path.suffix in COMPRESSED else "").removesuffix(".jsonl")


def without_shared(raw: Record, census: Census, parts: NDArray[np.int64], part: int) -> Record:
    """Return a record without the negatives that are positives of another part, nor their scores."""
    negatives = raw.get("neg") or []
    owners = [census.positives.get(text_hash(text.strip())) for text in negatives]
    keep = [i for i, owner in enumerate(owners) if owner is None or parts[owner] == part]
    if len(keep) == len(negatives):
        return raw
    record = dict(raw)
    realign(record, "neg", keep)
    return record


def write_parts(
    files: Sequence[Path], places: Sequence[Sequence[Path]], parts: NDArray[np.int64], census: Census
) -> list[list[Path]]:
    """Write every record to its part; returns the files of each part that hold any."""
    written: list[list[Path]] = [[] for _ in places[0]]
    index = cleaned = 0
    for path, own in zip(files, places, strict=True):
        counts = [0] * len(own)
        with ExitStack() as stack_:
            streams = [stack_.enter_context(lines_to(place)) for place in own]
            for _, raw in read_records(path):
                part = int(parts[index])
                record = without_shared(raw, census, parts, part) if census.positives else raw
                cleaned += record is not raw
                streams[part].write(as_line(record))
                counts[part] += 1
                index += 1
        for part, (place, count) in enumerate(zip(own, counts, strict=True)):
            if count:
                written[part].append(place)
            else:
                place.unlink()
                logger.warning("%s: nothing: the groups of %s are too large for its share", place, path.name)
    if census.positives:
        logger.info("%s lost negatives that are positives of another part", counted(cleaned, "record"))
    return written


def check_places(files: Sequence[Path], places: Sequence[Sequence[Path]]) -> None:
    """Refuse to write over what is read."""
    reading = {real(path) for path in files}
    for place in (place for own in places for place in own):
        if real(place) in reading:
            raise reject("--output_dir", str(place), "a folder other than that of FILES")
