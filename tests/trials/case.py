"""What a trial is: files, a command line, and what was expected before anybody ran it."""

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"

Content = str | bytes
Check = Callable[[Path, str], str | None]


@dataclass(frozen=True)
class Interrupt:
    """A signal in the middle: when `seen` is in the output, `path` exists, or `after` seconds are over."""

    number: int = signal.SIGINT
    seen: str | None = None
    path: str | None = None
    after: float = 20.0


@dataclass(frozen=True)
class Case:
    """One trial.

    `expect` is one of: refused (exit 2, `says` names the place), works (exit 0), says (exit 0 and `says` in the
    output), heard (exit 0 and `says`, or exit 2 and `says`: either is fair, silence is not), stopped (a signal).
    """

    name: str
    expect: str
    argv: tuple[str, ...] = ()
    command: str = ""
    says: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    files: Mapping[str, Content] = field(default_factory=dict)
    make: Callable[[Path], None] | None = None
    needs: tuple[str, ...] = ()  # prepared folders, copied into the working folder
    first: tuple[tuple[str, ...], ...] = ()  # commands that must succeed before
    tamper: Callable[[Path], None] | None = None  # after `first`
    env: Mapping[str, str | None] = field(default_factory=dict)
    real: bool = False  # needs a process of its own
    shell: str | None = None  # a line of bash instead of argv; $ZH is the command
    stdin: Content | None = None
    interrupt: Interrupt | None = None
    outputs: tuple[str, ...] = ("out*", ".out*")  # what may appear or change, as globs of the first path component
    codes: tuple[int, ...] = ()
    check: Check | None = None
    permissions: bool = False  # the process must not be allowed everything, even if root runs the suite
    timeout: float = 60.0

    def build(self, work: Path) -> None:
        """Write the case's files below `work`."""
        for name, content in self.files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        if self.make is not None:
            self.make(work)

    def __post_init__(self):
        for pattern in (*self.says, *self.absent):
            re.compile(pattern)


class Cases:
    """Collects the cases of a file: `cases.refused(name, argv, *patterns, ...)`."""

    def __init__(self):
        self.list: list[Case] = []

    def _add(self, expect: str, name: str, argv, says, more) -> None:
        words = tuple(argv.split()) if isinstance(argv, str) else tuple(map(str, argv))
        command = more.pop("command", "") or words[0]
        self.list.append(
            Case(name=f"{command}: {name}", command=command, expect=expect, argv=words, says=tuple(says), **more)
        )

    def refused(self, name: str, argv, *says: str, **more) -> None:
        """Exit 2; every pattern is in the message; nothing is left or touched."""
        self._add("refused", name, argv, says, more)

    def works(self, name: str, argv, check: Check | None = None, **more) -> None:
        """Exit 0, and `check` finds nothing."""
        self._add("works", name, argv, (), {"check": check, **more})

    def says(self, name: str, argv, *says: str, **more) -> None:
        """Exit 0, and every pattern is in the output."""
        self._add("says", name, argv, says, more)

    def heard(self, name: str, argv, *says: str, **more) -> None:
        """Accepted or refused, but the patterns are in the output either way."""
        self._add("heard", name, argv, says, more)

    def stopped(self, name: str, argv, *says: str, **more) -> None:
        """A signal ended it: no traceback, no damage, no half-written result."""
        self._add("stopped", name, argv, says, more)
