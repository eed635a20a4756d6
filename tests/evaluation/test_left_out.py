"""What a set leaves out is counted, with figures worked out by hand; a set without a usable judgement is refused."""

import json
import logging
import math
import tempfile
from collections import Counter
from pathlib import Path

import ir_measures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evaluation.test_read_retrieval import counts
from tests.jsonl import as_lines, write
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.find_keys import at_random, find_keys, without_own
from zh_embedder.evaluation.left_out import REASONS, LeftOut, Tally, left_out
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.measure import measure_bm25
from zh_embedder.evaluation.outcome import Outcome
from zh_embedder.evaluation.read_retrieval import read_eval_data, read_retrieval_set
from zh_embedder.evaluation.read_set import read_set
from zh_embedder.evaluation.retrieval_metrics import per_query
from zh_embedder.evaluation.set_files import find_sets
from zh_embedder.search.bm25 import BM25Options

QUERIES = [{"_id": f"q{n}", "text": text} for n, text in enumerate(("怎么退货", "长江多长", "今天天气"))]
KEYS = [{"_id": f"d{n}", "text": text} for n, text in enumerate(("七天退货", "长江很长", "今天晴朗", "猫吃鱼"))]
HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = "q0\td0\t1\nq1\td1\t1\nq2\td2\t1\n"
BEST = {"q0": ("d0", "d3"), "q1": ("d1", "d3"), "q2": ("d3", "d2")}  # what some model finds, best first
SECOND = 1 / math.log2(3)  # what a relevant key in the second place counts


def folder(tmp_path, *, queries=QUERIES, keys=KEYS, qrels=HEADER + QRELS, name="set") -> Path:
    path = tmp_path / name
    write(path / "queries.jsonl", queries)
    write(path / "corpus.jsonl", keys)
    (path / "qrels.tsv").write_text(qrels, "utf-8")
    return path


def values(data, metrics=("ndcg@10", "recall@10")) -> dict[str, float]:
    """Metrics of a set under what some model finds."""
    run = {query: {key: 1.0 / rank for rank, key in enumerate(BEST[query], start=1)} for query in data.queries}
    return over_queries(per_query(metrics, data.qrels, run))


# ---- retrieval: each kind, with its figure --------------------------------------------------------------------------


def test_a_whole_set_leaves_nothing_out(tmp_path):
    found = read_retrieval_set(folder(tmp_path))
    assert (found.left_out, found.own_keys) == ((), frozenset())
    assert left_out(found) == {}
    assert values(found) == {"ndcg@10": pytest.approx((1 + 1 + SECOND) / 3), "recall@10": 1.0}


@pytest.mark.parametrize(
    ("more", "expected", "ndcg", "recall"),
    [
        # A judged query that is not there does not lower the mean, as BEIR has it.
        ("q9\td1\t1\n", {"unknown_queries": (1, "q9")}, (1 + 1 + SECOND) / 3, 1.0),
        # A relevant key that is not there cannot be found: it is part of the ideal ranking, as in trec_eval.
        ("q0\td77\t1\n", {"unknown_keys": (1, "q0 d77")}, (1 / (1 + SECOND) + 1 + SECOND) / 3, (0.5 + 1 + 1) / 3),
        ("q0\td77\t0\n", {"unknown_keys": (1, "q0 d77")}, (1 + 1 + SECOND) / 3, 1.0),
        ("q0\td0\t1\n", {"repeated_judgements": (1, "q0 d0")}, (1 + 1 + SECOND) / 3, 1.0),
    ],
)
def test_what_is_judged_and_not_there_is_counted_and_its_figure_is_that_of_trec_eval(
    tmp_path, more, expected, ndcg, recall
):
    found = read_retrieval_set(folder(tmp_path, qrels=HEADER + QRELS + more))
    assert counts(found) == expected
    assert values(found) == {"ndcg@10": pytest.approx(ndcg), "recall@10": pytest.approx(recall)}
    # The same by the library on the raw judgements, of the queries that are there.
    raw = [line.split("\t") for line in (QRELS + more).splitlines()]
    qrels = [ir_measures.Qrel(q, k, int(score)) for q, k, score in raw if q in found.queries]
    run = [ir_measures.ScoredDoc(q, key, -rank) for q, keys in BEST.items() for rank, key in enumerate(keys)]
    theirs = ir_measures.calc_aggregate([ir_measures.parse_measure("nDCG@10")], qrels, run)
    assert next(iter(theirs.values())) == pytest.approx(ndcg)


