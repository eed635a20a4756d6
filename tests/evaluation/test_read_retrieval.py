"""Sets that models are measured on are read, or refused by line."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from tests.jsonl import as_lines as lines
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.left_out import LeftOut
from zh_embedder.evaluation.read_retrieval import read_eval_data, read_retrieval_set
from zh_embedder.evaluation.set_files import find_sets
from zh_embedder.evaluation.sets import RetrievalSet


def counts(data) -> dict[str, tuple[int, str]]:
    """What a set leaves out: kind -> how many, and an example."""
    return {found.kind: (found.count, found.example) for found in data.left_out}


QUERIES = [{"id": "q0", "text": "问零", "task": "qa"}, {"id": "q1", "text": "问一", "task": "qa"}]
KEYS = [
    {"id": "d0", "text": "答零"},
    {"id": "d1", "text": "答一", "title": "题目"},
    {"id": "d2", "text": "", "title": ""},
]
QRELS = "query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\t2\nq1\td1\t0\n"


def write_set(folder: Path, *, queries=QUERIES, keys=KEYS, qrels=QRELS, compress=None) -> Path:
    """A BEIR folder; texts are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("queries.jsonl", queries), ("corpus.jsonl", keys), ("qrels.tsv", qrels)):
        raw = (content if isinstance(content, str) else lines(content)).encode()
        if compress == ".gz":
            raw = gzip.compress(raw)
        if compress == ".zst":
            raw = pa.compress(raw, codec="zstd", asbytes=True)
        (folder / f"{name}{compress or ''}").write_bytes(raw)
    return folder


@pytest.mark.parametrize("inside", ["", "test"])
@pytest.mark.parametrize("compress", [None, ".gz", ".zst"])
def test_a_beir_folder_is_read(tmp_path, compress, inside):
    write_set(tmp_path / "data" / "mine" / inside, compress=compress)
    assert read_retrieval_set(tmp_path / "data" / "mine") == RetrievalSet(
        name="data/mine",
        task="qa",
        queries={"q0": "问零", "q1": "问一"},
        keys={"d0": "答零", "d1": "题目 答一", "d2": ""},
        qrels={"q0": {"d0": 1, "d1": 2}, "q1": {"d1": 0}},
        left_out=(LeftOut("no_relevant", 1, "q1"), LeftOut("empty_keys", 1, "d2")),
    )


def test_queries_without_judgement_and_judged_ones_that_are_not_there_are_left_out_and_counted(tmp_path):
    found = read_retrieval_set(write_set(tmp_path, qrels="q1\td1\t1\nq7\td0\t1\n"))
    assert found.queries == {"q1": "问一"}
    assert found.qrels == {"q1": {"d1": 1}}  # a judged query that is not there does not count, as in BEIR
    assert counts(found) == {"unknown_queries": (1, "q7"), "unjudged_queries": (1, "q0"), "empty_keys": (1, "d2")}


def test_blank_lines_and_a_mark_at_the_start_do_no_harm(tmp_path):
    folder = write_set(tmp_path, queries="\ufeff" + lines(QUERIES) + "\n\n", qrels=QRELS + "\n")
    assert read_retrieval_set(folder).queries == {"q0": "问零", "q1": "问一"}


@pytest.mark.parametrize(
    ("tasks", "asked", "expected"),
    [
        (("qa", "qa"), None, "qa"),
        (("qa", "qa"), "law", "law"),
        (("qa", "tool"), "law", "law"),
        ((None, None), None, None),
        ((None, None), "law", "law"),
    ],
)
def test_the_task_is_the_queries_unless_it_is_said(tmp_path, tasks, asked, expected):
    queries = [{**query, "task": task} for query, task in zip(QUERIES, tasks, strict=True)]
    assert read_retrieval_set(write_set(tmp_path, queries=queries), task=asked).task == expected


def test_queries_of_several_tasks_are_refused(tmp_path):
    queries = [QUERIES[0], {**QUERIES[1], "task": "tool"}]
    with pytest.raises(UserError, match=r"queries of several tasks \((qa, tool|tool, qa)\), expected one"):
        read_retrieval_set(write_set(tmp_path, queries=queries))


