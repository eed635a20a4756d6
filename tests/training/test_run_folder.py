"""Folder of a run: no input, no place of something else; logs, scripts and earlier runs may be there."""

from pathlib import Path

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.training.run_folder import check_place


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A base that a run wrote, and data, both in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/encoder/config.json", "run/checkpoint-2/encoder/config.json", "run/kept.jsonl", "data/a.jsonl"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}", "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("run", "inputs", "models", "said"),
    [
        ("data", ["data"], [], "data: is an input too"),
        ("data/run", ["data"], [], "lies in the input data"),
        ("data", ["data/*.jsonl"], [], "holds a.jsonl and no run"),
        ("run", [], ["run"], "run: is an input too"),
        ("run", [], [None, "run/checkpoint-2/encoder"], "would replace its input run/checkpoint-2/encoder"),
        ("run", [], ["run/encoder"], "would replace its input run/encoder"),
        ("data/a.jsonl", [], [], "is a file, expected a folder"),
    ],
)
def test_a_run_writes_over_none_of_its_inputs(here, run, inputs, models, said):
    with pytest.raises(UserError) as refused:
        check_place(Path(run), inputs, models)
    assert str(refused.value).startswith(f"--output_dir: {run}: ") and said in str(refused.value)


@pytest.mark.parametrize(
    ("run", "inputs", "models"),
    [
        ("new", ["data"], ["run"]),
        ("run", ["data/a.jsonl", "run/kept.jsonl"], ["somebody/base"]),  # data next to the results stays
        ("run/encoder/next", [], ["run/encoder"]),
    ],
)
def test_a_folder_of_a_run_takes_another(here, run, inputs, models):
    check_place(Path(run), inputs, models)


@pytest.mark.parametrize(
    ("names", "strange"),
    [
        (["thesis.txt"], "thesis.txt"),
        (["train.log", "notes.md"], "notes.md"),
        ([], None),
        (["train.log", "nohup.out", "start.sh", "flags.yaml", ".nfs01"], None),
        (["thesis.txt", "runs"], None),
        (["thesis.txt", "report.html"], None),
    ],
)
def test_a_folder_with_files_of_others_alone_is_no_place_for_a_run(tmp_path, names, strange):
    run = tmp_path / "out"
    run.mkdir()
    for name in names:
        (run / name).write_text("x", "utf-8")
    if strange is None:
        check_place(run, [], [])
    else:
        with pytest.raises(UserError, match=f"holds {strange} and no run"):
            check_place(run, [], [])
