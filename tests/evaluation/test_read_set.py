"""Pairs, labelled texts and queries with their keys are read, each file by what its first line holds."""

import gzip

import pytest

from tests.evaluation.test_read_retrieval import write_set
from tests.jsonl import write
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.left_out import LeftOut
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.read_reranking import key_id
from zh_embedder.evaluation.read_set import read_set
from zh_embedder.evaluation.retrieval_metrics import per_query
from zh_embedder.evaluation.set_files import find_sets
from zh_embedder.evaluation.sets import LabelSet, PairSet, RetrievalSet

PAIRS = [
    {"text1": "甲", "text2": "乙", "score": 4.5, "task": "sts"},
    {"text1": "丙", "text2": "丁", "score": 0, "task": "sts"},
]
YES_NO = [{**pair, "score": score} for pair, score in zip(PAIRS, (1, 0), strict=True)]
LABELS = [
    {"text": "好", "label": "喜", "task": "icl"},
    {"text": "坏", "label": 3, "task": "icl"},
    {"text": "妙", "label": "喜", "task": "icl"},
]
QUERIES = [
    {"query": "问一", "pos": ["答一", "又答"], "neg": ["无关", "答二"], "task": "qa"},
    {"query": "问二", "pos": ["答二"], "neg": ["无关", "无关", "答二"], "task": "qa"},
]
RANKED = [{"query": "问", "key": ["零", "一", "二"], "pos_index": [2], "task": "qa"}]


def ids(*texts):
    return [key_id(text) for text in texts]


def test_graded_pairs_are_similarity(tmp_path):
    found = read_set(write(tmp_path / "data" / "sts.jsonl", PAIRS))
    assert found == PairSet("data/sts.jsonl", "sts", ["甲", "丙"], ["乙", "丁"], [4.5, 0.0])
    assert found.kind == "similarity"


def test_pairs_of_0_and_1_are_pair_classification_unless_it_is_said(tmp_path):
    path = write(tmp_path / "pairs.jsonl", YES_NO)
    assert read_set(path).kind == read_set(path, kind="pair_classification").kind == "pair_classification"
    assert read_set(path, kind="similarity").kind == "similarity"
    assert read_set(path, kind="similarity").scores == [1.0, 0.0]


def test_a_file_of_labelled_texts_is_clustering(tmp_path):
    found = read_set(write(tmp_path / "data" / "mood.jsonl", LABELS))
    assert found == LabelSet("data/mood.jsonl", "icl", ["好", "坏", "妙"], ["喜", "3", "喜"])
    assert found.kind == "clustering"


def test_a_folder_of_train_and_test_is_classification_and_may_be_clustering(tmp_path):
    write(tmp_path / "data" / "mood" / "train.jsonl", [{"text": "乐", "label": "喜"}, {"text": "气", "label": "怒"}])
    write(tmp_path / "data" / "mood" / "test.jsonl", LABELS)
    unknown = LeftOut("unknown_labels", 1, "3: 坏")
    own = (["好", "坏", "妙"], ["喜", "3", "喜"])
    expected = LabelSet("data/mood", "icl", *own, ["乐", "气"], ["喜", "怒"], left_out=(unknown,))
    assert read_set(tmp_path / "data" / "mood") == expected
    assert expected.kind == "classification"
    found = read_set(tmp_path / "data" / "mood", kind="clustering")
    assert found == LabelSet("data/mood", "icl", *own)


def test_a_compressed_folder_of_pairs_is_its_test_file(tmp_path):
    write(tmp_path / "data" / "sts" / "train.jsonl", PAIRS)
    raw = write(tmp_path / "data" / "sts" / "test.jsonl", PAIRS[::-1])
    raw.with_suffix(".jsonl.gz").write_bytes(gzip.compress(raw.read_bytes()))
    raw.unlink()
    assert read_set(tmp_path / "data" / "sts") == PairSet("data/sts", "sts", ["丙", "甲"], ["丁", "乙"], [0.0, 4.5])


def test_beir_folders_are_read_as_ever(tmp_path):
    found = read_set(write_set(tmp_path / "data" / "mine" / "test"))
    assert (found.kind, found.name, len(found.queries)) == ("retrieval", "data/mine", 2)
    (tmp_path / "data" / "mine" / "test" / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"queries\.jsonl: is missing, expected a BEIR folder"):
        read_set(tmp_path / "data" / "mine")


def test_queries_with_their_keys_are_reranking(tmp_path):
    found = read_set(write(tmp_path / "data" / "train.jsonl", QUERIES))
    keys = ["答一", "又答", "无关", "答二"]
    assert found == RetrievalSet(
        name="data/train.jsonl",
        task="qa",
        queries={"0": "问一", "1": "问二"},
        keys=dict(zip(ids(*keys), keys, strict=True)),  # each text once, whoever has it
        qrels={"0": dict.fromkeys(ids("答一", "又答"), 1), "1": dict.fromkeys(ids("答二"), 1)},
        candidates={"0": ids("答一", "又答", "无关", "答二"), "1": ids("答二", "无关")},
        left_out=(LeftOut("both_sides", 1, "1: 答二"), LeftOut("repeated_keys", 1, "1: 无关")),
    )
    assert found.kind == "reranking"
    among_all = read_set(tmp_path / "data" / "train.jsonl", kind="retrieval")
    assert among_all.candidates is None
    assert among_all.keys == found.keys


