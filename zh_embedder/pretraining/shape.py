"""Sizes of an untrained base."""

from __future__ import annotations

from dataclasses import dataclass

from zh_embedder.core.numbers import COUNT, SEED, real, whole
from zh_embedder.core.options import check_numbers, limited

IDLE = slice(0, 20)  # dimensions that the last normalisation leaves out
POWER = real(above=0)
# Larger ones are no models; making one would fill the memory or never end.
WIDEST, DEEPEST, MOST_POSITIONS = 10**5, 1000, 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a base, and the seed of its random weights."""

    hidden_size: int = limited(320, whole(2 * IDLE.stop, WIDEST))  # of a new base; one that gets layers keeps its own
    num_layers: int = limited(0, whole(0, DEEPEST))
    num_heads: int = limited(5, COUNT)
    intermediate_size: int = limited(768, whole(1, WIDEST))
    max_positions: int = limited(512, whole(3, MOST_POSITIONS))
    seed: int = limited(0, SEED)

    def __post_init__(self) -> None:
        check_numbers(self)
