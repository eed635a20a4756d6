"""Passages: nothing is lost, no sentence is cut that fits, headings stay, overlaps are whole sentences."""

import random
from itertools import pairwise

import pytest

from data_tools.generating.documents import Document
from data_tools.generating.html_blocks import TextBlock
from data_tools.generating.passages import Passage, PassageSize, cut_into_passages, pack, pieces
from zh_embedder.core.errors import UserError


def document(*blocks, title=""):
    return Document("d.md", title, [TextBlock(text, headings) for text, headings in blocks])


def test_pieces_lose_nothing():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("甲乙a。！？”…；，. \n") for _ in range(rng.randint(0, 80)))
        cuts = list(pieces(text, 7))
        assert "".join(cuts) == text
        assert all(len(piece) <= 7 for piece in cuts)


def test_a_long_sentence_is_cut_behind_its_commas_and_else_anywhere():
    assert list(pieces("一二三，四五六，七八九十。", 8)) == ["一二三，", "四五六，", "七八九十。"]
    assert list(pieces("一二三四五六七八九十。", 8)) == ["一二三四五六七八", "九十。"]


def test_passages_without_their_overlaps_are_the_text():
    rng = random.Random(1)
    for _ in range(200):
        blocks = []
        for _ in range(rng.randint(1, 8)):
            text = "".join(rng.choice("甲乙丙丁戊，。！") for _ in range(rng.randint(1, 300)))
            blocks.append((text, tuple(rng.choice("AB") for _ in range(rng.randint(0, 2)))))
        size = PassageSize(rng.choice([40, 100, 300]), rng.choice([0, 10, 20]), rng.choice([0, 20]))
        found = cut_into_passages(document(*blocks), size)
        plain = "".join(passage.own for passage in found).translate(dict.fromkeys(map(ord, "\nAB> ")))
        assert plain == "".join(text for text, _ in blocks)
        assert all(len(passage.overlap + passage.own) <= size.longest for passage in found)
        assert [passage.id for passage in found] == [f"d.md#{number}" for number in range(1, len(found) + 1)]


def test_overlaps_are_the_last_sentences_of_the_passage_before():
    text = "".join(f"第{number}句有十个字整。" for number in range(1, 10))  # 9 characters each
    found = cut_into_passages(document((text, ())), PassageSize(60, 20, 0))
    assert len(found) == 2
    assert [passage.overlap for passage in found] == ["", *(p.own[-18:] for p in found[:-1])]
    assert "".join(passage.own for passage in found) == text


def test_a_passage_is_never_repeated_whole():
    text = "".join(f"第{number}句有十个字整。" for number in range(1, 10))
    found = cut_into_passages(document((text, ())), PassageSize(40, 20, 0))
    assert all(before.own not in after.overlap for before, after in pairwise(found))


def test_passages_are_about_equally_long():
    parts = ["一二三四五六七八九。"] * 11  # 110 characters in passages of at most 50: not 50, 50, 10
    lengths = [len(own) for _, own in pack(parts, PassageSize(50, 0, 0))]
    assert sum(lengths) == 110
    assert lengths == [40, 40, 30]


def test_what_is_left_is_shared_out_anew_after_every_passage():
    parts = ["一" * 39 + "。", "二" * 24 + "。", "三" * 24 + "。", "四" * 9 + "。"]
    assert [len(own) for _, own in pack(parts, PassageSize(50, 0, 0))] == [40, 25, 35]  # not 40, 50, 10


def test_sections_that_are_long_enough_stay_apart_though_they_would_fit_together():
    blocks = [("甲" * 60, ("手册", "一")), ("乙" * 60, ("手册", "二"))]
    assert [passage.headings[-1] for passage in cut_into_passages(document(*blocks), PassageSize(200, 0, 50))] == [
        "一",
        "二",
    ]


def test_headings_stand_above_the_text_once():
    blocks = [("甲" * 60 + "。", ("手册",)), ("乙" * 60 + "。", ("手册", "价格"))]
    keys = [passage.key for passage in cut_into_passages(document(*blocks, title="手册"), PassageSize(100, 0, 50))]
    assert keys == ["手册\n" + "甲" * 60 + "。", "手册 > 价格\n" + "乙" * 60 + "。"]
    (other,) = cut_into_passages(document(("甲。", ("第一章",)), title="民法"), PassageSize(100, 0, 50))
    assert other.key == "民法 > 第一章\n甲。"


def test_short_sections_join_the_next_with_their_headings_in_the_text():
    blocks = [("甲。", ("手册", "一")), ("乙。", ("手册", "二")), ("丙" * 60 + "。", ("手册", "三"))]
    (found,) = cut_into_passages(document(*blocks), PassageSize(200, 0, 50))
    assert found.headings == ("手册",)
    assert found.own == "一\n甲。\n二\n乙。\n三\n" + "丙" * 60 + "。"


def test_a_short_section_that_fits_nowhere_stays_alone():
    blocks = [("甲。", ("一",)), ("乙" * 99 + "。", ("二",))]
    assert [passage.headings for passage in cut_into_passages(document(*blocks), PassageSize(100, 0, 50))] == [
        ("一",),
        ("二",),
    ]


def test_the_key_of_a_text_without_headings_is_the_text():
    assert Passage("d#1", "d", (), "前句。", "后句。\n").key == "前句。后句。"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((10, 0, 0), "--passage_chars"),
        ((100, 60, 0), "--passage_chars"),
        ((100, -1, 0), "--overlap"),
        ((100, 0, 51), "--pas"),
    ],
)
def test_sizes_that_cannot_be_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        PassageSize(*values)
