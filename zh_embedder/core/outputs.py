"""Outputs of a command, checked before anything is read, and written by one process at a time."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from zh_embedder.core.errors import UserError
from zh_embedder.core.files import HIDDEN, missing_parents, real, remove_empty, short_name, sweep

OVERWRITE = "--overwrite"
GENERATOR = '<meta name="generator" content="zh-embedder">'  # of every page
# How the JSON begins that evaluate and mteb write, and the doctor's.
FIGURES = re.compile(r'\[\s+\{\s+"model": "[^\n]*,\s+"data": "[^\n]*,\s+"metric": "[^\n]*,\s+"value": ')
FINDINGS = re.compile(r'\{\s+"findings": \[')
PEEK = 1 << 16  # characters of an earlier result that are looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A file or folder that a command is about to write."""

    flag: str  # as it is typed
    path: Path
    folder: bool = False
    locked: bool = True  # one process at a time; False where the command has locks of its own
    kept: bool = False  # what is in the folder stays: results are added to it
    earlier: str = "an earlier result"  # what may be replaced
    known: tuple[str, ...] = ()  # a folder of an earlier result has the first, and nothing but all of these patterns
    is_earlier: Callable[[Path], bool] | None = None  # a file that is one may be replaced without --overwrite


@dataclass(frozen=True, slots=True)
class Places:
    """What a command reads and writes, as its flags say."""

    outputs: Sequence[Output]
    inputs: Sequence[str | Path] = ()  # files, folders, globs
    models: Sequence[str | Path | None] = ()  # results may lie in their folders; names of a hub do no harm
    overwrite: bool | None = None  # the flag; None where the command has none


def output_dir(path: str, *, earlier: str, known: tuple[str, ...]) -> Output:
    """Return the folder behind --output_dir, which --overwrite replaces where it holds an earlier result."""
    return Output(flag="--output_dir", path=Path(path).expanduser(), folder=True, earlier=earlier, known=known)


def next_to(flag: str, path: Path, suffix: str) -> Path:
    """Return the file of the same name with a suffix, which is written along with an output.

    Raises:
        UserError: the output has no name of its own, as `.` and `/`.
    """
    if not path.name:
        raise UserError(f"{flag}: {path}: is a folder, expected a file")
    return path.with_name(f"{path.name}{suffix}")


@contextmanager
def reserved(places: Places) -> Iterator[None]:
    """Check the places of a command, and be the only one that writes there until it is done.

    Raises:
        UserError: as of `check_outputs` and `only_writer`.
    """
    try:
        check_outputs(places)
    except UserError:
        for output in places.outputs:
            remove_dead_lock(output.path)
            with suppress(OSError, ValueError):
                sweep(output.path)
        raise
    with ExitStack() as locks:
        for output in (one for one in places.outputs if one.locked):
            locks.enter_context(only_writer(output.flag, output.path))
        yield


# ---- checks ---------------------------------------------------------------------------------------------------------


def check_outputs(places: Places) -> None:
    """Refuse outputs that would destroy something, or that cannot be written. Nothing is left behind.

    Raises:
        UserError: an output is an input, lies in one or contains one; is no result of this command; is taken; is named
            twice; or cannot be written.
    """
    inputs, models = found_inputs(places.inputs), found_inputs([one for one in places.models if one is not None])
    for number, output in enumerate(places.outputs):
        where = f"{output.flag}: {output.path}"
        check_kind(where, output)
        check_inputs(where, output, [*inputs, *models], closed=inputs)
        for other in places.outputs[:number]:
            if same(output.path, other.path):
                raise UserError(f"{where}: is the place of {other.flag} too, expected another one")
        check_earlier(where, output, places.overwrite)
        check_writable(where, output)


def found_inputs(specs: Sequence[str | Path]) -> list[Path]:
    """Return the files and folders that are there."""
    import glob

    found: list[Path] = []
    for spec in specs:
        path = Path(spec).expanduser()
        try:
            there = path.exists()
        except (OSError, ValueError):  # too long for a name, or a null character: whoever reads it refuses it
            continue
        found += [path] if there else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    return found


def check_kind(where: str, output: Output) -> None:
    """Refuse a file where a folder should be, the reverse, and names that no file system takes."""
    path = output.path
    if "\0" in str(path):
        raise UserError(f"{where}: cannot be written: a name with a null character")
    try:
        there, is_folder, is_file = path.exists(), path.is_dir(), path.is_file()
    except OSError as error:
        raise UserError(f"{where}: cannot be written: {error.strerror or error}") from None
    if not there and output.folder and path.is_symlink():
        raise UserError(f"{where}: is a link to {path.readlink()}, which is not there, expected a folder")
    if there and output.folder and not is_folder:
        raise UserError(f"{where}: is a file, expected a folder")
    if there and not output.folder and is_folder:
        raise UserError(f"{where}: is a folder, expected a file")
    if there and not output.folder and not is_file:
        raise UserError(f"{where}: is a device or a pipe, expected a file")


