"""Real processes for tests: run_dense.py alone, under torchrun, or through DeepSpeed's launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "run_dense.py")
ALONE = (sys.executable,)
BIN = Path(sys.executable).parent
FORKS = """
import json, os, runpy, sys
import zh_embedder.data.records, zh_embedder.training.dense_trainer  # what takes seconds, once for all
for number, (script, words, folder, cache, printed) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.environ["ZH_EMBEDDER_CACHE"] = cache
        out = os.open(printed, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = [script, *words]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:  # taking down what was imported would take longer than the run
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(end.code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def torchrun(ranks: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")


def environment(cwd: Path) -> dict[str, str]:
    """Nothing is shared with the machine but the interpreter: this tree's code, own cache, no hub, ninja on PATH."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    ours = {"ZH_EMBEDDER_CACHE": str(cwd / "cache"), "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **ours}


def start(words, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [str(word) for word in words],
        cwd=cwd,
        env=environment(cwd),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(*flags, cwd: Path, launcher=ALONE, expect: int = 0) -> str:
    """Run run_dense.py to its end; returns what it printed."""
    process = start([*launcher, SCRIPT, *flags], cwd)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == expect, f"exit {process.returncode}\n{printed[-6000:]}"
    return printed


def run_each(commands: list[tuple[Path, list]], *, at_once: int = 2) -> list[tuple[str, int]]:
    """Run run_dense.py once for each (folder, flags), as processes that share their imports.

    Each is forked from a process that has imported the library and done nothing else, so it prints, exits and writes as
    one that was started by hand, but for the taking down of the interpreter.

    Returns:
        What each printed, with its exit code.
    """
    places = [(folder, flags, folder.with_name(f"{folder.name}.printed")) for folder, flags in commands]
    servers = []
    for first in range(at_once):
        own = [(SCRIPT, list(map(str, f)), str(p), str(p / "cache"), str(out)) for p, f, out in places[first::at_once]]
        environ = environment(places[0][0].parent)
        server = subprocess.Popen([sys.executable, "-c", FORKS], env=environ, stdin=-1, stdout=-1, stderr=-1, text=True)
        server.stdin.write(json.dumps(own))
        server.stdin.close()
        servers.append(server)
    codes: dict[int, int] = {}
    for first, server in enumerate(servers):
        told, complaints = server.stdout.read(), server.stderr.read()
        assert server.wait() == 0, complaints[-3000:]
        codes |= dict(zip(range(first, len(places), at_once), map(int, told.split()), strict=True))
    return [(out.read_text("utf-8"), codes[number]) for number, (_, _, out) in enumerate(places)]


def state(run_folder: Path, step: int) -> dict:
    return json.loads((run_folder / f"checkpoint-{step}" / "trainer_state.json").read_text())


def losses(run_folder: Path, step: int) -> list[float]:
    """Loss of every logged step, from the state of a checkpoint."""
    return [entry["loss"] for entry in state(run_folder, step)["log_history"] if "loss" in entry]


def weights(encoder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(encoder / "model.safetensors")
