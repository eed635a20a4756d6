"""Each source format on a sample made by hand, the options, what is said, and the real files with their counts."""

import gzip
import json
import logging
import re
import zipfile

import pytest

from data_tools import convert
from data_tools.convert import main
from data_tools.converting.dialogue import most_alike, repeats
from data_tools.converting.formats import FORMATS
from data_tools.converting.tools import last_request
from data_tools.shared.record_files import read_records
from tests.jsonl import write as write_lines
from zh_embedder.cli import build_parser
from zh_embedder.core.errors import UserError
from zh_embedder.data.schema import parse_line

SQUAD = {
    "data": [
        {
            "id": "文1",
            "paragraphs": [
                {
                    "id": "段1",
                    "context": "梵語是印度的學術語言。",
                    "qas": [
                        {"id": "1", "question": "什麼語言？", "answers": [{"text": "梵語"}, {"text": "梵語"}]},
                        {"id": "2", "question": " ", "answers": [{"text": "甲"}]},
                        {"id": "3", "question": "為何？", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def run(tmp_path, *words, name="out.jsonl"):
    """The records that a command writes, each of them valid."""
    output = tmp_path / "out" / name
    convert.run(build_parser("convert").parse_args([*map(str, words), "--output", str(output)]))
    records = [record for _, record in read_records(output)]
    for record in records:
        assert parse_line(json.dumps(record, ensure_ascii=False), "out")[1] == set()
        assert {"id", "group", "task"} <= record.keys()
    assert len({record["id"] for record in records}) == len(records)
    return records


def fails(tmp_path, match, *words):
    with pytest.raises(UserError, match=match):
        run(tmp_path, *words)


# ---- formats --------------------------------------------------------------------------------------------------------


def test_a_question_finds_its_passage_and_what_is_dropped_is_counted_by_reason(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    records = run(tmp_path, write(tmp_path / "drcd.json", json.dumps(SQUAD)))
    assert records == [
        {
            "query": "什麼語言？",
            "pos": ["梵語是印度的學術語言。"],
            "answers": ["梵語"],
            "id": "drcd-1",
            "group": "drcd-文1",
            "task": "qa",
        }
    ]
    assert "drcd: 3 questions read, 1 record, 2 dropped" in caplog.text
    assert "dropped 1: the passage holds no answer (is_impossible)" in caplog.text
    assert "dropped 1: query is empty" in caplog.text
    assert "read as squad" in caplog.text


def test_traditional_characters_become_simplified_only_when_asked(tmp_path):
    pytest.importorskip("opencc")
    source = write(tmp_path / "drcd.json", json.dumps(SQUAD))
    (record,) = run(tmp_path, source, "--simplify")
    assert (record["query"], record["pos"], record["answers"]) == ("什么语言？", ["梵语是印度的学术语言。"], ["梵语"])
    assert record["group"] == "drcd-文1"


def beir(folder):
    write_lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"问{i}"} for i in range(1, 5)])
    rows = [{"_id": "d1", "title": "题", "text": "文一"}, {"_id": "d2", "text": "文二"}, {"_id": "d3", "text": "文三"}]
    write_lines(folder / "corpus.jsonl", rows)
    head = "query-id\tcorpus-id\tscore\n"
    write(folder / "qrels" / "train.tsv", head + "q1\td1\t1\nq1\td2\t0\nq2\td9\t1\nq4\td3\t1\nq4\td9\t1\n")
    write(folder / "qrels" / "test.tsv", head + "q3\td3\t1\n")
    return folder


def test_a_beir_folder_gives_its_judged_queries(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first, second = run(tmp_path, beir(tmp_path / "set"), "--task", "qa")
    assert first == {
        "query": "问1",
        "pos": ["题 文一"],
        "neg": ["文二"],
        "id": "set-q1",
        "group": "set-q1",
        "task": "qa",
    }
    assert second["pos"] == ["文三"]
    assert "dropped 1: its relevant keys are not in the corpus" in caplog.text
    assert "dropped 1: no key is judged relevant to it" in caplog.text
    assert "1: queries of which some relevant keys are not in the corpus" in caplog.text
    assert [r["query"] for r in run(tmp_path, tmp_path / "set", "--task", "qa", "--split", "test")] == ["问3"]
    fails(tmp_path, r"--split: no tes.tsv .* did you mean 'test'", tmp_path / "set", "--task", "qa", "--split", "tes")


def test_hard_negatives_stand_in_a_file_of_their_own_and_a_positive_is_none(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    mined = write(tmp_path / "mined.tsv", "q1\td3\nq1\td1\n")
    first, _ = run(tmp_path, beir(tmp_path / "set"), "--task", "qa", "--negatives", mined)
    assert first["neg"] == ["文二", "文三"]
    assert "1: neg texts that are positives or twice there left out" in caplog.text


@pytest.mark.parametrize(
    ("queries", "qrels"),
    [
        ("1\t问一\n2\t问二\n", "1\t0\t10\t1\n2\t0\t11\t1\n"),
        ("qid\ttext\n1\t问一\n2\t问二\n", "qid\tpid\n1\t10\n2\t11\n"),
    ],
    ids=["MS MARCO", "T2Ranking"],
)
def test_tables_of_queries_passages_and_judgements_are_joined(tmp_path, queries, qrels):
    header = "pid\ttext\n" if queries.startswith("qid") else ""
    write(tmp_path / "m" / "collection.tsv", header + "10\t文十\n11\t文十一\n12\t文十二\n")
    write(tmp_path / "m" / "queries.train.tsv", queries)
    write(tmp_path / "m" / "qrels.train.tsv", qrels)
    triples = write(tmp_path / "triples.tsv", "1\t10\t12\n")
    first, second = run(tmp_path, tmp_path / "m", "--task", "qa", "--negatives", triples)
    assert (first["query"], first["pos"], first["neg"]) == ("问一", ["文十"], ["文十二"])
    assert (second["query"], second["pos"], "neg" in second) == ("问二", ["文十一"], False)


def test_relevance_below_the_least_is_neither_positive_nor_negative(tmp_path):
    write(tmp_path / "m" / "collection.tsv", "10\t文十\n11\t文十一\n12\t文十二\n")
    write(tmp_path / "m" / "queries.train.tsv", "1\t问一\n")
    write(tmp_path / "m" / "qrels.train.tsv", "qid\t-\tpid\trel\n1\t0\t10\t3\n1\t0\t11\t1\n1\t0\t12\t0\n")
    (record,) = run(tmp_path, tmp_path / "m", "--task", "qa", "--min_relevance", "2")
    assert (record["pos"], record["neg"]) == (["文十"], ["文十二"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lcqmc.tsv", "喜欢打篮球\t爱打球\t1\n今天\t明天\t0\n"),
        ("lcqmc.tsv", "text_a\ttext_b\tlabel\n喜欢打篮球\t爱打球\t1\n今天\t明天\t0\n"),
        ("stsb.txt", "7||喜欢打篮球||爱打球||1\n8||今天||明天||0\n"),
        ("bq.csv", 'sentence1,sentence2,label\n喜欢打篮球,"爱打球",1\n今天,明天,0\n'),
        (
            "afqmc.json",
            '{"sentence1": "喜欢打篮球", "sentence2": "爱打球", "label": "1"}\n'
            '{"sentence1": "今天", "sentence2": "明天", "label": "0"}\n',
        ),
    ],
)
def test_sentence_pairs_keep_their_score_with_or_without_a_header(tmp_path, name, text):
    records = run(tmp_path, write(tmp_path / name, text), "--from", "pairs")
    assert [(r["text1"], r["text2"], r["score"], r["task"]) for r in records] == [
        ("喜欢打篮球", "爱打球", 1.0, "sts"),
        ("今天", "明天", 0.0, "sts"),
    ]


def test_lines_of_two_sentences_and_a_score_are_told_from_an_id_with_a_labelled_text(tmp_path):
    assert len(run(tmp_path, write(tmp_path / "a.tsv", "喜欢打篮球\t爱打球\t1\n今天\t明天\t0\n"))) == 2
    fails(tmp_path, "the format cannot be recognised", write(tmp_path / "b.tsv", "7\t爱打球\t1\n8\t明天\t0\n"))


def test_pairs_become_groups_by_a_threshold(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = write(tmp_path / "a.tsv", "甲\t乙\t5\n甲\t丙\t1\n丁\t戊\t2\n")
    (record,) = run(tmp_path, source, "--from", "pairs", "--as", "groups", "--threshold", "4", "--task", "qa")
    assert (record["query"], record["pos"], record["neg"]) == ("甲", ["乙"], ["丙"])
    assert "3 pairs read, 1 record (of 2 pairs), 1 dropped" in caplog.text


OCNLI = [
    {"sentence1": "前提", "sentence2": "推出", "label": "entailment", "prem_id": "p1", "id": 0, "genre": "x"},
    {"sentence1": "前提", "sentence2": "相反", "label": "contradiction", "prem_id": "p1", "id": 1, "genre": "x"},
    {"sentence1": "前提", "sentence2": "无关", "label": "neutral", "prem_id": "p1", "id": 2, "genre": "x"},
    {"sentence1": "别的", "sentence2": "否", "label": "contradiction", "prem_id": "p2", "id": 3, "genre": "x"},
    {"sentence1": "别的", "sentence2": "疑", "label": "-", "prem_id": "p2", "id": 4, "genre": "x"},
]


def test_a_premise_finds_what_it_entails_and_not_what_contradicts_it(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (record,) = run(tmp_path, write_lines(tmp_path / "ocnli.json", OCNLI))
    assert record == {
        "query": "前提",
        "pos": ["推出"],
        "neg": ["相反"],
        "id": "ocnli-p1",
        "group": "ocnli-p1",
        "task": "nli",
    }
    assert "5 pairs read, 1 record (of 2 pairs), 3 dropped" in caplog.text
    for reason in ("no gold label", "neutral: neither positive nor negative", "its premise entails nothing"):
        assert f"dropped 1: {reason}" in caplog.text


def test_inference_pairs_can_be_scored(tmp_path):
    records = run(tmp_path, write_lines(tmp_path / "ocnli.json", OCNLI), "--as", "pairs")
    assert [(r["score"], r["group"]) for r in records] == [
        (1.0, "ocnli-p1"),
        (0.0, "ocnli-p1"),
        (0.5, "ocnli-p1"),
        (0.0, "ocnli-p2"),
    ]


TNEWS = [{"label": str(i % 2), "label_desc": ["news_edu", "news_car"][i % 2], "sentence": f"新闻{i}"} for i in range(6)]


def test_labelled_texts_keep_the_label_that_people_read(tmp_path):
    records = run(tmp_path, write_lines(tmp_path / "tnews.json", TNEWS), "--task", "topic")
    assert records[1] == {"text": "新闻1", "label": "news_car", "id": "tnews-2", "group": "tnews-2", "task": "topic"}
    plain = run(tmp_path, write(tmp_path / "thu.txt", "新闻\t体育\n"), "--from", "labelled", "--task", "topic")
    assert (plain[0]["text"], plain[0]["label"]) == ("新闻", "体育")


def test_examples_with_the_same_label_are_positives_and_others_negatives(tmp_path):
    source = write_lines(tmp_path / "tnews.json", TNEWS)
    words = [source, "--as", "icl", "--examples", "2", "--wrong_examples", "3"]
    records = run(tmp_path, *words)
    for record in records:
        own = f"文本：{record['query']}\n"
        assert len(record["pos"]) == 2
        assert all(text.endswith(record["answers"][0]) and not text.startswith(own) for text in record["pos"])
        assert not any(text.endswith(record["answers"][0]) for text in record["neg"])
    assert run(tmp_path, *words) == records
    assert run(tmp_path, *words, "--seed", "1") != records


KDCONV = [
    {
        "name": "片",
        "messages": [
            {"message": "看过片吗？"},
            {"message": "看过。"},
            {"message": "谁导演的？"},
            {
                "message": "王小明导演的。",
                "attrs": [
                    {"name": "片", "attrname": "导演", "attrvalue": "王小明、李雷"},
                    {"name": "片", "attrname": "类型", "attrvalue": "家庭"},
                ],
            },
            {"message": "好的。", "attrs": [{"name": "片", "attrname": "类型", "attrvalue": "家庭"}]},
        ],
    }
]


def test_earlier_turns_and_the_question_find_the_fact_that_the_reply_repeats(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = write(tmp_path / "film.json", json.dumps(KDCONV))
    (record,) = run(tmp_path, source, "--turns", "1")
    assert record["query"] == "B:看过。\nA:谁导演的？"
    assert record["pos"] == ["片 导演：王小明、李雷"]
    assert (record["answers"], record["group"], record["task"]) == (["王小明导演的。"], "film-0", "convsearch")
    assert "5 turns read, 1 record, 4 dropped" in caplog.text
    assert "dropped 1: the reply repeats none of its facts" in caplog.text
    first, second = run(tmp_path, source, "--facts", "all")
    assert first["query"].startswith("A:看过片吗？\n")
    assert (len(first["pos"]), second["pos"]) == (2, ["片 类型：家庭"])


def test_a_reply_repeats_a_short_value_whole_a_name_of_a_list_a_year_and_a_piece_of_a_long_text():
    assert repeats("片长132分钟。", "132分钟")
    assert not repeats("片长12分钟。", "132分钟")
    assert repeats("我知道裘德·洛。", "伊桑·霍克，裘德·洛")
    assert repeats("72年出生的。", "1972年06月07日")
    assert not repeats("7月出生的。", "1972年06月07日")
    long = "《我是山姆》是由杰茜·尼尔森执导的剧情片，" + "讲述了一个父亲" * 8
    assert repeats("它是杰茜·尼尔森执导的。", long)
    assert not repeats("它是剧情片。", long)
    assert not repeats("什么？", "……")


CROSSWOZ = {
    "11": {
        "messages": [
            {"role": "usr", "content": "找家餐馆", "dialog_act": [["Request", "餐馆", "名称", ""]]},
            {"role": "sys", "content": "去讲礼吧", "dialog_act": [["Inform", "餐馆", "名称", "讲礼"]]},
            {"role": "usr", "content": "地址？", "dialog_act": [["Inform", "餐馆", "名称", "讲礼"]]},
            {"role": "sys", "content": "大队对面", "dialog_act": [["Inform", "餐馆", "地址", "大队对面"]]},
            {"role": "usr", "content": "谢谢", "dialog_act": [["General", "thank", "none", "none"]]},
        ]
    }
}


def test_a_zip_of_dialogues_gives_what_each_reply_informs_of_with_its_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "val.json.zip", "w") as archive:
        archive.writestr("val.json", json.dumps(CROSSWOZ))
    first, second = run(tmp_path, tmp_path / "val.json.zip")
    assert (first["query"], first["pos"], first["id"]) == ("用户:找家餐馆", ["餐馆 名称：讲礼"], "val-11-1")
    assert second["pos"] == ["讲礼 地址：大队对面"]
    assert second["group"] == first["group"] == "val-11"


def test_a_later_turn_finds_the_earlier_exchange_that_it_takes_up(tmp_path):
    said = [
        "我家的猫生病了怎么办",
        "带它去医院",
        "今天的天气真好",
        "是啊",
        "你吃饭了吗",
        "吃了",
        "我家的猫还是生病了",
        "哦",
    ]
    raw = [{"name": "x", "messages": [{"message": text} for text in said]}]
    source = write(tmp_path / "d.json", json.dumps(raw))
    (record,) = run(tmp_path, source, "--from", "kdconv", "--as", "chat")
    assert record["pos"] == ["A:我家的猫生病了怎么办\nB:带它去医院"]
    assert record["neg"] == ["A:今天的天气真好\nB:是啊"]
    (record,) = run(tmp_path, source, "--from", "kdconv", "--as", "history")
    assert record["history"] == ["A:我家的猫生病了怎么办\nB:带它去医院", "A:今天的天气真好\nB:是啊"]
    assert record["answers"] == ["哦"]


def test_courtesies_take_nothing_up():
    assert most_alike("好的，谢谢。", ["帮我找餐馆，谢谢", "好"]) is None
    assert most_alike("那家餐馆的地址", ["帮我找那家餐馆吧", "今天天气好"]) == 0


def ace(tool, *, question="user: 帮我投资\nsystem: 预算？\nuser: 五百万\n"):
    tools = [{"name": "投资", "description": "评估投资。"}, {"name": "天气", "description": "查天气。"}]
    return {"id": "n_0", "question": question, "function": tools}, {"id": "n_0", "ground_truth": tool}


@pytest.mark.parametrize("truth", [{"投资": {}}, {"投资_1": {}, "投资_2": {}}, [{"投资": {}}]])
def test_a_request_finds_the_tools_called_and_not_the_other_candidates(tmp_path, truth):
    request, answer = ace(truth)
    write_lines(tmp_path / "ace" / "possible_answer" / "a.json", [answer])
    write_lines(tmp_path / "ace" / "a.json", [request])
    (record,) = run(tmp_path, tmp_path / "ace")
    assert record == {
        "query": "帮我投资\n五百万",
        "pos": ["投资：评估投资。"],
        "neg": ["天气：查天气。"],
        "id": "a-n_0",
        "group": "投资",
        "task": "tool",
    }


def test_a_request_begins_after_the_last_tool_call():
    assert last_request("user: 一\nsystem: [f(x=1)]\nsystem: 好\nuser: 二\nsystem: 几？\nuser: 三\n四") == "二\n三\n四"
    assert last_request("没有角色") == "没有角色"


def test_a_tool_that_is_no_candidate_drops_the_request(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    request, answer = ace({"别的": {}})
    write_lines(tmp_path / "possible_answer" / "a.json", [answer])
    fails(tmp_path, "nothing to write", write_lines(tmp_path / "a.json", [request]))
    assert "dropped 1: a tool that is called is not among the candidates" in caplog.text


def test_query_tools_and_answers_in_one_object_may_be_json_in_json(tmp_path):
    tools = [{"type": "function", "function": {"name": "f", "description": "甲"}}, {"name": "g", "description": "乙"}]
    row = {"query": "问", "tools": json.dumps(tools), "answers": json.dumps([{"name": "g", "arguments": {}}])}
    (record,) = run(tmp_path, write_lines(tmp_path / "x.jsonl", [row]))
    assert (record["pos"], record["neg"]) == (["g：乙"], ["f：甲"])


def test_records_of_flagembedding_keep_their_scores_beside_their_texts(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    row = {"query": "问", "pos": ["甲", " "], "neg": ["乙", "甲", "丙"], "pos_scores": [3, 2], "neg_scores": [1, 2, 0]}
    (record,) = run(tmp_path, write_lines(tmp_path / "f.jsonl", [row | {"type": "normal"}]), "--task", "qa")
    assert (record["pos"], record["neg"]) == (["甲"], ["乙", "丙"])
    assert (record["pos_scores"], record["neg_scores"]) == ([3], [1, 0])
    assert "1: records without their fields type" in caplog.text
    assert "1: neg texts that are positives or twice there left out" in caplog.text


def test_records_of_llm_embedder_keep_their_task_and_scores(tmp_path):
    rows = [
        {"query": "问", "pos": ["甲", ""], "neg": ["乙", "", "丙"], "teacher_scores": [5, 4, 3, 2, 1], "task": "icl"},
        {"query": "问二", "history": ["一", "", "三"], "teacher_scores": [1, 2, 3], "task": "chat", "query_id": 7},
    ]
    first, second = run(tmp_path, write_lines(tmp_path / "l.jsonl", rows))
    assert (first["task"], first["teacher_scores"], first["neg"]) == ("icl", [5, 3, 1], ["乙", "丙"])
    assert (second["id"], second["history"], second["teacher_scores"]) == ("l-7", ["一", "三"], [1, 3])


def test_columns_of_sentence_transformers_are_known_in_every_container(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"anchor": "问", "positive": "答", "negative_1": "甲", "negative_2": "乙"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    csv = write(tmp_path / "t.csv", "anchor,positive,negative_1,negative_2\n问,答,甲,乙\n")
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    for path in (tmp_path / "t.parquet", csv, packed):
        (record,) = run(tmp_path, path, "--task", "qa")
        assert (record["query"], record["pos"], record["neg"], record["id"]) == ("问", ["答"], ["甲", "乙"], "t-1")
    scored = write_lines(tmp_path / "s.jsonl", [{"sentence1": "甲", "sentence2": "乙", "score": 0.5}])
    assert run(tmp_path, scored, "--task", "sts")[0]["score"] == 0.5


def test_named_columns_in_gb18030_are_found_joined_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    text = '科,标题,问,答\n内科,头疼,"疼,很疼",吃药\n内科,,发烧,喝水\n外科,,,包扎\n'
    source = write(tmp_path / "m.csv", text, "gb18030")
    words = ["--from", "columns", "--columns", "query=标题+问", "pos=答", "group=科", "--task", "qa"]
    first, second = run(tmp_path, source, *words)
    assert (first["query"], first["pos"], first["group"]) == ("头疼\n疼,很疼", ["吃药"], "内科")
    assert second["query"] == "发烧"
    assert "read as GB18030" in caplog.text
    assert "dropped 1: query is empty" in caplog.text


def test_columns_by_number_mean_that_there_is_no_header(tmp_path):
    source = write(tmp_path / "csl.tsv", 'to title\t摘要"一\t题一\nto title\t摘要二\t题二\n')
    records = run(tmp_path, source, "--from", "columns", "--columns", "query=3", "pos=2", "--task", "title")
    assert [(r["query"], r["pos"]) for r in records] == [("题一", ['摘要"一']), ("题二", ["摘要二"])]


# ---- options, mistakes ----------------------------------------------------------------------------------------------


def test_unicode_forms_short_texts_and_a_limit_are_options(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [
        {"anchor": "ＡＢＣ", "positive": "①一二"},
        {"anchor": "短", "positive": "一二三"},
        {"anchor": "甲乙丙", "positive": "短"},
    ]
    source = write_lines(tmp_path / "a.jsonl", rows)
    assert [r["query"] for r in run(tmp_path, source, "--task", "qa")] == ["ＡＢＣ", "短", "甲乙丙"]
    (record,) = run(tmp_path, source, "--task", "qa", "--normalize", "NFKC", "--min_chars", "2")
    assert (record["query"], record["pos"]) == ("ABC", ["1一二"])
    assert "dropped 1: query is under 2 characters" in caplog.text
    assert "dropped 1: no positive is left" in caplog.text
    assert len(run(tmp_path, source, "--task", "qa", "--limit", "2")) == 2
    assert "stopped at --limit 2" in caplog.text


def test_several_sources_keep_apart_and_an_id_given_twice_gets_a_number(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"query": "问", "pos": ["答"], "id": 1}, {"query": "问二", "pos": ["答"], "id": 1}]
    files = [write_lines(tmp_path / name / "f.jsonl", rows) for name in "ab"]
    records = run(tmp_path, *files, "--task", "qa", name="all.jsonl.zst")
    assert [r["id"] for r in records] == ["a-f-1", "a-f-1#2", "b-f-1", "b-f-1#2"]
    assert "1: ids that the source gives twice, numbered" in caplog.text


def test_an_unclear_format_is_asked_for_and_a_wrong_name_gets_the_nearest(tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [{"x": "1"}])
    fails(tmp_path, "the format cannot be recognised, expected --from: " + ", ".join(FORMATS), source)
    fails(tmp_path, "--from: unknown name 'squat'; did you mean 'squad'", source, "--from", "squat")
    fails(
        tmp_path,
        "a.jsonl:1: columns: found 'x', expected one of",
        source,
        "--from",
        "sentence_transformers",
        "--task",
        "qa",
    )
    fails(tmp_path, r"--as \(squad\): unknown name 'pairs'", source, "--from", "squad", "--as", "pairs")


def test_a_mistake_names_file_line_field_and_the_nearest_column(tmp_path):
    table = write(tmp_path / "a.csv", "title,answer\n一,二\n三\n")
    words = [table, "--from", "columns", "--task", "qa", "--columns"]
    fails(
        tmp_path,
        r"a.csv:2: --columns query=titel: no column 'titel'; did you mean 'title'",
        *words,
        "query=titel",
        "pos=answer",
    )
    fails(tmp_path, r"a.csv:3: got 1 columns, expected 2", *words, "query=title", "pos=answer")
    fails(
        tmp_path,
        r"--columns: unknown name 'qurey'; did you mean 'query'",
        *words,
        "query=title",
        "pos=answer",
        "qurey=title",
    )
    pairs = write(tmp_path / "p.tsv", "甲\t乙\t1\n甲\t乙\t很像\n")
    fails(tmp_path, r"p.tsv:2: score: got '很像', expected a number", pairs, "--from", "pairs")
    fails(tmp_path, "the file is empty", write(tmp_path / "e.jsonl", ""), "--task", "qa")
    fails(
        tmp_path,
        "--columns: unknown name 'qury'; did you mean 'query'",
        *words,
        "qury=title",
        "pos=answer",
    )
    fails(tmp_path, r"no such file: .*aa.csv; did you mean '.*/a.csv'", tmp_path / "aa.csv", "--task", "qa")


def test_a_failure_leaves_no_output(tmp_path):
    fails(tmp_path, "p.tsv:2", write(tmp_path / "p.tsv", "甲\t乙\t1\n甲\t乙\n"), "--from", "pairs")
    assert not list(tmp_path.glob("out/*"))


def test_a_data_set_that_is_not_in_the_cache_says_what_to_do(tmp_path):
    pytest.importorskip("datasets")
    fails(
        tmp_path,
        r"hf:nobody/nothing: cannot be loaded.*hf download",
        "hf:nobody/nothing",
        "--from",
        "sentence_transformers",
        "--task",
        "qa",
    )


def test_a_data_set_that_is_there_is_read_with_the_names_of_its_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["体育", "财经"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    table = datasets.Dataset.from_dict(
        {"text": ["甲队赢了", "股票跌了", "没有"], "label": [0, 1, -1]}, features=features
    )
    table.to_parquet(tmp_path / "set" / "train.parquet")
    records = run(tmp_path, f"hf:{tmp_path / 'set'}", "--from", "labelled", "--task", "topic")
    assert [(r["text"], r["label"], r["id"]) for r in records] == [
        ("甲队赢了", "体育", "set-1"),
        ("股票跌了", "财经", "set-2"),
    ]


def test_the_list_shows_every_format_with_an_example(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    for own in FORMATS.values():
        assert f"{own.name}: {own.about}" in shown
        assert own.example in shown


# ---- real files -----------------------------------------------------------------------------------------------------

REAL = [  # words, units in the source, records, dropped
    (["cmrc2018/cmrc2018_trial.json"], 1002, 1000, 2),
    (["drcd/DRCD_test_first30articles.json", "--simplify"], 492, 492, 0),
    (["kdconv/film_test.json"], 4010, 2470, 1540),
    (["crosswoz/val_first200.json.zip"], 3338, 1388, 1950),
    (["acebench"], 300, 300, 0),
    (["csl/ts_test.tsv", "--from", "columns", "--columns", "query=3", "pos=2", "--task", "title"], 1000, 1000, 0),
    (
        [
            "medical/neike_first500lines_gb18030.csv",
            "--from",
            "columns",
            "--columns",
            "query=title+ask",
            "pos=answer",
            "group=title",
            "--task",
            "qa",
        ],
        499,
        499,
        0,
    ),
]


def source_count(folder, name):
    """Units of a source, counted without the converter."""
    if name.startswith(("cmrc", "drcd")):
        data = json.loads((folder / name).read_text("utf-8"))["data"]
        return sum(len(p["qas"]) for article in data for p in article["paragraphs"])
    if name.startswith("kdconv"):
        return sum(len(d["messages"]) for d in json.loads((folder / name).read_text("utf-8")))
    if name.startswith("crosswoz"):
        with zipfile.ZipFile(folder / name) as archive:
            return sum(len(d["messages"]) for d in json.loads(archive.read("val.json")).values())
    if name == "acebench":
        return sum(len(p.read_text("utf-8").splitlines()) for p in (folder / name).glob("*.json"))
    lines = (folder / name).read_bytes().count(b"\n")
    return lines - 1 if name.endswith(".csv") else lines


@pytest.mark.real
@pytest.mark.parametrize(("words", "units", "made", "dropped"), REAL, ids=lambda value: str(value)[:20])
def test_every_raw_file_becomes_valid_records_and_every_unit_of_it_is_accounted_for(
    tmp_path, real_data, caplog, words, units, made, dropped
):
    if "--simplify" in words:
        pytest.importorskip("opencc")
    caplog.set_level(logging.INFO)
    raw = real_data / "raw"
    assert source_count(raw, words[0]) == units == made + dropped
    assert len(run(tmp_path, raw / words[0], *words[1:])) == made
    said = [r.getMessage() for r in caplog.records if "dropped" in r.getMessage() and " read, " in r.getMessage()]
    assert sum(int(line.split(": ")[1].split()[0].replace(",", "")) for line in said) == units


def test_big5_is_read_as_what_it_is_and_a_damaged_byte_is_named(tmp_path, capsys):
    old = "query,answer\r\n臺北天氣如何？週末會不會下雨,請參考觀光局網頁，出門記得帶傘。\r\n"
    (tmp_path / "big5.csv").write_bytes(old.encode("big5"))
    flags = ["--from", "columns", "--columns", "query=query", "pos=answer", "--task", "qa"]
    assert main([str(tmp_path / "big5.csv"), *flags, "--output", str(tmp_path / "a.jsonl")]) == 0
    assert "read as Big5" in capsys.readouterr().err
    assert "臺北天氣如何？" in (tmp_path / "a.jsonl").read_text("utf-8")

    (tmp_path / "short.csv").write_bytes("query,answer\r\n好,對\r\n".encode("big5"))
    assert main([str(tmp_path / "short.csv"), *flags, "--output", str(tmp_path / "b.jsonl")]) == 2
    assert "encoding: may be GB18030 or Big5, expected UTF-8, or --encoding" in capsys.readouterr().err

    rows = [f"问题{number}怎么办,答案{number}在这里\r\n".encode() for number in range(10_000)]
    rows[7_000] = rows[7_000][:5] + b"\xff" + rows[7_000][6:]
    (tmp_path / "damaged.csv").write_bytes(b"query,answer\r\n" + b"".join(rows))
    assert main([str(tmp_path / "damaged.csv"), *flags, "--output", str(tmp_path / "c.jsonl")]) == 2
    assert re.search(r"damaged\.csv:7002: not UTF-8 at byte \d+ of the line \(.*ff", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "big5.csv", "damaged.csv", "short.csv"]


def test_records_may_have_no_task_and_training_is_named_as_the_place_for_it(tmp_path, capsys):
    source = write_lines(tmp_path / "f.jsonl", [{"query": "a", "pos": ["b"]}])
    assert main([str(source), "--from", "flagembedding", "--output", str(tmp_path / "o.jsonl")]) == 0
    assert "no task (--task gives one, else train with --default_task)" in capsys.readouterr().err
    assert "task" not in json.loads((tmp_path / "o.jsonl").read_text("utf-8"))
