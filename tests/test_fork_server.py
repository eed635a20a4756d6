"""A process from the fork server is, to a test, one that was started by hand; its ranks are those of torchrun."""

import os
import re
import signal
import time

import pytest

from tests.processes import ALONE, finish, forked, start

pytestmark = pytest.mark.slow
SAY = """
import os, sys
sys.stderr.write("on stderr\\n")
print(sys.argv, sys.path[:2], os.getcwd(), __name__, os.environ["ZH_EMBEDDER_CACHE"])
own = [name for name in sys.modules if name.startswith(("zh_embedder", "data_tools"))]
print(sys.stdin.read(), os.getsid(0) == os.getpid(), own)
"""
RANK = """
import os, sys, torch
import torch.distributed as dist
dist.init_process_group("gloo")
sums = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(sums)
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
os.write(1, f"{[int(os.environ[name]) for name in names]} {sums.item()}\\n".encode())
if len(sys.argv) > 1 and dist.get_rank() == 1:
    sys.exit(3)
if len(sys.argv) > 1:
    import time
    time.sleep(600)
"""


@pytest.fixture(params=["-c", "script.py", "-m"])
def words(request, tmp_path):
    """One program, as text, as a file, and as a module of the working folder."""
    for name in ("script.py", "module_of_mine.py"):
        (tmp_path / name).write_text(SAY, "utf-8")
    return {"-c": ["-c", SAY, "a"], "-m": ["-m", "module_of_mine", "b c"]}.get(request.param, [request.param])


def test_a_fork_says_what_a_process_says(words, tmp_path):
    said = []
    for launcher in (ALONE, forked()):
        process = start([*launcher, *words], tmp_path, apart=True)
        said.append((process.communicate(timeout=100), process.returncode))
    assert said[0][1] == 0
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("code", "expected", "printed"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('a word')", 1, "a word\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os; os.kill(os.getpid(), 2)", -2, "KeyboardInterrupt\n"),
        ("import atexit; atexit.register(print, 'at the end')", 0, "at the end\n"),
        ("import threading, time; threading.Timer(0.1, print, ['later']).start()", 0, "later\n"),
        ("import warnings; warnings.warn('mine')", 1, "UserWarning: mine\n"),
    ],
)
def test_a_fork_ends_as_a_process_ends(code, expected, printed, tmp_path):
    env = {**os.environ, "PYTHONWARNINGS": "error::UserWarning"}
    for launcher in (ALONE, forked()):
        process = start([*launcher, "-c", code], tmp_path, env=env)
        assert process.communicate(timeout=100)[0].endswith(printed)
        assert process.returncode == expected


def test_forks_run_at_once_and_can_be_stopped(tmp_path):
    code = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    processes = [start([*forked(), "-c", code, name], tmp_path) for name in "ab"]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one.poll() for one in processes] == [None, None]
    processes[0].kill()
    processes[1].send_signal(signal.SIGTERM)
    assert [one.wait(60) for one in processes] == [-signal.SIGKILL, -signal.SIGTERM]


def test_a_place_that_is_not_there_is_said(tmp_path):
    assert "FileNotFoundError" in finish(start([*forked(), "-c", ""], tmp_path / "nowhere"), expect=1)


def test_ranks_find_each_other(tmp_path):
    said = finish(start([*forked(2), "-c", RANK], tmp_path)).splitlines()
    assert sorted(said) == ["[0, 0, 2, 2] 3", "[1, 1, 2, 2] 3"]


def test_where_a_rank_fails_the_others_are_ended(tmp_path):
    assert len(re.findall(r"\] 3", finish(start([*forked(2), "-c", RANK, "fail"], tmp_path), expect=1))) == 2
