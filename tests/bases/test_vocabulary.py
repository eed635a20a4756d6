"""The tokenizer that is built from a corpus, and the table of characters inside it."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.jsonl import write
from zh_embedder.bases.charsmap import charsmap
from zh_embedder.bases.vocabulary import (
    SPECIAL,
    Counts,
    choose_pieces,
    common_characters,
    make_tokenizer,
    shares,
    simplified,
    unknown_share,
)
from zh_embedder.core.errors import UserError
from zh_embedder.vocabulary import main

LINES = ["我们在北京大学学习人工智能", "北京大学的学生在学习中文", "学习人工智能要用 gpu 和 gpu 服务器", "今天天气很好"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    write(path, ({"text": line} for line in LINES))
    return path


@pytest.fixture(scope="module")
def built(corpus):
    folder = corpus.parent / "vocabulary"
    assert main([str(corpus), "--output_dir", str(folder), "--words", "3", "--latin", "1", "--min_count", "1"]) == 0
    return AutoTokenizer.from_pretrained(folder)


def replace(table, text):
    """What the normaliser of a table makes of a text."""
    from tokenizers import normalizers

    return normalizers.Precompiled(charsmap(table)).normalize_str(text)


def test_the_table_replaces_exactly_its_characters():
    rng = random.Random(0)
    alphabet = [chr(code) for code in rng.sample(range(0x4E00, 0x9FFF), 3000)] + ["é", "a", "𠮷", "，"]
    table = {one: rng.choice(["", "x", "山", "ab"]) for one in rng.sample(alphabet, 1500)}
    text = "".join(rng.choices(alphabet, k=5000))
    assert replace(table, text) == "".join(table.get(one, one) for one in text)


def test_an_empty_table_changes_nothing():
    assert replace({}, "漢字 abc") == "漢字 abc"


@pytest.mark.parametrize("table", [{"ab": "c"}, {"": "c"}, {"a": "b\0"}, {"\0": "b"}])
def test_a_table_of_anything_but_characters_is_refused(table):
    with pytest.raises(UserError, match="a single character"):
        charsmap(table)


def test_files_count_the_same_however_large():
    large, small = Counter({"天气": 900, "北京": 100}), Counter({"北京": 9, "学习": 1})
    assert shares([large, small]) == {"北京": 0.5, "天气": 0.45, "学习": 0.05}


def test_pieces_are_special_ones_then_characters_then_words_each_once():
    counts = Counts(Counter("北京北京天气"), Counter({"北京": 2, "天气": 1}), Counter({"gpu": 2, "7": 5, "42": 1}))
    pieces = choose_pieces([counts], common="汉京", words=1, latin=1, min_count=2)
    assert pieces[: len(SPECIAL) + 2] == [*SPECIAL, "京", "北"]
    assert "汉" in pieces and "北京" in pieces and "gpu" in pieces
    assert "天" not in pieces  # seen once
    assert "天气" not in pieces  # the second word of one
    assert len(set(pieces)) == len(pieces)


def test_common_characters_are_folded():
    table = simplified()
    found = common_characters(table)
    assert len(found) == len(set(found))
    assert {"国", "学", "鬱"} & set(found) == {"国", "学"} and "國" not in found
    assert 6763 <= len(found) < 6763 + 5401


def test_words_of_the_corpus_are_pieces_and_traditional_is_read_as_simplified(built):
    assert built.tokenize("我在北京大学学习GPU") == ["我", "在", "北京大学", "学习", "gpu"]
    assert built.tokenize("在北京大學學習ＧＰＵ") == built.tokenize("在北京大学学习gpu")


def test_an_unknown_character_takes_nothing_with_it(built):
    assert built.tokenize("学习𠮷学习") == ["学习", "[UNK]", "学习"]
    assert unknown_share(built, iter(["学习𠮷学习", "学"])) == 1 / 4


def test_a_long_run_without_marks_is_cut_like_a_short_one(built):
    assert built.tokenize("学习" * 500) == ["学习"] * 500


def test_special_tokens_stand_around_a_text(built):
    ids = built("学习")["input_ids"]
    assert built.convert_ids_to_tokens(ids) == ["[CLS]", "学习", "[SEP]"]
    assert [built.convert_tokens_to_ids(name) for name in SPECIAL] == list(range(5))


def test_the_folder_says_a_class_that_every_transformers_knows(built):
    settings = json.loads((Path(built.name_or_path) / "tokenizer_config.json").read_text("utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_run_of_only_known_pieces_is_cut_longest_first():
    tokenizer = make_tokenizer([*SPECIAL, "人", "工", "智", "能", "人工", "人工智能", "智能"], {})
    assert tokenizer.tokenize("人工智能人工智人") == ["人工智能", "人工", "智", "人"]


@pytest.mark.parametrize(("flag", "value"), [("--words", "-1"), ("--min_count", "0"), ("--documents", "0")])
def test_wrong_numbers_are_refused(flag, value, corpus, tmp_path, capsys):
    assert main([str(corpus), "--output_dir", str(tmp_path / "v"), flag, value]) == 2
    assert flag in capsys.readouterr().err


def test_a_file_without_texts_is_refused(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    assert main([str(tmp_path / "empty.txt"), "--output_dir", str(tmp_path / "v")]) == 2
    assert "no texts" in capsys.readouterr().err
