"""Progress bars. The only module that imports tqdm.

A bar appears where the work takes over 5 seconds, and is gone when it is done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

DELAY = 5  # seconds
T = TypeVar("T")


class Bar(tqdm):
    """A bar in texts/s or another unit, with tokens/s behind where they are counted."""

    def __init__(
        self,
        total: int | None = None,
        *,
        name: str | None = None,
        unit: str = "texts",
        done: int = 0,
        scaled: bool = False,
        shown: bool = True,
        items: Iterable[object] | None = None,
    ) -> None:
        """Start a bar.

        Args:
            total: how many there are, where that is known.
            name: appears in front.
            unit: what is counted, in the plural.
            done: how many an earlier run has done.
            scaled: large numbers as 1.2M.
            shown: False counts silently.
            items: what the bar goes through itself; where they have a length, it is the total.
        """
        super().__init__(
            items,
            total=total,
            initial=done,
            desc=name,
            unit=f" {unit}",
            unit_scale=scaled,
            delay=DELAY,
            leave=False,
            disable=not shown,
        )
        self.tokens = 0

    def advance(self, count: int, tokens: int = 0) -> None:
        """Count what was done."""
        self.tokens += tokens
        if tokens and not self.disable:
            self.set_postfix_str(f"{self.tokens / max(1e-9, self.format_dict['elapsed']):,.0f} tokens/s", refresh=False)
        self.update(count)


def with_bar(items: Iterable[T], *, name: str, unit: str, shown: bool = True) -> Iterator[T]:
    """Yield items behind a bar that counts them."""
    with Bar(name=name, unit=unit, shown=shown, items=items) as bar:
        yield from bar


def write_above(text: str) -> None:
    """Write a line to the error stream above the bars, not through them."""
    tqdm.write(text, file=sys.stderr)


def end_bars() -> None:
    """Close the bars that an error left open, so that its message begins on a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
