"""Work in several processes gives what work in one gives, in order, holds little, and leaves nobody behind."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from zh_embedder.core import parallel
from zh_embedder.core.parallel import in_order, processes_for


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_whoever_is_done_first(processes):
    def slow_first(item: int) -> tuple[int, int]:
        time.sleep(0.05 if item == 0 else 0)
        return item * item, os.getpid()

    results = list(in_order(slow_first, range(20), processes=processes))
    assert [square for square, _ in results] == [i * i for i in range(20)]
    assert (os.getpid() in {pid for _, pid in results}) is (processes == 1)


def test_items_are_taken_only_as_fast_as_results_are():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = in_order(abs, items(), processes=2)
    next(results)
    assert len(taken) <= 2 * parallel.AHEAD + 1
    results.close()
    assert len(taken) <= 2 * parallel.AHEAD + 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_mistake_is_raised_where_the_results_are_read(processes):
    def fails(item: int) -> int:
        return 1 // (5 - item)

    before = psutil.Process().children()  # multiprocessing's own tracker may be there from other tests
    results = in_order(fails, range(10), processes=processes)
    assert [next(results) for _ in range(5)] == [0, 0, 0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert set(psutil.Process().children()) <= set(before)


def test_little_work_starts_no_processes_and_much_work_one_for_each_core(monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    assert [processes_for(items) for items in (0, 1, 3, 4, 7, 8, 1000)] == [1, 1, 1, 2, 3, 4, 4]
    monkeypatch.setattr(parallel, "cores", lambda: 500)
    assert processes_for(1000) == parallel.MOST_PROCESSES
    monkeypatch.setattr(parallel.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert processes_for(1000) == 1


def test_only_the_cores_that_this_process_may_use_are_counted():
    assert parallel.cores() == len(psutil.Process().cpu_affinity())


KILLED = """
import time
from zh_embedder.core.parallel import in_order
results = in_order(lambda _: time.sleep(0.01), range(10**6), processes=3)
next(results)
print("started", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_children_behind():
    parent = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "started\n"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 3
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []
