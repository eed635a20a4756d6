"""Pairs from a corpus, and what keeps evaluation texts out of them."""

import json
import random

import numpy as np
import pytest

from data_tools.make_pairs import main
from data_tools.pairing.pair_kinds import Recipe, document_pairs, fragments, span_pair, turn_pairs
from data_tools.pairing.pipeline import Reservoir
from data_tools.pairing.windows import bare_sentences, windows
from data_tools.shared.shingles import Shingles, hashes
from tests.jsonl import read, write
from zh_embedder.core.errors import UserError
from zh_embedder.data.schema import parse_line
from zh_embedder.text.words import letters

TEXT = "".join(f"第{n}句话说的是编号{n * 37}的事情，它和别的事情都不一样。" for n in range(60))
DIALOGUE = "\n".join(
    f"{'来访者' if n % 2 == 0 else '咨询师'}：这是第{n}轮说的话，说的是编号{n * 37}的心事，说得不短。" for n in range(8)
)


def rng():
    return random.Random(0)


def test_sentences_lose_nothing_but_white_space():
    text = "他说：“好！”然后走了。 真的吗？\n第二行没有句号"
    assert bare_sentences(text) == ["他说：“好！”", "然后走了。", "真的吗？", "第二行没有句号"]
    assert "".join(bare_sentences(TEXT)) == TEXT


def test_windows_are_neighbouring_sentences_each_once():
    cut = windows(bare_sentences(TEXT), rng())
    assert "".join("".join(window) for window in cut) == TEXT
    assert all(len("".join(window)) <= 350 for window in cut)
    assert len({len("".join(window)) for window in cut}) > 3


def test_a_span_comes_from_its_window_and_is_taken_out_of_it():
    window = bare_sentences(TEXT)[:5]
    for seed in range(50):
        query, key = span_pair(window, Recipe(remove=1.0), random.Random(seed))
        rests = ["".join(part for part in window if part is not source) for source in window if query in source]
        assert key in rests
        query, key = span_pair(window, Recipe(remove=0.0), random.Random(seed))
        assert query in key == "".join(window)


def test_a_window_of_one_sentence_is_not_emptied():
    assert span_pair(["只有这一句话，没有别的句子。"], Recipe(remove=1.0), rng()) is None
    assert span_pair(["短"], Recipe(remove=0.0), rng()) is None


def test_fragments_stand_in_their_window():
    window = bare_sentences(TEXT)[:5]
    for seed in range(50):
        assert all(piece in "".join(window) for piece in fragments(window, random.Random(seed)).split())


def test_turns_find_the_exchange_before_and_answers():
    pairs = turn_pairs(DIALOGUE)
    lines = DIALOGUE.split("\n")
    said = [line.split("：", 1)[1] for line in lines]
    assert ("turn", said[4], f"{lines[2]}\n{lines[3]}") in pairs
    assert ("turn", said[0], said[1]) in pairs
    assert all(query not in key for _, query, key in pairs)


@pytest.mark.parametrize(
    "text", [TEXT, "标题：\n正文", DIALOGUE.replace("咨询师：", ""), "甲：一\n乙：二\n丙：三\n甲：四"]
)
def test_other_texts_are_no_dialogues(text):
    assert turn_pairs(text) == []


def test_next_windows_are_neighbours_and_titles_find_their_text():
    pairs = list(document_pairs("一个标题", TEXT, Recipe(words=0, next=1, titled=0), rng()))
    assert pairs[0][:2] == ("title", "一个标题") and pairs[0][2] in TEXT
    assert len(pairs) > 3
    assert all(task == "next" and key + query in TEXT for task, query, key in pairs[1:])


def test_titles_go_in_front_of_the_share_that_is_asked_for():
    keys = [key for task, _, key in document_pairs("题", TEXT * 10, Recipe(titled=0.25), rng()) if task != "title"]
    assert 0.1 < np.mean([key.startswith("题：") for key in keys]) < 0.4


def test_a_sample_is_drawn_alike_from_the_whole_stream():
    found = np.zeros(20)
    for seed in range(400):
        sample = Reservoir(5, random.Random(seed))
        for index in range(20):
            sample.add("", ("span", str(index), ""))
        assert len(sample.kept) == 5
        found[[int(query) for _, (_, query, _) in sample.kept]] += 1
    assert found.min() > 65 and found.max() < 135  # 100 each is even; the deviation is below 9


