"""Held-out records, group by group, so that nothing trained gives their answers away."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError
from zh_embedder.data.records import TaskDataset, column, with_parts
from zh_embedder.data.schema import GROUP
from zh_embedder.data.source_groups import Unions, draw_groups, sizes_of
from zh_embedder.evaluation.sets import RetrievalSet

logger = logging.getLogger(__name__)


def hold_out(
    datasets: Sequence[TaskDataset], *, share: float, seed: int
) -> tuple[list[TaskDataset], list[RetrievalSet]]:
    """Hold a share of the records of each dataset out of training, as a retrieval set each.

    Records that share their `group` (within a file), their query or a positive stay together, in whatever file they
    are. Whole groups are drawn until a dataset has its share. The keys to find a query's positives among are all keys
    of the records held out. Scored pairs and labelled texts stay in training.

    Args:
        datasets: of the run.
        share: of the records of each dataset; 0 holds nothing out.
        seed: of the draw.

    Raises:
        UserError: the records of a dataset are one single group, or none of any dataset can be held out.
    """
    chosen = [dataset for dataset in datasets if dataset.kind == GROUP and not dataset.has_history]
    if not share:
        return list(datasets), []
    if not chosen:
        raise UserError("--validation_share: no dataset has queries with positives, expected --eval_data")
    groups = group_numbers(chosen)
    drawn = draw(groups, share=share, seed=seed)
    kept: dict[int, TaskDataset] = {}
    sets = []
    for dataset, numbers in zip(chosen, groups, strict=True):
        out = np.isin(numbers, list(drawn))
        if out.all():
            raise UserError(
                f"--validation_share: {dataset.name}: all {len(dataset)} records belong together (by group, query or "
                "positive), expected some to be left for training"
            )
        if out.any():
            kept[id(dataset)] = rows_of(dataset, ~out)
            sets.append(retrieval_set(rows_of(dataset, out), "held_out/" + dataset.name.replace(":", "/")))
            logger.info("data: %s: %d of %d records held out for evaluation", dataset.name, out.sum(), len(dataset))
        else:
            logger.warning("data: %s: nothing is held out because its groups are larger than the share", dataset.name)
    return [kept.get(id(dataset), dataset) for dataset in datasets], sets


def rows_of(dataset: TaskDataset, keep: NDArray[np.bool_]) -> TaskDataset:
    """Return a dataset with some of its records."""
    parts, start = [], 0
    for part in dataset.parts:
        parts.append(replace(part, rows=part.rows[keep[start : start + len(part.rows)]]))
        start += len(part.rows)
    return with_parts(dataset, parts)


def retrieval_set(dataset: TaskDataset, name: str) -> RetrievalSet:
    """Make records a retrieval set: their queries, and all their keys, each text once."""
    ids: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    names: dict[str, str] = {}
    for record in (dataset[row] for row in range(len(dataset))):
        query = names.setdefault(record.query, f"q{len(names)}")  # one query in several records: all their positives
        queries[query] = record.query
        for text in record.candidates:
            ids.setdefault(text, f"k{len(ids)}")
        qrels.setdefault(query, {}).update(dict.fromkeys((ids[text] for text in record.pos), 1))
    return RetrievalSet(name, dataset.task, queries, {key: text for text, key in ids.items()}, qrels)


# ---- groups ---------------------------------------------------------------------------------------------------------


def marks(dataset: TaskDataset) -> Iterable[tuple[str, ...]]:
    """Yield what ties each record to others: its source, its query, its positives."""
    for part in dataset.parts:
        columns = (column(part.table, name).take(part.rows).to_pylist() for name in ("group", "query", "pos"))
        for group, query, positives in zip(*columns, strict=True):
            own = () if group is None else (f"group {dataset.path} {group}",)
            yield (*own, f"text {query}", *(f"text {text}" for text in positives))


def group_numbers(datasets: Sequence[TaskDataset]) -> list[NDArray[np.int64]]:
    """Number of the group that each record belongs to: records that share a mark, directly or through others."""
    unions = Unions()
    for dataset in datasets:
        for own in marks(dataset):
            unions.add(own)
    return np.split(unions.roots(), np.cumsum([len(dataset) for dataset in datasets])[:-1])


def draw(groups: Sequence[NDArray[np.int64]], *, share: float, seed: int) -> set[int]:
    """Draw whole groups until every dataset has its share of records, at least one, and never much more.

    The order is drawn over all datasets, so that a group that spans several is in or out of all of them.
    """
    everyone = np.unique(np.concatenate(groups))
    wanted = [max(1, round(share * len(numbers))) for numbers in groups]
    order = np.random.default_rng(seed).permutation(everyone).tolist()
    return draw_groups(order, [sizes_of(numbers) for numbers in groups], wanted)
