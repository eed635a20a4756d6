"""One process that has imported the heavy libraries, and forks itself for every Python process that a test starts.

Importing torch and transformers takes seconds of a start, the work of most tests takes less. Our own library is not
imported here: every fork imports the one that its PYTHONPATH names, and reads its environment as a fresh process does.
It prints, exits and writes as one started by hand would, but all forks hash strings alike.

Requests come as lines of JSON on stdin: an id, the words behind `python`, ranks, cwd, env, and the files of stdout and
stderr. Answers leave as lines on stdout: the id with the pid, and later the id with the exit code, as in Popen.
"""

import atexit
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from importlib import import_module, reload
from pathlib import Path
from types import ModuleType

HEAVY = (
    "torch",
    "torch.distributed",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "transformers",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "accelerate",
    "datasets",
    "deepspeed",
    "peft",
    "ir_measures",
    "bm25s",
)
HUB = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
READ_BY_HUB = {name: os.environ.get(name) for name in HUB}


def serve() -> None:
    """Answer requests until stdin ends."""
    told = os.environ.copy()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, which accelerate imports, warns; forks start without
    for name in HEAVY:
        import_module(name)
    os.environ.clear()
    os.environ.update(told)
    check_threads()
    answers, running = os.dup(1), {}
    os.dup2(2, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pending = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            while running:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                say(answers, id=running.pop(pid), code=os.waitstatus_to_exitcode(status))
        if 0 in ready:
            block = os.read(0, 1 << 16)
            if not block:
                return
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if not pid:
                    os.close(answers)
                    live(request)
                running[pid] = request["id"]
                say(answers, id=request["id"], pid=pid)


def check_threads() -> None:
    """Refuse to fork where threads run: a fork has one of them. That of pyarrow's jemalloc is started anew in forks."""
    names = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").glob("*")]
    if len(others := [name for name in names if name != "jemalloc_bg_thd"]) > 1:
        raise RuntimeError(f"threads run already: {others}")


def say(answers: int, **words: int) -> None:
    os.write(answers, json.dumps(words).encode() + b"\n")


def live(request: dict) -> None:
    """Be the process that was asked for, to its end."""
    try:
        prepare(request)
        code = code_of(request["words"])
        threading._shutdown()  # the rest as the interpreter ends, but without taking down what was imported: that
        atexit._run_exitfuncs()  # takes longer than many a run
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        code = 1
    os._exit(code)


def prepare(request: dict) -> None:
    """Forget the server, and get the place, the words and the environment of the process that was asked for."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    ours = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(request["cwd"])
    if request["ranks"]:
        become_rank(request["ranks"])
    reread_hub()
    if filters := os.environ.get("PYTHONWARNINGS"):
        warnings._processoptions(filters.split(","))
    random.seed()
    sys.modules["numpy"].random.seed()
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = filter(None, [*own, *(path for path in sys.path[1:] if path not in ours)])


def reread_hub() -> None:
    """Let huggingface_hub read its variables again: it does so when it is imported, which the server has done."""
    if any(os.environ.get(name) != value for name, value in READ_BY_HUB.items()):
        constants = reload(sys.modules["huggingface_hub.constants"])
        sys.modules["huggingface_hub.hf_api"].api.endpoint = constants.ENDPOINT


def code_of(words: list[str]) -> int:
    """Run `python words`; returns the exit code that the interpreter would give."""
    try:
        if words[0] == "-m":
            sys.argv, sys.path[:0] = words[1:], [str(Path.cwd())]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv, sys.path[:0] = ["-c", *words[2:]], [""]
            sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
        else:
            sys.argv, sys.path[:0] = words, [str(Path(words[0]).absolute().parent)]
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            sys.stderr.write(f"{stopped.code}\n")
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def become_rank(ranks: int) -> None:
    """Become one of so many ranks, under a process that does what torchrun does on one machine.

    It holds the store where they meet, waits for all, ends the others where one fails, and has no other work.
    """
    meeting = socket.create_server(("127.0.0.1", 0))
    started = set()
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            os.setsid()
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
            store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting.getsockname()[1]}
            elastic = {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
            os.environ.update({name: str(value) for name, value in (own | store | elastic).items()})
            meeting.close()
            return
        started.add(pid)
    address = meeting.getsockname()
    store = sys.modules["torch"].distributed.TCPStore(
        *address, is_master=True, wait_for_workers=False, master_listen_fd=meeting.detach()
    )
    code = 0
    while started:
        pid, status = os.wait()
        started.discard(pid)
        if status and not code:
            code = 1
            for other in started:
                os.kill(other, signal.SIGTERM)
    del store
    os._exit(code)


if __name__ == "__main__":
    serve()
