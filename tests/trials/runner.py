"""Run the trials: `python -m tests.trials.runner [--only REGEX] [--json out.json] [--jobs 2] [--real] [--build_only]`.

One process imports the heavy libraries and forks for each case; `--real` and the cases that ask for it start true
processes. Every case has a folder of its own, which is hashed before and after.
"""

import argparse
import atexit
import contextlib
import ctypes
import fnmatch
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import re
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.trials.case import EXAMPLES, REPOSITORY, Case
from tests.trials.cases import ALL, PREPARED

VERDICTS = (
    "ok",
    "traceback",
    "wrong_exit",
    "silent",
    "unclear",
    "left_behind",
    "damaged",
    "no_end",
    "not_reached",
    "setup_failed",
    "skipped",
)
TRACEBACK = "Traceback (most recent call last)"
IGNORED_TEMPORARY = ("jieba.cache*", "torchinductor_*")  # of libraries


@dataclass
class Result:
    """What a case did."""

    name: str
    command: str
    expect: str
    verdict: str
    detail: str
    code: int | None
    seconds: float
    output: str


@dataclass
class Ended:
    """How a process ended."""

    code: int
    output: str
    timed_out: bool = False
    signalled: bool = False


# --- the process of a case ----------------------------------------------------------------------------------------


def environment(root: Path, case: Case | None) -> dict[str, str]:
    """A clean environment: only what a case needs, homes and temporary folders of its own, no hub."""
    values: dict[str, str | None] = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if case is not None:
        values.update({name: fill(value, root) if value else value for name, value in case.env.items()})
        if case.shell is not None:
            python = sys.executable
            values["ZH"] = f"{python} -m zh_embedder.cli"
            values["RUN_DENSE"] = f"{python} {REPOSITORY / 'run_dense.py'}"
            values["TOOL"] = f"{python} -m data_tools"
            values["PYTHON"] = python
            values["EX"] = str(EXAMPLES)
    return {name: value for name, value in values.items() if value is not None}


def fill(text: str, root: Path) -> str:
    """Replace {T}, the working folder, and {EX}, the examples."""
    return text.replace("{T}", str(root / "work")).replace("{EX}", str(EXAMPLES))


def lose_privileges() -> bool:
    """Let permissions count for root too: drop the capabilities that override them."""
    if os.geteuid() != 0:
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    override, read_search = 1, 2
    for capability in (override, read_search):
        libc.prctl(24, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        return False
    for start in range(3):  # effective, permitted, inheritable
        data[start] &= ~((1 << override) | (1 << read_search)) & 0xFFFFFFFF
    return libc.capset(header, data) == 0


def child(root: Path, argv: tuple[str, ...], case: Case | None, *, real: bool) -> None:
    """Become the command; never returns."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(root / "work")
        variables = environment(root, case)
        os.environ.clear()
        os.environ.update(variables)
        source = root / "stdin"
        source.write_bytes(b"" if case is None or case.stdin is None else encoded(case.stdin))
        for number, path, flags in (
            (0, source, os.O_RDONLY),
            (1, root / "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            (2, root / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ):
            handle = os.open(path, flags, 0o644)
            os.dup2(handle, number)
            os.close(handle)
        if case is not None and case.permissions and not lose_privileges():
            os._exit(77)
        if case is not None and case.shell is not None:
            os.execve("/bin/bash", ["bash", "-c", fill(case.shell, root)], variables)
        argv = tuple(fill(argument, root) for argument in argv)
        if real:
            os.execve(sys.executable, [sys.executable, "-m", "zh_embedder.cli", *argv], variables)
        code = run_here(argv)
    except BaseException:
        traceback.print_exc()
        code = 71
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_here(argv: tuple[str, ...]) -> int:
    """Call the command's main as its console script would, and end as a process would."""
    import zh_embedder.cli

    tempfile.tempdir = None
    sys.argv = ["zh-embedder", *argv]
    try:
        code = zh_embedder.cli.main(list(argv))
    except SystemExit as exit_:
        code = exit_.code
        if isinstance(code, str):
            sys.stderr.write(code + "\n")
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        getattr(threading, "_shutdown")()  # noqa: B009 - private, but it is what an interpreter does at its end
        getattr(atexit, "_run_exitfuncs")()  # noqa: B009
    return 0 if code is None else int(code)


def encoded(content: str | bytes) -> bytes:
    """Bytes of a content."""
    return content if isinstance(content, bytes) else content.encode("utf-8")


def printed(root: Path) -> str:
    """What the process wrote so far."""
    parts = [(root / name).read_bytes() if (root / name).exists() else b"" for name in ("stdout", "stderr")]
    return b"\n".join(parts).decode("utf-8", errors="replace")


def execute(root: Path, argv: tuple[str, ...], case: Case | None, *, real: bool, timeout: float) -> Ended:
    """Fork, watch, interrupt where the case says so, and end what does not end."""
    for name in ("stdout", "stderr"):
        (root / name).unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        child(root, argv, case, real=real)
    signalled = timed_out = False
    interrupt = None if case is None else case.interrupt
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            break
        elapsed = time.monotonic() - started
        if interrupt is not None and not signalled and due(root, interrupt, elapsed):
            signalled = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                (os.killpg if interrupt.number == signal.SIGINT else os.kill)(process, interrupt.number)
        if elapsed > timeout:
            timed_out = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)  # what the case's own process left running
    code = os.waitstatus_to_exitcode(status)
    return Ended(128 - code if code < 0 else code, printed(root), timed_out, signalled)