def test_shingles_find_what_a_naive_search_finds():
    random_ = rng()
    text = lambda: "".join(random_.choices("甲乙丙，a。 ", k=random_.randint(0, 60)))  # noqa: E731
    known, others = [text() for _ in range(30)], [text() for _ in range(200)]
    shingles = Shingles.of(known, 6)
    runs = lambda one: {letters(one)[at : at + 6] for at in range(len(letters(one)) - 5)}  # noqa: E731
    all_runs = set().union(*map(runs, known))
    naive = [bool(runs(one) & all_runs) for one in others]
    assert [shingles.hit([one]) for one in others] == naive
    assert 0 < sum(naive) < 200
    assert len(shingles.known) == len(all_runs)


def test_shingles_compare_letters_folded():
    shingles = Shingles.of(["ＡＢＣ，１２３四五六"], 9)
    assert shingles.hit(["不在", "x abc123四 五六。"]) and not shingles.hit(["abc123四五七"])
    assert not Shingles.of([], 9).hit(["abc"]) and not len(hashes("短", 9))
    with pytest.raises(UserError, match="1 or more"):
        Shingles.of([], 0)


@pytest.fixture
def corpus(tmp_path):
    rows = [{"title": f"文章{n}", "text": TEXT.replace("事情", f"事{n}情")} for n in range(5)]
    return write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", [{"text": DIALOGUE}] * 3)


def make(tmp_path, corpus, *flags, name="out"):
    code = main([*map(str, corpus), "--output_dir", str(tmp_path / name), *flags])
    return code, {p.name: read(p) for p in sorted((tmp_path / name).glob("*.jsonl"))}


def test_the_tool_writes_records_that_training_reads(tmp_path, corpus):
    code, made = make(tmp_path, corpus)
    assert code == 0 and set(made) == {"a.jsonl", "b.jsonl"}
    for rows in made.values():
        for row in rows:
            parse_line(json.dumps(row), "here")
    assert {row["task"] for row in made["a.jsonl"]} == {"span", "words", "next", "title"}
    assert "turn" in {row["task"] for row in made["b.jsonl"]}


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others(tmp_path, corpus):
    first, again, other = (
        make(tmp_path, corpus, "--seed", s, name=n)[1] for s, n in (("1", "x"), ("1", "y"), ("2", "z"))
    )
    assert first == again != other


def test_evaluation_texts_are_kept_out(tmp_path, corpus, caplog):
    test = tmp_path / "test"
    write(test / "queries.jsonl", [{"id": "q", "text": "第7句话说的是编号259的事3情，它"}])
    write(
        test / "corpus.jsonl", [{"id": "k", "text": "第9句话说的是编号333的事4情，它和别的"}, {"id": "n", "text": TEXT}]
    )
    (test / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tk\t1\n")
    _, whole = make(tmp_path, corpus, name="whole")
    _, clean = make(tmp_path, corpus, "--without", str(test), name="clean")
    leak = lambda row: any("编号259的事3情" in t or "编号333的事4情" in t for t in (row["query"], *row["pos"]))  # noqa: E731
    assert any(map(leak, whole["a.jsonl"])) and not any(map(leak, clean["a.jsonl"]))
    assert 0 < len(whole["a.jsonl"]) - len(clean["a.jsonl"]) < 20  # `n` is no relevant key


def test_max_pairs_and_overwriting(tmp_path, corpus, capsys):
    _, made = make(tmp_path, corpus, "--max_pairs", "7")
    assert [len(rows) for rows in made.values()] == [7, 7]
    assert make(tmp_path, corpus)[0] == 2
    assert "--overwrite" in capsys.readouterr().err
    assert make(tmp_path, corpus, "--max_pairs", "3", "--overwrite")[0] == 0


@pytest.mark.parametrize("flags", [["--remove", "2"], ["--words", "0.6", "--next", "0.6"], ["--max_pairs", "0"]])
def test_wrong_numbers_are_refused(tmp_path, corpus, capsys, flags):
    assert make(tmp_path, corpus, *flags)[0] == 2
    assert flags[0] in capsys.readouterr().err


def test_a_corpus_without_texts_is_refused_before_anything_is_written(tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n\n", "utf-8")
    assert main([str(corpus), "--output_dir", str(tmp_path / "pairs")]) == 2
    assert f"{corpus}: got 'no texts', expected " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]