def test_queries_without_judgement_and_without_relevant_keys_are_told_apart(tmp_path):
    found = read_retrieval_set(folder(tmp_path, qrels="q0\td0\t1\nq1\td1\t0\n"))
    assert counts(found) == {"unjudged_queries": (1, "q2"), "no_relevant": (1, "q1")}
    assert values(found)["ndcg@10"] == pytest.approx((1 + 0) / 2)


def test_a_pair_judged_in_two_ways_is_refused_with_both_scores(tmp_path):
    with pytest.raises(UserError, match=r"qrels\.tsv:5: score: got 0, expected 1, as a line before judges .*'q0'"):
        read_retrieval_set(folder(tmp_path, qrels=HEADER + QRELS + "q0\td0\t0\n"))


def test_texts_that_are_empty_are_counted(tmp_path):
    queries, keys = [{**QUERIES[0], "text": " "}, *QUERIES[1:]], [*KEYS, {"_id": "d9", "text": "", "title": None}]
    found = read_retrieval_set(folder(tmp_path, queries=queries, keys=keys))
    assert counts(found) == {"empty_queries": (1, "q0"), "empty_keys": (1, "d9")}


def test_the_id_is_beirs_where_a_line_has_two(tmp_path):
    queries = [{**query, "id": 1000 + n} for n, query in enumerate(QUERIES)]
    keys = [{"id": "other", **key} for key in KEYS]
    found = read_retrieval_set(folder(tmp_path, queries=queries, keys=keys))
    assert (list(found.queries), list(found.keys)) == (["q0", "q1", "q2"], ["d0", "d1", "d2", "d3"])


# ---- a query that is a document of the corpus -----------------------------------------------------------------------

OWN = [*KEYS, {"_id": "q0", "title": "问", "text": "怎么退货"}]


def test_a_query_does_not_find_itself_where_id_and_text_are_equal(tmp_path):
    found = read_retrieval_set(folder(tmp_path, keys=OWN))
    assert (found.own_keys, counts(found)) == ({"q0"}, {"own_keys": (1, "q0")})
    run = find_keys(found, BM25Options(), hits=1)
    assert list(run["q0"]) == ["d0"]  # the best of the others, though only one key was asked for
    assert measure_bm25(found, metrics=["mrr@10"]).items["mrr@10"]["q0"] == 1.0
    drawn = at_random(found, hits=5, seed=0)
    assert ["q0" in drawn[query] for query in ("q0", "q1")] == [False, True]  # others may find it


@pytest.mark.parametrize(
    ("keys", "qrels"),
    [
        ([*KEYS, {"_id": "q0", "text": "另一段文字"}], QRELS),  # numbers that both sides happen to use
        (OWN, QRELS + "q0\tq0\t1\n"),  # judged relevant: it is an answer
    ],
)
def test_equal_ids_with_other_texts_and_relevant_ones_stay(tmp_path, keys, qrels):
    found = read_retrieval_set(folder(tmp_path, keys=keys, qrels=qrels))
    assert (found.own_keys, found.left_out) == (frozenset(), ())
    run = {"q0": {"q0": 2.0, "d0": 1.0}}
    assert without_own(found, run, 1) is run


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "keys", "qrels", "message"),
    [
        (
            [{"_id": "0001", "text": "问"}],
            KEYS,
            "1\td0\t1\n",
            "qrels.tsv: no query of a judgement is in {}/queries.jsonl: got '1', expected ids such as '0001'; they "
            "differ in zeros, blanks or a trailing .0",
        ),
        ([{"_id": "1", "text": "问"}], KEYS, "1.0\td0\t1\n", "got '1.0', expected ids such as '1'; they differ"),
        ([{"_id": "1", "text": "问"}], KEYS, "1 \td0\t1\n", "got '1 ', expected ids such as '1'; they differ"),
        (QUERIES, KEYS, "x\td0\t1\n", "queries.jsonl: got 'x', expected ids such as 'q0'"),
        (QUERIES, KEYS, "q0\td00\t1\n", "no key of a judgement is in {}/corpus.jsonl: got 'd00', expected ids such as"),
        (QUERIES, KEYS, "q0\td0\t0\nq0\tx\t1\n", "no relevant key of a judgement is in {}/corpus.jsonl: got 'x'"),
        (QUERIES, KEYS, "q0\td0\t0\nq1\td0\t-1\n", "qrels.tsv: no score is above 0, expected a relevant key"),
        (QUERIES, KEYS, HEADER, "qrels.tsv: got no judgements"),
        ([], KEYS, QRELS, "queries.jsonl: got no lines"),
        (QUERIES, [], QRELS, "corpus.jsonl: got no lines"),
    ],
)
def test_a_set_without_a_usable_judgement_is_refused_with_an_id_of_either_side(tmp_path, queries, keys, qrels, message):
    path = folder(tmp_path, queries=queries, keys=keys, qrels=qrels)
    with pytest.raises(UserError) as error:
        read_set(path)
    assert message.format(path) in str(error.value)