def due(root: Path, interrupt, elapsed: float) -> bool:
    """Whether it is time to send the signal."""
    if elapsed > interrupt.after:
        return True
    if interrupt.path is not None and any((root / "work").glob(interrupt.path)):
        return True
    return interrupt.seen is not None and re.search(interrupt.seen, printed(root)) is not None


# --- what is on disk ----------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple]:
    """Everything below a folder: kind, mode and content, without following links."""
    found: dict[str, tuple] = {}
    stack = [folder]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            name = os.path.relpath(entry.path, folder)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                found[name] = ("link", str(Path(entry.path).readlink()))
            elif stat.S_ISDIR(mode):
                found[name] = ("folder", stat.S_IMODE(mode))
                stack.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                found[name] = ("file", stat.S_IMODE(mode), digest(entry.path))
            else:
                found[name] = ("other", stat.S_IFMT(mode))
    return found


def digest(path: str) -> str:
    """The hash of a file."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - names may be odd
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error.errno}"


def allowed(name: str, outputs: tuple[str, ...]) -> bool:
    """Whether a case may change this path."""
    first = name.split("/", maxsplit=1)[0]
    return any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(first, pattern) for pattern in outputs)


def differences(before: dict, after: dict, outputs: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What was changed or lost, and what is new, outside of the allowed outputs."""
    damaged = [name for name in before if after.get(name) != before[name] and not allowed(name, outputs)]
    new = [name for name in after if name not in before and not allowed(name, outputs)]
    return sorted(damaged), sorted(new)


def temporary_leftovers(root: Path) -> list[str]:
    """What is left in TMPDIR."""
    folder = root / "tmp"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in IGNORED_TEMPORARY)]


# --- one case -----------------------------------------------------------------------------------------------------


def fresh_root() -> Path:
    """A folder with work/, home/ and tmp/."""
    root = Path(tempfile.mkdtemp(prefix="trial-")).resolve()
    for name in ("work", "home", "tmp"):
        (root / name).mkdir()
    return root


def remove(root: Path) -> None:
    """Remove a case's folder, whatever its permissions."""
    for folder, _, _ in os.walk(root):
        with contextlib.suppress(OSError):
            Path(folder).chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)


def run_case(case: Case, *, prepared: Path | None, real: bool) -> Result:
    """Build, run and judge a case."""
    root = fresh_root()
    started = time.monotonic()

    def result(verdict: str, detail: str, ended: Ended | None = None) -> Result:
        output = "" if ended is None else ended.output
        shown = output if len(output) < 6000 else output[:1500] + "\n[...]\n" + output[-4500:]
        seconds = round(time.monotonic() - started, 2)
        code = None if ended is None else ended.code
        return Result(case.name, case.command, case.expect, verdict, detail, code, seconds, shown)

    try:
        work = root / "work"
        case.build(work)
        for name in case.needs:
            if prepared is None or not (prepared / name).exists():
                return result("setup_failed", f"no prepared {name}")
            shutil.copytree(prepared / name, work / name, symlinks=True)
        for argv in case.first:
            ended = execute(root, argv, None, real=False, timeout=case.timeout)
            if ended.code != 0:
                return result("setup_failed", f"{' '.join(argv)} ended with {ended.code}", ended)
        if case.tamper is not None:
            case.tamper(work)
        before = snapshot(work)
        ended = execute(root, case.argv, case, real=real or case.real or case.shell is not None, timeout=case.timeout)
        after = snapshot(work)
        return result(*judge(case, ended, before, after, root), ended)
    except Exception:
        return result("setup_failed", traceback.format_exc(limit=4))
    finally:
        remove(root)


