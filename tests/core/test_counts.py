"""Counts read as a person would write them."""

import pytest

from zh_embedder.core.counts import counted


@pytest.mark.parametrize(
    ("number", "noun", "shown"),
    [(1, "step", "1 step"), (0, "step", "0 steps"), (2000, "step", "2,000 steps"), (1, "query", "1 query"),
     (2, "query", "2 queries")],
)  # fmt: skip
def test_the_noun_agrees_with_its_number(number, noun, shown):
    assert counted(number, noun) == shown
