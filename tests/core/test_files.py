"""A file or folder is there whole, old or new, and never in between."""

import os
import subprocess

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.core.files import (
    beside,
    beside_file,
    partial_of,
    put_in_place,
    read_json,
    renamed,
    replaced_by,
    sweep,
    write_json,
)


def contents(folder) -> dict[str, str]:
    """Text of every file below a folder; an empty folder by its name."""
    return {
        str(p.relative_to(folder)): p.read_text("utf-8") if p.is_file() else "folder"
        for p in folder.rglob("*")
        if p.is_file() or not any(p.iterdir())
    }


def write(folder, text: str, *, then: BaseException | None = None) -> None:
    with beside(folder) as partial:
        (partial / "a").write_text(text, "utf-8")
        if then is not None:
            raise then
        (partial / "deep").mkdir()
        (partial / "deep" / "b").write_text(text, "utf-8")


def test_a_new_folder_takes_its_place_with_its_parents(tmp_path):
    write(tmp_path / "one" / "two", "新")
    assert contents(tmp_path) == {"one/two/a": "新", "one/two/deep/b": "新"}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "target"
    write_json(target / "left over.json", {})
    write(target, "新")
    assert contents(tmp_path) == {"target/a": "新", "target/deep/b": "新"}


@pytest.mark.parametrize(
    "error", [OSError("disk full"), KeyboardInterrupt(), SystemExit(1)], ids=lambda e: type(e).__name__
)
def test_a_crash_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    write(tmp_path / "target", "旧")
    before = contents(tmp_path)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        write(tmp_path / "target", "新", then=error)
    assert contents(tmp_path) == before


def test_a_crash_of_a_first_write_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="target: disk full"):
        write(tmp_path / "target", "新", then=OSError("disk full"))
    assert contents(tmp_path) == {}


def dead_process() -> int:
    """Number of a process that is no more."""
    return subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("there", [False, True])
def test_what_a_killed_process_left_does_not_get_in(tmp_path, there):
    if there:
        write(tmp_path / "target", "旧")
    killed = partial_of(tmp_path / "target").name.replace(str(os.getpid()), str(dead_process()))
    for name in (killed, partial_of(tmp_path / "target").name, replaced_by(tmp_path / "target").name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stale").write_text("", "utf-8")
    write(tmp_path / "target", "新")
    assert contents(tmp_path) == {"target/a": "新", "target/deep/b": "新"}


def test_unfinished_files_of_others_stay(tmp_path):
    own = partial_of(tmp_path / "target").name
    running, elsewhere = own.replace(str(os.getpid()), "1"), own.replace(own.split(".")[2], "another-machine")
    for name in (running, elsewhere, own.replace("target", "target2")):
        (tmp_path / name).write_text("", "utf-8")
    beside_file(tmp_path / "target", "新")
    assert sorted(contents(tmp_path)) == sorted([running, elsewhere, own.replace("target", "target2"), "target"])


def test_a_folder_whose_replacement_was_killed_between_the_renames_comes_back(tmp_path):
    write(tmp_path / "target", "旧")
    (tmp_path / "target").rename(replaced_by(tmp_path / "target"))
    sweep(tmp_path / "target")
    assert contents(tmp_path) == {"target/a": "旧", "target/deep/b": "旧"}


def test_names_as_long_as_a_file_system_allows_can_be_written(tmp_path):
    target = tmp_path / ("名" * 85)  # 255 bytes
    beside_file(target, "新")
    assert contents(tmp_path) == {target.name: "新"}


def test_the_old_folder_stands_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "target"
    write(target, "旧")
    with beside(target) as partial:
        (partial / "a").write_text("新", "utf-8")
        assert (target / "a").read_text("utf-8") == "旧"
    assert (target / "a").read_text("utf-8") == "新"


def test_a_text_file_is_replaced_and_its_folder_made(tmp_path):
    target = tmp_path / "new" / "scores.json"
    beside_file(target, "旧")
    beside_file(target, "新\n")
    assert contents(tmp_path) == {"new/scores.json": "新\n"}


def test_a_text_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    target = tmp_path / "scores.json"
    beside_file(target, "旧")
    with pytest.raises(UnicodeEncodeError):
        beside_file(target, "\ud800")  # half a character: UTF-8 has no bytes for it
    assert target.read_text("utf-8") == "旧"


def test_json_is_written_for_people_and_read_back(tmp_path):
    value = {"任务": ["qa", None, 0.1], "提示": "“引号”\n"}
    write_json(tmp_path / "deep" / "a.json", value)
    text = (tmp_path / "deep" / "a.json").read_text("utf-8")
    assert '\n  "任务": [' in text
    assert text.endswith("}\n")
    assert read_json(tmp_path / "deep" / "a.json") == value


@pytest.mark.parametrize("raw", [b'{"a": 1,}', b"", '{"a": "中"}'.encode("gb18030")], ids=["comma", "empty", "gb18030"])
def test_what_is_no_json_is_refused_with_its_name(tmp_path, raw):
    path = tmp_path / "modules.json"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"modules\.json: not (valid JSON|UTF-8): ") as error:
        read_json(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("there", [False, True])
def test_a_crash_while_a_file_is_written_leaves_the_old_one_and_nothing_else(tmp_path, there):
    target = tmp_path / "deep" / "file"
    if there:
        beside_file(target, "旧")
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), renamed(target) as partial:
        partial.write_text("新", "utf-8")
        raise KeyboardInterrupt
    assert contents(tmp_path) == before
    with renamed(target) as partial:
        partial.write_text("新", "utf-8")
    assert contents(tmp_path) == {"deep/file": "新"}


def test_processes_that_write_one_file_at_once_do_not_meet(tmp_path, monkeypatch):
    target = tmp_path / "f"
    with renamed(target) as ours:
        ours.write_text("ours", "utf-8")
        monkeypatch.setattr("os.getpid", lambda: -1)
        with renamed(target) as theirs:
            theirs.write_text("theirs", "utf-8")
    assert contents(tmp_path) == {"f": "ours"}


def test_a_folder_that_is_whole_takes_the_place_of_another(tmp_path):
    write_json(tmp_path / "new" / "a.json", 1)
    write_json(tmp_path / "target" / "b.json", 2)
    put_in_place(tmp_path / "new", tmp_path / "target")
    assert contents(tmp_path) == {"target/a.json": "1\n"}


def test_long_names_that_begin_alike_keep_their_files_apart(tmp_path):
    first, second = (tmp_path / f"{'名' * 50}-{end}.jsonl" for end in "ab")
    with renamed(first) as one, renamed(second) as other:
        one.write_text("a", "utf-8")
        other.write_text("b", "utf-8")
    assert contents(tmp_path) == {first.name: "a", second.name: "b"}


def test_files_of_others_with_names_like_ours_stay(tmp_path):
    for name in (".target.old", ".target.partial", ".target.lock"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "letters").write_text("important", "utf-8")
    write(tmp_path / "target", "旧")
    write(tmp_path / "target", "新")
    assert sum(text == "important" for text in contents(tmp_path).values()) == 3