def judge(case: Case, ended: Ended, before: dict, after: dict, root: Path) -> tuple[str, str]:
    """The verdict of a case, and why."""
    if ended.code == 77 and case.permissions:
        return "skipped", "permissions cannot be dropped here"
    if ended.timed_out:
        return "no_end", f"still running after {case.timeout:.0f} s"
    if TRACEBACK in ended.output:
        return "traceback", ended.output[ended.output.index(TRACEBACK) :][-400:]
    if case.interrupt is not None and not ended.signalled:
        return "not_reached", f"ended with {ended.code} before the signal"
    wrong = wrong_exit(case, ended)
    if wrong:
        return wrong
    outputs = () if refused(case, ended) else case.outputs
    damaged, new = differences(before, after, outputs)
    if damaged:
        return "damaged", ", ".join(damaged[:8])
    new += [f"TMPDIR/{name}" for name in temporary_leftovers(root) if case.interrupt is None]
    if new:
        return "left_behind", ", ".join(new[:8])
    missing = [pattern for pattern in case.says if not re.search(pattern, ended.output, re.MULTILINE)]
    present = [pattern for pattern in case.absent if re.search(pattern, ended.output, re.MULTILINE)]
    if missing or present:
        detail = f"missing: {missing}" if missing else f"must not occur: {present}"
        return ("silent" if ended.code in (0, 1) and missing else "unclear"), detail
    if case.check is not None and not refused(case, ended):
        problem = case.check(root / "work", ended.output)
        if problem:
            return "silent", problem
    return "ok", ""


def refused(case: Case, ended: Ended) -> bool:
    """Whether the command refused, so that nothing may have changed."""
    return case.expect == "refused" or (case.expect == "heard" and ended.code == 2)


def may_find(case: Case) -> bool:
    """Whether the command's help says that 1 means a finding."""
    return any(name in (case.shell or case.argv[0]) for name in ("doctor", "split"))


def wrong_exit(case: Case, ended: Ended) -> tuple[str, str] | None:
    """Whether the exit code is none of those expected."""
    expected = (
        case.codes
        or {
            "refused": (2,),
            "works": (0,),
            "says": (0,),
            "heard": (0, 1, 2) if may_find(case) else (0, 2),
            "stopped": (130,),
        }[case.expect]
    )
    if ended.code in expected:
        return None
    if case.expect == "refused" and ended.code == 0:
        return "silent", "accepted"
    return "wrong_exit", f"exit {ended.code}, expected {' or '.join(map(str, expected))}"


# --- all cases ----------------------------------------------------------------------------------------------------


def import_everything() -> None:
    """Import what the commands use, once, so that a case costs a fork."""
    for name in ("torch", "transformers", "jieba", "zh_embedder.cli", "data_tools"):
        importlib.import_module(name)
    import jieba

    jieba.setLogLevel(60)
    jieba.initialize()
    for package in ("zh_embedder", "data_tools"):
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, package + "."):
            if not found.name.endswith("__main__"):
                with contextlib.suppress(Exception, SystemExit):
                    importlib.import_module(found.name)
    gc.collect()
    gc.freeze()  # a child's collections then leave the shared pages alone


def prepare(names: set[str], folder: Path) -> list[str]:
    """Make the folders that several cases start from; the commands that failed."""
    failures = []
    for name in sorted(names):
        maker = PREPARED[name]
        root = fresh_root()
        maker.build(root / "work")
        ended = execute(root, maker.argv, maker, real=False, timeout=120)
        made = root / "work" / name
        if ended.code == 0 and made.exists():
            shutil.copytree(made, folder / name, symlinks=True)
        else:
            failures.append(f"{name}: {' '.join(maker.argv)} ended with {ended.code}\n{ended.output[-2000:]}")
        remove(root)
    return failures


_STATE: dict = {}


def _run_number(number: int) -> Result:
    return run_case(_STATE["cases"][number], prepared=_STATE["prepared"], real=_STATE["real"])


