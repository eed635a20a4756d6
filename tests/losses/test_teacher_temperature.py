"""Entropy of teacher targets, and the temperature that gives it."""

import math

import numpy as np
import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.losses.teacher_temperature import entropy_shares, equal_scores, find_temperature

SQUEEZED = [[0.9, 0.5, 0.4, 0.3], [0.8, 0.7, 0.2, 0.1], [0.6, 0.5, 0.5, 0.1]]


def test_entropy_by_hand():
    # softmax of ln 3 and ln 1 is 3/4, 1/4
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert entropy_shares([[math.log(3), 0.0]], 1.0) == pytest.approx([expected])
    assert entropy_shares([[2 * math.log(3), 0.0]], 2.0) == pytest.approx([expected])
    assert entropy_shares([[5.0] * 7, [1.0]], 1.0) == pytest.approx([1.0])  # all the same; one key has no share


def test_large_scores_do_not_overflow():
    assert entropy_shares([[5000.0, -5000.0]], 1e-3) == pytest.approx([0.0])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_temperature_gives_the_entropy(share, scale):
    scores = [[scale * s for s in own] for own in SQUEEZED]
    temperature = find_temperature(scores, share)
    assert entropy_shares(scores, temperature).mean() == pytest.approx(share, abs=2e-3)
    assert find_temperature(SQUEEZED, share) * scale == pytest.approx(temperature, rel=1e-3)


def test_scores_within_0_and_1_say_little_at_temperature_1():
    assert entropy_shares(SQUEEZED, 1.0).mean() > 0.97
    assert np.max(entropy_shares(SQUEEZED, find_temperature(SQUEEZED, 0.5))) < 0.8


def test_equal_scores_are_counted_and_have_no_say():
    scores = [*SQUEEZED, [1.0, 1.0], [2.0]]
    assert equal_scores(scores) == 1
    assert find_temperature(scores, 0.5) == find_temperature(SQUEEZED, 0.5)


def test_what_no_temperature_can_do_is_refused():
    with pytest.raises(UserError, match="every record gives all its keys the same score"):
        find_temperature([[1.0, 1.0], [3.0]], 0.5)
    # Two of three keys share the best score: half of the target each, however sharp it is.
    with pytest.raises(UserError, match=r"lies between 0\.631 and 1\.000 of the greatest .* wants 0\.5"):
        find_temperature([[1.0, 1.0, 0.0]], 0.5)
