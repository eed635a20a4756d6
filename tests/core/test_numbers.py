"""Numbers of flags: what is one, what is not, and the message."""

import math
from argparse import ArgumentTypeError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zh_embedder.core.errors import UserError
from zh_embedder.core.numbers import COUNT, FINITE, LARGEST, POSITIVE, SEED, SHARE, real, steps, whole

NEVER = ["nan", "-nan", "inf", "-inf", "Infinity", "", " ", " 5 ", "abc", "²", "５", "1_000", "0x10", "1e400",
         "1" * 5000, "1,5", "--", "True", "None", "5%", "٣", "1e", "e5", "+", "-", ".", "\n5", "5\n"]  # fmt: skip
KINDS = [COUNT, SEED, SHARE, POSITIVE, FINITE, whole(), whole(3), real(), steps(0), steps(above=0), real(0, below=1)]


@pytest.mark.parametrize("number", KINDS, ids=lambda number: number.noun)
@pytest.mark.parametrize("text", NEVER, ids=lambda text: repr(text[:10]))
def test_what_is_no_number_anywhere_is_refused(number, text):
    with pytest.raises(ArgumentTypeError, match=r"^got .*, expected a "):
        number(text)


@pytest.mark.parametrize("text", ["1e3", "1.0", "10" * 10, "0x1"])
def test_a_whole_number_is_written_in_digits(text):
    with pytest.raises(ArgumentTypeError, match="expected a whole number of 1 or more"):
        COUNT(text)


@pytest.mark.parametrize(
    ("number", "text", "value"),
    [
        (COUNT, "+3", 3), (whole(), "-0", 0), (FINITE, "-0", 0.0), (POSITIVE, "1e-5", 1e-5), (FINITE, ".5", 0.5),
        (FINITE, "5.", 5.0), (steps(0), "0", 0.0), (steps(above=0), "0.1", 0.1), (steps(0), "1e3", 1000.0),
        (SHARE, "1", 1.0), (whole(1, also={-1: "off"}), "-1", -1), (real(above=0, also={"auto": "x"}), "auto", "auto"),
    ],
)  # fmt: skip
def test_what_is_a_number_is_read(number, text, value):
    found = number(text)
    assert (found, type(found)) == (value, type(value))
    assert str(found) != "-0.0"
    number.check("--flag", found)


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (COUNT, "0", "got 0, expected a whole number of 1 or more"),
        (COUNT, "many", "got 'many', expected a whole number of 1 or more"),
        (COUNT, str(10**20), f"got {10**20}, expected a whole number of 1 or more, at most {LARGEST}"),
        (POSITIVE, "1e300", "got 1e300, expected a number above 0, at most 1e+38"),
        (FINITE, "-1e39", "got -1e39, expected a finite number, at most 1e+38"),
        (SEED, "-1", "got -1, expected a whole number from 0 to 4294967295"),
        (SHARE, "nan", "got nan, expected a number from 0 to 1"),
        (FINITE, "inf", "got inf, expected a finite number"),
        (real(0, below=1), "1", "got 1, expected a number of 0 or more and below 1"),
        (real(above=0, high=1), "0", "got 0, expected a number above 0 and at most 1"),
        (steps(above=0), "1.5", "got 1.5, expected a number above 0, whole or below 1"),
        (whole(1, also={-1: "all"}), "0", "got 0, expected a whole number of 1 or more, or -1 (all)"),
    ],
)
def test_the_message_says_what_was_found_and_what_is_right(number, text, message):
    with pytest.raises(ArgumentTypeError) as error:
        number(text)
    assert str(error.value) == message


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(ArgumentTypeError, match=r"got 'x{20,}\.\.\. \(\d+ characters\), expected a whole number"):
        COUNT("x" * 5000)


@pytest.mark.parametrize(
    "value", [0, -1, True, 1.5, float("nan"), "5", np.float64(2), pytest.param(10**5000, id="huge")]
)
def test_values_from_python_are_checked_alike(value):
    with pytest.raises(UserError, match=r"^--flag: got .*, expected a whole number of 1 or more"):
        COUNT.check("--flag", value)


def test_numpys_numbers_and_none_are_taken():
    for value in (None, 1, np.int64(5), [1, 2], (3,)):
        COUNT.check("--flag", value)
    POSITIVE.check("--flag", np.float32(0.5))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789eE+-._ ninfax²５", max_size=12), st.sampled_from(KINDS))
def test_any_text_is_a_number_within_the_range_or_a_message(text, number):
    try:
        value = number(text)
    except ArgumentTypeError as error:
        assert "\n" not in str(error)
        return
    assert math.isfinite(value)
    assert number.holds(value)
    assert isinstance(value, int) == number.whole
