"""Teacher temperature: the sharpness of the targets that teacher scores make, and a temperature that corrects it.

A target is softmax(scores / temperature) over a record's keys. Its entropy is given as a share of the greatest
possible, ln(number of keys): 1 says that all keys are equally good, 0 that one of them is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError

ENTROPY = 0.5  # of the targets, as a share of the maximum

SHARPEST, FLATTEST = 1e-4, 1e4  # temperatures that are searched, in units of the scores' spread
HALVINGS = 60


def entropy_shares(scores: Sequence[Sequence[float]], temperature: float) -> NDArray[np.float64]:
    """Entropy of each record's target as a share of the greatest possible; records with one key are left out."""
    shares = []
    for own in scores:
        if len(own) < 2:
            continue
        logits = np.asarray(own, float) / temperature
        logits -= logits.max()
        target = np.exp(logits) / np.exp(logits).sum()
        shares.append(-(target * np.log(np.maximum(target, 1e-300))).sum() / np.log(len(own)))
    return np.asarray(shares)


def equal_scores(scores: Sequence[Sequence[float]]) -> int:
    """Count the records whose keys all have the same score: their target says nothing at any temperature."""
    return sum(len(own) > 1 and max(own) == min(own) for own in scores)


def find_temperature(scores: Sequence[Sequence[float]], share: float) -> float:
    """Find the temperature at which the mean entropy of the targets is a share of the greatest possible.

    The entropy rises with the temperature, so halving the interval finds it.

    Args:
        scores: of records, each for its keys.
        share: wanted, within 0 and 1.

    Raises:
        UserError: no record tells its keys apart, or no temperature gives that entropy, because too many scores are
            equal.
    """
    telling = [own for own in scores if len(own) > 1 and max(own) > min(own)]
    if not telling:
        raise UserError("teacher_temperature auto: every record gives all its keys the same score")
    spread = float(np.mean([max(own) - min(own) for own in telling]))
    low, high = SHARPEST * spread, FLATTEST * spread
    lowest, highest = (float(entropy_shares(telling, t).mean()) for t in (low, high))
    if not lowest < share < highest:
        raise UserError(
            f"teacher_temperature auto: the entropy lies between {lowest:.3f} and {highest:.3f} of the greatest "
            f"whatever the temperature, --teacher_entropy wants {share:g}"
        )
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if entropy_shares(telling, middle).mean() < share else (low, middle)
    return float(f"{(low * high) ** 0.5:.4g}")
