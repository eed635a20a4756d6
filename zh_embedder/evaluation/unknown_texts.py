"""Unknown characters of evaluation sets, before any of them is encoded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from zh_embedder.bases.names import load_tokenizer
from zh_embedder.evaluation.sets import EvalSet, LabelSet, PairSet
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.text.unknown import check_unknown, sample_of


def texts_of(data: EvalSet, side: int) -> Collection[str]:
    """Return the texts of a set that a side's tokenizer reads: 0 for queries, 1 for keys."""
    if isinstance(data, LabelSet):
        return data.texts
    if isinstance(data, PairSet):
        return (data.firsts, data.seconds)[side]
    return (data.queries, data.keys)[side].values()


def check_models(models: Sequence[str], sets: Sequence[EvalSet], *, limit: float) -> None:
    """Refuse models whose tokenizers do not know the language of the sets; weights are not loaded for that.

    Raises:
        UserError: with the first such model and its share for each set.
    """
    for name in models:
        folders = [encoder_folder(name, flag="MODEL"), key_folder(name)]
        query, *other = [load_tokenizer(folder, flag="MODEL") for folder in folders if folder]
        sides = [(query, 0), (other[0] if other else query, 1)]
        check_sets(sides, sets, limit=limit, base=name)


def check_sets(sides: Iterable[tuple[Any, int]], sets: Sequence[EvalSet], *, limit: float, base: str) -> None:
    """Refuse a model by the tokenizers of its sides."""
    texts = [
        (tokenizer, {data.name: sample_of(texts_of(data, side)) for data in sets if texts_of(data, side)})
        for tokenizer, side in sides
    ]
    check_unknown(texts, limit=limit, base=base)