FIRST = lines(QUERIES[:1])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"queries": FIRST + "{'id': 1}\n"}, "queries.jsonl:2: not valid JSON at character 2: "),
        ({"queries": FIRST + '{"id": "q1"}\n'}, "queries.jsonl:2: text: got None, expected a string"),
        ({"queries": '{"text": "问"}\n'}, "queries.jsonl:1: _id: got None, expected a string"),
        ({"queries": '{"id": true, "text": "问"}\n'}, "queries.jsonl:1: id: got True, expected a string or a whole"),
        ({"queries": FIRST + "[]\n"}, "queries.jsonl:2: a JSON array, expected JSON Lines"),
        ({"queries": FIRST + "\n" + FIRST}, "queries.jsonl:3: id: got 'q0', expected one that no line before has"),
        ({"keys": [*KEYS, KEYS[1]]}, "corpus.jsonl:4: id: got 'd1', expected one that no line before has"),
        (
            {"keys": [{"id": "d0", "text": ["答", 1]}]},
            "corpus.jsonl:1: text: got ['答', 1], expected a string, or a list",
        ),
        ({"qrels": QRELS + "q1 d1 1\n"}, "qrels.tsv:5: got 'q1 d1 1', expected query-id, corpus-id and a whole score"),
        ({"qrels": QRELS + "q1\td1\n"}, "qrels.tsv:5: got 'q1\\td1', expected query-id"),
        ({"qrels": QRELS + "q1\td1\tscore\n"}, "qrels.tsv:5: got 'q1\\td1\\tscore', expected query-id"),
        ({"qrels": "q1\td1\t0.5\n"}, "qrels.tsv:1: got 'q1\\td1\\t0.5', expected query-id"),
        ({"qrels": "q1\t0\td1\t1\n"}, "qrels.tsv:1: got 'q1\\t0\\td1\\t1', expected query-id"),  # TREC's four columns
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "qrels.tsv: got no judgements, expected lines of a query's id"),
        ({"qrels": ""}, "qrels.tsv: got no judgements, expected lines of a query's id"),
    ],
)
def test_a_wrong_line_is_refused_by_file_and_line(tmp_path, broken, message):
    with pytest.raises(UserError) as error:
        read_retrieval_set(write_set(tmp_path, **broken))
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_a_file_that_is_not_utf8_is_refused_by_line(tmp_path):
    folder = write_set(tmp_path)
    (folder / "corpus.jsonl").write_bytes(lines(KEYS).encode("gb18030"))
    with pytest.raises(UserError, match=r"corpus\.jsonl:1: not UTF-8 \(byte 23\), it may be Big5 or GB18030"):
        read_retrieval_set(folder)


def test_a_broken_archive_is_refused(tmp_path):
    folder = write_set(tmp_path, compress=".gz")
    (folder / "queries.jsonl.gz").write_bytes((folder / "queries.jsonl.gz").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"queries\.jsonl\.gz: cannot be read"):
        read_retrieval_set(folder)


@pytest.mark.parametrize("missing", ["queries.jsonl", "corpus.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named_with_what_belongs_there(tmp_path, missing):
    (write_set(tmp_path / "set") / missing).unlink()
    with pytest.raises(UserError) as error:
        read_retrieval_set(tmp_path / "set")
    expected = "expected a BEIR folder: queries.jsonl, corpus.jsonl, qrels.tsv"
    assert str(error.value) == f"{tmp_path / 'set'}: {missing}: is missing, {expected}"


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "task", "queries", "keys", "qrels"),
    [
        ("tool/acebench", "tool", 220, 936, 225),
        ("chat/smile", "chat", 400, 3948, 459),
        ("icl/ewect", "icl", 240, 587, 23480),
    ],
)
def test_real_sets_are_read_whole(real_data, name, task, queries, keys, qrels):
    found = read_retrieval_set(real_data / name)
    assert (found.name, found.task) == (name, task)
    assert (len(found.queries), len(found.keys), sum(map(len, found.qrels.values()))) == (queries, keys, qrels)
    assert found.queries.keys() == found.qrels.keys()
    assert {key for judged in found.qrels.values() for key in judged} <= found.keys.keys()


def test_a_published_beir_folder_is_read_as_it_comes(tmp_path):
    """`_id` for `id`, an empty title, and the judgements in `qrels/test.tsv`."""
    folder = tmp_path / "scifact"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "问", "metadata": {}}\n', "utf-8")
    (folder / "corpus.jsonl").write_text('{"_id": "7", "title": "", "text": "答"}\n', "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t7\t1\n", "utf-8")
    found = read_retrieval_set(folder)
    assert (found.queries, found.keys, found.qrels) == ({"1": "问"}, {"7": "答"}, {"1": {"7": 1}})


# ---- FlagEmbedding's folder, LLM-Embedder's files -------------------------------------------------------------------


