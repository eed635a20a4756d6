"""Sources of a conversion: inputs, their names, and the format, shape and task of each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data_tools.converting.format_types import HUB, Format, ReadOptions, Source
from data_tools.converting.formats import FORMATS, guesses
from data_tools.converting.source_text import find_encoding, head
from data_tools.converting.tools import ANSWERS
from zh_embedder.core.errors import UserError, unknown_name
from zh_embedder.data.records import short_names
from zh_embedder.data.sources import find_files

logger = logging.getLogger(__name__)

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".zip")


def find_sources(specs: Sequence[str], name: str | None) -> list[Source]:
    """Turn what was typed into sources, with names that tell them apart."""
    found: list[str] = []
    for spec in specs:
        path = Path(spec).expanduser()
        if spec.startswith(HUB) or (path.is_dir() and is_whole(path, name)):
            found.append(spec)
        else:
            files = find_files([spec], data_root=None, flag="INPUT", suffixes=SUFFIXES)
            found += [str(file) for file in files if not path.is_dir() or file.parent.name != ANSWERS]
    names = short_names([Path(spec.removeprefix(HUB).replace(":", "-")) for spec in found])
    return [Source(spec, plain_name(name)) for spec, name in zip(found, names, strict=True)]


def is_whole(folder: Path, name: str | None) -> bool:
    """Whether a folder is one source."""
    if name is None:
        return bool(guesses(head(folder, "auto")))
    return name in FORMATS and FORMATS[name].is_folder


def plain_name(name: str) -> str:
    """Leave the suffixes of a file out, for ids."""
    first, *suffixes = Path(name).name.split(".")
    kept = [suffix for suffix in suffixes if f".{suffix}" not in (*SUFFIXES, ".gz", ".zst")]
    return "-".join([*Path(name).parts[:-1], ".".join([first, *kept])])


def choose_format(source: Source, name: str | None, encoding: str) -> Format:
    """Return the format that was named, or the only one that a source can be, which is logged.

    Raises:
        UserError: the name is unknown, or no name was given and the source is not unmistakable.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown_name("--from", name, FORMATS)
        if source.path.is_file() and encoding == "auto" and source.path.suffix != ".parquet":
            find_encoding(source.path)  # now, so that what it logs appears above the progress bar
        return FORMATS[name]
    found = [] if source.is_hub else guesses(head(source.path, encoding))
    if not source.is_hub and source.path.is_file() and not source.path.stat().st_size:
        raise UserError(f"{source.spec}: the file is empty")
    if len(found) != 1:
        seen = f"may be {' or '.join(found)}" if found else "cannot be recognised"
        raise UserError(f"{source.spec}: the format {seen}, expected --from: {', '.join(FORMATS)}")
    logger.info("%s: read as %s (--from says otherwise)", source.spec, found[0])
    return FORMATS[found[0]]


def choose_shape(own: Format, shape: str | None) -> str:
    """Return what is made of a format."""
    if shape is None:
        return own.shapes[0]
    if shape not in own.shapes:
        raise unknown_name(f"--as ({own.name})", shape, own.shapes)
    return shape


def choose_task(own: Format, options: ReadOptions, source: Source) -> str | None:
    """Return the task of records that name none."""
    if options.task is not None:
        return options.task
    task = own.tasks.get(options.shape or "")
    if task is not None:
        logger.info("%s: task %s (--task says otherwise)", source.spec, task)
    elif not own.carries_task and "task" not in options.columns:
        raise UserError(f"{source.spec}: --task: is missing, expected a name that the version has, such as qa")
    return task
