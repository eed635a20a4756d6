"""Intervals are those of scipy's bootstrap, hold what they promise, and draw both models together."""

import numpy as np
import pytest
import scipy.stats

from zh_embedder.core.errors import UserError
from zh_embedder.evaluation import intervals as bootstrap
from zh_embedder.evaluation.intervals import Interval, compare, interval, paired, paired_statistic
from zh_embedder.evaluation.metrics import STATISTICS
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.pair_metrics import spearman


def numbers(*, size, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(scale=scale, size=size)


def ends(found):
    return found.low, found.high


def test_the_interval_of_a_mean_is_scipys():
    values = numbers(size=60) ** 2  # skewed
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = interval(values, resamples=20000)
    assert found.value == pytest.approx(values.mean())
    assert ends(found) == pytest.approx((theirs.low, theirs.high), abs=0.02)  # a tenth of their distance
    assert found.high - found.low > 0.4


@pytest.mark.slow
def test_the_interval_of_a_statistics_gain_is_scipys():
    gold = numbers(size=80)
    before, after = gold + numbers(size=80, seed=1, scale=3), gold + numbers(size=80, seed=2)

    def gain(gold, before, after):
        return spearman(gold, after) - spearman(gold, before)

    theirs = scipy.stats.bootstrap(
        (gold, before, after),
        gain,
        paired=True,
        vectorized=False,
        n_resamples=3000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = paired_statistic(spearman, gold, before, after, resamples=3000)
    assert found.value == pytest.approx(gain(gold, before, after))
    assert ends(found) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert found.high - found.low > 0.2


def test_a_level_is_the_share_of_resampled_means_inside():
    values = numbers(size=50)
    rng = np.random.default_rng(5)
    means = values[rng.integers(50, size=(2000, 50))].mean(axis=1)
    found = interval(values, level=0.8, seed=5)
    assert ((means > found.low) & (means < found.high)).mean() == pytest.approx(0.8, abs=0.002)
    assert (means < found.low).mean() == pytest.approx(0.1, abs=0.002)


def test_intervals_of_normal_samples_hold_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = [
        found.low <= 3 <= found.high
        for found in (interval(rng.normal(3, 2, size=60), resamples=400, seed=i) for i in range(400))
    ]
    assert np.mean(inside) == pytest.approx(0.94, abs=0.03)  # the percentile method is a little short of 0.95


def test_turning_a_comparison_round_turns_its_interval_round():
    before, after = numbers(size=40), numbers(size=40, seed=1)
    there, back = paired(before, after), paired(after, before)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_models_that_differ_nowhere_are_not_told_apart_and_equal_gains_are():
    values = numbers(size=40, scale=100)
    assert paired(values, values) == Interval(0, 0, 0)
    noise = numbers(size=40, seed=3)
    found = paired(values, values + noise - noise.mean())
    assert found.low < 0 < found.high
    assert not found.sure
    found = paired(values, values + 0.01)  # every query a little: sure, however much the queries differ
    assert ends(found) == pytest.approx((0.01, 0.01))
    assert found.sure
    assert paired(values + 0.01, values).sure


def test_a_pair_is_drawn_together_and_so_surer_than_its_halves():
    before = numbers(size=200, scale=10)
    after = before + numbers(size=200, seed=1, scale=0.1)
    found, alone = paired(before, after), interval(after)
    assert found.high - found.low < (alone.high - alone.low) / 20


def test_the_size_of_a_tile_changes_nothing(monkeypatch):
    values, gold = numbers(size=31), numbers(size=31, seed=1)
    whole = interval(values, resamples=101), paired_statistic(spearman, gold, values, gold, resamples=101)
    for tile in (1, 31 * 2, 31 * 7 + 3):
        monkeypatch.setattr(bootstrap, "TILE", tile)
        assert (interval(values, resamples=101), paired_statistic(spearman, gold, values, gold, resamples=101)) == whole


def test_a_seed_makes_an_interval_and_the_global_state_none():
    values = numbers(size=30)
    first = interval(values)
    np.random.seed(3)
    assert interval(values) == first
    assert interval(values, seed=1) != first


def test_no_more_than_a_tile_is_drawn_at_a_time():
    sizes = [drawn.shape for drawn in bootstrap.draws(300_000, resamples=7, seed=0)]
    assert sizes == [(3, 300_000), (3, 300_000), (1, 300_000)]
    assert [drawn.shape for drawn in bootstrap.draws(bootstrap.TILE + 1, resamples=2, seed=0)] == [
        (1, bootstrap.TILE + 1)
    ] * 2


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: interval([]), r"values: got \(0,\), expected at least one value"),
        (lambda: interval([1.0, float("nan")]), "values: got 1 values that are nan or infinite"),
        (lambda: interval([1.0], level=95), "level: got 95, expected a share between 0 and 1"),
        (lambda: interval([1.0], resamples=0), "resamples: got 0, expected 1 or more"),
        (lambda: paired([1.0], [1.0, 2.0]), r"after: got \(2,\), expected as many values as before: \(1,\)"),
        (
            lambda: paired_statistic(spearman, [1, 1], [1, 2], [2, 1]),
            "gold: got 2 values of which the statistic is not defined",
        ),
        (lambda: paired_statistic(spearman, [1, 2], [1, 2], [2]), r"after: got \(1,\), expected as many"),
    ],
)
def test_what_gives_no_interval_is_refused(work, message):
    with pytest.raises(UserError, match=message):
        work()


