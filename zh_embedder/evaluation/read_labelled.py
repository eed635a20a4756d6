"""Readers of sentence pairs and of labelled texts."""

from __future__ import annotations

from pathlib import Path

from zh_embedder.core.errors import UserError, nearest
from zh_embedder.data.schema import labelled_row, need_text, pair_row
from zh_embedder.evaluation.set_files import LABELS, lines_of, name_of, only_task
from zh_embedder.evaluation.sets import LabelSet, PairSet


def read_pairs(path: Path, *, task: str | None = None) -> PairSet:
    """Read pairs of texts with a score each: {"text1", "text2", "score", "task"}."""
    rows = [pair_row(raw, where) for where, raw in lines_of(path)]
    return PairSet(
        name=name_of(path),
        task=task or only_task({row["task"] for row in rows}, str(path)),
        firsts=[row["query"] for row in rows],
        seconds=[row["pos"][0] for row in rows],
        scores=[row["score"] for row in rows],
    )


def read_labels(path: Path, *, task: str | None = None) -> LabelSet:
    """Read labelled texts: {"text", "label", "task"}."""
    rows = []
    for where, raw in lines_of(path):
        need_text(raw, "text", where, ("text", "label", "task"))
        if "label" not in raw:
            hint = nearest("label", raw)
            raise UserError(f"{where}: label: is missing{hint or ';'} found {', '.join(raw)}, expected {LABELS}")
        rows.append(labelled_row(raw, where))
    return LabelSet(
        name=name_of(path),
        task=task or only_task({row["task"] for row in rows}, str(path)),
        texts=[row["query"] for row in rows],
        labels=[row["label"] for row in rows],
    )
