"""Words are folded, whole and nothing else; a wrong dictionary says where; jieba leaves no trace."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.text.words import WORDS, bigrams, read_dictionary, segmenter, words


def test_words_by_hand():
    assert words("我在北京大学研究检索，好吗？") == ["我", "在", "北京大学", "研究", "检索", "好", "吗"]
    assert words("GPT 和Ｂｅｒｔ用了３.14的Ⅳ") == ["gpt", "和", "bert", "用", "了", "3.14", "的", "iv"]


def test_bigrams_by_hand():
    assert bigrams("北京大学") == ["北京", "京大", "大学"]
    assert bigrams("用BERT检索95.5分，好 v2.0.1") == ["用", "bert", "检索", "95.5", "分", "好", "v2", "0.1"]
    assert bigrams("カタカナ和Ｋ々") == ["カタ", "タカ", "カナ", "ナ和", "k", "々"]
    assert bigrams("Ｃａｆé_Москва 1.2.3") == ["café", "москва", "1.2.3"]
    assert bigrams("𠀀𠀁㐀") == ["𠀀𠀁", "𠀁㐀"]


@pytest.mark.parametrize("cut", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("text", ["", " \n\t\u3000", "，。！？…——《》", "_ + = ~ $ ★ 😀"])
def test_white_space_and_punctuation_are_no_words(cut, text):
    assert cut(text) == []


@pytest.mark.parametrize("cut", WORDS.values(), ids=WORDS)
def test_width_and_case_make_no_difference(cut):
    assert cut("ＡＢＣ１２３模型") == cut("abc123模型")
    assert cut("大学，研究") == cut("大学,\u3000研究")


def test_segmenters_go_by_name():
    assert segmenter("bigram") is bigrams
    assert segmenter("jieba")("研究检索") == ["研究", "检索"]
    with pytest.raises(UserError, match=r"words: unknown name 'bigrams'; did you mean 'bigram'\?"):
        segmenter("bigrams")


# ---- user dictionaries ----------------------------------------------------------------------------------------------


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_words_of_a_dictionary_are_found_and_stay_its_own(tmp_path):
    text = "凤栖梧桐算法很快"
    path = write(tmp_path / "own.txt", "\ufeff凤栖梧桐算法 9 n\n\n ＰＹＴorch\n")
    assert "凤栖梧桐算法" not in words(text)
    assert words(text, path) == ["凤栖梧桐算法", "很快"]
    assert segmenter("jieba", path)(text) == ["凤栖梧桐算法", "很快"]
    assert "凤栖梧桐算法" not in words(text)
    assert list(read_dictionary(path)) == [("凤栖梧桐算法", 9), ("pytorch", None)]


@pytest.mark.parametrize("line", ["词,9", "词\t9", "词 n", "词 9 nz"])
def test_usual_lines_are_read(tmp_path, line):
    assert len(list(read_dictionary(write(tmp_path / "own.txt", line)))) == 1


@pytest.mark.parametrize("line", ["词 0", "词 -1", "词 1.5", "词 n 9", "词 9 n x", "词 9 !"])
def test_a_wrong_line_is_named(tmp_path, line):
    path = write(tmp_path / "own.txt", f"对 1\n{line}\n")
    with pytest.raises(UserError) as error:
        segmenter("jieba", path)
    assert str(error.value).startswith(f"{path}:2: got '{line}', expected `word`, `word frequency` or")


def test_files_that_are_no_dictionaries_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not UTF-8"):
        words("词", write(tmp_path / "gbk.txt", "词语 3", "gb18030"))
    with pytest.raises(UserError, match=r"none\.txt: No such file or directory, expected a dictionary"):
        words("词", tmp_path / "none.txt")
    with pytest.raises(UserError, match="only jieba's words come from a dictionary"):
        segmenter("bigram", tmp_path / "none.txt")


def test_words_that_jieba_never_finds_are_said(tmp_path, caplog):
    path = write(tmp_path / "own.txt", "甲/乙 3\n凤栖梧\n")
    with caplog.at_level(logging.WARNING, "zh_embedder.text.words"):
        segmenter("jieba", path)
    assert "never finds 1 of the words" in caplog.text
    assert "甲/乙" in caplog.text


def test_jieba_says_nothing_and_writes_nothing(tmp_path):
    code = "from zh_embedder.text.words import words; import sys; sys.stdout.write(' '.join(words('研究检索')))"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        cwd=Path(__file__).parents[2], env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("研究 检索", "")
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() != str(tmp_path)
