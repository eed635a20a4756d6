"""Every command that writes meets kills and full disks: one message, and the next run makes the output whole."""

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.commands import FILLER, WRITERS, left, prepare
from tests.faults.strace import Command, obstacle, operations, strike
from tests.processes import forked, start

SECONDS = 25
pytestmark = pytest.mark.slow
traced = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))
ALL = pytest.mark.full
SAMPLE = 2
MOUNT = ("mount", "-t", "tmpfs", "-o")
EVERY = ("encode", "mine", "convert")  # killed at each of their operations
MANY = ("score", "split", "export", "pretrain", "bases")
WRITES = ("write", "writev", "pwrite64", "openat", "open", "creat", "mkdir", "mkdirat", "ftruncate", "fsync", "rename")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    prepare(folder)
    return folder


@pytest.fixture
def folder(material, tmp_path):
    shutil.copytree(material, tmp_path / "work")
    return tmp_path / "work"


def run(folder, writer) -> tuple[int, str]:
    process = start([*forked(0), *writer.argv()], folder)
    printed, _ = process.communicate(timeout=120)
    return process.returncode, printed


def again(folder, name, writer) -> None:
    """Run once more as a user does: the same command, with what its message asks for."""
    code, printed = run(folder, writer)
    if code and "--resume_from_checkpoint True" in printed:  # training: from the newest checkpoint
        code, printed = run(folder, more(writer, "--resume_from_checkpoint True"))
        if code and "no complete checkpoint" in printed:
            code, printed = run(folder, more(writer, "--overwrite"))
    if code and "is there already" in printed:  # killed when all was done, or between the files of a split
        assert writer.results(folder), f"{name}: {printed}"
        code = run(folder, more(writer, "--overwrite"))[0] if name == "split" else 0
    assert code == (1 if name == "doctor" and code == 1 else 0), f"{name}: {printed}"


def more(writer, flags):
    return replace(writer, words=f"{writer.words} {flags}")


def chosen(found, share):
    return found if share is None else found[len(found) // (2 * share) :: -(-len(found) // share)]


def expected_of(folder, writer):
    """What an undisturbed run writes, and its operations."""
    found = operations(Command(writer.argv(), folder), [folder / "out"])
    result = writer.results(folder)
    assert result
    shutil.rmtree(folder / "out")
    return result, found


@traced
@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("convert", SAMPLE),
        *(pytest.param(name, None, marks=ALL) for name in EVERY),
        *(pytest.param(name, 30, marks=ALL) for name in MANY),
    ],
    ids=lambda value: value if isinstance(value, str) else "all" if value is None else f"{value} points",
)
def test_a_command_killed_at_a_file_operation_makes_the_same_bytes_the_next_time(name, share, folder, record_property):
    writer = WRITERS[name]
    expected, found = expected_of(folder, writer)
    # Syncing changes nothing that can be read: a kill there leaves what a kill at the next operation does.
    points = chosen([one for one in found if one.at.call not in ("fsync", "fdatasync")], share)
    for number, operation in enumerate(points):
        shutil.rmtree(folder / "out", ignore_errors=True)
        struck = strike(Command(writer.argv(), folder), operation)
        assert struck.reached, f"{number}: {operation}"
        assert struck.code == -signal.SIGKILL, f"{number}: {operation}\n{struck.printed}"
        again(folder, name, writer)
        assert writer.results(folder) == expected, f"{number}: {operation}"
        assert [one for one in left(folder, writer) if "partial" in one or one.endswith(".lock")] == []
    record_property("points", len(points))


@traced
@pytest.mark.parametrize(
    ("name", "share"),
    [("mine", SAMPLE), *(pytest.param(name, 12, marks=ALL) for name in WRITERS)],
    ids=lambda value: value if isinstance(value, str) else f"{value} points",
)
def test_no_space_at_a_file_operation_is_one_message_that_names_the_file(name, share, folder, record_property):
    writer = WRITERS[name]
    expected, every = expected_of(folder, writer)
    found = [one for one in every if one.at.call in WRITES]
    points = chosen(found, share)
    for number, operation in enumerate(points):
        shutil.rmtree(folder / "out", ignore_errors=True)
        struck = strike(Command(writer.argv(), folder), operation, fault="error=ENOSPC")
        assert struck.reached, f"{number}: {operation}"
        if struck.code == 0:  # what failed was not needed, such as making a folder that is there
            assert writer.results(folder) == expected, f"{number}: {operation}"
            continue
        check_refusal(name, writer, folder, struck.code, struck.printed, f"{number}: {operation}")
        again(folder, name, writer)
        assert writer.results(folder) == expected, f"{number}: {operation}"
    record_property("points", len(points))


def check_refusal(name, writer, folder, code, printed, shown):
    """Exit code 2, one message with a file of the output, nothing half-written."""
    assert "Traceback" not in printed, f"{shown}\n{printed}"
    assert code == 2, f"{shown}: exit {code}\n{printed}"
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, f"{shown}\n{printed}"
    assert "out" in errors[0], errors
    assert "No space left" in errors[0] or "disk" in errors[0], errors
    assert left(folder, writer) == [], shown


# ---- a disk that is really full --------------------------------------------------------------------------------------


def cannot_mount() -> str | None:
    """Why no file system can be mounted here; None where one can."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "mounting a small disk needs root"
    probe = Path("/tmp") / f"probe-{os.getpid()}"
    probe.mkdir()
    try:
        done = subprocess.run([*MOUNT, "size=64k", "tmpfs", probe], check=False, capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", probe], check=True)
        return None if done.returncode == 0 else f"no disk can be mounted: {done.stderr.decode().strip()}"
    finally:
        probe.rmdir()


@contextmanager
def small_disk(place: Path, free: int):
    """A disk of 32 MiB at a place, all but some bytes of it taken; yields what gives them back."""
    place.mkdir()
    subprocess.run([*MOUNT, "size=32m", "tmpfs", place], check=True)
    try:
        filler = place / FILLER
        room = shutil.disk_usage(place).free
        filler.write_bytes(b"\0" * (room - free))
        yield filler.unlink
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


@pytest.mark.skipif(cannot_mount() is not None, reason=str(cannot_mount()))
@pytest.mark.parametrize(
    "share", [pytest.param(0.0, id="nothing free"), pytest.param(0.6, id="too little free", marks=ALL)]
)
@pytest.mark.parametrize("name", [name if name == "score" else pytest.param(name, marks=ALL) for name in WRITERS])
def test_a_full_disk_is_one_message_and_with_space_the_next_run_goes_through(name, share, folder):
    writer = WRITERS[name]
    code, printed = run(folder, writer)
    assert code in (0, 1), printed
    expected = writer.results(folder)
    size = sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file())
    shutil.rmtree(folder / "out")
    with small_disk(folder / "out", int(size * share) // 4096 * 4096) as make_space:
        code, printed = run(folder, writer)
        written = writer.results(folder)
        if code != 2:  # it fitted: pages and blocks are rounded
            assert share, printed
            assert written == expected
            return
        check_refusal(name, writer, folder, code, printed, name)
        assert all(expected[path] == content for path, content in written.items() if path in expected)
        make_space()
        again(folder, name, writer)
        assert writer.results(folder) == expected
