import gzip
import json
import sqlite3
import zipfile
import zlib
from pathlib import Path

import pytest
import yaml
from safetensors import SafetensorError

from zh_embedder.core.errors import (
    MAX_SHOWN,
    UserError,
    explain,
    nearest,
    nearest_path,
    reading,
    reject,
    summarise,
    unknown_name,
    writing,
)

POOLINGS = ("cls", "mean", "last_token")


def test_a_rejection_says_where_what_and_what_would_be_right():
    error = reject("train.jsonl:17: score", "高", "a finite number")
    assert str(error) == "train.jsonl:17: score: got '高', expected a finite number"


def test_a_user_error_is_a_value_error():
    with pytest.raises(ValueError, match="got 0, expected 1 or more"):
        raise reject("--batch", 0, "1 or more")


@pytest.mark.parametrize(
    ("length", "shown"),
    [
        (118, "'" + "长" * 118 + "'"),  # 120 characters with its quotes: whole
        (119, "'" + "长" * 99 + "... (121 characters)"),
    ],
)
def test_only_long_values_are_cut_and_their_length_is_told(length, shown):
    assert str(reject("query", "长" * length, "less")) == f"query: got {shown}, expected less"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lasttoken", "; did you mean 'last_token'?"), ("maen", "; did you mean 'mean'?"), ("完全不同", "")],
)
def test_the_nearest_name_is_offered_only_where_one_is_near(name, hint):
    assert nearest(name, POOLINGS) == hint


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("in/corups.jsonl", "; did you mean 'in/corpus.jsonl'?"),
        ("in/corpus.json", "; did you mean 'in/corpus.jsonl'?"),
        ("in/nofile.jsonl", ""),  # only its suffix is like that of field.jsonl
        ("none/corpus.jsonl", ""),
    ],
)
def test_a_missing_file_is_told_the_nearest_path_as_it_would_be_typed(tmp_path, monkeypatch, missing, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("corpus.jsonl", "field.jsonl"):
        (tmp_path / "in" / name).touch()
    assert nearest_path(Path(missing)) == hint


def test_an_unknown_name_shows_the_nearest_and_all_known_names_in_order():
    near, far = unknown_name("--pooling", "maen", POOLINGS), unknown_name("--pooling", "xyz", POOLINGS)
    assert str(near) == "--pooling: unknown name 'maen'; did you mean 'mean'? Known: cls, last_token, mean"
    assert str(far) == "--pooling: unknown name 'xyz'. Known: cls, last_token, mean"


def test_known_names_may_come_from_an_iterator():
    assert str(unknown_name("task", "qaa", iter(["qa", "icl"]))).endswith("did you mean 'qa'? Known: icl, qa")


@pytest.mark.parametrize(
    ("messages", "total", "more"),
    [
        (3, None, None),
        (MAX_SHOWN, None, None),
        (MAX_SHOWN + 5, None, 5),
        (MAX_SHOWN, 1000, 1000 - MAX_SHOWN),
        (2, 7, 5),
    ],
)
def test_a_summary_shows_the_first_messages_and_counts_the_rest(messages, total, more):
    lines = [f"a.jsonl:{i}: broken" for i in range(messages)]
    error = summarise(lines, total=total)
    assert isinstance(error, UserError)
    expected = lines[:MAX_SHOWN] + ([f"... and {more} more"] if more else [])
    assert str(error).split("\n") == expected


def test_one_of_two_chinese_characters_is_near():
    assert nearest("问提", ["问题", "答案"]) == "; did you mean '问题'?"


class ArrowException(Exception):
    """pyarrow's, by its name."""

    __module__ = "pyarrow.lib"


class ArrowInvalid(ArrowException, ValueError):
    """One of its kinds."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("x: got 1"), "x: got 1"),
        (PermissionError(13, "Permission denied", "out"), "out: Permission denied"),
        (OSError(18, "Invalid cross-device link", "a", None, "b"), "a -> b: Invalid cross-device link"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (EOFError("Compressed file ended"), "the file ends too early, as a copy or download that was cut short does: "),
        (zlib.error("Error -3"), "the compressed data is damaged: Error -3"),
        (gzip.BadGzipFile("Not a gzipped file"), "the compressed data is damaged: Not a gzipped file"),
        (zipfile.BadZipFile("bad magic"), "not a whole zip file: bad magic"),
        (sqlite3.DatabaseError("file is not a database"), "the database cannot be used: file is not a database"),
        (yaml.YAMLError("tabs"), "not valid YAML: tabs"),
        (ArrowInvalid("magic bytes\n not found"), "not whole Arrow or Parquet data: magic bytes not found"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: DefaultCPU"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_libraries_raise_for_files_and_machines_is_one_line(error, said):
    assert (explain(error) or "").startswith(said)


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("x"), RecursionError("x"), RuntimeError("shape")], ids=repr
)
def test_a_bug_is_not_explained_away(error):
    assert explain(error) is None


def test_a_decoders_complaint_is_the_files_while_it_is_read(tmp_path):
    with pytest.raises(UserError, match=r"^a.json: nested too deeply$"), reading("a.json"):
        json.loads("[" * 100_000)
    with pytest.raises(UserError, match=r"^a.json: not UTF-8: "), reading("a.json"):
        b"\xff".decode()
    with pytest.raises(UserError, match=r"^other: got 1$"), reading("a.json"):
        raise UserError("other: got 1")
    with pytest.raises(KeyError), reading("a.json"):
        raise KeyError("x")


def test_a_full_disk_is_said_with_the_file_that_was_written():
    with pytest.raises(UserError, match=r"^out/a: No space left on device$"), writing("out/a"):
        raise OSError(28, "No space left on device")
    with pytest.raises(UserError, match=r"^out/b: cannot be written: I/O error: No space"), writing("out/b"):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    with (
        pytest.raises(UserError, match=r"^out/b: cannot be written: Error while seri"),
        writing("out/b"),
    ):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")
    for other in (EOFError(), OSError(30, "Read-only file system", "out/c"), KeyError("x")):
        with pytest.raises(type(other)), writing("out/b"):  # those of another file that was read meanwhile
            raise other