@pytest.mark.parametrize(
    "score", ["--5", "²", "9" * 5000, "9" * 300, "1e3", "", " ", "1_0", "１", "nan", "0.5", "1.5", "True", "0x1"]
)
def test_a_score_that_is_no_whole_number_is_refused_by_line(tmp_path, score):
    with pytest.raises(UserError, match=r"qrels\.tsv:3: got .*, expected query-id, corpus-id and a whole score"):
        read_retrieval_set(folder(tmp_path, qrels=f"{HEADER}q0\td0\t1\nq1\td1\t{score}\n"))


@pytest.mark.parametrize("value", ["x", True, 1.5, float("nan"), float("inf"), 10**10, [1], {}, None])
def test_a_named_score_that_is_no_whole_number_is_refused_by_line(tmp_path, value):
    path = folder(tmp_path, name="flag")
    (path / "qrels.tsv").unlink()
    write(path / "qrels" / "test.jsonl", [{"query-id": "q0", "corpus-id": "d0", "score": value}])
    with pytest.raises(UserError, match=r"test\.jsonl:1: score: got .*, expected a whole number"):
        read_retrieval_set(path)


@pytest.mark.parametrize("value", [["qa"], {"a": 1}, 3, True, " ", 1.5])
def test_a_task_that_is_no_name_is_refused_by_line(tmp_path, value):
    with pytest.raises(UserError, match=r"queries\.jsonl:2: task: got .*, expected a task name"):
        read_retrieval_set(folder(tmp_path, queries=[QUERIES[0], {**QUERIES[1], "task": value}]))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("pairs", [{"text1": "甲", "text2": "乙", "score": 1}] * 2, "score: got 2 pairs of the one score 1, expected"),
        ("one", [{"text": "甲", "label": "好"}] * 2, "label: got 2 texts of the one label '好', expected two or more"),
        ("all", [{"text": "甲", "label": n} for n in range(3)], "label: got 3 labels for as many texts, expected"),
    ],
)
def test_pairs_and_labels_that_tell_no_model_from_another_are_refused(tmp_path, name, lines, message):
    with pytest.raises(UserError, match=message):
        read_set(write(tmp_path / f"{name}.jsonl", lines))


def test_labels_of_which_none_is_learnt_are_refused_and_some_are_counted(tmp_path):
    test = [{"text": "甲", "label": "好"}, {"text": "乙", "label": "坏"}, {"text": "丙", "label": "好"}]
    write(tmp_path / "set" / "test.jsonl", test)
    write(tmp_path / "set" / "train.jsonl", [{"text": "丁", "label": "x"}, {"text": "戊", "label": "y"}])
    with pytest.raises(UserError, match=r"label: got '好', expected labels that train\.jsonl has: x, y"):
        read_set(tmp_path / "set")
    write(tmp_path / "set" / "train.jsonl", [{"text": "丁", "label": "x"}, {"text": "戊", "label": "坏"}])
    assert counts(read_set(tmp_path / "set")) == {"unknown_labels": (2, "好: 甲")}
    assert read_set(tmp_path / "set", kind="clustering").left_out == ()
    write(tmp_path / "set" / "train.jsonl", [{"text": "丁", "label": "x"}])
    with pytest.raises(UserError, match="got 1 text of the one label 'x' to learn from, expected two or more"):
        read_set(tmp_path / "set")


# ---- reranking and eval_data ----------------------------------------------------------------------------------------


def test_what_rerankings_leave_out_is_counted(tmp_path):
    queries = [
        {"query": "一", "pos": ["甲", "甲"], "neg": ["乙", "丙", "乙"]},
        {"query": "二", "pos": ["乙"], "neg": ["乙", "丙"]},
    ]
    found = read_set(write(tmp_path / "a.jsonl", queries))
    assert counts(found) == {"both_sides": (1, "1: 乙"), "repeated_keys": (2, "0: 甲")}
    ranked = [
        {"query": "一", "key": ["甲", "甲"], "pos": ["不在"]},
        {"query": "二", "key": ["乙"], "pos_index": []},
        {"query": "三", "key": ["丙"], "pos_index": [0]},
    ]
    found = read_set(write(tmp_path / "b.jsonl", ranked))
    assert counts(found) == {"no_positive": (1, "1"), "missed_positives": (1, "0"), "repeated_keys": (1, "0: 甲")}
    assert values_of_all(found) == pytest.approx((0 + 1) / 2)


