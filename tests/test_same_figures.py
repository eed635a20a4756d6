"""The comparison behind `python -m benchmarks.same_figures`: to the last digit, by content."""

import json
import math

import numpy as np
import pytest

from benchmarks.figures import MISSING, array, compare, records
from benchmarks.same_figures import rows

FIGURES = {"loss": {"1": 0.5, "2": 0.25}, "lines": ["a", "b"], "none": None, "nan": math.nan}


def test_equal_figures_have_no_difference_also_after_a_round_trip():
    assert compare(FIGURES, json.loads(json.dumps(FIGURES))) is None
    assert compare(FIGURES, dict(reversed(FIGURES.items()))) is None


def test_the_last_digit_counts_and_the_largest_difference_is_said():
    changed = {**FIGURES, "loss": {"1": math.nextafter(0.5, 1), "2": 0.5}}
    found = compare(FIGURES, changed)
    assert (found.place, found.before, found.after) == ("loss/1", 0.5, math.nextafter(0.5, 1))
    assert (found.count, found.largest) == (2, 0.25)


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        (1, 1.0, ""),
        (1, True, ""),
        (0.0, -0.0, ""),
        ({"a": 1}, {"a": 1, "b": None}, "b"),
        ({"a": 1, "b": 2}, {"a": 1}, "b"),
        (["a", "b"], ["b", "a"], "[0]"),
        (["a"], ["a", "b"], "[]"),
        ({"a": []}, {"a": {}}, "a[]"),
        ({"a": {}}, {"b": 1}, "a{}"),
        ({"a": MISSING}, {"b": 1}, "a"),
        ({"a": MISSING, "b": 1}, {"b": 1}, "a"),
    ],
)
def test_every_kind_of_change_is_a_difference(before, after, place):
    assert compare(before, after).place == place
    assert compare(after, before) is not None
    assert compare(before, before) is None


def test_arrays_differ_by_bytes_shape_and_type():
    rows = np.arange(600, dtype=np.float32).reshape(20, 30)
    changed = rows.copy()
    changed[7, 3] += 1e-4  # not among the values that are sampled
    assert compare(array(rows), array(rows.copy())) is None
    assert compare(array(rows), array(changed)).place == "bytes"
    assert compare(array(rows), array(rows.reshape(30, 20))).place == "shape[0]"
    assert compare(array(rows), array(rows.astype(np.float64))).place == "dtype"
    assert compare(array(rows), array(rows + 2)).largest == 2


def test_records_are_compared_line_by_line_whatever_the_order_of_their_fields(tmp_path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text('{"query": "a", "pos": ["b"]}\n{"query": "c"}\n', "utf-8")
    other.write_text('{"pos": ["b"], "query": "a"}\n{"query": "d"}\n', "utf-8")
    assert compare(records(one), records(other)).place == "[1]"


def test_a_case_that_fails_or_was_not_run_is_never_equal():
    good, failed = {"a": {"figures": {"loss": 1.0}}}, {"a": {"figures": {"failed": "exit 1"}}}
    assert [found for _, _, found in rows(good, good, ["a"])] == ["equal (1 values)"]
    for before, after in ((failed, failed), (good, failed), (good, {}), ({}, {})):
        assert not all(found.startswith("equal") for _, _, found in rows(before, after, ["a"]))
