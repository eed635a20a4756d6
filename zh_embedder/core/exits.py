"""End of a command: its exit code, one message for a mistake, and a report to paste for a bug.

0: done. 1: a command's finding, or a bug of ours, whose traceback goes into a file. 2: a mistake of the user's or a
fault of the machine's, in one message. 130: stopped by Ctrl-C, 143: by SIGTERM. 141: its reader went away.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from zh_embedder.core.errors import explain, visible

BUG = 1
MISTAKE = 2
CLOSED = 141  # the reader of its output went away, as `| head` does: 128 + SIGPIPE
STOPPED = 130  # exit code of a program that was ended by Ctrl-C
TERMINATED = 143  # of one that was asked to end, by a scheduler or `kill`
SHOWN_PACKAGES = ("zh-embedder", "torch", "transformers", "sentence-transformers")


class Terminated(KeyboardInterrupt):
    """SIGTERM: unfinished files are removed on the way out, as with Ctrl-C."""


def answer_sigterm() -> None:
    """Let SIGTERM raise `Terminated` in this process; its children, which inherit the handler, just end."""
    owner = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)


def exit_code(work: Callable[[], object], *, hint: str = "", shown: bool = True, answers: bool = True) -> int:
    """Do a command's work; returns its exit code, everything reported without a traceback.

    Args:
        work: what to do.
        hint: what to add to the message when it is stopped.
        shown: whether this process speaks for all ranks; bugs are reported by each.
        answers: whether SIGTERM clears up first. A rank that waits for others in a collective could not, and its
            launcher would wait for it.
    """
    open_streams()
    answers = answers and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if answers:
        answer_sigterm()
    try:
        try:
            work()
        finally:
            if not isinstance(sys.exception(), Exception):  # done, or argparse's end after --help
                sys.stdout.flush()
    except BrokenPipeError:  # `| head`: no reader is left to tell
        silence(sys.stdout.fileno())
        return CLOSED
    except KeyboardInterrupt as stop:
        if shown:
            sys.stderr.write(f"\nstopped{hint}\n")
        return TERMINATED if isinstance(stop, Terminated) else STOPPED
    except Exception as error:
        return report(error, shown=shown)
    finally:
        if answers:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    return 0


def open_streams() -> None:
    """Give a process whose streams its parent closed others that go nowhere, and let none fail at a character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - as long as the process
            setattr(sys, name, stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):  # an ASCII terminal shows \u4e2d
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def importing() -> Iterator[None]:
    """End at once on Ctrl-C: an interrupted import of a compiled library leaves an interpreter that may crash.

    Nothing has been written yet then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)


def leave(number: int, frame: FrameType | None) -> None:
    """End the process."""
    with suppress(OSError):
        os.write(2, b"\nstopped\n")
    os._exit(STOPPED)


def silence(stream: int) -> None:
    """Send what is left for a closed or full stream nowhere; the interpreter would complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def report(error: Exception, *, shown: bool = True) -> int:
    """Say what went wrong; returns the exit code."""
    if "tqdm" in sys.modules:
        from zh_embedder.core.progress import end_bars

        end_bars()
    said = explain(error)
    if said is None:
        sys.stderr.write(visible(bug(error)))
        return BUG
    if shown:
        sys.stderr.write(f"error: {visible(said)}\n")
    if isinstance(error, OSError) and error.filename is None:
        try:
            sys.stdout.flush()
        except OSError:  # `> /dev/full`: what is left can go nowhere
            silence(sys.stdout.fileno())
    return MISTAKE


def bug(error: Exception) -> str:
    """Write the traceback of a bug to a file; returns what to show, with a block to paste into a report."""
    import platform  # all of these only here: the start of every command would pay for them
    import tempfile
    import traceback

    from zh_embedder.core.provenance import command, installed

    text = "".join(traceback.format_exception(error))
    last = traceback.extract_tb(error.__traceback__)[-1:]
    at = "".join(f", {Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in last)
    versions = ", ".join(f"{name} {version}" for name in SHOWN_PACKAGES if (version := installed(name)))
    block = (
        f"command: {command(sys.argv)}\n"
        f"error: {type(error).__name__}: {str(error)[:500]}{at}\n"
        f"versions: {versions}, Python {platform.python_version()}, {platform.system()} {platform.machine()}\n"
    )
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="zh-embedder-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as stream:
            stream.write(f"{block}\n{text}")
        where = f"Its traceback is in {stream.name}. Please report it with that file and this block:"
    except OSError:  # nowhere to write to: then it is shown after all
        where, block = "Please report it with this block:", f"{block}\n{text}"
    return f"error: this is a bug in zh-embedder.\n{where}\n\n{block}"