def values_of_all(data) -> float:
    """The hit@10 of a model that ranks every candidate."""
    run = {query: dict.fromkeys(own, 1.0) for query, own in data.candidates.items()}
    return over_queries(per_query(["hit@10"], data.qrels, run))["hit@10"]


def test_what_eval_data_leaves_out_is_counted(tmp_path):
    corpus = write(tmp_path / "corpus.jsonl", [{"title": float("nan"), "text": "零"}, {"title": 2024, "text": "一"}])
    lines = [{"query": "甲", "pos": ["零", "不在"]}, {"query": "乙", "pos": ["也不在"]}, {"query": "丙"}]
    found = read_eval_data(write(tmp_path / "eval.jsonl", lines), corpus)
    assert found.keys == {"0": "零", "1": "2024 一"}
    assert counts(found) == {"no_positive": (2, "1"), "unknown_positives": (2, "1: 不在")}


@pytest.mark.parametrize(
    "template", ["{text:d}", "{text:>10000000000}", "{text!r}", "{text.x}", "{text[0]}", "{}", "{0}", "x", ""]
)
def test_a_key_template_only_names_fields(tmp_path, template):
    corpus = write(tmp_path / "corpus.jsonl", [{"text": "零"}])
    with pytest.raises(UserError, match=r"--key_template: got .*, expected (fields of a line|names alone)"):
        read_eval_data(write(tmp_path / "eval.jsonl", [{"query": "甲", "pos": ["零"]}]), corpus, key_template=template)


# ---- C-MTEB and BEIR as downloaded ----------------------------------------------------------------------------------


def table(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)


JUDGED = [tuple(line.split("\t")) for line in QRELS.splitlines()]


PIECE = "00000-of-00001"
LAYOUTS = {  # where C-MTEB's folders have corpus, queries and judgements, and the names of their columns
    "mteb": (f"corpus/dev-{PIECE}", f"queries/dev-{PIECE}", f"data/dev-{PIECE}", "_id query-id corpus-id"),
    "by part": (f"corpus/corpus-{PIECE}", f"queries/queries-{PIECE}", "qrels/test", "id query-id corpus-id"),
    "two folders": (
        f"data/corpus-{PIECE}-8afe7b7a",
        f"data/queries-{PIECE}-930bf3b8",
        f"../set-qrels/data/dev-{PIECE}-92d0e416",
        "id qid pid",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_c_mteb_folder_is_read_as_downloaded(tmp_path, layout, caplog):
    path, (corpus, queries, judged, names) = tmp_path / "set", LAYOUTS[layout]
    own, query, key = names.split()
    table(path / f"{corpus}.parquet", [{own: row["_id"], "text": row["text"], "title": None} for row in KEYS])
    table(path / f"{queries}.parquet", [{own: row["_id"], "text": row["text"]} for row in QUERIES])
    table(path / f"{judged}.parquet", [{query: q, key: k, "score": 1.0} for q, k, _ in JUDGED])
    with caplog.at_level(logging.INFO):
        found = read_set(path)
    same = read_retrieval_set(folder(tmp_path / "beir"))
    assert (found.queries, found.keys, found.qrels) == (same.queries, same.keys, same.qrels)
    assert (found.kind, found.left_out) == ("retrieval", ())
    assert ("judgements are those of dev" in caplog.text) == ("dev" in judged)
    assert find_sets([str(tmp_path)], flag="--data") == [tmp_path / "beir" / "set", path]


def test_a_parquet_folder_in_pieces_takes_the_split_that_is_judged(tmp_path):
    path = tmp_path / "set"
    for n, rows in enumerate((KEYS[:2], KEYS[2:])):
        table(path / f"corpus/dev-0000{n}-of-00002.parquet", rows)
    table(path / "corpus/train-00000-of-00001.parquet", [{"_id": "t", "text": "不在"}])
    table(path / "queries/queries-00000-of-00001.parquet", QUERIES)
    for split in ("dev", "train"):
        rows = [{"query-id": q, "corpus-id": k, "score": 1} for q, k, _ in JUDGED[: 3 if split == "dev" else 1]]
        table(path / f"data/{split}-00000-of-00001.parquet", rows)
    found = read_set(path)
    assert (list(found.keys), len(found.qrels), found.left_out) == (["d0", "d1", "d2", "d3"], 3, ())


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda _: b"PAR1 garbage", lambda _: b""])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    path = tmp_path / "set"
    table(path / "corpus/a.parquet", KEYS)
    table(path / "queries/a.parquet", QUERIES)
    table(path / "data/a.parquet", [{"qid": "q0", "pid": "d0", "score": 1}])
    (path / "queries/a.parquet").write_bytes(damage((path / "queries/a.parquet").read_bytes()))
    with pytest.raises(UserError, match=r"queries/a\.parquet: not whole Arrow or Parquet data"):
        read_set(path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["dev.tsv"], "those of dev\n"),
        (["train.tsv", "dev.tsv"], "those of dev (there are also train)\n"),
        (["train.tsv"], "those of train\n"),
        (["test.tsv", "dev.tsv"], "those of test (there are also dev)\n"),
        (["validation.jsonl"], "those of validation\n"),
    ],
)
def test_the_split_that_is_measured_is_said(tmp_path, files, said, caplog):
    path = folder(tmp_path)
    (path / "qrels.tsv").unlink()
    for name in files:
        (path / "qrels").mkdir(exist_ok=True)
        rows = [{"query-id": q, "corpus-id": k, "score": 1.0} for q, k, _ in JUDGED]
        (path / "qrels" / name).write_text(as_lines(rows) if name.endswith("jsonl") else HEADER + QRELS, "utf-8")
    with caplog.at_level(logging.INFO):
        found = read_retrieval_set(path)
    assert found.qrels == {q: {k: 1} for q, k, _ in JUDGED}
    assert said in caplog.text


