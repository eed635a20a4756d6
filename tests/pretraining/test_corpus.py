"""Corpora: every document of every kind of file, in windows; wrong lines by file and line; made once."""

import gzip
import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from data_tools.shared.record_files import write_records
from zh_embedder.core.errors import UserError
from zh_embedder.pretraining import corpus
from zh_embedder.pretraining.corpus import CorpusRule, Document, documents, find_corpus, load_corpus

RULE = CorpusRule(limit=30)
ROWS = [
    {"title": "题目", "text": "第一篇。北京大学很好。"},
    {"title": "", "text": "第二篇" * 40 + "。完。"},
    {"text": "第三篇，没有题目。", "url": "x"},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


def texts(path, **changes):
    return list(documents(path, replace(RULE, **changes)))


def read(path, tokenizer, cache, rule=RULE):
    (windows,) = load_corpus([path], tokenizer, rule, cache=cache)
    return windows


def whole(windows):
    """Token ids of each document, by its line."""
    found = {}
    for row in range(len(windows)):
        found.setdefault(int(windows.lines[row]), []).extend(windows[row].ids.tolist())
    return found


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines_give_titles_and_texts(suffix, tmp_path):
    path = tmp_path / f"a.jsonl{suffix}"
    write_records(path, ROWS)
    assert texts(path) == [
        Document(1, "题目 第一篇。北京大学很好。"),
        Document(2, "第二篇" * 40 + "。完。"),
        Document(3, "第三篇，没有题目。"),
    ]
    assert texts(path, title=False)[0] == Document(1, "第一篇。北京大学很好。")


def test_the_field_of_the_text_can_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "甲", "body": "乙"}\n', "utf-8")
    assert texts(path, field="body") == [Document(1, "乙")]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_text_files_hold_a_document_a_line_or_between_blank_lines(suffix, tmp_path):
    path, text = tmp_path / f"a.txt{suffix}", "甲一\n甲二\n\n\n乙一\n"
    path.write_bytes(gzip.compress(text.encode()) if suffix else text.encode())
    assert texts(path) == [Document(1, "甲一"), Document(2, "甲二"), Document(5, "乙一")]
    assert texts(path, paragraphs=True) == [Document(1, "甲一\n甲二"), Document(5, "乙一")]


def test_files_folders_and_globs_are_found_and_other_kinds_refused(tmp_path):
    for name in ("a.jsonl", "b.txt", "c.jsonl.zst", "d.csv"):
        (tmp_path / name).touch()
    names = [path.name for path in find_corpus([str(tmp_path)])]
    assert names == ["a.jsonl", "b.txt", "c.jsonl.zst"]
    assert [path.name for path in find_corpus([str(tmp_path / "*.txt"), str(tmp_path / "a.jsonl")])] == names[1::-1]
    with pytest.raises(UserError, match=r"--corpus: got '.*d.csv', expected a .jsonl, .json or .txt file"):
        find_corpus([str(tmp_path / "d.csv")])
    with pytest.raises(UserError, match=r"--corpus: no such file.*did you mean '.*/a.jsonl'"):
        find_corpus([str(tmp_path / "aa.jsonl")])


