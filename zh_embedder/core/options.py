"""Flags: how they are declared, shown and checked."""

from __future__ import annotations

import math
import re
from argparse import Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any, NoReturn

from zh_embedder.core.errors import UserError, closest, reject, unknown_name

AUTO = "auto"  # value of a flag that leaves the choice to the program
FLAG = re.compile(r"--([A-Za-z][\w-]*)(=.*)?", re.DOTALL)
# What a flag expects, by the name of its type.
NUMBERS = {
    "int": "a whole number",
    "positive": "a whole number above 0",
    "float": "a number",
}


class Parser(ArgumentParser):
    """argparse's parser, with one line for a user's mistake: where, what was found, what is right."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Namespace, list[str]]:  # type: ignore[override]
        """Parse as argparse does, but refuse an unknown flag first: what it leaves out follows from it."""
        self.check_flags(args or ())
        return super().parse_known_args(args, namespace)

    def check_flags(self, words: Iterable[str]) -> None:
        """Refuse flags that are not the parser's, with the nearest one offered."""
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        for word in words:
            if word == "--":  # what follows are no flags
                return
            found = FLAG.fullmatch(word)
            if found is None or f"--{found[1]}" in known:
                continue
            if not (self.allow_abbrev and any(option.startswith(f"--{found[1]}") for option in known)):
                raise unknown_flag(found[1], known)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message in our form."""
        raise self.mistake(message)

    def mistake(self, message: str) -> UserError:
        """Turn a message of argparse into our form; one that has no other form here stays as it is."""
        if found := re.fullmatch(r"the following arguments are required: (.+)", message):
            are = "are" if "," in found[1] else "is"
            return UserError(f"{found[1]}: {are} missing; see `{self.prog} --help`")
        where, _, what = message.removeprefix("argument ").partition(": ")
        if not message.startswith("argument "):
            return UserError(f"{message}; see `{self.prog} --help`")
        flag = max(where.split("/"), key=len)
        if found := re.match(r"invalid choice: ('.*?'|\".*?\"|[^\s(]+)", what):
            choices = next((action.choices for action in self._actions if flag in names_of(action)), None)
            return unknown_name(flag, found[1].strip("'\""), map(str, choices or ()))
        if found := re.fullmatch(r"invalid (\w+) value: (.+)", what, re.DOTALL):
            kind = NUMBERS.get(found[1], f"a {found[1].replace('_', ' ')} value")
            return UserError(f"{flag}: got {found[2]}, expected {kind}")
        if found := re.fullmatch(r"expected (.+?) arguments?", what):
            got = "got none, " if found[1] in ("one", "at least one") else ""
            return UserError(f"{flag}: {got}expected {found[1]} value{'' if got else 's'}")
        return UserError(f"{flag}: {what}")


def names_of(action: Action) -> tuple[str, ...]:
    """Names under which argparse's messages may speak of an argument."""
    shown = action.metavar if isinstance(action.metavar, str) else action.dest
    return (*action.option_strings, shown, action.dest)


def unknown_flag(name: str, known: Iterable[str]) -> UserError:
    """Build the error for a flag that no command knows, with the nearest of its own."""
    near = closest(name, (flag.removeprefix("--") for flag in known))
    return UserError(f"--{name}: unknown flag; " + (f"did you mean '--{near}'?" if near else "see --help"))


class HelpFormatter(RawDescriptionHelpFormatter):
    """Show the default of each flag that has one, and leave descriptions and examples unwrapped."""

    def _get_help_string(self, action: Action) -> str:
        text, default = action.help or "", default_text(action.default)
        return (
            text if not default or not action.option_strings or "default: " in text.lower() else f"{text} ({default})"
        )


def default_text(default: object) -> str:
    """Return `default: X` as a user would type it; empty where the flag is off or has no default."""
    if default is None or default is False or default in ("", [], (), "==SUPPRESS=="):
        return ""
    values = default if isinstance(default, (list, tuple)) else [default]
    return f"default: {' '.join(map(str, values))}".replace("%", "%%")


def option(default: Any, text: str) -> Any:
    """Declare a flag with its help text; a list default is copied."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def choose(flag: str, value: str | None, known: Sequence[str]) -> None:
    """Refuse a value that is not in a table, with the nearest one offered; None is a choice not made."""
    if value is not None and value not in known:
        raise unknown_name(f"--{flag}", value, known)


def at_least(flag: str, value: float | None, low: float) -> None:
    """Refuse a number below `low`, and what is no number."""
    if value is not None and not low <= value < math.inf:
        raise reject(f"--{flag}", value, f"{low} or more")


def as_number(flag: str, text: str) -> float:
    """Read a number out of a flag that may also say something else."""
    try:
        return float(text)
    except ValueError:
        raise reject(f"--{flag}", text, "a number") from None


def above_zero(flag: str, value: float) -> None:
    """Refuse a number that is not positive and finite."""
    if not 0 < value < math.inf:
        raise reject(f"--{flag}", value, "a number above 0")
