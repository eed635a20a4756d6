"""What the launcher says of a process is read in one place."""

import ast
from pathlib import Path

import pytest
import torch

from zh_embedder.cli import call
from zh_embedder.core.errors import UserError
from zh_embedder.core.ranks import (
    check_environment,
    first_rank,
    launched,
    local_ranks,
    own_device,
    own_rank,
    started_ranks,
    world,
)

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_is_the_first_of_one():
    assert (first_rank(), own_rank(), started_ranks(), local_ranks(), launched()) == (True, (0, 1), 1, 1, False)
    assert world() == (0, 1)


def test_torchrun_says_which_rank_this_is(monkeypatch):
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert (first_rank(), own_rank(), started_ranks(), local_ranks(), launched()) == (False, (5, 8), 8, 4, True)
    assert world() == (0, 1)  # no process group was started


def test_deepspeed_says_how_many_ranks_share_the_machine(monkeypatch):
    monkeypatch.setenv("LOCAL_SIZE", "6")
    assert local_ranks() == 6


@pytest.mark.parametrize(("rank", "ranks"), [("2", "2"), ("-1", "2"), ("a", "2"), ("0", "0"), ("0", "")])
def test_a_rank_that_cannot_be_is_refused(monkeypatch, rank, ranks):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", ranks)
    with pytest.raises(UserError, match="RANK and WORLD_SIZE: got"):
        own_rank()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RANK", "x", "a whole number of 0 or more"),
        ("WORLD_SIZE", "²", "a whole number of 1 or more"),
        ("LOCAL_RANK", "-1", "a whole number of 0 or more"),
        ("LOCAL_WORLD_SIZE", "0", "a whole number of 1 or more"),
        ("MASTER_PORT", "99999999", "a whole number from 0 to 65535"),
        ("OMP_NUM_THREADS", "many", "a whole number of 1 or more"),
    ],
)
def test_variables_of_the_launcher_are_inputs_too(monkeypatch, capsys, name, value, expected):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^{name}: got '?{value}'?, expected {expected}$"):
        check_environment()
    assert call("split", ["x", "--output_dir", "y", "--ratios", "0.5", "0.5"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}: got ")


def test_right_variables_pass(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "4,2", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    check_environment()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_a_rank_computes_on_the_cpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device() == torch.device("cpu")


def launcher_names(tree):
    """Strings of a file that are names of the launcher's variables."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in NAMES}


def test_no_other_module_reads_the_launchers_variables():
    files = [path for package in ("zh_embedder", "data_tools") for path in (ROOT / package).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if launcher_names(ast.parse(path.read_text("utf-8")))}
    assert found == {"zh_embedder/core/ranks.py"}
    assert launcher_names(ast.parse('import os\nos.environ["RANK"]\n"LOCAL_RANK" in os.environ')) == {
        "RANK",
        "LOCAL_RANK",
    }
