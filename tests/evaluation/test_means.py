"""Means of figures: every query of a set, every set, every task weighs the same."""

import pytest

from zh_embedder.evaluation.means import mean, over_queries, over_sets, over_tasks
from zh_embedder.evaluation.outcome import Outcome, Role


def outcome(data, task, value, metric="ndcg@10"):
    return Outcome("m", data, task, "retrieval", {metric: value, "threshold": 9.0}, role=Role.BASE)


def test_the_mean_of_nothing_is_zero():
    assert mean([]) == 0
    assert mean([1.0, 2.0, 6.0]) == 3


def test_queries_weigh_the_same():
    assert over_queries({"mrr": {"a": 1.0, "b": 0.5, "c": 0.0}, "ndcg": {}}) == {"mrr": 0.5, "ndcg": 0.0}


def test_sets_weigh_the_same_and_thresholds_have_no_mean():
    found = [outcome("a", "qa", 0.2), outcome("b", "qa", 0.4), outcome("c", "sts", 0.9)]
    assert over_sets(found, "ndcg@10") == pytest.approx(0.5)
    assert over_sets(found, "threshold") is None


def test_tasks_weigh_the_same_however_many_sets_they_have():
    found = [outcome("a", "qa", 0.2), outcome("b", "qa", 0.4), outcome("c", "sts", 0.9, metric="spearman")]
    assert over_tasks(found) == pytest.approx((0.3 + 0.9) / 2)
    assert over_tasks([outcome("a", None, 0.2), outcome("b", None, 0.6)]) == pytest.approx(0.4)  # tasks of their own
    assert over_tasks([]) == 0