def test_mteb_spells_the_same_otherwise(tmp_path):
    renamed = [{"query": q["query"], "positive": q["pos"], "negative": q["neg"], "task": "qa"} for q in QUERIES]
    ours, theirs = (write(tmp_path / n / "data.jsonl", lines) for n, lines in (("a", QUERIES), ("b", renamed)))
    assert read_set(theirs).candidates == read_set(ours).candidates
    assert read_set(theirs).qrels == read_set(ours).qrels


def test_queries_keep_the_ids_they_have_and_keys_those_of_their_text(tmp_path):
    lines = [{**one, "id": name} for one, name in zip(QUERIES, ("a", 7), strict=True)]
    found = read_set(write(tmp_path / "a.jsonl", lines))
    assert list(found.queries) == ["a", "7"]
    turned = read_set(write(tmp_path / "b.jsonl", lines[::-1]))
    assert turned.keys == found.keys
    assert turned.qrels == found.qrels
    assert turned.candidates == found.candidates


def test_a_model_that_scores_all_keys_alike_does_not_profit_from_the_order_of_the_file(tmp_path):
    """Half of 200 queries with one negative are right by chance; by the order in the file, all would be, or none."""
    lines = [{"query": f"问{i}", "pos": [f"答{i}"], "neg": [f"错{i}"]} for i in range(200)]
    found = read_set(write(tmp_path / "a.jsonl", lines))
    run = {query: dict.fromkeys(own, 1.0) for query, own in found.candidates.items()}
    assert over_queries(per_query(["hit@1"], found.qrels, run))["hit@1"] == pytest.approx(0.5, abs=0.1)


def test_queries_without_negatives_search_the_keys_of_the_file(tmp_path):
    lines = [{"query": one["query"], "pos": one["pos"], "task": "qa"} for one in QUERIES]
    found = read_set(write(tmp_path / "a.jsonl", lines))
    assert found.kind == "retrieval"
    assert list(found.keys.values()) == ["答一", "又答", "答二"]


@pytest.mark.parametrize(
    ("line", "positives"),
    [
        ({"pos_index": [2]}, ids("二")),
        ({"pos_index": 0}, ids("零")),
        ({"pos": ["一"]}, ids("一")),
        ({"pos": ["一", "不在"]}, ids("一", "不在")),
        ({"pos_index": [17, 5], "key_index": [5, 900, 17]}, ids("二", "零")),
        ({"pos_index": [17, 6], "key_index": [5, 900, 17]}, [*ids("二"), "row 6"]),  # missed, and counted so
        ({"pos_index": [1], "key_index": None}, ids("一")),
    ],
)
def test_llm_embedders_records_rank_their_keys(tmp_path, line, positives):
    found = read_set(write(tmp_path / "a.jsonl", [{"query": "问", "key": ["零", "一", "二"], "query_id": 4, **line}]))
    assert (found.kind, found.queries) == ("reranking", {"4": "问"})
    assert found.candidates == {"4": ids("零", "一", "二")}
    assert found.qrels == {"4": dict.fromkeys(positives, 1)}
    assert list(found.keys.values()) == ["零", "一", "二"]


def test_queries_that_nobody_judged_are_not_ranked(tmp_path):
    lines = [*RANKED, {"query": "又问", "key": ["三"], "task": "qa"}]
    found = read_set(write(tmp_path / "a.jsonl", lines))
    assert (list(found.queries), list(found.candidates)) == (["0"], ["0"])


