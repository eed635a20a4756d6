"""Parts share nothing: not by group, query, positive or near-duplicate; and the proof notices what does not hold."""

import json
import logging
import random

import pytest

from data_tools import split
from data_tools.shared.record_files import read_records, write_records
from data_tools.split import main
from data_tools.splitting.proof import prove
from zh_embedder.cli import build_parser
from zh_embedder.core.errors import UserError
from zh_embedder.data.source_groups import Unions, draw_groups
from zh_embedder.evaluation.read_retrieval import read_retrieval_set

WORDS = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈剑号巨阙珠称夜光"
)


def passage(seed, length=120):
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) for _ in range(length))


def record(number, *, query=None, pos=None, group=None, neg=(), task="qa"):
    row = {"query": query or f"问题{number}是什么", "pos": [pos or passage(number)], "neg": list(neg), "task": task}
    return row | ({"group": group} if group is not None else {})


def run(folder, files, *words):
    return split.run(build_parser("split").parse_args([*map(str, files), "--output", str(folder), *map(str, words)]))


def part(folder, name):
    return [row for _, row in read_records(folder / f"{name}.jsonl")]


def where(folder, names=("train", "dev", "test")):
    """Query -> its part."""
    return {row["query"]: name for name in names for row in part(folder, name)}


def tied(count=300):
    """Records tied by group, by query and by positive."""
    rng = random.Random(0)
    rows = [record(i, group=rng.randrange(900), query=f"问{rng.randrange(900)}") for i in range(count)]
    return [row | {"pos": [passage(rng.randrange(900))]} for row in rows]


def test_no_group_query_or_positive_is_in_two_parts_and_every_record_is_in_one(tmp_path):
    rows = tied()
    write_records(tmp_path / "in.jsonl", rows)
    assert run(tmp_path / "out", [tmp_path / "in.jsonl"], "--ratios", 0.6, 0.2, 0.2) == 0
    parts = {name: part(tmp_path / "out", name) for name in ("train", "dev", "test")}
    assert sorted(map(str, rows)) == sorted(str(row) for own in parts.values() for row in own)
    for values in (lambda r: {r["group"]}, lambda r: {r["query"]}, lambda r: set(r["pos"])):
        sets = [set().union(*map(values, own)) for own in parts.values()]
        assert all(sets)
        assert sum(map(len, sets)) == len(set().union(*sets))
    proof = json.loads((tmp_path / "out" / "split.json").read_text("utf-8"))["proof"]
    assert proof["shared"] == {"groups": 0, "queries": 0, "positives": 0}
    assert proof["checked"]["queries"] == len({row["query"] for row in rows})


def test_ratios_and_counts_are_met_where_groups_allow_it(tmp_path):
    write_records(tmp_path / "in.jsonl", [record(i) for i in range(200)])
    run(tmp_path / "a", [tmp_path / "in.jsonl"], "--ratios", 0.8, 0.15, 0.05)
    assert [len(part(tmp_path / "a", name)) for name in ("train", "dev", "test")] == [160, 30, 10]
    run(tmp_path / "b", [tmp_path / "in.jsonl"], "--counts", 7, "rest", "--names", "held", "rest")
    assert [len(part(tmp_path / "b", name)) for name in ("held", "rest")] == [7, 193]


def test_neither_the_order_of_lines_nor_other_files_names_change_where_a_group_goes(tmp_path):
    rows = tied()
    write_records(tmp_path / "in.jsonl", rows)
    random.Random(1).shuffle(rows)
    write_records(tmp_path / "shuffled.jsonl", rows)
    words = ["--ratios", 0.6, 0.2, 0.2]
    run(tmp_path / "a", [tmp_path / "in.jsonl"], *words)
    run(tmp_path / "b", [tmp_path / "shuffled.jsonl"], *words)
    run(tmp_path / "c", [tmp_path / "in.jsonl"], *words, "--seed", 1)
    assert where(tmp_path / "a") == where(tmp_path / "b")
    assert where(tmp_path / "a") != where(tmp_path / "c")


