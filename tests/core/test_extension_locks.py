"""Locks of torch's extension cache: whose owner lives are respected, the others do not hold a run for ever."""

import logging
import os
import subprocess
import sys
import time

import pytest

from zh_embedder.core.extension_locks import LockWatch, owners_of

HOLD = """
import os, sys, time
os.open(sys.argv[1], os.O_CREAT | os.O_EXCL)  # as torch's FileBaton does
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path):
    folder = tmp_path / "py311_cpu" / "deepspeed_shm_comm"
    folder.mkdir(parents=True)
    return folder / "lock"


def age(lock, seconds):
    then = time.time() - seconds
    os.utime(lock, (then, then))
    os.utime(lock.parent, (then, then))


def test_a_lock_of_a_dead_process_is_named_then_removed(lock, tmp_path, caplog):
    lock.touch()
    watch = LockWatch(tmp_path, quiet=600)
    age(lock, 60)
    for _ in range(3):
        watch.judge()
    assert lock.exists()
    (said,) = caplog.messages
    assert str(lock) in said
    assert "waiting 540 s" in said
    age(lock, 601)
    watch.judge()
    assert not lock.exists()
    assert caplog.messages[1:] == [f"DeepSpeed: removed {lock}: the process that compiled there is gone"]


def test_a_lock_whose_folder_changes_stays(lock, tmp_path):
    lock.touch()
    age(lock, 10_000)
    (lock.parent / "op.o").touch()
    LockWatch(tmp_path).judge()
    assert lock.exists()


@pytest.mark.slow
def test_the_lock_of_a_living_process_stays_however_old(lock, tmp_path, caplog):
    """A process that is killed leaves its lock without an owner."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    age(lock, 10_000)
    assert owners_of(lock) == {holder.pid}
    watch = LockWatch(tmp_path)
    watch.judge()
    assert lock.exists()
    holder.kill()
    holder.wait()
    assert owners_of(lock) == set()
    watch.judge()
    assert not lock.exists()


def test_every_rank_waits_and_the_first_removes(lock, tmp_path, caplog):
    lock.touch()
    first, other = LockWatch(tmp_path), LockWatch(tmp_path, first=False)
    assert (other.judge(), first.judge()) == (True, True)
    age(lock, 10_000)
    assert (other.judge(), first.judge(), other.judge()) == (True, False, False)
    assert not lock.exists()
    assert len(caplog.messages) == 2


def test_own_locks_are_not_worth_a_word(lock, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with lock.open("w"):
        age(lock, 10_000)
        LockWatch(tmp_path).judge()
    assert lock.exists()
    assert caplog.messages == []
