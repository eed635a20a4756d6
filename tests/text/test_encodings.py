"""Encodings are told apart by what the text looks like, and text that was misread is found out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zh_embedder.text.encodings import COMMON, SIMPLIFIED, TRADITIONAL, WRONG_READINGS, chinese_encoding, misread

SIMPLE = "合同怎么解除？请问租房合同到期以后，房东不退押金该怎么办，可以去法院起诉吗。"
OLD = "臺北天氣如何？請參考觀光局網頁，週末可能會下雨，出門記得帶傘。"


@pytest.mark.parametrize(("text", "encoding"), [(SIMPLE, "gb18030"), (OLD, "big5"), (OLD, "gb18030")])
def test_a_text_is_read_in_the_encoding_that_makes_it_readable(text, encoding):
    raw = f"query,answer\r\n{text}\r\n".encode(encoding)
    assert chinese_encoding(raw) == encoding
    for cut in range(1, 5):  # a sample may end in the middle of a character
        assert chinese_encoding(raw[:-cut]) == encoding


@pytest.mark.parametrize("raw", [b"", b"plain", "好".encode("gb18030"), "天氣".encode("big5"), b"\xff\xff\xff\xff\xff"])
def test_where_both_are_possible_or_neither_nothing_is_guessed(raw):
    assert chinese_encoding(raw) is None


@pytest.mark.parametrize(("wrong", "right"), WRONG_READINGS)
def test_misread_text_is_found_out_in_either_direction(wrong, right):
    text = OLD if right == "big5" else SIMPLE
    found = misread(text.encode(right).decode(wrong, "replace"))
    assert found is None if (wrong, right) == ("big5", "utf-8") else found.split(" read as ")[0].lower() == right


@pytest.mark.parametrize(
    "text",
    [
        SIMPLE,
        OLD,
        "",
        "𠮷野家",
        "plain ASCII?",
        "GPT-4 和 BERT",
        "魑魅魍魉",
        "饕餮鼋鼍",
        "café naïve",
        "Ünïcödé",
        "日本語のテキスト",
        "😀😀",
        "①②③",
    ],
)
def test_text_that_is_as_it_should_be_is_left_alone(text):
    assert misread(text) is None


def test_characters_that_were_lost_are_named():
    assert misread("这里有锟斤拷") == "characters lost for good (锟斤拷)"
    assert misread("鍚堝悓鎬庝箞瑙ｉ櫎") == "UTF-8 read as GB18030"
    assert misread("鍚堝悓鎬庝箞瑙ｉ櫎鍚?鍚堝悓") == "UTF-8 read as GB18030"


common = st.text(st.sampled_from(SIMPLIFIED), min_size=12, max_size=80)


@settings(max_examples=100, deadline=None)
@given(common)
def test_running_text_is_never_misjudged(text):
    assert misread(text) is None
    assert chinese_encoding(text.encode("gb18030")) in ("gb18030", None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.text(max_size=60))
def test_any_bytes_and_any_text_get_an_answer(raw, text):
    chinese_encoding(raw)
    misread(text)


def test_the_characters_are_two_lists_without_repetition():
    assert len(COMMON) == len(SIMPLIFIED) + len(TRADITIONAL)
