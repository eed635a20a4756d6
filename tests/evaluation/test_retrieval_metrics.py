"""Metrics agree with numbers worked by hand and with trec_eval itself; a query without results counts as zero."""

from math import log2

import numpy as np
import pytest
import pytrec_eval

from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.retrieval_metrics import NAMES, measure, per_query

# q1: relevant a (2), b (1), z (1, never found); found in the order x a y b. q2: nothing relevant is found in two.
QRELS = {"q1": {"a": 2, "b": 1, "z": 1, "x": 0}, "q2": {"c": 1}}
RUN = {"q1": {"x": 0.9, "a": 0.8, "y": 0.7, "b": 0.6}, "q2": {"x": 0.5, "y": 0.4}}
IDEAL = 2 / log2(2) + 1 / log2(3) + 1 / log2(4)
BY_HAND = {
    "ndcg@10": (2 / log2(3) + 1 / log2(5)) / IDEAL,
    "ndcg@2": (2 / log2(3)) / (2 / log2(2) + 1 / log2(3)),
    "ndcg": (2 / log2(3) + 1 / log2(5)) / IDEAL,
    "mrr@10": 1 / 2,
    "mrr@1": 0,
    "mrr": 1 / 2,
    "recall@2": 1 / 3,
    "recall@4": 2 / 3,
    "recall@10": 2 / 3,
    "map": (1 / 2 + 2 / 4) / 3,
    "map@2": (1 / 2) / 3,
    "precision@2": 1 / 2,
    "precision@10": 2 / 10,
    "hit@1": 0,
    "hit@2": 1,
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_a_metric_is_what_is_worked_by_hand(name):
    assert per_query([name], QRELS, RUN)[name] == pytest.approx({"q1": BY_HAND[name], "q2": 0.0}, abs=1e-12)
    assert over_queries(per_query([name], QRELS, RUN))[name] == pytest.approx(BY_HAND[name] / 2, abs=1e-12)


def test_several_metrics_are_those_of_each_alone():
    names = sorted(BY_HAND)
    together = over_queries(per_query(names, QRELS, RUN))
    assert list(together) == names
    assert together == {name: over_queries(per_query([name], QRELS, RUN))[name] for name in names}


TREC = {
    "ndcg@10": ("ndcg_cut.10", "ndcg_cut_10"),
    "recall@5": ("recall.5", "recall_5"),
    "map": ("map", "map"),
    "mrr": ("recip_rank", "recip_rank"),
    "precision@5": ("P.5", "P_5"),
    "hit@5": ("success.5", "success_5"),
}


@pytest.mark.parametrize("seed", range(5))
def test_random_runs_score_as_in_trec_eval(seed):
    rng = np.random.default_rng(seed)
    keys = [f"d{i}" for i in range(40)]
    qrels = {f"q{i}": {k: int(rng.integers(0, 3)) for k in rng.choice(keys, 6, replace=False)} for i in range(12)}
    run = {
        f"q{i}": dict(zip(rng.choice(keys, 20, replace=False), rng.random(20).tolist(), strict=True)) for i in range(12)
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {ask for ask, _ in TREC.values()}).evaluate(run)
    ours = per_query(list(TREC), qrels, run)
    for name, (_, answer) in TREC.items():
        assert ours[name] == pytest.approx({query: theirs[query][answer] for query in qrels})


def test_a_reciprocal_rank_is_cut_where_it_is_asked():
    run = {"q": {f"d{i}": 1.0 - i / 100 for i in range(20)}}
    for rank in (1, 2, 10, 11):
        qrels = {"q": {f"d{rank - 1}": 1}}
        expected = {"mrr": 1 / rank, "mrr@10": 1 / rank if rank <= 10 else 0.0}
        assert over_queries(per_query(["mrr", "mrr@10"], qrels, run)) == pytest.approx(expected)


def test_a_judged_query_without_results_counts_as_zero():
    found = {"q1": {"a": 1.0}}
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"b": 1}}
    names = ["ndcg@10", "mrr@10", "recall@10", "map"]
    assert over_queries(per_query(names, qrels, found)) == dict.fromkeys(names, 1 / 4)
    assert over_queries(per_query(names, qrels, {**found, "q2": {}})) == dict.fromkeys(names, 1 / 4)
    assert over_queries(per_query(names, qrels, {})) == dict.fromkeys(names, 0.0)
    assert per_query(["mrr@10"], qrels, found)["mrr@10"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0, "q4": 0.0}


def test_a_query_that_nobody_judged_does_not_count():
    assert over_queries(per_query(["recall@10"], {"q1": {"a": 1}}, {"q1": {"a": 1.0}, "q9": {"b": 1.0}})) == {
        "recall@10": 1.0
    }


WRONG = ("nDCG@10", "ndgc@10", "f1", "", "@10")
WRONG_CUTOFF = ("ndcg@", "ndcg@ten", "ndcg@-1", "ndcg@0", "ndcg@010", "ndcg@²", "ndcg@1.5")
WITHOUT_CUTOFF = ("recall", "precision", "hit")


@pytest.mark.parametrize("name", [*WRONG, *WRONG_CUTOFF, *WITHOUT_CUTOFF])
def test_an_unknown_metric_is_refused_with_the_known(name):
    with pytest.raises(UserError) as error:
        measure(name)
    assert str(error.value) == f"--metrics: got {name!r}, expected one of {', '.join(NAMES)}, such as ndcg@10"


def test_a_wrong_metric_beside_right_ones_is_refused():
    with pytest.raises(UserError, match="got 'ndgc@10'"):
        over_queries(per_query(["ndcg@10", "ndgc@10"], QRELS, RUN))