def run_all(cases: list[Case], *, jobs: int = 2, real: bool = False, progress: bool = False) -> list[Result]:
    """Run cases in `jobs` servers that fork; in the order of `cases`."""
    os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"})
    folder = Path(tempfile.mkdtemp(prefix="trials-prepared-"))
    try:
        import_everything()
        for failure in prepare({name for case in cases for name in case.needs}, folder):
            sys.stderr.write(failure + "\n")
        _STATE.update(cases=cases, prepared=folder, real=real)
        shipped = snapshot(EXAMPLES), snapshot(REPOSITORY / "instructions")
        results: list[Result] = []
        # The long ones first, so that no server waits for the other at the end.
        order = sorted(range(len(cases)), key=lambda number: not (cases[number].real or cases[number].shell))
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            for result in pool.imap_unordered(_run_number, order):
                results.append(result)
                if progress:
                    sys.stderr.write(f"{len(results)}/{len(cases)} {result.verdict:12} {result.name}\n")
        if shipped != (snapshot(EXAMPLES), snapshot(REPOSITORY / "instructions")):
            results.append(
                Result("shipped files", "all", "works", "damaged", "examples/ or instructions/", None, 0, "")
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    place = {case.name: number for number, case in enumerate(cases)}
    return sorted(results, key=lambda result: place.get(result.name, len(cases)))


def table(results: list[Result]) -> str:
    """Commands by verdicts."""
    counts = Counter((result.command, result.verdict) for result in results)
    verdicts = [verdict for verdict in VERDICTS if any(counts[command, verdict] for command, _ in counts)]
    commands = list(dict.fromkeys(result.command for result in results))
    rows = [["command", *verdicts, "all"]]
    for command in commands:
        numbers = [counts[command, verdict] for verdict in verdicts]
        rows.append([command, *map(str, numbers), str(sum(numbers))])
    totals = [sum(counts[command, verdict] for command in commands) for verdict in verdicts]
    rows.append(["all", *map(str, totals), str(sum(totals))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def build_only(cases: list[Case]) -> int:
    """Build the files of every case, prepared folders and tampering included, and run nothing else."""
    failures = 0
    folder = Path(tempfile.mkdtemp(prefix="trials-prepared-"))
    names = {name for case in cases for name in case.needs}
    if names:
        import_everything()
        for failure in prepare(names, folder):
            failures += 1
            sys.stdout.write(failure + "\n")
    for case in cases:
        root = fresh_root()
        try:
            case.build(root / "work")
            for name in case.needs:
                shutil.copytree(folder / name, root / "work" / name, symlinks=True)
            if case.tamper is not None and not case.first:
                case.tamper(root / "work")
        except Exception:
            failures += 1
            sys.stdout.write(f"{case.name}\n{traceback.format_exc()}\n")
        finally:
            remove(root)
    shutil.rmtree(folder, ignore_errors=True)
    counts = Counter(case.command for case in cases)
    for command, number in sorted(counts.items()):
        sys.stdout.write(f"{command:12} {number}\n")
    expectations = ", ".join(f"{name} {number}" for name, number in Counter(case.expect for case in cases).items())
    sys.stdout.write(f"{len(cases)} cases ({expectations}); {failures} could not be built\n")
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", help="run the cases whose name (it begins with the command) matches this regular expression"
    )
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--real", action="store_true", help="start a true process for every case")
    parser.add_argument("--build_only", action="store_true", help="write the files of every case and run nothing")
    parser.add_argument("--quiet", action="store_true", help="no line per case")
    options = parser.parse_args(argv)
    cases = [case for case in ALL if not options.only or re.search(options.only, case.name)]
    if options.build_only:
        return build_only(cases)
    started = time.monotonic()
    results = run_all(cases, jobs=options.jobs, real=options.real, progress=not options.quiet)
    if options.json:
        Path(options.json).write_text(
            json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=1), encoding="utf-8"
        )
    failed = [result for result in results if result.verdict not in ("ok", "skipped")]
    for result in failed:
        last = "\n".join("    | " + line for line in result.output.strip().splitlines()[-12:])
        sys.stdout.write(
            f"\n{result.verdict}: {result.name} "
            f"(expected {result.expect}, exit {result.code}, {result.seconds} s)\n    {result.detail}\n{last}\n"
        )
    sys.stdout.write(f"\n{table(results)}\n\n{len(failed)} of {len(results)} failed, ")
    sys.stdout.write(f"{time.monotonic() - started:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
