"""`zh-embedder metrics` lists what the table holds."""

import pytest

from tests.test_cli import run
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.metrics import TABLE, parse


def test_every_metric_is_listed_with_what_it_is_measured_on(capsys):
    code, out, err = run(capsys, "metrics")
    assert (code, err) == (0, "")
    lines = out.splitlines()[1 : 1 + len(TABLE)]
    for metric, line in zip(TABLE, lines, strict=True):
        assert line.split()[0].partition("@")[0].rstrip("[") == metric.name
        assert ", ".join(metric.kinds) in line
        assert line.endswith(metric.text)
    assert lines[0].startswith("ndcg[@K] ")
    assert lines[2].startswith("recall@K ")


def test_one_metric_is_explained_by_the_name_that_tables_show(capsys):
    code, out, _ = run(capsys, "metrics", "ndcg@10")
    assert (code, out) == (0, "ndcg@10 (retrieval, reranking): normalised discounted cumulative gain\n")
    code, out, _ = run(capsys, "metrics", "accuracy")
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "accuracy (pair_classification)",
        "accuracy (classification)",
    ]
    code, _, err = run(capsys, "metrics", "recall")
    assert code == 2
    assert "error: metric: got 'recall', expected one of ndcg, mrr" in err


def test_a_cutoff_in_full_width_digits_is_refused():
    with pytest.raises(UserError, match="ndcg"):
        parse("ndcg@１０")
