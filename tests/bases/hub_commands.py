"""Commands that load models from a hub on loopback, and what they print."""

import json
import re

from tests.processes import environment, finish, forked, start

# Commands one after the other in one process, each with variables of its own: label -> exit code and what it printed.
COMMANDS = """
import contextlib, io, json, os, sys
from zh_embedder.cli import main
found = {}
for label, words, env in json.loads(sys.argv[1]):
    os.environ.update(env)
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        code = main(words)
    for name in env:
        del os.environ[name]
    found[label] = code, shown.getvalue()
sys.stdout.write("\\n" + json.dumps(found))
"""
LOAD = """
import sys
from zh_embedder.models.encoder import load_encoder
load_encoder(sys.argv[1])
"""


def encode(model, out):
    return ["encode", str(model), "texts.txt", "--output_dir", out, "--dtype", "fp32"]


def variables(folder, hub, **more) -> dict[str, str]:
    """A user's machine with an empty cache and a hub."""
    names = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    kept = {name: value for name, value in environment(folder).items() if name not in names}
    short = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return kept | short | {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf")} | more


def begin(cases, folder, env):
    """Start the commands of one process; each case is a label, the words, and variables."""
    (folder / "texts.txt").write_text("今天天气很好\n怎么离婚\n", "utf-8")
    return start([*forked(), "-c", COMMANDS, json.dumps(cases)], folder, env=env)


def results(process):
    """Label -> (exit code, what was printed)."""
    return {label: tuple(found) for label, found in json.loads(finish(process).splitlines()[-1]).items()}


def vectors(folder, out) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((folder / out).glob("*.npy")))


def check_message(found, name, *parts):
    """One message without a traceback, which names the model, what happened and what to do."""
    code, shown = found
    assert code == 2, shown
    (error,) = re.findall(r"^error: .*(?:\n  - .*)*", shown, re.M)
    assert f"{name} could not be loaded" in error
    for part in parts:
        assert part in error
    assert "Traceback" not in shown
    assert "nano-zh, a small base" in error
