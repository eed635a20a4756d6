"""Every end of a command has its exit code and one message; a bug has a file and a block to paste."""

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.core.exits import exit_code
from zh_embedder.core.runtime import run_ranked, start_logging


def raising(error: BaseException):
    def work():
        raise error

    return work


def test_a_commands_exit_code_is_2_for_the_users_mistake_and_0_for_none(capsys):
    assert (exit_code(raising(UserError("x: got 1, expected 2"))), exit_code(lambda: None)) == (2, 0)
    assert capsys.readouterr().err == "error: x: got 1, expected 2\n"


def test_a_message_moves_no_cursor(capsys):
    assert exit_code(raising(UserError("a\n\x1b[2Jb\u202e.jsonl\r: no"))) == 2
    assert capsys.readouterr().err == "error: a\n\\x1b[2Jb\\u202e.jsonl\\r: no\n"
    start_logging()
    logging.getLogger("zh_embedder").info("读 %s", "\x9b2J\t中")
    assert "读 \\x9b2J\t中\n" in capsys.readouterr().err


def test_ctrl_c_is_no_traceback(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\nstopped\n"
    assert run_ranked(raising(KeyboardInterrupt())) == 130
    assert "stopped: --resume_from_checkpoint True continues" in capsys.readouterr().err


def test_a_scheduler_that_ends_a_command_lets_it_clear_up(capsys):
    cleared = []
    before = signal.getsignal(signal.SIGTERM)

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleared.append(True)

    assert exit_code(work) == 143
    assert cleared == [True]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_bug_goes_into_a_file_with_a_block_to_paste(capsys, temporary, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zh-embedder", "train", "--hub_token", "geheim"])
    assert exit_code(raising(KeyError("no such\ud83d"))) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    path = Path(re.search(r"traceback is in (\S+)\. ", shown)[1])
    assert path.parent == temporary
    text = path.read_text("utf-8")
    assert "Traceback (most recent call last)" in text
    assert "KeyError" in shown
    assert "train" in shown
    assert "geheim" not in shown + text


def test_a_bug_is_shown_whole_where_no_file_can_be_written(capsys, temporary, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "gone"))
    assert exit_code(raising(KeyError("x"))) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def command(redirect: str) -> subprocess.CompletedProcess:
    """`zh-embedder --help` behind a shell's redirection."""
    words = f"set -o pipefail; {sys.executable} -m zh_embedder.cli --help {redirect}"
    return subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False, timeout=60)


def test_a_reader_that_stops_early_is_no_error_message():
    done = command("| head -c 1")
    assert (done.stdout, done.stderr) == ("u", "")
    assert done.returncode in (0, 141)  # all was written before the reader went, or not


def test_closed_streams_and_an_ascii_terminal_are_no_bug():
    for redirect in ("<&- >&-", "<&- >&- 2>&-"):
        assert (command(redirect).returncode, command(redirect).stderr) == (0, "")
    words = [sys.executable, "-m", "zh_embedder.cli", "versions", "zh_llm_embedder"]
    shown = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True)
    assert b"\\u4e3a" in shown.stdout


def test_ctrl_c_during_an_import_ends_at_once():
    code = """
import os, signal
from zh_embedder.core.exits import exit_code, importing
def work():
    with importing():
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
exit_code(work)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "\nstopped\n")


def test_a_full_standard_output_is_one_message():
    done = command("> /dev/full")
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")
