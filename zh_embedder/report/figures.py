"""Figures as they are printed: one rule for the page and the terminal, so that what is printed adds up."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

PLACES = 3


def rounded(value: float, places: int = PLACES) -> Decimal:
    """Round as JavaScript's `toFixed` rounds the page's data, which hold seven digits."""
    return Decimal(float(f"{value:.7g}")).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def figure(value: float, places: int = PLACES) -> str:
    """Lay out a figure."""
    return str(rounded(value, places))


def difference(before: float, after: float, places: int = PLACES) -> str:
    """Lay out how far two figures are apart as printed: 0.878 and 0.914 are 0.036 apart, whatever their next digits."""
    return f"{rounded(after, places) - rounded(before, places):+}"
