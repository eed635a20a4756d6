"""Sizes of an untrained base."""

from __future__ import annotations

from dataclasses import dataclass

from zh_embedder.core.numbers import AMOUNT, COUNT, LENGTH, SEED, real, whole
from zh_embedder.core.options import check_numbers, limited

IDLE = slice(0, 20)  # dimensions that the last normalisation leaves out
POWER = real(above=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a base, and the seed of its random weights."""

    hidden_size: int = limited(320, whole(2 * IDLE.stop))  # of a new base; one that gets layers keeps its own
    num_layers: int = limited(0, AMOUNT)
    num_heads: int = limited(5, COUNT)
    intermediate_size: int = limited(768, COUNT)
    max_positions: int = limited(512, LENGTH)
    seed: int = limited(0, SEED)

    def __post_init__(self) -> None:
        check_numbers(self)
