"""Mining: against a naive version, killed and resumed, in blocks of any size, on two ranks; what is no negative."""

import json
import signal
import time
from collections import Counter

import numpy as np
import pytest

from data_tools.mine_negatives import main, window_of
from data_tools.mining.audit_page import advice
from data_tools.mining.blocks import MiningSettings, query_vectors
from data_tools.mining.false_negatives import Candidate, JudgedQuery, RefusalLimits
from data_tools.mining.finders import fuse
from data_tools.mining.pools import MiningRecord, Texts, write_texts
from data_tools.mining.selection import Choice, choose
from tests.jsonl import read, write
from tests.processes import finish, forked, start
from zh_embedder.cli import build_parser
from zh_embedder.core.runtime import parse_command
from zh_embedder.evaluation.model import Model
from zh_embedder.models.encoder import Encoder, load_encoder

SECONDS = 20
CITIES = ["北京", "上海", "广州", "深圳", "成都", "杭州", "武汉", "西安", "南京", "重庆"]
THINGS = ["烤鸭", "小吃", "早茶", "海鲜", "火锅", "龙井", "热干面", "泡馍", "盐水鸭", "小面", "天气", "地铁"]


def records(tasks=("qa",)):
    pairs = [(city, thing) for city in CITIES for thing in THINGS]
    return [
        {
            "query": f"{city}的{thing}怎么样",
            "pos": [f"{city}的{thing}很有名，{thing}在{city}到处都有"],
            "neg": [],
            "task": tasks[number % len(tasks)],
            "id": f"{number}",
        }
        for number, (city, thing) in enumerate(pairs)
    ]


def mine(folder, *flags, rows=None, name="out.jsonl"):
    source = write(folder / "in.jsonl", records() if rows is None else rows)
    out = folder / name
    assert main([str(source), "--output", str(out), *map(str, flags)]) == 0
    return read(out)


SMALL = ("--range", 2, 22, "--negatives", 5)


def test_dense_negatives_are_those_of_the_rank_window_by_brute_force(tmp_path, tiny_bert):
    rows = records()
    found = mine(
        tmp_path, "--model", tiny_bert, "--range", 2, 9, "--negatives", 7, "--dtype", "fp32", "--max_overlap", 1
    )
    encoder = Encoder.from_pretrained(tiny_bert, dtype="fp32")
    keys = [row["pos"][0] for row in rows]
    scores = encoder.encode([r["query"] for r in rows]) @ encoder.encode(keys).T
    for row, own, record in zip(rows, scores, found, strict=True):
        window = [keys[i] for i in np.argsort(-own, kind="stable")[2:9]]
        assert record["neg"] == [key for key in window if key not in row["pos"]]


def test_everything_else_of_a_record_stays_but_scores_of_negatives_that_are_gone(tmp_path):
    rows = records()
    rows[0] |= {"group": "g", "neg": ["旧的负例"], "teacher_scores": [1.0, 0.5]}
    first = mine(tmp_path, "--method", "random", *SMALL, rows=rows)[0]
    assert {name: first[name] for name in ("query", "pos", "task", "id", "group")} == {
        name: rows[0][name] for name in ("query", "pos", "task", "id", "group")
    }
    assert "teacher_scores" not in first
    assert len(first["neg"]) == 5


def test_old_negatives_stay_in_front_where_asked_for(tmp_path):
    rows = records()
    rows[0]["neg"] = ["旧的负例"]
    assert mine(tmp_path, "--method", "random", *SMALL, "--keep_neg", rows=rows)[0]["neg"][0] == "旧的负例"
    corpus = write(tmp_path / "corpus.jsonl", [{"text": f"段落{i}"} for i in range(60)])
    assert (
        "旧的负例"
        not in mine(tmp_path, "--method", "random", *SMALL, "--corpus", corpus, "--overwrite", rows=rows)[0]["neg"]
    )


def test_positives_of_the_same_query_in_any_file_are_never_negatives(tmp_path, tiny_bert):
    same = [{"query": "同一个问题？", "pos": [f"第{i}个答案{i * 7919}"], "task": "qa"} for i in range(30)]
    one, other = write(tmp_path / "a.jsonl", same[:15]), write(tmp_path / "b.jsonl", [*same[15:], *records()[:8]])
    out = tmp_path / "out.jsonl"
    flags = ["--model", str(tiny_bert), "--range", "0", "38", "--negatives", "38", "--max_overlap", "1"]
    assert main([str(one), str(other), "--output", str(out), *flags]) == 0
    theirs = {row["pos"][0] for row in records()[:8]}
    assert all(set(row["neg"]) == theirs for row in read(out)[:30])