def test_flagembeddings_folder_is_read(tmp_path):
    (tmp_path / "test_queries.jsonl").write_text('{"id": 1, "text": "问"}\n{"id": 2, "text": "问二"}\n', "utf-8")
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "text": ["题", "文"]}\n{"id": 7, "text": "答"}\n', "utf-8")
    judged = '{"qid": 1, "docid": "a", "relevance": 2}\n{"qid": "1", "docid": 7}\n'
    (tmp_path / "test_qrels.jsonl").write_text(judged, "utf-8")
    found = read_retrieval_set(tmp_path, task="qa")
    assert (found.queries, found.keys) == ({"1": "问"}, {"a": "题 文", "7": "答"})
    assert found.qrels == {"1": {"a": 2, "7": 1}}
    (tmp_path / "test_qrels.jsonl").write_text('{"qid": 1, "docid": 7, "relevance": "yes"}\n', "utf-8")
    with pytest.raises(UserError, match=r"test_qrels\.jsonl:1: relevance: got 'yes', expected a whole number"):
        read_retrieval_set(tmp_path)
    (tmp_path / "test_queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"test_queries\.jsonl: is missing, expected FlagEmbedding's folder: test_q"):
        read_retrieval_set(tmp_path)


def corpus(tmp_path, *rows):
    path = tmp_path / "corpus.jsonl"
    path.write_text(lines(rows), "utf-8")
    return path


def evals(tmp_path, *rows):
    path = tmp_path / "eval.jsonl"
    path.write_text(lines(rows), "utf-8")
    return path


def test_eval_data_names_its_positives_by_the_corpus_row_or_by_their_text(tmp_path):
    keys = corpus(tmp_path, {"title": "题", "text": "零"}, {"content": "一"}, {"text": "二", "title": None})
    data = evals(
        tmp_path,
        {"query": "甲", "pos_index": [0, 2], "task": "qa"},
        {"query": "乙", "pos_index": 1, "query_id": 17, "task": "qa"},
        {"query": "丙", "pos": ["二", "不在"], "task": "qa"},
        {"query": "丁", "pos": ["不在"], "task": "qa"},
    )
    found = read_eval_data(data, keys)
    assert found.keys == {"0": "题 零", "1": "一", "2": "二"}
    assert found.queries == {"0": "甲", "17": "乙", "2": "丙", "3": "丁"}
    assert found.qrels == {"0": {"0": 1, "2": 1}, "17": {"1": 1}, "2": {"2": 1}}  # nobody judged 丁
    assert (found.task, found.name.split("/")[-1]) == ("qa", "eval.jsonl")


@pytest.mark.parametrize(
    ("template", "expected"),
    [("{title}：{text}", "题：零"), ("{text}", "零"), ("[{kind}] {text}", "[] 零")],
)
def test_a_key_is_its_line_through_the_template(tmp_path, template, expected):
    keys = corpus(tmp_path, {"title": "题", "text": "零"})
    found = read_eval_data(evals(tmp_path, {"query": "甲", "pos_index": [0]}), keys, key_template=template)
    assert found.keys == {"0": expected}


@pytest.mark.parametrize(
    ("row", "template", "message"),
    [
        ({"query": "甲", "pos_index": [5]}, "{text}", "eval.jsonl:1: pos_index: got [5], expected rows of the corpus"),
        ({"query": "甲", "pos_index": ["0"]}, "{text}", "eval.jsonl:1: pos_index: got ['0'], expected rows"),
        ({"query": 3, "pos_index": [0]}, "{text}", "eval.jsonl:1: query: got 3, expected a string"),
        ({"query": "甲", "pos": "零"}, "{text}", "eval.jsonl:1: pos: got '零', expected a list of strings"),
        ({"query": "甲"}, "{text}", "eval.jsonl: no query has a positive in"),
        ({"query": "甲", "pos_index": [0]}, "{titel}", "corpus.jsonl:1: no field of the key template '{titel}'; did"),
        ({"query": "甲", "pos_index": [0]}, "{text", "--key_template: got '{text', expected fields in braces"),
    ],
)  # fmt: skip
def test_wrong_eval_data_is_refused_by_line(tmp_path, row, template, message):
    keys = corpus(tmp_path, {"title": "题", "text": "零"})
    with pytest.raises(UserError) as error:
        read_eval_data(evals(tmp_path, row), keys, key_template=template)
    assert message in str(error.value)


# ---- what was typed behind a flag -----------------------------------------------------------------------------------


def test_a_folder_without_a_set_stands_for_the_sets_below_it(tmp_path):
    for name in ("qa/one", "qa/two/test", "tool"):
        write_set(tmp_path / "data" / name)
    found = find_sets([str(tmp_path / "data")], flag="--data")
    assert [path.relative_to(tmp_path / "data").as_posix() for path in found] == ["qa/one", "qa/two", "tool"]
    assert find_sets(["llm-embedder:data/tool"], flag="--data", data_root=str(tmp_path)) == [tmp_path / "data/tool"]


def test_a_set_that_is_not_there_is_refused_with_the_nearest_name(tmp_path):
    write_set(tmp_path / "tool")
    with pytest.raises(UserError, match=r"--canary: no such file or folder: .*tol; did you mean '.*/tool'\?"):
        find_sets([str(tmp_path / "tol")], flag="--canary")
    with pytest.raises(UserError, match="--data: got 'llm-embedder:x', expected --data_root"):
        find_sets(["llm-embedder:x"], flag="--data")
