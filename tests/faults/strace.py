"""Faults at every file operation of a command, by strace: nothing in the product knows of them.

A command is run once as it is, and its operations inside some folders are listed. Then it is run again for each of
them, and dies (or the disk is full) exactly there:

    needs_strace = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))

    command = Command(("-m", "data_tools.convert", "in.csv", "--output", "out/x.jsonl"), cwd=tmp_path)
    for operation in operations(command, [tmp_path / "out"]):
        ...  # bring the folder back to what it was
        struck = strike(command, operation)  # or fault="error=ENOSPC"
        assert struck.reached, operation
        assert struck.code == -signal.SIGKILL  # of ranks: 1, that of their launcher
        ...  # run the command again, compare bytes

An operation is known by its call, its path, and how often that call met that path before, so what else a process does
on the way need not be the same every time. Names drawn at random (those of temporary files) cannot be met again: such
an operation is counted from the last one that can. A process's id in a name is that of the process that is traced.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.processes import Forked, Words, forked, kill_with_children, start

HELD = str(Path(__file__).with_name("held.py"))
KILL, STOP = "signal=KILL", "signal=STOP"
# What changes a folder or a file; opening counts where it may create or empty.
CALLS = (
    "openat", "open", "creat", "write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate", "fallocate",
    "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat",
)  # fmt: skip
CONTENT = ("write", "writev", "pwrite64")  # calls whose text is no path
LINE = re.compile(r"^(\d+) +(\w+)\((.*)$", re.MULTILINE)
DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
STOPPED = re.compile(r"^(\d+) +--- SIGSTOP \{.*\n(?:.*\n)*?\1 +--- stopped by SIGSTOP", re.MULTILINE)
RANDOM = re.compile(r"(^|/)\.?tmp\w{6,8}$")


@dataclass(frozen=True)
class Command:
    """What runs, from the fork server: the words behind `python` (a script, or -m and a module, with its flags)."""

    words: Words
    cwd: Path
    ranks: int = 0  # 0 is alone, else started as torchrun does
    env: dict[str, str] | None = None
    seconds: float = 120


class Place(NamedTuple):
    """Where strace finds an operation: the n-th of a call on a path; on any path where there is none."""

    call: str
    path: str | None
    when: int


class Operation(NamedTuple):
    """One file operation of a command."""

    at: Place
    after: Place | None  # where counting starts, for a name drawn at random
    shown: str  # the line of the trace

    def __str__(self) -> str:
        return self.shown


class Struck(NamedTuple):
    """What became of a command that met a fault."""

    code: int  # as Popen gives it: negative for a signal
    printed: str
    reached: bool  # whether the operation came


@cache
def obstacle() -> str | None:
    """Why nothing can be traced on this machine; None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run(["strace", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else f"strace may not trace here: {probe.stderr.strip()[-200:]}"


def operations(command: Command, folders: Sequence[Path]) -> list[Operation]:
    """Run a command to its end, which must be success; list what it does to these paths and below them, in order."""
    with Traced(command) as traced:
        traced.follow(None, f"trace={','.join(CALLS)}")
        code, printed = traced.finish()
    assert code == 0, f"exit {code}\n{printed[-4000:]}"
    return list(parse(traced.trace(), command.cwd.resolve(), [folder.resolve() for folder in folders]))


def strike(command: Command, operation: Operation, *, fault: str = KILL) -> Struck:
    """Run a command that meets a fault at one operation, before it takes effect.

    Args:
        command: that runs.
        operation: one of `operations`.
        fault: what strace injects: signal=KILL, error=ENOSPC, error=EIO ...
    """
    with Traced(command) as traced:
        if operation.after is not None:
            traced.inject(operation.after, STOP)
            traced.wait_until_stopped()
        traced.inject(operation.at, fault)
        code, printed = traced.finish()
    done = "killed by SIGKILL" if fault == KILL else "(INJECTED)"
    return Struck(code, printed, done in traced.trace())


class Traced:
    """A running command, held until strace follows it."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.folder = tempfile.TemporaryDirectory(prefix="strace-")
        self.tracer: subprocess.Popen[str] | None = None
        self.lines = ""

    def __enter__(self) -> "Traced":
        ranks = self.command.ranks
        self.process = start([*forked(ranks), HELD, *self.command.words], self.command.cwd, env=self.command.env)
        self.pids = stopped(self.process, max(1, ranks), own=not ranks)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            kill_with_children(self.process)
        self.detach()
        self.folder.cleanup()

    def inject(self, place: Place, fault: str) -> None:
        """Follow the command up to a fault."""
        self.follow(place.path, f"trace={place.call}", f"inject={place.call}:{fault}:when={place.when}")

    def follow(self, path: str | None, *expressions: str) -> None:
        """Let the command run on under strace, which looks at calls on this path alone where one is given."""
        self.detach()
        watched = [] if path is None else sorted({path.replace("{pid}", str(pid)) for pid in self.pids})
        words = ["strace", "-f", "-y", "-s", "0", "-o", str(Path(self.folder.name) / "trace")]
        words += [word for expression in expressions for word in ("-e", expression)]
        words += [word for name in watched for word in ("-P", name)]
        words += [word for pid in self.pids for word in ("-p", str(pid))]
        self.tracer = subprocess.Popen(words, cwd=self.command.cwd, stderr=subprocess.PIPE, text=True)
        attached = 0
        while attached < len(self.pids):
            line = self.tracer.stderr.readline()
            assert line, f"strace ended with {self.tracer.wait()}"
            attached += "attached" in line
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def wait_until_stopped(self) -> None:
        """Wait until an injected signal has stopped a process: it alone is followed from there."""
        trace, found = Path(self.folder.name) / "trace", list[str]()

        def has_stopped() -> bool:
            found[:] = STOPPED.findall(trace.read_text("utf-8", "replace"))
            return bool(found) or self.process.poll() is not None

        wait_for(has_stopped)
        self.pids = [int(pid) for pid in found[:1]] or self.pids

    def detach(self) -> None:
        """Take strace off; a stopped process stays stopped."""
        if self.tracer is not None:
            self.tracer.terminate()
            self.tracer.communicate(timeout=10)
            self.lines = (Path(self.folder.name) / "trace").read_text("utf-8", "replace")

    def finish(self) -> tuple[int, str]:
        """Wait for the end of the command; returns its exit code and what it printed."""
        printed, _ = self.process.communicate(timeout=self.command.seconds)
        self.tracer.communicate(timeout=10)
        return self.process.returncode, printed

    def trace(self) -> str:
        """What strace saw, ids of the processes in names replaced."""
        for pid in self.pids:
            for mark in ".-":
                self.lines = self.lines.replace(f".{pid}{mark}", f".{{pid}}{mark}")
        return self.lines


def stopped(process: Forked, count: int, *, own: bool) -> list[int]:
    """Wait until the processes of a start have stopped themselves; returns their ids, that of the first rank first."""
    launcher = psutil.Process(process.pid)

    def all_stopped() -> bool:
        found = [launcher] if own else launcher.children()
        return len(found) == count and all(one.status() == psutil.STATUS_STOPPED for one in found)

    wait_for(all_stopped)
    return [launcher.pid] if own else sorted(child.pid for child in launcher.children())


def wait_for(done, seconds: float = 60) -> None:
    """Wait until something holds, at most a minute."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} seconds")
        time.sleep(0.005)


def parse(trace: str, cwd: Path, folders: Sequence[Path]) -> Iterator[Operation]:
    """Read the operations on some folders out of a trace."""
    met: Counter[tuple[str, str, str]] = Counter()  # of each process: calls on paths
    last: dict[str, Place] = {}  # of each process: the last operation that can be met again
    since: Counter[tuple[str, str]] = Counter()  # of each process: calls since then
    for pid, call, arguments in LINE.findall(trace):
        words = arguments.rpartition(" = ")[0].rstrip() or arguments
        typed = [] if call in CONTENT else [unescape(text) for text in TEXT.findall(words)]
        keys = names(typed, [unescape(path) for path in DESCRIPTOR.findall(words)], cwd)
        if call == "rename":  # strace's -P looks at the first path alone
            keys = [(typed[0], full) for _, full in keys]
        met.update({(pid, call, key) for key, _ in keys})  # openings that only read are met by strace too
        since[pid, call] += 1
        inside = [key for key, full in keys if any(full.is_relative_to(folder) for folder in folders)]
        if not inside or only_reads(call, words):
            continue
        fixed = [key for key in inside if not RANDOM.search(key)]
        if fixed:
            last[pid] = Place(call, fixed[0], met[pid, call, fixed[0]])
            since = Counter({key: count for key, count in since.items() if key[0] != pid})
            yield Operation(last[pid], None, f"{call}({words}")
        else:
            yield Operation(Place(call, None, since[pid, call]), last.get(pid), f"{call}({words}")


def names(typed: Sequence[str], opened: Sequence[str], cwd: Path) -> list[tuple[str, Path]]:
    """Paths of an operation, each as strace's -P takes it and in full: as typed, else that of the descriptor.

    A name below an open folder (unlinkat) is met by the folder's path.
    """
    places = [path for path in opened if path != str(cwd) or not typed]
    if places and typed and not any(Path(text).is_absolute() for text in typed):
        return [(places[0], Path(places[0]) / typed[0]), *((place, Path(place)) for place in places[1:])]
    return [*((text, cwd / text) for text in typed), *((place, Path(place)) for place in places)]


def only_reads(call: str, words: str) -> bool:
    """Whether a call is an opening that neither creates nor empties nor writes."""
    return call in ("open", "openat") and not re.search("O_CREAT|O_TRUNC|O_WRONLY|O_RDWR", words)


def unescape(text: str) -> str:
    """Undo the escapes of strace, which writes bytes beyond ASCII in octal."""
    return text.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")
