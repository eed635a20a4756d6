"""One name for one meaning: other names are accepted and logged once, and nothing else of a command line changes."""

import pytest

from zh_embedder.core.spellings import SPELLINGS, respell


@pytest.mark.parametrize("command", [*SPELLINGS, "versions"])
def test_dashes_and_underscores_are_the_same_in_every_command(command):
    words, notes = respell(command, ["--some-long-flag", "a-b", "--other-flag=x-y", "-h", "-1"])
    assert (words, notes) == (["--some_long_flag", "a-b", "--other_flag=x-y", "-h", "-1"], [])


@pytest.mark.parametrize(("command", "old", "ours"), [(c, o, n) for c, t in SPELLINGS.items() for o, n in t.items()])
def test_another_spelling_is_ours_and_is_noted_once(command, old, ours):
    words, notes = respell(command, [f"--{old.replace('_', '-')}", "x", f"--{old}=y"])
    assert words == [f"--{ours}", "x", f"--{ours}=y"]
    assert notes == [f"--{old} is --{ours}"]


def test_a_name_is_its_own_spelling_in_another_command():
    assert respell("mine", ["--output", "a", "--corpus", "b"]) == (["--output", "a", "--corpus", "b"], [])
    assert respell("split", ["--output", "a", "--corpus", "b"])[0] == ["--output_dir", "a", "--corpus", "b"]


def test_no_spelling_leads_to_another_spelling():
    for table in SPELLINGS.values():
        assert not set(table) & set(table.values())


def test_what_follows_two_dashes_is_left_alone():
    assert respell("encode", ["model", "--", "--output", "--a-b"]) == (["model", "--", "--output", "--a-b"], [])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--metrics ndcg --cutoffs 10", "--metrics ndcg@10"),
        ("--cutoffs 1 10 --metrics mrr ndcg", "--metrics mrr@1 mrr@10 ndcg@1 ndcg@10"),
        ("--metrics ndcg@7 map --cutoffs 3", "--metrics ndcg@7 map@3"),
        ("--metrics ndcg collate_neg --cutoffs 3", "--metrics ndcg@3 collate_neg"),
    ],
)
def test_metrics_and_cutoffs_become_metrics_with_cutoffs(argv, expected):
    words, notes = respell("evaluate", ["base", "--data", "qa", *argv.split(), "--hits", "5"])
    assert words == ["base", "--data", "qa", "--hits", "5", *expected.split()]
    (note,) = notes
    assert note.endswith(f" is {expected}")


def test_metrics_without_cutoffs_are_left_alone():
    argv = ["--metrics", "ndcg", "--hits", "5"]
    assert respell("evaluate", argv) == (argv, [])
