"""Sources of a conversion: inputs, their names, and the format, shape and task of each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from data_tools.converting.arrow_tables import is_arrow, is_saved
from data_tools.converting.format_types import HUB, Format, ReadOptions, Source
from data_tools.converting.formats import FORMATS, guesses
from data_tools.converting.source_text import find_encoding, head
from data_tools.converting.tools import ANSWERS
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, unknown_name
from zh_embedder.data.records import short_names
from zh_embedder.data.sources import find_files, is_data_file

logger = logging.getLogger(__name__)

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".zip")
UNREAD = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb"), "an Excel workbook"),
    ".ods": "a spreadsheet",
}
EVALUATION_FILES = ("corpus", "queries", "qrels", "collection")


def find_sources(specs: Sequence[str], name: str | None) -> list[Source]:
    """Turn what was typed into sources, with names that tell them apart.

    Raises:
        UserError: nothing is there, or a file of a kind that is not read.
    """
    found: list[str] = []
    for spec in specs:
        path = Path(spec).expanduser()
        if spec.startswith(HUB) or (path.is_dir() and is_whole(path, name)):
            found.append(spec)
        elif path.is_dir():
            found += in_folder(path, name)
        else:
            found += map(str, find_files([spec], data_root=None, flag="INPUT", suffixes=SUFFIXES))
    for one in found:
        if (suffix := Path(one).suffix.lower()) in UNREAD:
            raise UserError(
                f"INPUT: {one}: is {UNREAD[suffix]}, expected a CSV, which Excel and others save (CSV UTF-8)"
            )
    names = short_names([Path(spec.removeprefix(HUB).replace(":", "-")) for spec in found])
    return [Source(spec, plain_name(name)) for spec, name in zip(found, names, strict=True)]


def in_folder(folder: Path, name: str | None) -> list[str]:
    """Return the sources below a folder: folders that are a source as a whole, and the files outside of them.

    Raises:
        UserError: there is none.
    """
    below = (path for path in sorted(folder.rglob("*")) if path.is_dir() and not is_hidden(path, folder))
    whole: list[Path] = []
    for path in below:
        if whole and path.is_relative_to(whole[-1]):
            continue
        if is_whole(path, name):
            whole.append(path)
    if name is not None and name in FORMATS and FORMATS[name].is_folder:  # what is missing is for its reader to say
        return [str(path) for path in whole or [folder]]
    inside = {path for one in whole for path in one.rglob("*")}
    sheets = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in UNREAD and path not in inside]
    if sheets:
        logger.warning(
            "%s: %s not read: %s", folder, counted(len(sheets), "spreadsheet"), ", ".join(map(str, sheets[:5]))
        )
    if whole and not any(is_data_file(path, SUFFIXES) for path in folder.rglob("*") if path not in inside):
        return [str(path) for path in whole]
    files = find_files([str(folder)], data_root=None, flag="INPUT", suffixes=SUFFIXES)
    kept = [path for path in files if path not in inside and path.parent.name != ANSWERS]
    return [str(path) for path in (*whole, *kept)]


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path is in a hidden folder, such as a notebook's checkpoints."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def is_whole(folder: Path, name: str | None) -> bool:
    """Whether a folder is one source."""
    if is_saved(folder):
        return True
    fitting = guesses(head(folder, "auto", None))
    return bool(fitting) if name is None else name in fitting


def plain_name(name: str) -> str:
    """Leave the suffixes of a file out, for ids."""
    first, *suffixes = Path(name).name.split(".")
    kept = [suffix for suffix in suffixes if f".{suffix}" not in (*SUFFIXES, ".gz", ".zst")]
    return "-".join([*Path(name).parts[:-1], ".".join([first, *kept])])


def choose_format(source: Source, name: str | None, reading: ReadOptions) -> Format:
    """Return the format that was named, or the only one that a source can be, which is logged.

    Raises:
        UserError: the name is unknown, or no name was given and the source is not unmistakable.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown_name("--from", name, FORMATS)
        if source.path.is_file() and reading.encoding == "auto" and not is_arrow(source.path):
            find_encoding(source.path)  # now, so that what it logs appears above the progress bar
        return FORMATS[name]
    found = [] if source.is_hub else guesses(head(source.path, reading.encoding, reading.split))
    if not source.is_hub and source.path.is_file() and not source.path.stat().st_size:
        raise UserError(f"{source.spec}: the file is empty")
    if len(found) != 1:
        if source.path.name.split(".")[0] in EVALUATION_FILES:
            raise UserError(
                f"{source.spec}: looks like a file of an evaluation set, expected its folder for --from beir or msmarco"
            )
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
    """Return the task of records that name none; None where there is no telling."""
    if options.task is not None:
        return options.task
    task = own.tasks.get(options.shape or "")
    if task is not None:
        logger.info("%s: task %s (--task says otherwise)", source.spec, task)
    elif not own.carries_task and "task" not in options.columns:
        logger.info("%s: no task (--task gives one, else train with --default_task)", source.spec)
    return task
