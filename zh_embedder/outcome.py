"""What one model did on one evaluation set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zh_embedder.metrics import Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model did on one evaluation set. Values are shares of 1, the higher the better."""

    model: str
    data: str
    task: str | None
    kind: str  # retrieval, reranking, similarity, pair_classification, classification, clustering
    values: Mapping[str, float]  # metric -> value over the whole set; the first metric is the one shown first
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metric -> query -> value, for means
    run: Run = field(default_factory=dict)  # query -> key -> score of its best keys (retrieval, reranking)
    positives: Mapping[str, float] = field(default_factory=dict)  # query -> score of its best relevant key
    gold: NDArray[np.generic] | None = None  # what is right for each pair or text, where the metric is no mean
    predicted: NDArray[np.generic] | None = None  # what the model says of each: resampled beside `gold`
    truncated: tuple[float, float] | None = None  # share of queries and of keys that are longer than the model reads

    @property
    def main(self) -> str:
        """The metric that is shown first."""
        return next(iter(self.values))
