"""Folders of training data: hidden files stay out and are counted; an evaluation set is none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.data.sources import find_files


def test_hidden_files_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / ".cache" / "data"
    for name in ("train.jsonl", ".ipynb_checkpoints/train-checkpoint.jsonl", "a/.git/x.jsonl", ".b.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    with caplog.at_level(logging.INFO):
        assert find_files([str(folder)], data_root=None) == [folder / "train.jsonl"]
    assert "3 files skipped, hidden or in a hidden folder" in caplog.text


@pytest.mark.parametrize("inner", ["", "test"])
def test_an_evaluation_set_is_no_training_data(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner / "qrels").mkdir(parents=True)
    for name in ("queries.jsonl", "corpus.jsonl.gz"):
        (tmp_path / inner / name).write_text("{}")
    with pytest.raises(UserError, match="these look like an evaluation set: --eval_data"):
        find_files([str(tmp_path)], data_root=None)
    assert len(find_files([str(tmp_path)], data_root=None, flag="FILES")) == 2


def test_other_files_of_a_folder_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jsonl", "README.md", "notes/b.txt", ".git/HEAD"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with caplog.at_level(logging.INFO):
        assert find_files([str(tmp_path)], data_root=None) == [tmp_path / "a.jsonl"]
    assert caplog.messages == [f"{tmp_path}: 2 files skipped, neither .jsonl nor .json, such as {tmp_path}/README.md"]


def test_a_file_given_twice_is_said_however_it_is_spelt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.jsonl").write_text("{}")
    specs = [str(tmp_path), str(tmp_path / "x" / ".." / "a.jsonl"), str(tmp_path / "a.*")]
    (tmp_path / "x").mkdir()
    with caplog.at_level(logging.INFO):
        assert len(find_files(specs, data_root=None)) == 4
    assert caplog.messages == [f"--train_data: {tmp_path}/a.jsonl is given 3 times, and its lines are read as often"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.parquet", "a Parquet file"),
        ("a.arrow", "an Arrow file"),
        ("a.csv", "a table (.csv)"),
        ("a.TSV", "a table (.tsv)"),
        ("a.csv.gz", "a table (.csv)"),
        ("saved/state.json", "a data set that `save_to_disk` wrote"),
        ("a.xlsx", "a workbook"),
    ],
)
def test_a_table_is_named_with_the_command_that_converts_it(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    given = tmp_path / name.split("/", maxsplit=1)[0]
    with pytest.raises(UserError) as caught:
        find_files([str(given)], data_root=None)
    message = str(caught.value)
    assert message.startswith(f"--train_data: {given} is {said}, expected JSON Lines: ")
    assert (
        said == "a workbook"
        or f"`zh-embedder convert {given} --from columns --columns query=COLUMN pos=COLUMN --task TASK --output "
        in message
    )
