"""Outcomes: the figures and rankings of one model on one evaluation set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.evaluation.left_out import LeftOut
from zh_embedder.evaluation.retrieval_metrics import Run


class Role(StrEnum):
    """What a figure belongs to. Whatever compares figures goes by this, never by the name of a model."""

    BASE = "base"  # what others are compared with: step 0 of a run, the first model of an evaluation
    TRAINED = "trained"  # what is compared with it: a later step, a further model
    VARIANT = "variant"  # a model once more, used otherwise: without instructions, with shorter vectors
    BASELINE = "baseline"  # no model: BM25, or keys drawn at random


PAIRS = ("truncated", "lengths", "limits", "lost", "prompts")  # fields of an outcome: of queries and of keys


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model did on one evaluation set. Values are shares of 1, the higher the better."""

    model: str  # a name to show
    data: str
    task: str | None
    kind: str  # retrieval, reranking, similarity, pair_classification, classification, clustering
    values: Mapping[str, float]  # metric -> value over the whole set; the first metric is the one shown first
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metric -> query -> value, for means
    run: Run = field(default_factory=dict)  # query -> key -> score of its best keys (retrieval, reranking)
    positives: Mapping[str, float] = field(default_factory=dict)  # query -> score of its best relevant key
    gold: NDArray[np.generic] | None = None  # what is right for each pair or text, where the metric is no mean
    predicted: NDArray[np.generic] | None = None  # the model's answer for each: resampled with `gold`
    truncated: tuple[float, float] | None = None  # share of queries and of keys that are longer than the model reads
    lengths: tuple[int, int] | None = None  # tokens that the model reads of a query and of a key
    limits: tuple[int | None, int | None] | None = None  # tokens that it could read; None: there is no limit
    lost: tuple[str, str] | None = None  # example of what was cut of a query and of a key
    prompts: tuple[str, str] | None = None  # instruction in front of queries and of keys
    left_out: tuple[LeftOut, ...] = ()  # what the set's files hold and the figures do not rest on
    role: Role = field(kw_only=True)  # no default: a figure without a role cannot be compared

    @property
    def main(self) -> str:
        """The metric that is shown first."""
        return next(iter(self.values))

    def to_json(self, *, hits: int) -> dict[str, Any]:
        """Lay out for a JSON file, with a limited number of hits of each query."""
        arrays = {name: None if (a := getattr(self, name)) is None else a.tolist() for name in ("gold", "predicted")}
        run = {query: dict(list(scores.items())[:hits]) for query, scores in self.run.items()}
        left = [asdict(found) for found in self.left_out]
        return {f.name: getattr(self, f.name) for f in fields(self)} | arrays | {"run": run, "left_out": left}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Outcome:
        """Read back what `to_json` laid out."""
        arrays = {name: None if raw[name] is None else np.asarray(raw[name]) for name in ("gold", "predicted")}
        pairs = {name: tuple(pair) for name in PAIRS if (pair := raw.get(name)) is not None}
        left = tuple(LeftOut(**found) for found in raw.get("left_out", ()))
        return cls(**{**raw, **arrays, **pairs, "role": Role(raw["role"]), "left_out": left})
