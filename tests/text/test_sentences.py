"""Sentences end where Chinese sentences end, and nothing is lost between them."""

import random

import pytest

from zh_embedder.text.sentences import sentence_starts, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("甲。乙！丙？丁", ["甲。", "乙！", "丙？", "丁"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("等等……好吗？！行", ["等等……", "好吗？！", "行"]),
        ("版本1.5发布。See v2.0 notes. Next", ["版本1.5发布。", "See v2.0 notes. ", "Next"]),
        ("一行\n\n二行", ["一行\n\n", "二行"]),
        ("。。甲", ["。。", "甲"]),
        ("", []),
    ],
)
def test_sentences_end_where_chinese_sentences_end(text, expected):
    assert sentences(text) == expected


def test_sentences_lose_nothing_and_starts_are_theirs():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("甲乙a。！？”…；，. \n") for _ in range(rng.randint(0, 80)))
        found = sentences(text)
        assert "".join(found) == text
        assert [len("".join(found[:count])) for count in range(1, len(found))] == sentence_starts(text)


def test_sentences_start_behind_end_marks_and_what_closes_them():
    assert sentence_starts("好。“走吧！”他说。") == [2, 7]
    assert sentence_starts("第一行\n\n第二行；A 3.14 is pi. Next… 完") == [5, 9, 23, 29]
    assert sentence_starts("没有句号") == []
    assert sentence_starts("最后有。") == []
