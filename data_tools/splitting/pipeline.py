"""Split pipeline: census, assignment, part files, evaluation folders, proof."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.splitting.assignment import assign
from data_tools.splitting.census import SLACK, Census, take_census
from data_tools.splitting.eval_folders import write_eval_sets
from data_tools.splitting.part_files import check_places, outputs, write_parts
from data_tools.splitting.proof import prove
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import missing_parents, remove, remove_empty, write_json
from zh_embedder.data.source_groups import sizes_of

logger = logging.getLogger(__name__)

REPORT = "split.json"
Wanted = Mapping[str, float | int | None]  # part -> its share, its count, or None for the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions:
    """What to split, and how."""

    files: Sequence[Path]
    folder: Path
    wanted: Wanted
    near: float | None = None
    groups_per_file: bool = False
    clean_negatives: bool = False
    eval_folders: bool = False
    corpus: Sequence[Path] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.near is not None and not SLACK < self.near <= 1:
            raise reject("--near", self.near, "a similarity up to 1, such as 0.8")
        if self.corpus and not self.eval_folders:
            raise UserError("--corpus: needs --eval, because it adds texts to those folders")


def split(options: SplitOptions) -> bool:
    """Split; returns whether the proof holds.

    Raises:
        UserError: anything that the user can fix.
    """
    names, folder = list(options.wanted), options.folder
    places = outputs(options.files, folder, names)
    check_places(options.files, places)
    census = take_census(
        options.files,
        near=options.near,
        groups_per_file=options.groups_per_file,
        clean_negatives=options.clean_negatives,
        seed=options.seed,
        named=options.eval_folders,
    )
    check_counts(options.wanted, len(census.groups))
    parts = assign(census, options.wanted)
    with all_or_none(folder):
        written = dict(zip(names, write_parts(options.files, places, parts, census), strict=True))
        later = {name: written[name] for name in names[1:]}
        sets = write_eval_sets(later, options.corpus) if options.eval_folders else []
        report = describe(census, parts, names) | {"eval": [str(path) for path in sets]}
        proof = prove(written, near=options.near, groups_per_file=options.groups_per_file)
        settings = {"seed": options.seed, "near": options.near}
        write_json(folder / REPORT, {**settings, **report, "proof": proof.as_dict()})
    for line in (*lines_of(report), *proof.lines()):
        logger.info("%s", line)
    return proof.holds


def check_counts(wanted: Wanted, records: int) -> None:
    """Refuse counts that leave nothing to the rest.

    Raises:
        UserError: they are as many as all records, or more.
    """
    asked = sum(number for number in wanted.values() if isinstance(number, int))
    if asked >= records:
        raise reject("--counts", asked, f"fewer than the {counted(records, 'record')} that there are")


@contextmanager
def all_or_none(folder: Path) -> Iterator[None]:
    """Leave no part behind where another one could not be written: half a split looks like a whole one.

    The report comes first and says that it is unfinished: a killed split can be told from other folders and replaced.
    """
    before, made = set(folder.rglob("*")), missing_parents(folder / REPORT)
    try:
        write_json(folder / REPORT, {"finished": False})
        yield
    except BaseException:
        new = sorted((path for path in folder.rglob("*") if path not in before), reverse=True)  # what is inside first
        for path in new:
            remove(path)
        remove_empty(made)
        raise


def describe(census: Census, parts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Count records and groups of each part and dataset."""
    by_part = {
        name: {
            "records": int((parts == number).sum()),
            "groups": len(np.unique(census.groups[parts == number])),
            "datasets": {
                dataset: int(((parts == number) & (census.datasets == d)).sum())
                for d, dataset in enumerate(census.names)
            },
        }
        for number, name in enumerate(names)
    }
    largest = max(sizes_of(census.groups).values())
    return {"parts": by_part, "largest_group": largest}


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the summary's lines on the parts."""
    for name, part in report["parts"].items():
        each = ", ".join(f"{dataset} {count:,}" for dataset, count in part["datasets"].items())
        yield f"{name}: {counted(part['records'], 'record')} in {counted(part['groups'], 'group')} ({each})"
    yield f"the largest group of records that belong together: {report['largest_group']:,}"
