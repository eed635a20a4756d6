"""The faults themselves: a process dies at the operation that was named, before it takes effect."""

import shutil
import signal

import pytest

from tests.faults.strace import Command, obstacle, operations, strike

pytestmark = [pytest.mark.slow, pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))]
SCRIPT = """
import os, shutil, tempfile
os.mkdir("out/新")
with tempfile.NamedTemporaryFile("w", dir="out/新", delete=False) as stream:
    stream.write("a")
os.rename(stream.name, "out/新/one")
with open(f"out/.two.{os.getpid()}.partial", "w") as stream:
    stream.write("b")
    stream.flush()
    open("out/新/one").read()
    stream.write("c")
os.rename(stream.name, "out/two")
shutil.rmtree("out/新")
"""
# Each operation in order, with what is below the folder when the process dies in front of it.
SEEN = [
    ("mkdir", []), ("openat", ["新"]), ("write", ["新", "新/TMP"]), ("rename", ["新", "新/TMP=a"]),
    ("openat", ["新", "新/one=a"]), ("write", [".two.PID.partial", "新", "新/one=a"]),
    ("write", [".two.PID.partial=b", "新", "新/one=a"]), ("rename", [".two.PID.partial=bc", "新", "新/one=a"]),
    ("unlinkat", ["two=bc", "新", "新/one=a"]), ("rmdir", ["two=bc", "新"]),
]  # fmt: skip


def below(folder):
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        name = "/".join(
            "TMP" if p.startswith("tmp") else "PID".join(p.split(p[5:-8])) if "two." in p else p for p in parts
        )
        content = path.read_text() if path.is_file() else ""
        found.append(f"{name}={content}" if content else name)
    return found


def test_each_operation_is_met_before_it_takes_effect(tmp_path):
    (tmp_path / "work.py").write_text(SCRIPT, "utf-8")
    command, out = Command(("work.py",), tmp_path), tmp_path / "out"
    out.mkdir()
    found, seen = operations(command, [out]), []
    for operation in found:
        shutil.rmtree(out)
        out.mkdir()
        struck = strike(command, operation)
        assert struck.reached, str(operation)
        assert struck.code == -signal.SIGKILL
        seen.append((operation.at.call, below(out)))
    assert seen == SEEN


def test_a_full_disk_is_met_by_the_command(tmp_path):
    (tmp_path / "work.py").write_text(SCRIPT, "utf-8")
    command, out = Command(("work.py",), tmp_path), tmp_path / "out"
    out.mkdir()
    *_, last = (one for one in operations(command, [out]) if one.at.call == "write")
    shutil.rmtree(out)
    out.mkdir()
    struck = strike(command, last, fault="error=ENOSPC")
    assert (struck.code, struck.reached) == (1, True)
    assert "No space left on device" in struck.printed
