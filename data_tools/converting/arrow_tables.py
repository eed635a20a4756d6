"""Arrow tables: Parquet files, folders that `save_to_disk` wrote, data sets on the hub; rows, columns, class names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.converting.format_types import HUB, Record
from zh_embedder.core.errors import UserError, nearest, reading

STATE, SPLITS = "state.json", "dataset_dict.json"  # of a saved data set, and of one with several splits
ARROW, PARQUET = ".arrow", ".parquet"
ROWS = 4096  # in memory at a time

Classes = Mapping[str, Sequence[str]]  # column -> what its numbers are called


def is_saved(folder: Path) -> bool:
    """Whether a folder is a data set that `save_to_disk` wrote."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def is_arrow(path: Path) -> bool:
    """Whether rows of a source are read here."""
    return path.suffix in (ARROW, PARQUET) or (path.is_dir() and is_saved(path))


def arrow_rows(path: Path, split: str | None) -> Iterator[tuple[str, Record]]:
    """Yield (place, row) of a Parquet file, an Arrow file or a saved data set.

    Raises:
        UserError: a file is damaged, or the split is not there.
    """
    number = 0
    for file in files_of(path, split):
        batches = batches_of(file)
        while True:
            try:
                with reading(file):
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.to_pylist()
            except (ValueError, OverflowError) as error:  # such as a date beyond Python's years
                said = str(error) if isinstance(error, UserError) else f"{file}: after row {number}: {error}"
                raise UserError(said) from error
            if batch is None:
                break
            for row in rows:
                number += 1
                yield f"{path}:row {number}", row


def files_of(path: Path, split: str | None) -> list[Path]:
    """Return the files of a source, those of a saved data set in its order.

    Raises:
        UserError: the split is not there, or the folder is not whole.
    """
    if path.is_file():
        return [path]
    folder = split_of(path, split)
    entries = listed(folder / STATE, "_data_files")
    names = [str(entry.get("filename")) if isinstance(entry, dict) else "" for entry in entries]
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder / STATE}: names {name!r}, which is not in the folder")
    return [folder / name for name in names]


def split_of(folder: Path, split: str | None) -> Path:
    """Return the folder of a split, train's or the only one without a name."""
    if not (folder / SPLITS).is_file():
        return folder
    names = [name for name in listed(folder / SPLITS, "splits") if isinstance(name, str)]
    chosen = split or ("train" if "train" in names or len(names) != 1 else names[0])
    if chosen not in names or not (folder / chosen / STATE).is_file():
        found = ", ".join(names) or "none"
        raise UserError(f"--split: no {chosen!r} in {folder}{nearest(chosen, names) or ';'} found {found}")
    return folder / chosen


def listed(path: Path, name: str) -> list[Any]:
    """Return a list of a saved data set's own notes."""
    with reading(path):
        notes = json.loads(path.read_text("utf-8"))
    found = notes.get(name) if isinstance(notes, dict) else None
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: {name}: is missing, expected a folder as `save_to_disk` writes it")
    return found


def batches_of(path: Path) -> Iterator[Any]:
    """Yield record batches of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == PARQUET:
        yield from pq.ParquetFile(path).iter_batches(batch_size=ROWS)
        return
    with pa.memory_map(str(path)) as source:
        for batch in opened(source):
            batch.validate(full=True)  # offsets of a damaged file would be followed into other memory
            yield from (batch.slice(start, ROWS) for start in range(0, batch.num_rows, ROWS))


def opened(source: Any) -> Any:
    """Open a stream of record batches, which `datasets` writes, or a file of them."""
    import pyarrow as pa

    start = source.read(6)
    source.seek(0)
    if start == b"ARROW1":
        own = pa.ipc.open_file(source)
        return (own.get_batch(index) for index in range(own.num_record_batches))
    return pa.ipc.open_stream(source)


def schema_of(path: Path, split: str | None) -> Any:
    """Return the schema of a source.

    Raises:
        UserError: a file is damaged, or a column is there twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = files_of(path, split)[0]
    with reading(file):
        if file.suffix == PARQUET:
            schema = pq.read_schema(file)
        else:
            with pa.memory_map(str(file)) as source:
                if source.read(6) == b"ARROW1":
                    source.seek(0)
                    schema = pa.ipc.open_file(source).schema
                else:
                    source.seek(0)
                    schema = pa.ipc.open_stream(source).schema
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise UserError(f"{file}: column {twice[0]!r} is there twice, expected different names")
    return schema


def saved_classes(path: Path, split: str | None) -> Classes:
    """Return what numbers of a table's columns are called, which `datasets` writes into the schema."""
    notes = (schema_of(path, split).metadata or {}).get(b"huggingface")
    if notes is None:
        return {}
    try:
        features = json.loads(notes)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}  # another program's notes
    return classes_in(features if isinstance(features, dict) else {})


def classes_in(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the class names of features as they are written down."""
    kinds = {column: kind for column, kind in features.items() if isinstance(kind, dict)}
    found = {column: kind.get("names") for column, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    return {column: list(map(str, names)) for column, names in found.items() if isinstance(names, list)}


# ---- hub ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def hub_table(spec: str, split: str | None) -> Any:
    """Load a data set of the hub: `hf:NAME` or `hf:NAME:SUBSET`, with --split (train).

    Raises:
        UserError: it cannot be loaded.
    """
    name, _, subset = spec.removeprefix(HUB).partition(":")
    if not name:
        raise UserError(f"INPUT: got {spec!r}, expected the name of a data set behind it, such as {HUB}owner/name")
    try:
        from datasets import load_dataset

        return load_dataset(name, subset or None, split=split or "train")
    except (OSError, ValueError, RuntimeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{spec}: cannot be loaded: {said}. Without a network (or with "
            "HF_HUB_OFFLINE=1) only data sets in the cache load: download the files elsewhere (`hf download "
            f"--repo-type dataset {name}`) and give their paths"
        ) from None


def hub_rows(spec: str, split: str | None) -> Iterator[tuple[str, Record]]:
    """Yield (place, row) of a data set on the hub."""
    for number, row in enumerate(hub_table(spec, split)):
        yield f"{spec}:row {number}", row


def hub_classes(spec: str, split: str | None) -> Classes:
    """Return what numbers of its columns are called."""
    features = hub_table(spec, split).features
    return {column: kind.names for column, kind in features.items() if hasattr(kind, "names")}
