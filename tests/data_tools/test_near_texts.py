"""The parts of the doctor: wrong decodings, scripts, near copies, digests."""

import json
import random

import pytest

from data_tools.doctoring.duplicate_checks import DuplicateIndex
from data_tools.doctoring.record_checks import item_of
from data_tools.doctoring.text_checks import control, letter_width, markup, mojibake, script
from data_tools.shared.near_texts import Known as KnownText
from data_tools.shared.near_texts import NearIndex, alike, grams, jaccard, near, normal
from tests.data_tools.test_doctor import POSITIVE, record, sentence
from zh_embedder.data.schema import parse_line


@pytest.mark.parametrize(
    ("out", "back"), [("utf-8", "gbk"), ("utf-8", "cp1252"), ("utf-8", "latin-1"), ("gb18030", "latin-1")]
)
def test_a_wrong_decoding_is_noticed(out, back):
    assert mojibake(POSITIVE.encode(out).decode(back, "ignore"))


@pytest.mark.parametrize(
    "text",
    [POSITIVE, "联通", "Ça va très bien, señor Müller", "····好····", "ÁÁÁÁÁÁ", "浣熊鐨", "こんにちは世界", "😀👨‍👩‍👧"],
)
def test_real_text_is_no_mojibake_and_has_no_control_characters(text):
    assert mojibake(text) is None
    assert control(text) is None


def test_comparisons_are_no_markup():
    assert markup("若 a<b 且 c>d，则 x & y") is None
    assert markup("一<br />二") == "<br />"


def test_scripts_and_widths_of_single_texts():
    assert [script(t) for t in ("這個問題怎麼辦", "这个问题怎么办", "人口", "顔を見る頑張って", "乾隆乾坤书")] == [
        1,
        0,
        None,
        None,
        0,
    ]
    assert [letter_width(t) for t in ("ＧＰＴ", "GPT", "模型")] == [1, 0, None]


def test_numbers_and_negations_make_other_facts_of_nearly_equal_texts():
    base = "第33届韩国电影大钟奖颁奖典礼在首尔举行并且公布了结果"
    assert near(base, base.replace("33", "32"), 0.8) is None
    assert near(base, base.replace("公布了", "未公布"), 0.8) is None
    assert near(base, base.replace("并且", "并"), 0.8) == jaccard(base, base.replace("并且", "并"))
    assert alike("火斑笛鲷的俗名是什么", "单斑笛鲷的俗名是什么", 0.8) is None
    assert normal("ＡＢ，c 1.5。") == "abc1.5"


def test_the_index_finds_what_comparing_with_all_finds():
    rng = random.Random(3)
    texts = [sentence(rng, 20) for _ in range(100)]
    index = NearIndex({i: KnownText("set", text) for i, text in enumerate(texts)}, 0.8)
    for text in texts:
        at = rng.randrange(10, 30)
        other = text[:at] + text[at + 1 :]
        best = max((alike(other, known, 0.8) or 0.0, known) for known in texts)
        assert index.find(other) == (KnownText("set", best[1]), best[0])


def test_no_text_is_kept_of_training_records():
    seen = DuplicateIndex()
    row, _ = parse_line(json.dumps(record()), "a:1")
    seen.add(item_of(row, "a", 1))
    columns = [seen.records, seen.positives, seen.negatives, seen.queries.subjects, seen.verdicts.subjects]
    assert [len(column.digests) for column in columns] == [1, 1, 2, 1, 0]
    assert {column.digests.itemsize for column in columns} == {8}


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("甲乙丙丁", 1, {"甲", "乙", "丙", "丁"}),
        ("甲乙丙丁", 2, {"甲乙", "乙丙", "丙丁"}),
        ("甲乙丙丁", 3, {"甲乙丙", "乙丙丁"}),
        ("甲乙丙丁", 4, {"甲乙丙丁"}),
        ("甲乙丙丁", 5, {"甲乙丙丁"}),
        ("甲甲甲", 2, {"甲甲"}),
        ("", 2, {""}),
    ],
)
def test_grams_are_runs_of_n_characters(text, n, expected):
    assert grams(text, n) == expected


def test_texts_without_a_bigram_are_alike_where_they_are_equal():
    found = [jaccard(one, other) for one in ("", "甲", "甲乙") for other in ("", "乙", "甲", "甲乙")]
    assert found == [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
