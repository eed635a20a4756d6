"""Every metric is a row of one table: its name parses back, and what is measured is what the table lists."""

import numpy as np
import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.evaluation import metrics
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.metrics import RANKED, STATISTICS, TABLE, Metric, Named, is_score, of_kind, parse
from zh_embedder.evaluation.probes import measure_labels, measure_pairs
from zh_embedder.evaluation.retrieval_metrics import NAMES, per_query
from zh_embedder.evaluation.sets import KINDS, LabelSet, PairSet


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: f"{metric.name}-{metric.kinds[0]}")
def test_a_name_that_is_shown_parses_back(metric):
    cutoffs = {"none": [None], "optional": [None, 1, 10], "needed": [1, 10]}[metric.cutoff]
    for cutoff in cutoffs:
        named = Named(metric, cutoff)
        assert parse(str(named), metric.kinds[0]) == named
    assert str(parse("ndcg@10")) == "ndcg@10"


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: f"{metric.name}-{metric.kinds[0]}")
def test_a_row_says_what_computes_it(metric):
    ways = (metric.ir_measure, metric.ranking, metric.whole, metric.items)
    assert sum(way is not None for way in ways) == 1
    assert set(metric.kinds) <= set(KINDS)
    assert (metric.cutoff == "none") == (not set(metric.kinds) & set(RANKED))
    assert metric.text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("ndgc@10", None), ("ndcg@0", None), ("ndcg@", None), ("ndcg@ten", None), ("ndcg@-1", None)),
        *(("recall", None), ("ap@10", None), ("ap", "retrieval"), ("ndcg@10", "similarity"), ("", None)),
    ],
)
def test_a_name_that_means_nothing_is_refused(name, kind):
    with pytest.raises(UserError, match=rf"^--metrics: got '{name}', expected one of [a-z_, 0-9]*, such as ndcg@10$"):
        parse(name, kind)


def test_every_kind_has_metrics_and_a_threshold_is_no_score():
    assert all(of_kind(kind) for kind in KINDS)
    assert [metric.name for metric in TABLE if not is_score(metric.name)] == ["threshold"]
    assert "threshold" not in STATISTICS


def test_what_is_measured_is_what_the_table_lists():
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    texts, labels = ["文"] * 6, ["甲", "乙", "丙"] * 2
    found = {
        "similarity": measure_pairs(PairSet("s", None, texts, texts, [0.1, 0.5, 1.0, 0.2, 0.3, 0.9]), first, second),
        "pair_classification": measure_pairs(PairSet("p", None, texts, texts, [1.0, 0.0] * 3), first, second),
        "classification": measure_labels(LabelSet("c", None, texts, labels, texts, labels), first, second),
        "clustering": measure_labels(LabelSet("k", None, texts, labels), first),
    }
    for kind, pieces in found.items():
        rows = of_kind(kind)
        assert list(pieces.values) == [row.name for row in rows]
        assert list(pieces.items) == [row.name for row in rows if row.items is not None]


def test_a_metric_of_our_own_is_a_row_and_a_function(monkeypatch):
    """The share of the first hits that are judged irrelevant, say."""

    def noise(relevance, keys, cutoff):
        first = keys[:cutoff]
        return sum(relevance.get(key, 0) == 0 for key in first) / len(first)

    row = Metric("noise", RANKED, "share of the first keys that are not relevant", cutoff="needed", ranking=noise)
    monkeypatch.setattr(metrics, "TABLE", (*TABLE, row))
    qrels = {"q": {"a": 1}, "r": {"b": 1}, "s": {"a": 1}}
    run = {"q": {"a": 0.9, "b": 0.8}, "r": {"a": 0.5, "b": 0.5, "c": 0.7}, "other": {"a": 1.0}}
    found = per_query(["noise@2", "mrr@2"], qrels, run)
    assert found["noise@2"] == {"q": 0.5, "r": 0.5, "s": 0.0}  # of the equal a and b, b comes first, as in trec_eval
    assert found["mrr@2"] == mean_of_each(["mrr@2"], qrels, run)
    assert over_queries(found)["noise@2"] == pytest.approx(1 / 3)
    assert "noise" not in NAMES  # which were read when the program started


def mean_of_each(names, qrels, run):
    return {query: over_queries(per_query(names, {query: qrels[query]}, run))[names[0]] for query in qrels}
