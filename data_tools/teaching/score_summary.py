"""Score summary: a histogram of teacher scores, and a temperature to train with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zh_embedder.core.errors import UserError
from zh_embedder.losses.teacher_temperature import entropy_shares, find_temperature

BINS, WIDTH = 12, 40


def histogram(scores: Sequence[float]) -> str:
    """Draw how scores are spread, a line for each interval."""
    counts, edges = np.histogram(scores, bins=BINS)
    most = max(1, int(counts.max()))
    lines = [
        f"{low:10.4f} .. {high:10.4f} {count:8,} {'#' * round(WIDTH * int(count) / most)}"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return "\n".join(lines)


def advice(sample: Sequence[Sequence[float]], share: float) -> str:
    """Say which temperature to train with, and how flat the targets are without it."""
    try:
        temperature = find_temperature(sample, share)
    except UserError as error:
        return f"no temperature to recommend: {error}"
    now = entropy_shares(sample, 1.0).mean()
    return (
        f"--teacher_temperature {temperature:g} (mean entropy of the targets {share:g} of the greatest possible; "
        f"{now:.3f} at temperature 1)"
    )
