"""Outputs are checked before anything is read: nothing that matters is replaced, and two runs never share a place."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.core.files import partial_of
from zh_embedder.core.outputs import GENERATOR, Output, Places, check_outputs, is_result, lock_of, reserved

BASE = {"folder": True, "earlier": "an earlier base", "known": ("modules.json", "*.json", "[0-9]_*/config.json")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n", "utf-8")
    (tmp_path / "link.jsonl").symlink_to("data/train.jsonl")
    os.link("data/train.jsonl", "hard.jsonl")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("important", "utf-8")
    (tmp_path / "base" / "1_Pooling").mkdir(parents=True)
    for name in ("modules.json", "config.json", "1_Pooling/config.json"):
        (tmp_path / "base" / name).write_text("{}", "utf-8")
    return tmp_path


def tree(folder) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def check(path, *, inputs=(), models=(), overwrite: bool | None = False, **more):
    target = Output(flag="--output", path=Path(path), **more)
    check_outputs(Places([target], inputs, models, overwrite))


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        ("data/train.jsonl", {"overwrite": True}, "data/train.jsonl: is an input too, expected another place"),
        ("data/../data/train.jsonl", {"overwrite": True}, "is an input too"),
        ("link.jsonl", {"overwrite": True}, "is an input too"),
        ("hard.jsonl", {"overwrite": True}, "is an input too"),
        ("data/new.jsonl", {"inputs": ["data"]}, "lies in the input data, expected a place outside it"),
        ("data", BASE | {"overwrite": True}, "contains the input data/train.jsonl, expected another folder"),
        (".", BASE | {"overwrite": True}, "contains the input data/train.jsonl"),
        (".", BASE | {"inputs": []}, "is the working folder, expected a new folder"),
        ("mine", BASE, "mine: is there already, expected a new folder, or --overwrite"),
        ("mine", BASE | {"overwrite": None}, "mine: is there already, expected a new folder$"),
        (
            "mine",
            BASE | {"overwrite": True},
            "--overwrite: mine holds letters.txt, expected an earlier base",
        ),
        ("mine/letters.txt", {}, "is there already, expected a new file, or --overwrite"),
        (
            "mine/letters.txt",
            {"is_earlier": is_result, "overwrite": None},
            "is there already and not an earlier result",
        ),
        ("mine", {}, "mine: is a folder, expected a file"),
        ("mine/letters.txt", BASE, "is a file, expected a folder"),
        ("mine/letters.txt/x", {}, "cannot be written: .*letters.txt is a file, expected a folder"),
        ("/dev/null", {"overwrite": True}, "is a device or a pipe, expected a file"),
        ("/proc/x.json", {}, "/proc/x.json: cannot be written: "),
        ("x" * 300, {}, "cannot be written: File name too long"),
        ("a\0b", {}, "cannot be written: a name with a null character"),
    ],
)
def test_a_place_that_must_not_be_written_is_refused_and_nothing_is_touched(place, path, more, message):
    before = tree(place)
    with pytest.raises(UserError, match=message):
        check(path, **({"inputs": ["data/train.jsonl"]} | more))
    assert tree(place) == before


def test_an_earlier_result_may_be_replaced_but_not_with_anything_else_in_it(place):
    check("base", overwrite=True, **BASE)
    (place / "base" / "notes" / "deep").mkdir(parents=True)
    check("base", overwrite=True, **BASE)  # empty folders are nothing
    (place / "base" / "notes" / "deep" / "x.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match=r"base holds notes/deep/x.json, expected an earlier base and nothing else"):
        check("base", overwrite=True, **BASE)


def test_new_places_and_places_next_to_inputs_are_fine(place):
    before = tree(place)
    for path in ("new.jsonl", "deep/er/new.jsonl", "data/new.jsonl"):
        check(path, inputs=["data/*.jsonl", "BAAI/bge-large-zh", "x" * 5000, "a\0b"])
    check("base/scores.json", models=["base"])
    check("data", inputs=["data/train.jsonl"], folder=True, kept=True)
    check("name " + "名" * 80, folder=True)
    assert tree(place) == before


@pytest.mark.parametrize(
    "text",
    [
        f"<!doctype html>{GENERATOR}<title>x</title>",
        json.dumps([{"model": "a", "data": "b", "metric": "c", "value": 1}], indent=2),
        '{\n  "findings": []\n}',
    ],
)
def test_figures_pages_and_findings_of_an_earlier_run_are_known(place, text):
    (place / "result").write_text(text, "utf-8")
    check("result", is_earlier=is_result, overwrite=None)


def test_two_flags_cannot_name_one_place(place):
    names = ("a.json", "./a.json")
    outputs = [Output(flag=f"--{i}", path=place / name) for i, name in enumerate(names)]
    with pytest.raises(UserError, match=r"--1: .*a.json: is the place of --0 too"):
        check_outputs(Places(outputs))


OTHER = """
import sys
from pathlib import Path
from zh_embedder.core.exits import exit_code
from zh_embedder.core.outputs import Output, Places, reserved
def work():
    with reserved(Places([Output(flag="--output", path=Path("deep/new.jsonl"))])):
        print("in", flush=True)
        sys.stdin.read()
sys.exit(exit_code(work))
"""


def test_one_process_writes_at_a_time_and_a_killed_one_lets_go(place):
    command = [sys.executable, "-c", textwrap.dedent(OTHER)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    mine = Places([Output(flag="--output", path=place / "deep" / "new.jsonl")])
    before = tree(place)
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(UserError, match=r"new.jsonl: another process is writing it, expected one run"),
            reserved(mine),
        ):
            pass
        stale = partial_of(place / "deep" / "new.jsonl").name.replace(f".{os.getpid()}.", f".{other.pid}.")
        (place / "deep" / stale).write_text("half", "utf-8")
        other.kill()
    with reserved(mine):
        assert [path.name for path in (place / "deep").iterdir()] == [lock_of(place / "deep" / "new.jsonl").name]
    (place / "deep").rmdir()  # made by the killed process
    lock_of(place / "hard.jsonl").touch()
    with (
        pytest.raises(UserError, match="is there already"),
        reserved(Places([Output(flag="-", path=place / "hard.jsonl")])),
    ):
        pass
    assert tree(place) == before


def test_results_are_not_added_to_a_strangers_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".rank-0.lock").touch()
    (out / "vectors-00000.npy").touch()
    places = Places(
        [Output(flag="--output_dir", path=out, folder=True, kept=True, known=("m.json", "vectors-*", ".*"))]
    )
    check_outputs(places)
    (out / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"--output_dir: .*out: holds thesis\.txt"):
        check_outputs(places)


def test_a_link_to_itself_is_no_bug(place):
    (place / "loop").symlink_to("loop")
    check("new.jsonl", inputs=["loop"])
