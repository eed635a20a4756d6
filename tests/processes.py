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


def state(run_folder: Path, step: int) -> dict:
    return json.loads((run_folder / f"checkpoint-{step}" / "trainer_state.json").read_text())


def losses(run_folder: Path, step: int) -> list[float]:
    """Loss of every logged step, from the state of a checkpoint."""
    return [entry["loss"] for entry in state(run_folder, step)["log_history"] if "loss" in entry]


def weights(encoder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(encoder / "model.safetensors")
