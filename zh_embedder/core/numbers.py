"""Numbers of flags: type, range and special values, declared once; help, check and message come from it.

A `Number` is argparse's `type=` of a flag, and what the field of a dataclass carries (`core.options`). A whole number
is written in ASCII digits (`1e3`, `1_000` and `５` are not whole numbers); nan and infinity are never numbers.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

from zh_embedder.core.errors import UserError

WHOLE = re.compile(r"[+-]?[0-9]+")
REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
LIKE_NUMBER = re.compile(rf"{REAL.pattern}|[+-]?(nan|inf|infinity)", re.IGNORECASE)
LARGEST = 10**15  # of whole numbers that declare no limit: 64 bits hold it
LARGEST_REAL = 1e38  # of others: fp32 holds it, in which they are computed with
LONGEST = 300  # digits of a number that is read at all
MAX_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Number:
    """The numbers that a flag takes."""

    whole: bool
    low: float | None = None
    high: float | None = None
    above: float | None = None  # like `low`, but not this number itself
    below: float | None = None
    share: bool = False  # a number that is not whole must be below 1: a share
    also: Mapping[float | str, str] = field(default_factory=dict)  # special values -> what they mean

    def __call__(self, text: str) -> float | str:
        """Read what was typed; argparse's `type`.

        Raises:
            ArgumentTypeError: it is no such number.
        """
        if text in self.also:
            return text
        value = self.parse(text)
        if value is None or not self.holds(value):
            raise ArgumentTypeError(self.complaint(text))
        return value

    def parse(self, text: str) -> float | None:
        """Read a number of the right type; None where the text is none."""
        if len(text) > LONGEST or not (WHOLE if self.whole else REAL).fullmatch(text):
            return None
        return int(text) if self.whole else float(text) + 0.0  # no -0.0

    def holds(self, value: object) -> bool:
        """Whether a value is one of these numbers."""
        if isinstance(value, str):
            return value in self.also
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        return value in self.also or self.within(value)  # type: ignore[arg-type]

    def within(self, value: float) -> bool:
        """Whether a number is finite and in the range."""
        largest = LARGEST if self.whole else LARGEST_REAL
        return (
            (-largest if self.low is None else self.low) <= value <= (largest if self.high is None else self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (not self.share or value < 1 or value == int(value))
        )

    def check(self, where: str, value: object) -> None:
        """Refuse a value that is none of these numbers; None is a choice not made.

        Args:
            where: the flag, with its dashes.
            value: from Python, or several.

        Raises:
            UserError: it is none.
        """
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and not self.holds(one):
                raise UserError(f"{where}: {self.complaint(one)}")

    def read(self, where: str, text: str) -> float | str:
        """Read a number out of a text that argparse has not read, such as a part of a flag.

        Raises:
            UserError: it is none.
        """
        try:
            return self(text)
        except ArgumentTypeError as error:
            raise UserError(f"{where}: {error}") from None

    def complaint(self, value: object) -> str:
        """Say what was found and what is right."""
        got = shown(value)
        limit = ""
        if self.high is None and self.below is None:
            if self.whole and len(got) > len(str(LARGEST)):
                limit = f", at most {LARGEST}"
            elif not self.whole and REAL.fullmatch(got) and abs(float(got)) > LARGEST_REAL:
                limit = f", at most {LARGEST_REAL:g}"
        return f"got {got}, expected {self.noun}{limit}"

    @property
    def noun(self) -> str:
        """What is expected: `a whole number of 1 or more, or -1 (no limit)`."""
        bounds = self.bounds
        of = " of " if bounds[:1].isdigit() or bounds[:1] == "-" else " "
        noun = "a whole number" if self.whole else "a number" if bounds else "a finite number"
        share = ", whole or below 1" if self.share else ""
        also = "".join(f", or {value} ({meaning})" for value, meaning in self.also.items())
        return f"{noun}{of if bounds else ''}{bounds}{share}{also}"

    @property
    def range(self) -> str:
        """The same for a help text that explains special values itself: `1 or more, or -1`."""
        bounds = self.bounds.removeprefix("from ")
        return ", or ".join(filter(None, (bounds, *map(str, self.also)))) if bounds else ""

    @property
    def bounds(self) -> str:
        """The range alone: `1 or more`, `from 1 to 9`, `above 0 and below 1`."""
        low, high = self.low, self.high
        if low is not None and high is not None:
            return f"from {plain(low)} to {plain(high)}"
        parts = [
            f"{plain(low)} or more" if low is not None else "",
            f"above {plain(self.above)}" if self.above is not None else "",
            f"at most {plain(high)}" if high is not None else "",
            f"below {plain(self.below)}" if self.below is not None else "",
        ]
        return " and ".join(filter(None, parts))


def whole(low: int | None = None, high: int | None = None, *, also: Mapping[float | str, str] | None = None) -> Number:
    """Declare whole numbers; both ends belong."""
    return Number(whole=True, low=low, high=high, also=also or {})


def real(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    also: Mapping[float | str, str] | None = None,
) -> Number:
    """Declare finite numbers; `above` and `below` are ends that do not belong."""
    return Number(whole=False, low=low, high=high, above=above, below=below, also=also or {})


def steps(low: float | None = None, *, above: float | None = None) -> Number:
    """Declare numbers of steps, as transformers means them: a whole number, or below 1 a share of all steps."""
    return Number(whole=False, low=low, above=above, share=True)


def plain(value: float) -> str:
    """Write a bound: `1`, `0.5`, `4294967295`."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def shown(value: object) -> str:
    """Show a value in a message, shortened; a number as it was typed, any other text in quotes."""
    try:
        text = value if isinstance(value, str) and LIKE_NUMBER.fullmatch(value) else repr(value)
    except ValueError:  # a whole number of over 4,300 digits
        return "a whole number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


COUNT = whole(1)  # a number of things of which there must be one
AMOUNT = whole(0)
SEED = whole(0, 2**32 - 1)  # what numpy takes
SHARE = real(0, 1)
SIMILARITY = real(above=0, high=1)  # at which two texts are nearly the same
LENGTH = whole(3)  # tokens of a text: two special ones, and one of its own
POSITIVE = real(above=0)
NOT_NEGATIVE = real(0)
FINITE = real()