@pytest.mark.slow
def test_resamples_of_one_kind_alone_are_left_out():
    gold = [0.0, 0.0, 0.0, 0.0, 1.0]  # a third of the resamples have no 1
    found = paired_statistic(STATISTICS["ap"], gold, [5, 4, 3, 2, 1], [1, 2, 3, 4, 5])
    assert found.value == pytest.approx(0.8)  # from one of five to the first
    assert np.isfinite([found.low, found.high]).all()
    assert found.sure


# ---- outcomes -------------------------------------------------------------------------------------------------------


def outcome(**fields):
    return Outcome(
        **{"model": "m", "data": "d", "task": None, "kind": "similarity", "values": {}, "role": Role.BASE, **fields}
    )


def test_means_are_compared_query_by_query_whatever_their_order():
    first = outcome(items={"ndcg@10": {"a": 0.1, "b": 0.9, "c": 0.5}})
    second = outcome(items={"ndcg@10": {"c": 0.6, "a": 0.2, "b": 1.0}})
    found = compare(first, second, "ndcg@10")
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_metrics_that_are_no_means_are_compared_by_gold_and_predictions():
    gold = numbers(size=50)
    before, after = numbers(size=50, seed=1), gold + numbers(size=50, seed=2)
    found = compare(outcome(gold=gold, predicted=before), outcome(gold=gold, predicted=after), "spearman")
    assert found == paired_statistic(spearman, gold, before, after)
    assert found.sure


def test_labels_are_compared_as_texts_are():
    rng = np.random.default_rng(0)
    gold = rng.choice(["喜", "怒", "哀"], 60)
    before, after = np.where(rng.random((2, 60)) < [[0.3], [0.8]], gold, "怒")
    found = compare(outcome(gold=gold, predicted=before), outcome(gold=gold, predicted=after), "macro_f1", resamples=50)
    assert found == paired_statistic(STATISTICS["macro_f1"], gold, before, after, resamples=50)


def test_clusters_are_numbers_beside_labels_that_are_texts():
    gold = np.array(["甲", "甲", "乙", "乙"] * 10)
    right, wrong = np.array([1, 1, 0, 0] * 10), np.array([0, 1] * 20)
    found = compare(outcome(gold=gold, predicted=wrong), outcome(gold=gold, predicted=right), "v_measure", resamples=50)
    assert found.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"values": {"threshold": 0.5}}, {"values": {"threshold": 0.6}}),
        ({"items": {"threshold": {"a": 1.0}}}, {"items": {"threshold": {"b": 1.0}}}),
        ({"items": {"threshold": {}}}, {"items": {"threshold": {}}}),
        ({"gold": np.arange(3), "predicted": np.arange(3)}, {"gold": np.arange(3), "predicted": np.arange(3)}),
    ],
)
def test_what_cannot_be_drawn_together_has_no_interval(before, after):
    assert compare(outcome(**before), outcome(**after), "threshold") is None


def test_predictions_of_other_pairs_have_no_interval():
    first = outcome(gold=np.arange(3.0), predicted=np.arange(3.0))
    assert compare(first, outcome(gold=np.arange(4.0), predicted=np.arange(4.0)), "spearman") is None
    assert compare(first, outcome(gold=np.arange(3.0)), "spearman") is None
    assert compare(first, outcome(gold=np.arange(1, 4.0), predicted=np.arange(3.0)), "spearman") is None