def same(first: Path, second: Path) -> bool:
    """Whether two paths are one place, links followed."""
    return real(first) == real(second)


def check_inputs(where: str, output: Output, inputs: Sequence[Path], *, closed: Sequence[Path]) -> None:
    """Refuse an output that is an input, lies in an input folder or would replace a folder with an input."""
    target = real(output.path)
    for path in inputs:
        source = real(path)
        linked = not output.folder and output.path.is_file() and path.is_file() and output.path.samefile(path)
        if source == target or linked:
            raise UserError(f"{where}: is an input too, expected another place")
        if path in closed and path.is_dir() and source in target.parents:
            raise UserError(f"{where}: lies in the input {path}, expected a place outside it")
        if output.folder and not output.kept and target in source.parents:
            raise UserError(f"{where}: contains the input {path}, expected another folder")


def check_earlier(where: str, output: Output, overwrite: bool | None) -> None:
    """Refuse to write over what is there, unless it is an earlier result and may be replaced."""
    if not output.path.exists():
        return
    if output.kept:
        if output.known and (strange := next(strangers(output.path, output.known, marked=False), None)):
            raise UserError(f"{where}: holds {strange}, expected {output.earlier} and nothing else, or a new folder")
        return
    hint = f", or {OVERWRITE}" if overwrite is not None else ""
    if not output.folder:
        if not (overwrite or (output.is_earlier is not None and output.is_earlier(output.path))):
            if output.is_earlier is not None:
                raise UserError(f"{where}: is there already and not {output.earlier}, expected a new file{hint}")
            raise UserError(f"{where}: is there already, expected a new file{hint}")
        return
    if same(output.path, Path.cwd()):
        raise UserError(f"{where}: is the working folder, expected a new folder")
    if all(HIDDEN.fullmatch(path.name) for path in output.path.iterdir()):  # nothing, or what a killed process left
        return
    if not overwrite:
        raise UserError(f"{where}: is there already, expected a new folder{hint}")
    if strange := next(strangers(output.path, output.known), None):
        raise UserError(f"{OVERWRITE}: {output.path} holds {strange}, expected {output.earlier} and nothing else")


def is_result(path: Path) -> bool:
    """Whether a file holds figures that a command wrote with --json, or a page that it wrote."""
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as stream:
        start = stream.read(PEEK)
        return GENERATOR in start or any(pattern.match(start) for pattern in (FIGURES, FINDINGS))
    return False


def matches(name: str, pattern: str) -> bool:
    """Whether a path below a folder is of a pattern, part by part; `folder/**` is all below it."""
    if pattern.endswith("/**"):
        return name.startswith(pattern.removesuffix("**"))
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def strangers(folder: Path, known: Sequence[str], *, marked: bool = True) -> Iterator[str]:
    """Yield what does not belong to an earlier result: files of other names, then its mark where that is missing."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if HIDDEN.fullmatch(path.name):  # of a killed process, as the lock of a living one is held
            continue
        if not (path.is_dir() and not path.is_symlink()) and not any(matches(name, one) for one in known):
            yield name
    if marked and known and not (folder / known[0]).is_file():
        yield f"no {known[0]}"


def check_writable(where: str, output: Output) -> None:
    """Refuse a place where no file can be made: no permission, a read-only or special file system, a name too long."""
    import tempfile

    folders = [output.path] if output.folder and output.path.is_dir() else []
    folders.append(next(path for path in output.path.absolute().parents if path.exists()))
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{where}: cannot be written: {folder} is a file, expected a folder")
        try:
            # The prefix is as long as that of the hidden file which will be written next to the output.
            with tempfile.TemporaryFile(dir=folder, prefix=f".{short_name(output.path)}."):
                pass
        except OSError as error:
            raise UserError(f"{where}: cannot be written: {error.strerror or error}") from None
    check_length(where, output.path)


def check_length(where: str, path: Path) -> None:
    """Refuse a name that is longer than the file system allows."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{where}: cannot be written: {error.strerror}") from None


# ---- one writer -----------------------------------------------------------------------------------------------------


@contextmanager
def only_writer(flag: str, path: Path) -> Iterator[None]:
    """Keep every other process from writing a place, and clear up what killed ones left there.

    The lock is a hidden file next to the place, which goes when the command ends; a killed process lets go of it.

    Raises:
        UserError: another process is writing there.
    """
    from filelock import FileLock, Timeout

    made = missing_parents(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_of(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{flag}: {path}: another process is writing it, expected one run at a time") from None
    try:
        sweep(path)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        remove_empty(made)


def lock_of(path: Path) -> Path:
    """The file that a writer of a place holds."""
    return path.absolute().with_name(f".{short_name(path)}.zh-embedder.lock")


def remove_dead_lock(path: Path) -> None:
    """Remove the lock that a killed process left at a place where nothing is to be written now."""
    from filelock import FileLock, Timeout

    with suppress(OSError, ValueError, Timeout):
        if lock_of(path).is_file():
            with FileLock(lock_of(path), timeout=0):
                lock_of(path).unlink()
