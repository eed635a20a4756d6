"""Work on all cores of the machine: results in order, a bounded number of them under way."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from threading import Thread
from typing import Any, TypeVar

MOST_PROCESSES = 32  # one process hands out the work and takes in the results
AHEAD = 2  # items of each process that wait for their turn

Item = TypeVar("Item")
Result = TypeVar("Result")

_inherited: list[Callable[[Any], Any]] = []  # a child's work; not sent, because it may hold what cannot be pickled


def cores() -> int:
    """Return how many cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def processes_for(items: int) -> int:
    """Return how many processes are worth starting for a number of pieces of work; 1 is this process alone."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 1  # a process that has to import everything first pays for nothing
    return max(1, min(cores(), MOST_PROCESSES, items // AHEAD))


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, processes: int) -> Generator[Result, None, None]:
    """Yield `work(item)` of every item, in order.

    The processes are forked, as a loader's workers are: they must not touch an accelerator.
    """
    if processes == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_adopt, initargs=(work,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_run, item))
            if len(waiting) > processes * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _adopt(work: Callable[[Any], Any]) -> None:
    _inherited.append(work)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    Thread(target=_leave_with_parent, daemon=True).start()
    # These processes are the parallelism; and threads that the parent had started would be waited for in vain.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a killed parent cannot end its children


def _run(item: Any) -> Any:
    return _inherited[-1](item)
