"""Real processes for tests: forked from one that has imported what takes seconds, or started by a launcher."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from subprocess import Popen

import psutil

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "run_dense.py")
ALONE = (sys.executable,)
BIN = Path(sys.executable).parent
FORKED = "forked"  # the first word of a start that the fork server takes
Words = Sequence[str | int | float | Path]


class Forked:
    """A process of the fork server, with what tests use of Popen."""

    def __init__(self, server: "ForkServer", number: int, files: tuple[Path, Path]) -> None:
        self.server, self.number, self.files = server, number, files

    @property
    def pid(self) -> int:
        while "pid" not in self.server.answers(self.number):
            self.server.listen(None)
        return self.server.answers(self.number)["pid"]

    @property
    def returncode(self) -> int | None:
        return self.server.answers(self.number).get("code")

    def poll(self) -> int | None:
        self.server.listen(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(str(self.files[0]), timeout)
            self.server.listen(left)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; returns what was printed, and what came on stderr where that was kept apart."""
        self.wait(timeout)
        out, err = self.files
        return out.read_text("utf-8"), err.read_text("utf-8") if err != out else ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """tests/fork_server.py, and the way to it."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="forks-")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fork_server.py")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.found: list[dict] = []
        self.pending = b""

    def fork(self, words: Words, cwd: Path, env: dict[str, str], *, ranks: int, apart: bool) -> Forked:
        number = len(self.found)
        out = Path(self.folder.name) / f"{number}.out"
        err = out.with_suffix(".err") if apart else out
        request = {"id": number, "words": [*map(str, words)], "ranks": ranks, "cwd": str(cwd), "env": env}
        for file in {out, err}:
            file.touch()
        self.process.stdin.write(json.dumps({**request, "stdout": str(out), "stderr": str(err)}).encode() + b"\n")
        self.process.stdin.flush()
        self.found.append({})
        return Forked(self, number, (out, err))

    def answers(self, number: int) -> dict:
        return self.found[number]

    def listen(self, seconds: float | None) -> None:
        """Take in what the server has to say; waits for something at most so long."""
        pipe = self.process.stdout.fileno()
        if not select.select([pipe], [], [], seconds)[0]:
            return
        block = os.read(pipe, 1 << 16)
        assert block, f"the fork server has ended: {self.process.wait()}"
        *lines, self.pending = (self.pending + block).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self.found[answer.pop("id")] |= answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


@cache
def fork_server() -> ForkServer:
    """One for all tests of this process, started by the first that needs it."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def forked(ranks: int = 0) -> tuple[str, str]:
    """Start Python from a process that has imported the heavy libraries: alone, or as ranks like those of torchrun."""
    return FORKED, str(ranks)


def torchrun(ranks: int) -> tuple[str, ...]:
    """The launcher itself, which imports everything once for every rank: where the launcher is what is tested."""
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")


def environment(cwd: Path) -> dict[str, str]:
    """Nothing is shared with the machine but the interpreter: this tree's code, own cache, no hub, ninja on PATH."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    ours = {"ZH_EMBEDDER_CACHE": str(cwd / "cache"), "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **ours}


def start(words: Words, cwd: Path, *, env: dict[str, str] | None = None, apart: bool = False) -> Popen | Forked:
    """Start a process; stdout and stderr come together, or apart."""
    words, env = [str(word) for word in words], environment(cwd) if env is None else env
    if words[0] == FORKED:
        return fork_server().fork(words[2:], cwd, env, ranks=int(words[1]), apart=apart)
    return Popen(
        words,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if apart else subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_with_children(process: Popen | Forked) -> None:
    """SIGKILL a process and all that it started, in whichever session."""
    own = psutil.Process(process.pid)
    for one in [*own.children(recursive=True), own]:
        one.kill()
    process.communicate()


def finish(process: Popen | Forked, *, expect: int = 0) -> str:
    """Wait for the end of a process and hold its exit code; returns what it printed."""
    try:
        printed, _ = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        kill_with_children(process)
        raise
    assert process.returncode == expect, f"exit {process.returncode}\n{printed[-6000:]}"
    return printed


def run(*flags: str | int | float | Path, cwd: Path, launcher: Words = (FORKED, "0"), expect: int = 0) -> str:
    """Run run_dense.py to its end; returns what it printed."""
    return finish(start([*launcher, SCRIPT, *flags], cwd), expect=expect)


def run_each(commands: Sequence[tuple[Path, Words]], *, at_once: int = 2) -> list[tuple[str, int]]:
    """Run run_dense.py once for each (folder, flags), a few at once; returns what each printed, with its exit code."""
    started: list[Forked] = []
    for folder, flags in commands:
        if len(started) >= at_once:
            started[-at_once].wait(400)
        started.append(start([*forked(), SCRIPT, *flags], folder))
    return [(one.communicate(400)[0], one.returncode) for one in started]


def state(run_folder: Path, step: int) -> dict:
    return json.loads((run_folder / f"checkpoint-{step}" / "trainer_state.json").read_text())


def losses(run_folder: Path, step: int) -> list[float]:
    """Loss of every logged step, from the state of a checkpoint."""
    return [entry["loss"] for entry in state(run_folder, step)["log_history"] if "loss" in entry]


def weights(encoder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(encoder / "model.safetensors")
