"""Flags: how they are declared, shown and checked."""

from __future__ import annotations

import re
from argparse import Action, ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, NoReturn

from zh_embedder.core.errors import UserError, closest, unknown_name
from zh_embedder.core.numbers import Number

AUTO = "auto"  # value of a flag that leaves the choice to the program
NUMBER, FLAG_NAME, MAY_BE_EMPTY = "number", "flag", "may_be_empty"  # keys of a field's metadata
NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)  # such a word is a value, not a flag
FLAG = re.compile(r"--([A-Za-z][\w-]*)(=.*)?", re.DOTALL)


class Parser(ArgumentParser):
    """argparse's parser, with one line for a user's mistake: where, what was found, what is right."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = NEGATIVE

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

    def repeated(self, words: Sequence[str]) -> list[str]:
        """Say which flags are given more than once, and what counts: a line each.

        Flags that exclude each other, such as `--packing` and `--no_packing`, are one.
        """
        actions = {option: one for one in self._actions for option in one.option_strings}
        given: dict[str, list[str]] = {}
        for place, word in enumerate(words):
            if word == "--":  # what follows are no flags
                break
            if found := FLAG.fullmatch(word):
                name = f"--{found[1].replace('-', '_')}"
                end = next((at for at, one in enumerate(words[place + 1 :], place + 1) if FLAG.match(one)), len(words))
                name_of = actions[name].dest if name in actions else name.removeprefix("--")
                given.setdefault(name_of, []).append(" ".join([f"{name}{found[2] or ''}", *words[place + 1 : end]]))
        return [
            f"--{name}: is given {len(values)} times, the last one counts: {values[-1]}"
            for name, values in given.items()
            if len(values) > 1
        ]

    def _get_values(self, action: Action, arg_strings: list[str]) -> Any:
        """Read the words of one flag as argparse does, but no empty text: as a path it is the working directory."""
        if action.type in (None, str, Path) and action.choices is None:
            for word in arg_strings:
                if not word.strip() or "\0" in word:
                    raise ArgumentError(action, f"got {word!r}, expected a text that is not empty")
        return super()._get_values(action, arg_strings)

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
            return UserError(f"{flag}: got {found[2]}, expected a {found[1].replace('_', ' ')} value")
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
    """Show range and default of each flag that has them, and leave descriptions and examples unwrapped."""

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        default = default_text(action.default)
        if not action.option_strings or "default: " in text.lower():
            default = ""
        return f"{text} ({notes})" if (notes := "; ".join(filter(None, (range_text(action), default)))) else text


def range_text(action: Action) -> str:
    """Return the numbers that a flag takes, as its help shows them; empty where it takes all, or none."""
    return action.type.range if isinstance(action.type, Number) else ""


def default_text(default: object) -> str:
    """Return `default: X` as a user would type it; empty where the flag is off or has no default."""
    if default is None or default is False or default in ("", [], (), "==SUPPRESS=="):
        return ""
    values = default if isinstance(default, (list, tuple)) else [default]
    return f"default: {' '.join(map(str, values))}".replace("%", "%%")


def option(default: Any, text: str, *, number: Number | None = None, may_be_empty: bool = False) -> Any:
    """Declare a flag as the field of a dataclass; a list default is copied.

    Args:
        default: of the flag.
        text: help.
        number: what it takes, if it takes numbers.
        may_be_empty: whether an empty text means something.
    """
    metadata = {"help": text, NUMBER: number, MAY_BE_EMPTY: may_be_empty}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def limited(default: Any, number: Number, *, flag: str | None = None) -> Any:
    """Declare a field of a library dataclass that takes numbers, with the flag's name where it is another."""
    return field(default=default, metadata={NUMBER: number, FLAG_NAME: flag})


def number_of(cls: type, name: str) -> Number:
    """Return the numbers that a field takes: argparse's `type` of its flag."""
    number = next(one.metadata[NUMBER] for one in fields(cls) if one.name == name)
    if not isinstance(number, Number):
        raise TypeError(f"{cls.__name__}.{name} declares no numbers")
    return number


def check_numbers(values: Any, inherited: Mapping[str, Number] | None = None) -> None:
    """Refuse numbers of a dataclass that its fields do not take.

    Args:
        values: the dataclass.
        inherited: numbers of fields that another library has declared.

    Raises:
        UserError: with the flag's name.
    """
    for one in fields(values):
        number = one.metadata.get(NUMBER) or (inherited or {}).get(one.name)
        if number is not None:
            number.check(f"--{one.metadata.get(FLAG_NAME) or one.name}", getattr(values, one.name))


def any_text(text: str) -> str:
    """Type of a flag to which an empty text means something."""
    return text


def as_typed(error: UserError, typed: Mapping[str, str]) -> UserError:
    """Name a flag in an error as the user spelt it.

    Args:
        error: as it was raised; changed in place.
        typed: our name of a flag -> how it was typed, where that differs.
    """
    found = re.match(r"--([A-Za-z]\w*)", message := str(error))
    if found and (spelt := typed.get(found[1])):
        error.args = (f"--{spelt}{message[found.end() :]}", *error.args[1:])
    return error


def choose(flag: str, value: str | None, known: Sequence[str]) -> None:
    """Refuse a value that is not in a table, with the nearest one offered; None is a choice not made."""
    if value is not None and value not in known:
        raise unknown_name(f"--{flag}", value, known)
