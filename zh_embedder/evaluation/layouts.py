"""Layouts of retrieval folders: which files hold queries, corpus and judgements, and of which split.

BEIR's (queries.jsonl, corpus.jsonl, qrels.tsv or qrels/SPLIT.tsv), FlagEmbedding's (test_queries.jsonl, corpus.jsonl,
test_qrels.jsonl), and C-MTEB's as they come from a hub: Parquet files in corpus/, queries/, and qrels/ or data/, or all
of them in data/ with the judgements in a folder of their own beside it, NAME-qrels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.set_files import (
    BEIR,
    FLAG_EMBEDDING,
    PARQUET,
    PARTS,
    files,
    find,
    has,
    has_parquet,
    of_part,
    split_of,
)

logger = logging.getLogger(__name__)

SPLITS = ("test", "dev", "validation", "valid", "val")  # the first that is there is measured
JUDGED = (".tsv", ".jsonl", PARQUET)

Groups = dict[str, list[Path]]  # name of a split -> its files


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a retrieval set."""

    queries: Sequence[Path]
    corpus: Sequence[Path]
    judged: Sequence[Path]


def find_layout(folder: Path) -> Layout:
    """Return the files of a folder, or of its `test/` where the judgements are there.

    Raises:
        UserError: a file is missing, or there are judgements of several splits and none is for testing.
    """
    if has_parquet(folder):
        return parquet_layout(folder)
    if (folder / "test").is_dir() and not any(has(folder, names[2]) for names in (BEIR, FLAG_EMBEDDING)):
        folder = folder / "test"
    names = FLAG_EMBEDDING if has(folder, FLAG_EMBEDDING[2]) else BEIR
    queries, corpus = ([find(folder, name, names)] for name in names[:2])
    return Layout(queries, corpus, beir_judged(folder) if names is BEIR else [find(folder, names[2], names)])


def beir_judged(folder: Path) -> list[Path]:
    """Return the judgements of a BEIR folder: qrels/test.tsv as in published sets, qrels.tsv, or another split's."""
    found = groups(files(folder / "qrels", JUDGED))
    if "test" not in found and (has(folder, BEIR[2]) or not found):
        return [find(folder, BEIR[2], BEIR)]
    return chosen(found, folder / "qrels")


def parquet_layout(folder: Path) -> Layout:
    """Return the files of a folder as it comes from a hub."""
    places = (folder / "qrels", folder / "data", folder / "default", folder.with_name(f"{folder.name}-qrels") / "data")
    beside = (file for place in places for file in files(place, (PARQUET,)))
    judged = {name: own for name, own in groups(beside).items() if name not in PARTS}
    if not judged:
        raise UserError(
            f"{folder}: no judgements, expected Parquet files in {', '.join(map(str, places))}: query-id, corpus-id, "
            "score"
        )
    own = chosen(judged, folder)
    split = split_of(own[0])
    queries, corpus = (of_split(groups(of_part(folder, part)), split, part) for part in PARTS)
    return Layout(queries, corpus, own)


def of_split(found: Groups, split: str, part: str) -> list[Path]:
    """Return the files of the split that is measured; where files are not by split, all of them."""
    if split in found:
        return found[split]
    if len(found) == 1:
        return next(iter(found.values()))
    raise UserError(f"{part}: got files of {', '.join(found)}, expected some of {split}, which the judgements are of")


def groups(paths: Iterable[Path]) -> Groups:
    """Sort files by split."""
    found: Groups = {}
    for path in paths:
        found.setdefault(split_of(path), []).append(path)
    return found


def chosen(found: Mapping[str, list[Path]], folder: Path) -> list[Path]:
    """Return the judgements that are measured with, and say which they are where there is a choice.

    Raises:
        UserError: there are several splits, and none is for testing.
    """
    split = next((name for name in SPLITS if name in found), None)
    if split is None and len(found) == 1:
        split = next(iter(found))
    if split is None:
        raise UserError(f"{folder}: got judgements of {', '.join(found)}, expected {' or '.join(SPLITS[:3])}")
    if split != SPLITS[0] or len(found) > 1:
        others = ", ".join(name for name in found if name != split)
        logger.info("%s: judgements are those of %s%s", folder, split, f" (there are also {others})" if others else "")
    return found[split]