def near_copies(count=60):
    """Records of which every third has a copy with a few characters changed, at another place."""
    rows = [record(i, query=passage(f"q{i}", 30)) for i in range(count)]
    for i in range(0, count, 3):
        text = rows[i]["pos"][0]
        rows.append(record(1000 + i, query=passage(f"Q{i}", 30), pos=text[:60] + "，" + text[60:118] + "甲乙"))
    return rows


def test_planted_near_duplicates_stay_together_only_with_near(tmp_path):
    rows = near_copies()
    write_records(tmp_path / "in.jsonl", rows)
    words = ["--ratios", 0.5, 0.25, 0.25]
    assert run(tmp_path / "near", [tmp_path / "in.jsonl"], *words, "--near", 0.8) == 0
    assert run(tmp_path / "plain", [tmp_path / "in.jsonl"], *words) == 0
    apart = {}
    for name in ("near", "plain"):
        found = where(tmp_path / name)
        apart[name] = sum(found[rows[i]["query"]] != found[rows[60 + i // 3]["query"]] for i in range(0, 60, 3))
    assert apart["near"] == 0
    assert apart["plain"] > 5


def test_the_proof_fails_and_counts_when_parts_share_something(tmp_path, caplog):
    rows = near_copies(9)
    write_records(tmp_path / "train.jsonl", [*rows[:9], record(50, group="g"), record(51)])
    same = [record(50, query="另一个问题", group="g"), record(51, pos=passage("x"))]
    write_records(tmp_path / "dev.jsonl", [*rows[9:], *same])
    written = {name: [tmp_path / f"{name}.jsonl"] for name in ("train", "dev")}
    proof = prove(written, near=0.8, groups_per_file=False)
    assert not proof.holds
    assert proof.shared == {"groups": 1, "queries": 1, "positives": 1}
    assert proof.near_pairs == 3
    assert "proof: near-duplicates across parts 3 (Jaccard 0.8 or more)" in list(proof.lines())
    assert prove({"train": [tmp_path / "train.jsonl"]}, near=0.8, groups_per_file=False).holds


def test_several_files_keep_apart_and_each_gives_its_share(tmp_path):
    write_records(tmp_path / "a.jsonl.gz", [record(i, group=i) for i in range(100)])
    write_records(tmp_path / "b.jsonl", [record(500 + i, group=i, task="law") for i in range(50)])
    files = [tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"]
    assert run(tmp_path / "out", files, "--ratios", 0.8, 0.2, "--names", "train", "test", "--groups_per_file") == 0
    counts = {
        p.relative_to(tmp_path / "out").as_posix(): len(list(read_records(p)))
        for p in (tmp_path / "out").rglob("*.jsonl*")
    }
    assert counts == {"train/a.jsonl.gz": 80, "train/b.jsonl": 40, "test/a.jsonl.gz": 20, "test/b.jsonl": 10}
    run(tmp_path / "joined", files, "--ratios", 0.8, 0.2)
    groups = {
        n: {r["group"] for f in (tmp_path / "joined" / n).iterdir() for _, r in read_records(f)}
        for n in ("train", "dev")
    }
    assert not groups["train"] & groups["dev"]


def test_evaluation_folders_hold_the_queries_keys_and_judgements_of_their_part(tmp_path):
    rows = [record(i, neg=[passage(f"n{i}")]) for i in range(20)]
    rows += [record(100 + i, task="law") for i in range(20)]
    rows += [{"text1": f"甲{i}", "text2": f"乙{i}", "score": 1, "task": "sts"} for i in range(20)]
    write_records(tmp_path / "in.jsonl", rows)
    assert (
        run(tmp_path / "out", [tmp_path / "in.jsonl"], "--ratios", 0.5, 0.5, "--names", "train", "test", "--eval") == 0
    )
    made = {row["query"]: row for row in part(tmp_path / "out", "test") if row.get("task") == "qa"}
    data = read_retrieval_set(tmp_path / "out" / "test" / "qa")
    assert (data.task, sorted(data.queries.values())) == ("qa", sorted(made))
    for query, judged in data.qrels.items():
        assert [data.keys[key] for key in judged] == made[data.queries[query]]["pos"]
    assert {text for row in made.values() for text in row["neg"]} <= set(data.keys.values())
    assert not (tmp_path / "out" / "train").exists()


def test_evaluation_folders_may_be_given_a_whole_corpus(tmp_path):
    write_records(tmp_path / "in.jsonl", [record(i) for i in range(20)])
    texts = [*(passage(i) for i in range(20)), "一个没有人问的段落"]
    write_records(tmp_path / "passages.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    words = ["--ratios", 0.5, 0.5, "--names", "train", "test", "--corpus", tmp_path / "passages.jsonl"]
    assert run(tmp_path / "out", [tmp_path / "in.jsonl"], *words, "--eval") == 0
    data = read_retrieval_set(tmp_path / "out" / "test")
    assert sorted(data.keys.values()) == sorted(texts)
    assert [data.keys[key] for judged in data.qrels.values() for key in judged] == [
        text for row in part(tmp_path / "out", "test") for text in row["pos"]
    ]
    with pytest.raises(UserError, match="--corpus: needs --eval"):
        run(tmp_path / "again", [tmp_path / "in.jsonl"], *words)


def test_negatives_that_are_positives_elsewhere_are_said_and_can_be_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [
        record(i, neg=[passage((i + 1) % 40), passage(f"n{i}")]) | {"neg_scores": [1, 0], "pos_scores": [2]}
        for i in range(40)
    ]
    write_records(tmp_path / "in.jsonl", rows)
    words = ["--ratios", 0.5, 0.5, "--names", "train", "test"]
    assert run(tmp_path / "a", [tmp_path / "in.jsonl"], *words) == 0
    assert "positives of other parts stand among its negatives" in caplog.text
    assert run(tmp_path / "b", [tmp_path / "in.jsonl"], *words, "--clean_negatives") == 0
    own = {name: part(tmp_path / "b", name) for name in ("train", "test")}
    for name, other in (("train", "test"), ("test", "train")):
        foreign = {text for row in own[other] for text in row["pos"]}
        assert not foreign & {text for row in own[name] for text in row["neg"]}
        assert all(len(row["neg"]) == len(row["neg_scores"]) for row in own[name])
    assert sum(len(row["neg"]) for rows in own.values() for row in rows) > 40


def test_a_group_larger_than_every_share_stays_in_the_largest_part(tmp_path, caplog):
    rows = [record(i, group="big" if i < 60 else i) for i in range(100)]
    write_records(tmp_path / "in.jsonl", rows)
    run(tmp_path / "out", [tmp_path / "in.jsonl"], "--ratios", 0.9, 0.1)
    assert sum(row["group"] == "big" for row in part(tmp_path / "out", "train")) == 60
    assert len(part(tmp_path / "out", "dev")) == 10
    caplog.set_level(logging.INFO)
    write_records(tmp_path / "one.jsonl", rows[:60])
    run(tmp_path / "none", [tmp_path / "one.jsonl"], "--ratios", 0.9, 0.1)
    assert "nothing: the groups of one.jsonl are too large for its share" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ratios", "0.9", "0.2"], "--ratios: got .* expected shares that are 1 together"),
        (["--ratios", "0.9", "0.1", "--names", "a", "b", "c"], "--names: got 'a b c', expected 2 different names"),
        (["--counts", "5", "5"], "--counts: got .* expected whole numbers, and one 'rest'"),
        (["--ratios", "0.9", "0.1", "--near", "80"], "--near: got 80, expected a number above 0 and at most 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, words, message):
    write_records(tmp_path / "in.jsonl", [record(1)])
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", [tmp_path / "in.jsonl"], *words)


def test_what_is_read_is_not_written_over(tmp_path):
    write_records(tmp_path / "train.jsonl", [record(1), record(2)])
    with pytest.raises(UserError, match="expected a folder other than"):
        run(tmp_path, [tmp_path / "train.jsonl"], "--ratios", "0.5", "0.5")


def test_a_wrong_record_is_named_with_its_line(tmp_path, capsys):
    write_records(tmp_path / "in.jsonl", [record(1), {"query": "问", "pos": "答"}])
    words = [str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out"), "--ratios", "0.5", "0.5"]
    assert main(words) == 2
    assert "in.jsonl:2: pos: got '答', expected a list of strings" in capsys.readouterr().err


def tree(folder):
    """Every path below a folder, with what the files hold."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("task", ["../../x", "{root}/victim", "..", "a/b", "nul\x00"])
def test_a_task_that_would_leave_the_folder_is_refused_with_its_line_and_nothing_is_written(tmp_path, capsys, task):
    task = task.format(root=tmp_path)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "queries.jsonl").write_text("theirs", "utf-8")
    write_records(tmp_path / "in" / "in.jsonl", [*(record(i) for i in range(20)), record(20, task=task)])
    before = tree(tmp_path)
    words = [tmp_path / "in" / "in.jsonl", "--output", tmp_path / "deep" / "out", "--ratios", 0.5, 0.5, "--eval"]
    assert main([*map(str, words)]) == 2
    message = capsys.readouterr().err
    assert "in.jsonl:21: task: got" in message
    assert "Traceback" not in message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../../escape", "..", "", "{root}/escape"])
def test_a_name_of_a_part_that_would_leave_the_folder_is_refused_and_nothing_is_written(tmp_path, capsys, name):
    write_records(tmp_path / "in.jsonl", [record(i) for i in range(4)])
    before = tree(tmp_path)
    words = [tmp_path / "in.jsonl", "--output", tmp_path / "deep" / "out", "--ratios", 0.5, 0.5]
    assert main([*map(str, words), "--names", "train", name.format(root=tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "--names: got" in message
    assert "Traceback" not in message
    assert tree(tmp_path) == before


def test_a_second_draw_in_the_folder_of_a_split_needs_overwrite(tmp_path, capsys):
    write_records(tmp_path / "in.jsonl", [record(i) for i in range(40)])
    words = [*map(str, (tmp_path / "in.jsonl", "--output", tmp_path / "out", "--ratios", 0.5, 0.5))]
    assert main(words) == 0
    before = tree(tmp_path)
    assert main([*words, "--seed", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    assert sorted(where(tmp_path / "out", ("train", "dev"))) == sorted(f"问题{i}是什么" for i in range(40))
    assert tree(tmp_path) != before


@pytest.mark.parametrize("share", ["nan", "inf", "-0.5"])
def test_a_share_that_is_no_number_is_refused_by_name(tmp_path, capsys, share):
    write_records(tmp_path / "in.jsonl", [record(1)])
    words = [str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out"), f"--ratios={share}"]
    assert main(words) == 2
    assert f"--ratios: got {share}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_members_are_tied_by_marks_by_joining_and_through_others():
    unions = Unions()
    for marks in (["a"], ["b"], ["a", "c"], ["d"], ["c"]):
        unions.add(marks)
    unions.join(1, 3)
    roots = unions.roots().tolist()
    assert len(unions) == 5
    assert roots[0] == roots[2] == roots[4] != roots[1]
    assert roots[1] == roots[3]


def test_a_limit_keeps_a_draw_from_taking_more_than_is_wanted():
    sizes = [{0: 3, 1: 2, 2: 2}]
    assert draw_groups([0, 1, 2], sizes, [4]) == {0, 1}
    assert draw_groups([0, 1, 2], sizes, [4], limit=1) == {0}
    assert draw_groups([1, 0, 2], sizes, [4], limit=1) == {1, 2}


@pytest.mark.real
@pytest.mark.parametrize("name", ["qa/cmrc2018", "law/stard", "convsearch/kdconv"])
def test_real_sets_split_without_a_leak(tmp_path, real_data, name):
    (path,) = (real_data / name).glob("train.jsonl*")
    assert run(tmp_path / "out", [path], "--ratios", 0.9, 0.05, 0.05, "--near", 0.8) == 0
    report = json.loads((tmp_path / "out" / "split.json").read_text("utf-8"))
    assert report["proof"]["near_duplicates"] == 0
    total = sum(own["records"] for own in report["parts"].values())
    assert total == len(list(read_records(path)))
    assert all(abs(report["parts"][n]["records"] - 0.05 * total) <= 0.02 * total for n in ("dev", "test"))
