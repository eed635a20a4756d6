"""Records held out of training share nothing with those that stay, and every rank draws the same."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.jsonl import write
from tests.processes import ROOT, environment
from zh_embedder.core.errors import UserError
from zh_embedder.data.records import load_datasets
from zh_embedder.training.held_out import draw, group_numbers, hold_out


def record(query, pos, *, group=None, neg=("负",), task="qa"):
    row = {"query": query, "pos": list(pos), "neg": list(neg), "task": task}
    return row | ({"group": group} if group is not None else {})


def load(tmp_path, *files):
    return load_datasets(list(files), cache_dir=str(tmp_path / "cache"))


def test_records_that_share_a_group_a_query_or_a_positive_belong_together_through_others_too(tmp_path):
    rows = [
        record("a", ["1"], group="g"),
        record("b", ["2"], group="g"),  # with a, by group
        record("c", ["2"]),  # with b, by positive, and so with a
        record("d", ["3"]),
        record("d", ["4"]),  # with d, by query
        record("e", ["5"], neg=["1"]),  # a negative ties nothing
    ]
    (dataset,) = load(tmp_path, write(tmp_path / "one.jsonl", rows))
    (numbers,) = group_numbers([dataset])
    assert [[i for i, n in enumerate(numbers) if n == number] for number in dict.fromkeys(numbers.tolist())] == [
        [0, 1, 2], [3, 4], [5],
    ]  # fmt: skip


def test_a_group_name_counts_within_its_file_and_a_text_everywhere(tmp_path):
    one = write(tmp_path / "one.jsonl", [record("a", ["1"], group=1), record("b", ["2"])])
    two = write(tmp_path / "two.jsonl", [record("c", ["3"], group=1), record("d", ["2"])])
    first, second = group_numbers(load(tmp_path, one, two))
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_nothing_trained_gives_an_answer_of_what_is_measured_away(tmp_path):
    rng = np.random.default_rng(0)
    rows = [record(f"问{rng.integers(60)}", [f"答{rng.integers(60)}"], group=int(rng.integers(90))) for _ in range(80)]
    other = [record(f"问{i}", [f"答{i}"], task="tool") for i in range(50, 90)]
    files = [write(tmp_path / f"{n}.jsonl", r) for n, r in (("one", rows), ("two", other))]
    datasets = load(tmp_path, *files)
    kept, sets = hold_out(datasets, share=0.1, seed=3)
    assert len(sets) == 2
    assert [len(before) - len(after) > 0 for before, after in zip(datasets, kept, strict=True)] == [True, True]
    trained = [dataset[row] for dataset in kept for row in range(len(dataset))]
    questions, answers = {r.query for r in trained}, {text for r in trained for text in r.pos}
    for data in sets:
        assert not questions & set(data.queries.values())
        assert not answers & {data.keys[key] for judged in data.qrels.values() for key in judged}
        assert data.qrels.keys() == data.queries.keys()
    kinds = {r["query"]: r["group"] for r in rows if r["query"] not in questions}
    assert not set(kinds.values()) & {r["group"] for r in rows if r["query"] in questions}


def test_the_share_is_reached_and_never_much_exceeded():
    single = [np.arange(200)]
    assert len(draw(single, share=0.1, seed=0)) == 20
    assert len(draw(single, share=0.0001, seed=0)) == 1
    large = [np.repeat([0, 1, 2], [150, 30, 20])]  # the group of 150 is too much for a share of 20
    assert draw(large, share=0.1, seed=0) in ({1}, {2})


def test_a_query_in_several_records_has_all_their_positives(tmp_path):
    rows = [record("同", ["甲"], neg=["丙"]), record("同", ["乙"], neg=["甲"]), record("异", ["丁"])]
    (dataset,) = load(tmp_path, write(tmp_path / "one.jsonl", rows))
    for seed in range(8):  # until the pair is drawn
        _, (data,) = hold_out([dataset], share=0.5, seed=seed)
        if "同" in data.queries.values():
            break
    ((query, text),) = data.queries.items()
    assert text == "同"
    assert {data.keys[key] for key in data.qrels[query]} == {"甲", "乙"}
    assert sorted(data.keys.values()) == sorted(["甲", "丙", "乙"])


def test_records_that_all_belong_together_cannot_be_held_out(tmp_path, caplog):
    rows = [record(f"问{i}", ["同一个答案"]) for i in range(4)]
    (dataset,) = load(tmp_path, write(tmp_path / "one.jsonl", rows))
    with pytest.raises(UserError, match="all 4 records belong together"):
        hold_out([dataset], share=0.5, seed=0)
    kept, sets = hold_out([dataset], share=0.1, seed=0)  # far more than the share: nothing is drawn, and that is said
    assert (len(kept[0]), sets) == (4, [])
    assert "nothing is held out because its groups are larger than the share" in caplog.text
    pairs = [{"text1": "a", "text2": "b", "score": 1, "task": "sts"}]
    (only,) = load(tmp_path, write(tmp_path / "pairs.jsonl", pairs))
    with pytest.raises(UserError, match="--validation_share: no dataset has queries with positives"):
        hold_out([only], share=0.5, seed=0)
    assert hold_out([only], share=0.0, seed=0) == ([only], [])


@pytest.mark.slow
def test_every_process_draws_the_same(tmp_path):
    """Strings hash differently in every process; the draw must not notice."""
    path = write(tmp_path / "one.jsonl", [record(f"问{i % 30}", [f"答{i % 30 // 2}"]) for i in range(90)])
    code = (
        "import sys; from pathlib import Path; from zh_embedder.data.records import load_datasets\n"
        "from zh_embedder.training.held_out import hold_out, group_numbers\n"
        "d = load_datasets([Path(sys.argv[1])], cache_dir=sys.argv[2])\n"
        "print(group_numbers(d)[0].tolist(), [s.queries for s in hold_out(d, share=.2, seed=1)[1]])"
    )
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    said = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "cache")],
        env={**environment(tmp_path), "PYTHONHASHSEED": other}, cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    datasets = load_datasets([path], cache_dir=str(tmp_path / "cache"))
    (numbers,), (held,) = group_numbers(datasets), hold_out(datasets, share=0.2, seed=1)[1]
    assert len(set(numbers)) == 15  # or there would be little to draw
    assert len(held.queries) == 6
    assert said == f"{numbers.tolist()} {[held.queries]}\n"