def test_judgements_of_several_splits_of_which_none_is_for_testing_are_refused(tmp_path):
    path = folder(tmp_path)
    (path / "qrels.tsv").unlink()
    (path / "qrels").mkdir()
    for name in ("a.tsv", "b.tsv"):
        (path / "qrels" / name).write_text(QRELS, "utf-8")
    with pytest.raises(UserError, match="qrels: got judgements of a, b, expected test or dev or validation"):
        read_retrieval_set(path)


@pytest.mark.parametrize(
    "header", ["query_id\tdoc_id\trelevance\n", "query-id\tcorpus-id\tscore\n", "qid\tpid\tlabel\n", ""]
)
def test_headers_and_scores_of_other_programs_are_read(tmp_path, header):
    found = read_retrieval_set(folder(tmp_path, qrels=header + QRELS.replace("\t1\n", "\t1.0\n")))
    assert found.qrels == {q: {k: 1} for q, k, _ in JUDGED}


# ---- words ----------------------------------------------------------------------------------------------------------


def test_every_reason_reads_in_the_singular_and_in_the_plural_and_has_an_example():
    for kind in REASONS:
        one, many = LeftOut(kind, 1, "q0"), LeftOut(kind, 1234, "q0")
        assert one.english.startswith("1 ")
        assert many.english.startswith("1,234 ")
        assert one.english != many.english
        assert all(text.endswith(("(such as 'q0')", "（例如“q0”）")) for text in (one.english, one.chinese))


def test_what_is_left_out_survives_the_file_of_an_outcome(tmp_path):
    data = read_retrieval_set(folder(tmp_path, qrels=QRELS + "q9\td1\t1\n"))
    before = measure_bm25(data, metrics=["ndcg@10"])
    after = Outcome.from_json(json.loads(json.dumps(before.to_json(hits=1))))
    assert after.left_out == before.left_out == (LeftOut("unknown_queries", 1, "q9"),)
    old = {name: value for name, value in before.to_json(hits=1).items() if name != "left_out"}
    assert Outcome.from_json(old).left_out == ()  # a file of an earlier version


def test_a_tally_counts_and_keeps_the_first():
    tally = Tally()
    for name in "abc":
        tally.add("empty_keys", name)
    tally.add("unknown_queries", "x")
    assert tally.done() == (LeftOut("unknown_queries", 1, "x"), LeftOut("empty_keys", 3, "a"))


