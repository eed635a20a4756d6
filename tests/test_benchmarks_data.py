"""Benchmarks of the data tools: what they make and how they sum up, by hand."""

import json
import random
from itertools import islice, pairwise

import pytest

from benchmarks.doctor_million import COPIES, KEYS, NEAR, passages_of, records_of, write
from benchmarks.mining import RANDOM, row, write_articles, write_others
from data_tools.shared.record_files import read_records, write_records


def text_of(rng, sentences=40):
    words = [chr(0x4E00 + i) for i in range(500)]
    return "".join("".join(rng.choices(words, k=rng.randrange(20, 50))) + "。" for _ in range(sentences))


@pytest.fixture
def data(tmp_path, monkeypatch):
    rng = random.Random(1)
    (tmp_path / "corpus_general").mkdir()
    write_records(tmp_path / "corpus_general" / "a.jsonl.zst", [{"title": "", "text": text_of(rng)} for _ in range(60)])
    monkeypatch.setattr("benchmarks.doctor_million.KNOWN", 50)
    return tmp_path


def test_passages_are_whole_sentences_and_long_enough():
    text = text_of(random.Random(2))
    found = passages_of(text)
    assert "".join("".join(passage) for passage in found) == text
    assert all(sum(map(len, passage)) >= 120 for passage in found[:-1])
    assert all(sum(map(len, passage[:-1])) < 120 for passage in found)


def test_a_sentence_asks_for_the_passage_it_was_taken_from(data):
    for record in islice(records_of(data, random.Random(0)), 50):
        assert record["query"] not in record["pos"][0]
        assert len(record["neg"]) == KEYS - 1
        assert not any(record["query"] in text for text in record["neg"])


def test_what_was_planted_is_there_and_counted(data, tmp_path):
    planted = write(data, tmp_path, 400)
    records = [record for _, record in read_records(tmp_path / "400.jsonl.zst", show_progress=False)]
    assert len(records) == 400
    pairs = list(pairwise(records))
    assert planted[COPIES] == sum(b["pos"] == a["pos"] and b["neg"] == a["neg"][::-1] for a, b in pairs) > 0
    assert (
        planted[NEAR]
        == sum(abs(len(r["neg"][-1]) - len(r["pos"][0])) < 9 and r["neg"][-1][:2] == r["pos"][0][:2] for r in records)
        > 0
    )


def texts_in(path):
    return [record["text"] for _, record in read_records(path, show_progress=False)]


def test_articles_are_cut_from_laws_and_none_is_in_the_test_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.mining.ARTICLES", 3)
    (tmp_path / "corpus_general").mkdir()
    law = {"title": "甲法", "text": "甲法\n第一条　为了一，制定本法。\n第二条 不得二。\n第三章 总则\n第十二条 应当三。"}
    write_records(tmp_path / "corpus_general" / "laws.jsonl.zst", [law])
    write_records(tmp_path / "corpus.jsonl", [{"text": "中华人民共和国甲法第二条：不得二"}])
    found = texts_in(write_articles(tmp_path, tmp_path, tmp_path / "out.jsonl"))
    assert sorted(found) == ["甲法第一条：为了一，制定本法。", "甲法第十二条：应当三。"]


def test_keys_that_are_nobodys_positive_come_once(tmp_path):
    write_records(tmp_path / "in.jsonl", [{"pos": ["一"], "neg": ["二", "三"]}, {"pos": ["二"], "neg": ["三", "四"]}])
    assert texts_in(write_others(tmp_path / "in.jsonl", tmp_path / "out.jsonl")) == ["三", "四"]


def test_a_row_is_the_mean_of_the_seeds_and_its_difference_query_by_query():
    usual = [{"a": 0.2, "b": 0.4}, {"a": 0.4, "b": 0.8}]  # means of queries .3 and .6
    better = [{"b": 0.5, "a": 0.5}, {"b": 0.9, "a": 0.3}]  # .7 and .4
    assert row("set", RANDOM, usual, usual) == ["set", RANDOM, "0.4500", "0.3000 0.6000", ""]
    name, way, mean, seeds, change = row("set", "dense", better, usual)
    assert (name, way, mean, seeds) == ("set", "dense", "0.5500", "0.5000 0.6000")
    assert change == "+0.1000 [+0.1000, +0.1000]"
    assert row("set", "BM25", usual, usual)[-1] == "+0.0000 [+0.0000, +0.0000] ="
    assert json.dumps(row("set", "base", usual[:1], usual)) == '["set", "base", "0.3000", "", ""]'