def test_queries_that_keep_their_end_do_so_behind_the_prompt_of_their_record(tiny_bert):
    changes = {
        "query_max_length": 12,
        "instructions": {"chat": ("问：", "")},
        "truncation_sides": {"chat": ("left", None)},
    }
    encoder = load_encoder(str(tiny_bert), changes=changes)
    model = Model("m", encoder, encoder)
    long = "今天天气很好我们去公园看花吃饭学习工作"
    rows = [MiningRecord(0, "", {"query": long, **own}, ["答"], []) for own in ({}, {"prompt": "话："})]
    found = query_vectors(model, rows, "chat", None)
    expected = encoder.encode([f"问：{long[-8:]}", f"话：{long[-8:]}"], show_progress=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["dense", "bm25", "fused", "random"])
def test_the_size_of_blocks_changes_nothing(tmp_path, tiny_bert, method):
    flags = ("--method", method, "--model", tiny_bert, "--dtype", "fp32", *SMALL, "--words", "bigram")
    assert mine(tmp_path, *flags, "--block", 7) == mine(tmp_path, *flags, name="b.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".jsonl") == ["b.jsonl", "in.jsonl", "out.jsonl"]


def test_tasks_are_mined_from_their_own_keys(tmp_path):
    rows = records(("qa", "tool"))
    own = {task: {row["pos"][0] for row in rows if row["task"] == task} for task in ("qa", "tool")}
    for row in mine(tmp_path, "--method", "random", *SMALL, rows=rows):
        assert set(row["neg"]) <= own[row["task"]]


def test_a_corpus_is_mined_title_in_front_and_copies_count_once(tmp_path):
    corpus = write(tmp_path / "corpus.jsonl", [{"title": "书", "text": f"段落{i // 2}"} for i in range(60)])
    found = mine(tmp_path, "--method", "random", "--corpus", corpus, "--range", 0, 100, "--negatives", 99)
    assert all(sorted(row["neg"]) == sorted(f"书 段落{i}" for i in range(30)) for row in found)


def test_too_few_are_filled_with_random_keys_that_pass_the_same_rules(tmp_path, tiny_bert):
    flags = ("--model", tiny_bert, "--range", 0, 3, "--negatives", 8)
    assert all(len(row["neg"]) <= 3 for row in mine(tmp_path, *flags))
    for row in mine(tmp_path, *flags, "--fill", "--overwrite"):
        assert len(row["neg"]) == 8
        assert not set(row["neg"]) & set(row["pos"])


def test_reciprocal_ranks_are_fused_as_by_hand():
    # 7: 1/61 + 1/63, 5: 1/62 + 1/61, 9: 1/62, 3: 1/63
    assert fuse([np.array([7, 5, 3]), np.array([5, 9, 7])]).tolist() == [5, 7, 9, 3]
    assert fuse([np.array([4]), np.array([2])]).tolist() == [2, 4]
    # Twice the fourth beats once the first and once the tenth: 2/64 > 1/61 + 1/70. Without the 60 it would not.
    assert fuse([np.array([1, 20, 21, 9]), np.array([30, 31, 32, 9, 33, 34, 35, 36, 37, 1])]).tolist()[:2] == [9, 1]


def test_a_cross_encoder_takes_candidates_back_until_enough_are_left():
    coming = iter([Candidate(i, i, f"候选{i}", None) for i in range(1, 9)])
    choice = Choice(JudgedQuery("问", ["答"]), coming, wanted=3)
    scores = {"答": 5.0, "候选1": 9.0, "候选3": 5.0, "候选4": 4.6}
    choose([choice], RefusalLimits(), scorer=lambda pairs: [scores.get(key, 0.0) for _, key in pairs], cross_margin=0.5)
    assert [c.row for c in choice.taken] == [2, 5, 6]
    assert [(c.row, why) for c, why in choice.refused] == [
        (1, "cross_encoder"),
        (3, "cross_encoder"),
        (4, "cross_encoder"),
    ]


def test_a_key_is_read_from_the_middle_of_the_file_whatever_it_holds(tmp_path):
    texts = ["一", '引"号\\', "行\n二", "\u2028", "𠀀𠀁"]
    assert write_texts(tmp_path / "t", [*texts, "一"]) == 5
    assert [Texts(tmp_path / "t")[row] for row in (4, 3, 2, 1, 0)] == texts[::-1]


def test_the_flags_of_the_ancestors_are_understood(tmp_path):
    def parse(words):
        return parse_command("mine", build_parser("mine"), words)

    assert window_of(parse(["--input_file", "a", "--output_file", "b", "--range_for_sampling", "10-210"])) == (10, 210)
    assert window_of(parse(["a", "--hits", "200", "--max_neg_num", "100", "--output", "b"])) == (0, 200)
    assert window_of(parse(["a", "--output", "b"])) == (10, 210)
    source = write(tmp_path / "in.jsonl", records())
    words = f"--input_file {source} --output_file {tmp_path / 'hn.jsonl'} --range_for_sampling 0-20 --negative_number 4"
    assert main([*words.split(), "--use_gpu_for_searching", "--method", "bm25", "--words", "bigram"]) == 0
    assert {len(row["neg"]) for row in read(tmp_path / "hn.jsonl")} == {4}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "dens", "--output", "o"], "did you mean 'dense'"),
        (["--output", "o"], "--model: is missing"),
        (["--output", "o", "--method", "bm25", "--percent", "0.9"], "--model: is missing"),
        (["--output", "o", "--range", "9", "3"], "0 <= FIRST < LAST"),
        (["--output", "o", "--hits", "3", "--range", "0", "3"], "--range: cannot be used with --hits"),
        ([], "--output: expected"),
    ],
)
def test_a_mistake_is_said_before_any_work(tmp_path, capsys, monkeypatch, flags, said):
    source = write(tmp_path / "in.jsonl", records()[:3])
    monkeypatch.chdir(tmp_path)
    assert main([str(source), *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_record_without_a_positive_is_named(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", [*records()[:2], {"query": "问", "history": ["一", "二"]}])
    assert main([str(source), "--output", str(tmp_path / "o"), "--method", "random"]) == 2
    assert f"{source}:3: pos: got None, expected at least one text" in capsys.readouterr().err


def test_the_audit_is_escaped_asks_no_server_and_its_counts_are_those_of_the_log(tmp_path):
    rows = records()
    rows[3]["pos"] = ["<script>alert(1)</script>"]
    mine(tmp_path, "--method", "random", "--range", 0, 120, "--negatives", 119, rows=rows)
    page = (tmp_path / "out.jsonl.audit.html").read_text("utf-8")
    assert page.count("<section>") == 101
    assert "<script" not in page
    assert "http" not in page
    counts = json.loads((tmp_path / "out.jsonl.audit.json").read_text("utf-8"))
    assert counts["refused"]["positive"] == counts["records"] == 120


def counted(**counts):
    return Counter({"records": 100, "taken": 700} | counts)


def test_records_left_short_are_blamed_on_the_option_that_refused_most_of_their_candidates():
    settings = MiningSettings(negatives=10, limits=RefusalLimits(percent=0.9, margin=0.1), cross_margin=0.5)
    assert advice(counted(short=5), settings) is None
    short = {"short": 20, "without": 7, "short_taken": 40, "short_refused_percent": 50, "short_refused_positive": 10}
    said = advice(counted(**short, percent=50, margin=9999), settings)
    assert said.startswith(
        "20% of the records have fewer than 10 negatives (7% of all have none): --percent 0.9 refused"
    )
    assert "refused 50% of their candidates" in said  # 50 of 40 + 50 + 10
    assert "a higher --percent" in said
    assert "--fill" in said
    for name, option in (
        ("margin", "--margin 0.1"),
        ("near_positive", "--max_overlap 0.8"),
        ("answer", "--filter_answers"),
        ("cross_encoder", "--cross_encoder_margin 0.5"),
    ):
        assert f": {option} refused 75%" in advice(
            counted(short=6, short_taken=1, **{f"short_refused_{name}": 3}), settings
        )
    # The positive itself is refused in every record: it is not what left them short.
    few = advice(counted(short=100, short_refused_positive=100, short_taken=300), settings)
    assert "too few keys in --range 10 210" in few
    assert "refused" not in few


def test_queries_without_a_word_are_named_as_the_reason(tmp_path, capsys):
    cities = [{"query": f"{city}的好处是什么", "pos": [f"{city}的好处"], "task": "qa"} for city in CITIES]
    marks = [{"query": mark, "pos": [f"好的{mark}"], "task": "qa"} for mark in ("？？", "……", " ！")]
    flags = ("--method", "bm25", "--words", "bigram", "--range", 0, 10, "--negatives", 1)
    mine(tmp_path, *flags, rows=[*cities, *marks])
    err = capsys.readouterr().err
    assert "3 queries have no word" in err
    assert "too few keys" not in err


def test_negatives_that_answer_other_records_are_counted_and_said_where_no_corpus_was_given(tmp_path, capsys):
    rows = records()[:20]
    write(tmp_path / "in.jsonl", rows)
    write(
        tmp_path / "corpus.jsonl",
        [{"text": f"{city}没有人问的段落，说的是{thing}"} for city in CITIES for thing in THINGS],
    )
    flags = [
        str(tmp_path / "in.jsonl"),
        "--method",
        "random",
        "--negatives",
        "4",
        "--output",
        str(tmp_path / "out.jsonl"),
    ]
    for more, share in ((), 1.0), (("--corpus", str(tmp_path / "corpus.jsonl")), 0.0):
        assert main([*flags, *more, "--overwrite"]) == 0
        found = json.loads((tmp_path / "out.jsonl.audit.json").read_text("utf-8"))
        assert found["taken_that_answer_others"] == share * found["taken"] == share * 80
        assert ("100% of the negatives are positives of other records" in capsys.readouterr().err) is (share == 1.0)


def test_a_model_that_scores_all_alike_is_warned_about_in_the_log_and_in_the_audit(tmp_path, tiny_bert, monkeypatch):
    flags, logged = ("--model", tiny_bert, *SMALL), []
    monkeypatch.setattr("data_tools.mining.pipeline.logger.warning", lambda words, *parts: logged.append(words % parts))
    mine(tmp_path, *flags)
    assert logged == []
    assert "warning" not in json.loads((tmp_path / "out.jsonl.audit.json").read_text("utf-8"))
    found = mine(tmp_path, *flags, "--percent", 0.95, "--overwrite")
    short, none = sum(len(r["neg"]) < 5 for r in found), sum(not r["neg"] for r in found)
    (said,) = logged
    assert f"{short / 120:.0%} of the records have fewer than 5 negatives ({none / 120:.0%} of all have none)" in said
    summary = json.loads((tmp_path / "out.jsonl.audit.json").read_text("utf-8"))
    assert said == f"mine_negatives: {summary['warning']}"
    assert "--percent 0.95 refused" in (tmp_path / "out.jsonl.audit.html").read_text("utf-8")


def test_an_interrupted_run_with_other_flags_is_refused_and_says_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("data_tools.mining.pipeline.finish", lambda *_: None)  # the work stays
    source, out = write(tmp_path / "in.jsonl", records()), tmp_path / "o.jsonl"
    assert main([str(source), "--output", str(out), "--method", "random"]) == 0
    assert main([str(source), "--output", str(out), "--method", "random", "--seed", "1"]) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err
    assert main([str(source), "--output", str(out), "--method", "random", "--seed", "1", "--overwrite"]) == 0


def test_starting_anew_removes_only_what_mining_wrote(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.txt").write_text("keep", "utf-8")
    flags = ("--method", "random", "--work_dir", work, *SMALL)
    first = mine(tmp_path, *flags)
    assert sorted(p.name for p in work.iterdir()) == ["blocks", "mine.txt", "pool-00", "settings.json"]
    assert mine(tmp_path, *flags, "--seed", 1, "--overwrite") != first
    assert (work / "mine.txt").read_text("utf-8") == "keep"


# ---- processes ------------------------------------------------------------------------------------------------------


def command(source, out, model):
    flags = ["--method", "fused", "--model", model, "--block", "5", "--percent", "1.5", "--shard_size", "50", *SMALL]
    return ["-m", "data_tools.mine_negatives", source, "--output", out, "--words", "bigram", *flags]


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_gives_the_same_file(tmp_path, tiny_bert):
    source = write(tmp_path / "in.jsonl", [{**row, "id": f"{n}-{row['id']}"} for n in range(3) for row in records()])
    whole, again = tmp_path / "whole.jsonl", tmp_path / "again.jsonl"

    finish(start([*forked(), *command(source, whole, tiny_bert)], tmp_path))
    again_words = [*forked(), *command(source, again, tiny_bert)]
    process, blocks = start(again_words, tmp_path), tmp_path / ".again.jsonl.mining" / "blocks"
    while process.poll() is None and len(list(blocks.glob("*.jsonl"))) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not again.exists()
    done = len(list(blocks.glob("*.jsonl")))
    assert 8 <= done < 72
    said = finish(start(again_words, tmp_path))
    assert "continues where an earlier run stopped" in said
    assert again.read_bytes() == whole.read_bytes()
    assert not blocks.exists()


@pytest.mark.slow
def test_two_ranks_write_what_one_does(tmp_path, tiny_bert):
    source = write(tmp_path / "in.jsonl", records())
    for ranks, name in ((0, "one.jsonl"), (2, "two.jsonl")):
        finish(start([*forked(ranks), *command(source, tmp_path / name, tiny_bert)], tmp_path))
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--words", "nix"), "words: unknown name 'nix'"),
        (("--user_dict", "nowhere.txt"), "nowhere.txt: No such file"),
        (("--b", "2"), "--b: got 2, expected "),
        (("--cross_encoder", "nowhere"), "nowhere"),
    ],
)
def test_a_wrong_flag_leaves_nothing_that_refuses_the_corrected_command(tmp_path, capsys, flags, message):
    source, out = write(tmp_path / "in.jsonl", records()), tmp_path / "out.jsonl"
    command = [str(source), "--output", str(out), "--method", "bm25", *map(str, SMALL)]
    assert main([*command, *flags]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert main(command) == 0
