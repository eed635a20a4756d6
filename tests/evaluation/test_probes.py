"""What vectors are good for besides retrieval, against numbers worked by hand, naive versions and scipy."""

import itertools

import numpy as np
import pytest
import scipy.stats

from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.metrics import STATISTICS
from zh_embedder.evaluation.pair_metrics import f1_and_threshold
from zh_embedder.evaluation.probes import measure_labels, measure_pairs
from zh_embedder.evaluation.sets import LabelSet, PairSet


def vectors(count, size=8, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def pairs(scores, **fields):
    texts = [str(i) for i in range(len(scores))]
    return PairSet("data/pairs", "sts", texts, texts, scores, **fields)


def labels(found, train=()):
    return LabelSet("data/labels", None, ["文"] * len(found), found, ["文"] * len(train), list(train))


def at_angles(*degrees):
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


# ---- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
def test_similarity_is_scipys_of_the_encoders_metric(metric):
    first, second, gold = vectors(50), vectors(50, seed=1), vectors(50, 1, seed=2)[:, 0].tolist()
    one, other = first.astype(np.float64), second.astype(np.float64)
    naive = {
        "cos": [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(one, other, strict=True)],
        "ip": [a @ b for a, b in zip(one, other, strict=True)],
        "l2": [-((a - b) ** 2).sum() for a, b in zip(one, other, strict=True)],
    }[metric]
    found = measure_pairs(pairs(gold), first, second, metric=metric)
    assert list(found.values) == ["spearman", "pearson"]
    assert found.values["spearman"] == pytest.approx(scipy.stats.spearmanr(gold, naive).statistic, abs=1e-12)
    assert found.values["pearson"] == pytest.approx(scipy.stats.pearsonr(gold, naive).statistic, abs=1e-9)
    np.testing.assert_allclose(found.predicted, naive, rtol=1e-9, atol=1e-9)
    assert found.gold.tolist() == gold
    assert not found.items


def test_pairs_worked_by_hand():
    """Angles 0, 60, 30, 90 of pairs 1, 0, 1, 1: the best threshold takes all but one wrong, or the first two."""
    found = measure_pairs(pairs([1.0, 0.0, 1.0, 1.0]), at_angles(0, 0, 0, 0), at_angles(0, 60, 30, 90))
    assert list(found.values) == ["ap", "f1", "accuracy", "threshold"]
    assert found.values == pytest.approx(
        {
            "ap": (1 + 1 + 3 / 4) / 3,
            "f1": 2 * 3 / 4 / (1 + 3 / 4),  # all four: precision 3/4, recall 1 (the first two: 4/5)
            "accuracy": 3 / 4,
            "threshold": 0,  # the cosine of the last pair: nothing is refused
        },
        abs=1e-6,
    )
    assert found.items == {"accuracy": {"0": 1, "1": 0, "2": 1, "3": 1}}


def test_the_threshold_lies_midway_between_the_two_kinds():
    found = measure_pairs(pairs([1.0, 0.0, 1.0, 0.0]), at_angles(0, 0, 0, 0), at_angles(0, 70, 40, 90))
    middle = (np.cos(np.radians(40)) + np.cos(np.radians(70))) / 2
    assert found.values == pytest.approx({"ap": 1, "f1": 1, "accuracy": 1, "threshold": middle}, abs=1e-6)


def test_the_best_f1_is_that_of_trying_every_threshold():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        gold = rng.integers(2, size=12).astype(float)
        if len(set(gold)) < 2:
            continue
        scores = rng.integers(6, size=12) / 4 + gold * rng.integers(2)  # ties among them
        naive = 0.0
        for threshold in scores:
            hit = ((scores >= threshold) & (gold == 1)).sum()
            naive = max(naive, 2 * hit / ((scores >= threshold).sum() + gold.sum()))
        f1, threshold = f1_and_threshold(gold, scores)
        taken = scores >= threshold
        assert f1 == pytest.approx(naive)
        assert 2 * (taken & (gold == 1)).sum() / (taken.sum() + gold.sum()) == pytest.approx(naive)


def test_between_neighbouring_scores_the_threshold_still_parts_them():
    low = 0.1
    high = float(np.nextafter(low, 1))
    f1, threshold = f1_and_threshold(np.array([0.0, 1.0]), np.array([low, high]))
    assert (f1, threshold) == (1.0, high)


def test_scores_of_0_and_1_are_similarity_where_the_set_says_so():
    found = measure_pairs(pairs([1.0, 0.0, 1.0], graded=True), vectors(3), vectors(3, seed=1))
    assert list(found.values) == ["spearman", "pearson"]


def test_a_model_that_has_collapsed_scores_nothing_and_never_nan():
    same = np.ones((4, 3), np.float32)
    assert measure_pairs(pairs([1.0, 2.0, 3.0, 4.0]), same, same).values == {"spearman": 0.0, "pearson": 0.0}
    found = measure_pairs(pairs([1.0, 0.0, 0.0, 0.0]), same, same).values
    assert found == pytest.approx({"ap": 0.25, "f1": 0.4, "accuracy": 0.25, "threshold": 1})
    zero = np.zeros((2, 3), np.float32)
    assert measure_pairs(pairs([0.5, 1.0]), zero, zero).values["spearman"] == 0.0


@pytest.mark.parametrize(
    ("scores", "first", "message"),
    [
        ([1.0, 1.0], vectors(2), "data/pairs: score: got 2 pairs of the one score 1, expected at least two"),
        ([2.5], vectors(1), "data/pairs: score: got 1 pairs of the one score 2.5"),
        ([], vectors(0), "data/pairs: score: got no pairs"),
        ([1.0, 0.0], vectors(3), r"data/pairs: vectors: got \(3, 8\), expected \(2, dimensions\)"),
        ([1.0, 0.0], vectors(2) * np.nan, "vectors: got 2 of 2 with nan or infinity; has the model diverged"),
    ],
)
def test_pairs_that_cannot_be_measured_are_refused(scores, first, message):
    with pytest.raises(UserError, match=message):
        measure_pairs(pairs(scores), first, first)


def test_a_metric_that_is_not_known_is_refused():
    with pytest.raises(UserError, match="metric: unknown name 'cosine'; did you mean 'cos'"):
        measure_pairs(pairs([0.0, 1.0]), vectors(2), vectors(2), metric="cosine")


# ---- labels ---------------------------------------------------------------------------------------------------------


def around(directions, names, count, *, spread, seed):
    """Vectors around a direction for each name, in turn."""
    centres = directions[np.tile(np.arange(len(names)), count)]
    return centres + vectors(len(centres), directions.shape[1], seed) * spread, list(names) * count


def test_labels_that_lie_apart_are_read_off_and_labels_at_random_are_not():
    centres = vectors(3, seed=5) * 3
    train, known = around(centres, "喜怒哀", 20, spread=0.1, seed=1)
    test, gold = around(centres, "喜怒哀", 10, spread=0.1, seed=2)
    found = measure_labels(labels(gold, known), test, train)
    assert found.values == {"accuracy": 1.0, "macro_f1": 1.0, "knn_accuracy": 1.0}
    assert next(iter(found.values)) == "accuracy"
    assert found.predicted.tolist() == gold
    random = measure_labels(labels(gold, known), vectors(30, seed=3), vectors(60, seed=4))
    assert random.values["accuracy"] < 0.7
    assert np.mean([*random.items["accuracy"].values()]) == pytest.approx(random.values["accuracy"])
    assert np.mean([*random.items["knn_accuracy"].values()]) == pytest.approx(random.values["knn_accuracy"])
    assert list(random.items["accuracy"]) == [str(i) for i in range(30)]
    assert STATISTICS["macro_f1"](random.gold, random.predicted) == random.values["macro_f1"]


def test_neighbours_vote_by_angle_five_of_them():
    train = at_angles(0, 1, 2, 3, 4, 50, 51) * np.array([[1], [1], [1], [9], [9], [1], [1]], np.float32)
    known = ["近", "近", "远", "远", "远", "近", "近"]
    # The five nearest of 60 degrees are 51, 50, 4, 3, 2; those of 0 degrees are 0 to 4. Three would vote otherwise, and
    # so would the five nearest by distance, for which the longer vectors at 3 and 4 degrees are far.
    found = measure_labels(labels(["远", "远"], known), at_angles(0, 60), train)
    assert found.items["knn_accuracy"] == {"0": 1, "1": 1}


def test_fewer_texts_than_neighbours_all_vote():
    found = measure_labels(labels(["甲"], ["甲", "甲", "乙"]), at_angles(0), at_angles(0, 80, 90))
    assert found.values["knn_accuracy"] == 1


def test_macro_f1_counts_rare_labels_as_much_as_others():
    gold = np.array(["甲"] * 9 + ["乙"])
    assert STATISTICS["macro_f1"](gold, np.array(["甲"] * 10)) == pytest.approx((2 * 0.9 / 1.9 + 0) / 2)


@pytest.mark.parametrize("many", [1, 10**6])
def test_clusters_are_found_the_same_each_time(monkeypatch, many):
    monkeypatch.setattr("zh_embedder.evaluation.probes.MANY", many)  # by small batches, or by the whole
    points, names = around(vectors(4, seed=5) * 3, "甲乙丙丁", 25, spread=0.1, seed=1)
    found = measure_labels(labels(names), points)
    assert found.values == {"v_measure": pytest.approx(1.0)}
    assert len(set(zip(names, found.predicted.tolist(), strict=True))) == 4
    again = measure_labels(labels(names), points)
    assert again.predicted.tolist() == found.predicted.tolist()


def test_v_measure_by_hand():
    """Two labels, one of them in two clusters: homogeneous, and complete to half."""
    gold, predicted = np.array(["甲", "甲", "乙", "乙"]), np.array([0, 1, 2, 2])
    complete = 1 - (0.5 * np.log(2)) / (0.5 * np.log(4) + 0.5 * np.log(2))
    assert STATISTICS["v_measure"](gold, predicted) == pytest.approx(2 * complete / (1 + complete))


def test_vectors_that_are_all_the_same_cluster_to_nothing():
    assert measure_labels(labels(["甲", "乙", "甲"]), np.ones((3, 2), np.float32)).values == {"v_measure": 0.0}


@pytest.mark.parametrize(
    ("found", "train", "message"),
    [
        (["甲", "甲"], [], "data/labels: label: got 2 texts of '甲', expected at least two labels"),
        ([], [], "data/labels: label: got 0 texts of no label"),
        (["甲", "乙"], [], "data/labels: label: got 2 labels for 2 texts, expected labels that texts share"),
        (["甲", "乙"], ["甲", "甲"], "data/labels: train: label: got 2 texts of '甲', expected at least two"),
        (["丙"], ["甲", "乙"], "data/labels: label: got '丙', expected labels that are learnt from: 乙, 甲"),
    ],
)
def test_labels_that_cannot_be_measured_are_refused(found, train, message):
    with pytest.raises(UserError, match=message):
        measure_labels(labels(found, train), vectors(len(found)), vectors(len(train)))


def test_vectors_to_learn_from_are_asked_for_and_counted():
    data = labels(["甲"], ["甲", "乙"])
    with pytest.raises(UserError, match="train_vectors: got None, expected 2 vectors"):
        measure_labels(data, vectors(1))
    with pytest.raises(UserError, match=r"vectors: got \(3, 8\), expected \(2, dimensions\)"):
        measure_labels(data, vectors(1), vectors(3))


def test_the_statistics_give_no_nan_but_where_nothing_can_be_said():
    """The bootstrap leaves out resamples of which a statistic says nan; anything else has a value."""
    always = {"macro_f1"}
    for name, statistic in STATISTICS.items():
        for gold, predicted in itertools.product(itertools.product((0, 1), repeat=3), repeat=2):
            value = statistic(np.array(gold), np.array(predicted))
            assert np.isfinite(value) == (name in always or len(set(gold)) > 1), (name, gold, predicted)