@pytest.mark.parametrize("lines", [PAIRS, LABELS, QUERIES, RANKED])
def test_the_task_is_the_lines_unless_it_is_said(tmp_path, lines):
    path = write(tmp_path / "a.jsonl", lines)
    assert read_set(path).task == lines[0]["task"]
    assert read_set(path, task="law").task == "law"
    mixed = write(tmp_path / "b.jsonl", [*lines, {**lines[0], "task": "tool"}])
    with pytest.raises(UserError, match=r"b\.jsonl: queries of several tasks"):
        read_set(mixed)
    assert read_set(mixed, task="law").task == "law"
    bare = write(tmp_path / "c.jsonl", [{k: v for k, v in line.items() if k != "task"} for line in lines])
    assert read_set(bare).task is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "a.jsonl: got no lines, expected some such as"),
        ([{"txt": "好", "label": 1}], ":1: got the fields txt, label; did you mean 'text'?, expected"),
        ([{"text": "好", "lable": 1}], ":1: got the fields text, lable; did you mean 'label'?, expected"),
        ([{"qeury": "好", "pos": ["答"]}], ":1: got the fields qeury, pos; did you mean 'query'?, expected"),
        ([{"query": "好", "pos_index": [1]}], "its rows are those of a corpus: name it with --corpus, expected"),
        ([{}], ":1: got the fields none, expected"),
        (
            [{"text1": "甲", "txt2": "乙", "score": 1}],
            ":1: text2: is missing, but 'txt2' is there; did you mean 'text2'?",
        ),
        ([*PAIRS, {"text1": "甲", "text2": "乙"}], ":3: score: is missing, expected a number"),
        ([*PAIRS, {"text1": "甲", "text2": "乙", "score": "1"}], ":3: score: got '1', expected a finite number"),
        ([*PAIRS, *LABELS], ":3: text1: is missing"),
        ([*LABELS, {"text": "好"}], ":4: label: is missing; found text, expected"),
        ([*LABELS, {"text": "好", "label": 1.5}], ":4: label: got 1.5, expected a string or a whole number"),
        ([*LABELS, {"label": "喜"}], ":4: text: is missing"),
        ([*QUERIES, {"query": "问", "pos": []}], ":3: pos: got [], expected at least one text"),
        ([*QUERIES, {"query": "问", "pos": ["答"]}], ":3: neg: is missing, expected keys that `pos` is ranked among"),
        ([{"query": "问", "history": ["甲"]}], ":1: pos: is missing beside history"),
        ([{**one, "id": 1} for one in QUERIES], ":2: id: got '1', expected one that no line before has"),
        ([{**RANKED[0], "pos_index": [3]}], ":1: pos_index: got [3], expected numbers of key, 0 to 2"),
        ([{**RANKED[0], "pos_index": [True]}], ":1: pos_index: got [True], expected numbers of key"),
        ([{**RANKED[0], "pos_index": "2"}], ":1: pos_index: got '2', expected numbers of key"),
        ([{**RANKED[0], "key_index": [1, 2]}], ":1: key_index: got [1, 2], expected 3 whole numbers"),
        ([{**RANKED[0], "key_index": [1, 2, 3], "pos_index": ["x"]}], ":1: pos_index: got ['x'], expected whole"),
        ([{**RANKED[0], "key": []}], ":1: key: got [], expected at least one text to rank"),
        ([{**RANKED[0], "key": "零"}], ":1: key: got '零', expected a list of strings"),
        ([{**RANKED[0], "query": 3}], ":1: query: got 3, expected a string"),
        ([{**RANKED[0], "task": ["qa"]}], ":1: task: got ['qa'], expected a task name"),
        ([{"query": "问", "key": ["零"]}], "a.jsonl: no query has a positive, expected `pos_index` or `pos`"),
    ],
)
def test_a_wrong_line_is_refused_by_file_line_and_field(tmp_path, lines, message):
    with pytest.raises(UserError) as error:
        read_set(write(tmp_path / "a.jsonl", lines))
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        (
            PAIRS,
            "pair_classification",
            "got 'pair_classification' of a set for similarity, expected pairs whose scores",
        ),
        (LABELS, "classification", "of a set for clustering, expected a folder of train.jsonl and test.jsonl"),
        (QUERIES, "clustering", "got 'clustering' of a set for reranking, expected a file of"),
        (QUERIES, "rerank", "kind: unknown name 'rerank'; did you mean 'reranking'?"),
        ([{"query": "问", "pos": ["答"]}], "reranking", "of a set for retrieval, expected a file of"),
    ],
)
def test_a_kind_that_a_set_cannot_be_is_refused(tmp_path, lines, kind, message):
    with pytest.raises(UserError) as error:
        read_set(write(tmp_path / "a.jsonl", lines), kind=kind)
    assert message in str(error.value)


def test_a_folder_without_a_set_says_what_would_be_one(tmp_path):
    write(tmp_path / "tests.jsonl", PAIRS)
    with pytest.raises(UserError) as error:
        read_set(tmp_path)
    expected = "expected BEIR's queries.jsonl, corpus.jsonl, qrels.tsv, or test.jsonl (with train.jsonl for"
    assert f"got a folder of tests.jsonl; did you mean 'tests.jsonl'?, {expected}" in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_set(tmp_path / "nothing.jsonl")


def test_labelled_folders_are_found_beside_those_of_beir(tmp_path):
    write(tmp_path / "mood" / "test.jsonl", LABELS)
    write_set(tmp_path / "qa" / "test")
    assert find_sets([str(tmp_path)], flag="--data") == [tmp_path / "mood", tmp_path / "qa"]


@pytest.mark.real
def test_real_training_records_are_reranking(real_data):
    found = read_set(real_data / "tool" / "acebench" / "train.jsonl")
    assert (found.kind, found.task, len(found.queries)) == ("reranking", "tool", 597)
    assert all(own in found.keys for mine in found.candidates.values() for own in mine)