def test_nothing_of_a_document_is_lost(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    write_records(path, ROWS)
    windows = read(path, tokenizer, tmp_path / "cache")
    expected = {d.line: tokenizer(d.text, add_special_tokens=False)["input_ids"] for d in documents(path, RULE)}
    assert whole(windows) == expected
    assert windows.sizes.max() <= 30
    counts = windows.counts
    assert (counts.documents, counts.empty, counts.windows) == (3, 0, len(windows))
    assert (counts.tokens, counts.characters) == (sum(map(len, expected.values())), 14 + 123 + 9)
    assert windows[0].starts.tolist()[:3] == [True, False, True]  # 题目, 第


def test_wrong_lines_are_named_all_and_nothing_is_kept(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "好"}\n{"txt": "好"}\n\n{"text": 3}\n[1]\n{"text": "好\n', "utf-8")
    with pytest.raises(UserError) as error:
        read(path, tokenizer, tmp_path / "cache")
    lines = str(error.value).split("\n")
    assert (
        lines[0] == f"{path}:2: text: is missing; did you mean 'txt'? found 'txt'; --field names the field of the text"
    )
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{number}" for number in (2, 4, 5, 6)]
    assert not (tmp_path / "cache").exists()


def test_many_wrong_lines_are_counted(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n" * 30, "utf-8")
    with pytest.raises(UserError, match=r"\.\.\. and 10 more$"):
        read(path, tokenizer, tmp_path / "cache")


def test_a_file_without_text_is_refused_and_documents_without_are_counted(tokenizer, tmp_path, caplog):
    empty, some = tmp_path / "empty.txt", tmp_path / "some.jsonl"
    empty.touch()
    with pytest.raises(UserError, match=r"empty.txt: the file holds no text"):
        read(empty, tokenizer, tmp_path / "cache")
    write_records(some, [{"text": ""}, {"text": "好龘"}])
    with caplog.at_level(logging.INFO):
        windows = read(some, tokenizer, tmp_path / "cache")
    assert (windows.counts.documents, windows.counts.empty, windows.counts.unknown) == (2, 1, 1)
    assert "1 document without text skipped" in caplog.text
    assert "50.00% of the tokens are unknown" in caplog.text


def test_what_is_prepared_is_found_again_and_whatever_decides_it_makes_it_anew(
    tokenizer, tmp_path, tmp_path_factory, monkeypatch
):
    from transformers import AutoTokenizer

    from zh_embedder.bases.tiny import build

    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    write_records(path, ROWS)
    made = []
    write = corpus.write_windows
    monkeypatch.setattr(corpus, "write_windows", lambda *given: (made.append(given), write(*given)))

    def count(rule=RULE, own=tokenizer):
        read(path, own, cache, rule)
        return len(made)

    assert count() == count() == 1
    words = tmp_path / "words.txt"
    words.write_text("第一篇\n", "utf-8")
    with_words = replace(RULE, dictionary=str(words))
    for number, rule in enumerate((replace(RULE, limit=29), replace(RULE, title=False), with_words), start=2):
        assert count(rule) == number
    words.write_text("第二篇\n", "utf-8")
    assert count(with_words) == 5
    other = build(tmp_path_factory.mktemp("other"), hidden=8, layers=1, heads=1, vocabulary_size=7000)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace('"北"', '"\ue123"'))
    assert count(own=AutoTokenizer.from_pretrained(other)) == 6
    write_records(path, ROWS[:2])
    assert count() == 7
    assert not list(cache.glob("*.lock"))


def test_processes_change_nothing(tokenizer, tmp_path, monkeypatch):
    rows = [{"text": f"第{number}篇，" + "北京大学。" * (number % 50)} for number in range(2000)]
    path = tmp_path / "a.jsonl"
    write_records(path, rows)
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 5000)
    found = []
    for processes in (1, 3):
        monkeypatch.setattr(corpus, "processes_for", lambda _, count=processes: count)
        found.append(read(path, tokenizer, tmp_path / f"cache{processes}"))
    one, other = found
    assert one.counts == other.counts
    for name in corpus.PARTS:
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert len(whole(one)) == 2000


def test_a_share_leaves_documents_out_the_same_ones_each_time(tokenizer, tmp_path):
    path = tmp_path / "a.jsonl"
    write_records(path, [{"text": f"第{number}篇"} for number in range(1000)])
    rule = replace(RULE, share=0.3)
    one, again = (read(path, tokenizer, tmp_path / name, rule) for name in ("x", "y"))
    assert one.counts.documents == len(one) == pytest.approx(300, abs=45)
    assert one.counts.documents + one.counts.left_out == 1000
    assert np.array_equal(one.lines, again.lines)


def test_a_tokenizer_that_is_python_code_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("好\n", "utf-8")
    with pytest.raises(UserError, match="expected a fast one"):
        read(path, object(), tmp_path / "cache")


@pytest.mark.real
def test_the_real_corpus_is_read_whole(real_data):
    """The smallest of its files, as its README counts it."""
    (path,) = find_corpus([str(real_data / "corpus_general" / "tech_lctt.jsonl.zst")])
    found = [json.dumps(d.text) and d for d in documents(path, replace(RULE, title=False))]
    assert len(found) == 5320
    assert sum(len(d.text) for d in found) == 9_940_603
