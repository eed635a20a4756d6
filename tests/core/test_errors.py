from pathlib import Path

import pytest

from zh_embedder.core.errors import (
    MAX_SHOWN,
    UserError,
    exit_code,
    message_of,
    nearest,
    nearest_path,
    reject,
    summarise,
    unknown_name,
)
from zh_embedder.core.runtime import run_ranked

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


def test_a_file_that_cannot_be_written_is_the_users_and_a_bug_is_not():
    assert message_of(UserError("x: got 1")) == "error: x: got 1\n"
    assert message_of(PermissionError(13, "Permission denied", "out")) == "error: [Errno 13] Permission denied: 'out'\n"
    for bug in (OSError("no file is named"), KeyError("x")):
        with pytest.raises(type(bug)):
            message_of(bug)


def test_a_commands_exit_code_is_2_for_the_users_mistake_and_0_for_none(capsys):
    def wrong():
        raise UserError("x: got 1, expected 2")

    assert (exit_code(wrong), exit_code(lambda: None)) == (2, 0)
    assert capsys.readouterr().err == "error: x: got 1, expected 2\n"
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


def test_ctrl_c_is_no_traceback(capsys):
    def stopped():
        raise KeyboardInterrupt

    assert exit_code(stopped) == 130
    assert capsys.readouterr().err == "\nstopped\n"
    assert run_ranked(stopped) == 130
    assert "stopped: --resume_from_checkpoint True continues" in capsys.readouterr().err


def test_one_of_two_chinese_characters_is_near():
    assert nearest("问提", ["问题", "答案"]) == "; did you mean '问题'?"