# ---- any lines at all -----------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.sampled_from([None, True, 0, -1, 10**30, 1.5, float("nan"), float("inf")]),
    st.sampled_from(["", " ", "q0", "d0", "不", "\ud83d"]),
    st.sampled_from([[], ["q0"], [1], [None], {}, {"a": 1}]),
)
NOISE = st.sampled_from(["", "{", "[]", "null", '"文"', "{}", '{"_id": "q0"', "\x00", "q0", "q0\t\t", "[" * 3000])
CELLS = st.sampled_from(
    ["q0", "q1", "q9", "d0", "d2", "d77", "", " ", "1", "0", "-1", "--5", "²", "1.0", "0.5", "score", "9" * 400]
)


@st.composite
def mutated(draw, rows: list[dict]) -> str:
    """Lines of which some are dropped, doubled, changed in a field, or no objects at all."""
    lines = []
    for row in rows:
        for _ in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2]))):
            fields = (
                draw(st.dictionaries(st.sampled_from([*row, "title", "task", "id"]), JUNK, max_size=1))
                if draw(st.integers(0, 5)) == 0
                else {}
            )
            lines.append(json.dumps({**row, **fields}))
    if draw(st.integers(0, 9)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(NOISE))
    return "\n".join(lines)


@st.composite
def judgements(draw) -> str:
    """Lines of qrels: mostly right, some of unknown ids, some without sense."""
    right = st.tuples(
        st.sampled_from(["q0", "q1", "q2", "q9"]),
        st.sampled_from(["d0", "d1", "d2", "d77"]),
        st.sampled_from(["1", "1", "1.0", "0"]),
    )
    wild = st.lists(CELLS, max_size=4)
    rows = draw(
        st.lists(st.one_of(right, right, right, right, wild) if draw(st.integers(0, 2)) == 0 else right, max_size=8)
    )
    return "\n".join("\t".join(cells) for cells in rows)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(queries=mutated(QUERIES), keys=mutated(KEYS), qrels=judgements())
def test_whatever_the_lines_are_a_set_accounts_for_each_or_is_refused(queries, keys, qrels):
    with tempfile.TemporaryDirectory() as place:
        for name, text in (("queries.jsonl", queries), ("corpus.jsonl", keys), ("qrels.tsv", qrels)):
            (Path(place) / name).write_text(text + "\n", "utf-8")
        try:
            found = read_set(place)
        except UserError as error:
            assert str(error).startswith(place)
            return
    number = Counter({one.kind: one.count for one in found.left_out})
    lines = [line.split("\t") for line in qrels.split("\n") if line.strip()]
    lines = lines[1:] if lines and lines[0][-1] == "score" else lines
    asked = {json.loads(line)["_id"] for line in queries.split("\n") if line.strip()}
    judged = {cells[0] for cells in lines}
    assert len(asked) == len(found.queries) + number["unjudged_queries"]
    assert len(judged) == len(found.qrels) + number["unknown_queries"]
    of_unknown = sum(cells[0] not in asked for cells in lines)
    repeated_there = number["repeated_judgements"]
    kept = sum(map(len, found.qrels.values()))
    assert kept + repeated_there + of_unknown >= len(lines) >= kept + of_unknown  # pairs of unknown queries may repeat
    assert len(found.keys) == sum(bool(line.strip()) for line in keys.split("\n"))
    assert any(s > 0 and k in found.keys for own in found.qrels.values() for k, s in own.items())


FILES = (
    [{"text1": "甲", "text2": "乙", "score": 1.5, "task": "qa"}, {"text1": "丙", "text2": "丁", "score": 0}],
    [{"text": text, "label": label} for text, label in (("甲", "好"), ("乙", "坏"), ("丙", "好"), ("丁", 3))],
    [{"query": "一", "pos": ["甲"], "neg": ["乙", "丙"]}, {"query": "二", "pos": ["乙", "甲"], "neg": ["甲"]}],
    [{"query": "一", "key": ["甲", "乙"], "pos_index": [0]}, {"query": "二", "key": ["丙"], "pos": ["甲"]}],
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(text=st.sampled_from(FILES).flatmap(mutated))
def test_whatever_a_file_holds_every_line_is_measured_counted_or_refused(text):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.jsonl"
        path.write_text(text + "\n", "utf-8")
        try:
            found = read_set(path)
        except UserError as error:
            assert str(error).startswith(place)
            return
    number = Counter({one.kind: one.count for one in found.left_out})
    measured = {"similarity": "scores", "pair_classification": "scores", "clustering": "texts"}.get(
        found.kind, "queries"
    )
    assert len(getattr(found, measured)) + number["no_positive"] == sum(bool(line.strip()) for line in text.split("\n"))
