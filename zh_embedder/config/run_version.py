"""Instruction version of a run, and whether it suits the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zh_embedder.bases.catalogue import own_version
from zh_embedder.config.instructions import TaskTraining, Version, read_version
from zh_embedder.core.counts import counted
from zh_embedder.models.spec import Instructions, instructions_for
from zh_embedder.text.prefix import excerpt

DEFAULT_VERSION = "zh_llm_embedder"
OTHERS = "--version chooses another"
SIDES = ("queries", "keys")


@dataclass(frozen=True, slots=True)
class Choice:
    """A version, and why it is this one."""

    name: str
    directory: str | None  # searched first
    why: str

    def read(self) -> Version:
        """Read the version's file.

        Raises:
            UserError: it is not found, or something in it is wrong.
        """
        return read_version(self.name, directory=self.directory)

    def __str__(self) -> str:
        """The line of the log."""
        return f"{self.name} ({self.why})"


def choose_version(asked: str | None, base: str, *, directory: str | None = None) -> Choice:
    """Choose the version of a base: the one that was asked for, else the base's own, else the default.

    Args:
        asked: --version.
        base: name or folder.
        directory: --instructions_dir.
    """
    if asked is not None:
        return Choice(asked, directory, "--version")
    if (own := own_version(base)) is not None:
        return Choice(own, directory, f"the base's own; {OTHERS}")
    return Choice(DEFAULT_VERSION, directory, f"the default; {OTHERS}")


def resumed_version(asked: str | None, settings: Mapping[str, Any], where: str, *, directory: str | None) -> Choice:
    """Choose the version of a run that is resumed: the one that was asked for, else the one that it began with.

    Args:
        asked: --version.
        settings: of the checkpoint.
        where: the checkpoint, for messages.
        directory: --instructions_dir.
    """
    began = settings.get("version") or DEFAULT_VERSION
    if asked is None:
        return Choice(began, directory or settings.get("instructions_dir"), f"as in {where}; {OTHERS}")
    return Choice(asked, directory, "--version" if asked == began else f"--version; {where} was trained with {began}")


def without_training(version: Version) -> bool:
    """Whether --use_train_config finds no settings in a version."""
    specs = [*version.tasks.values(), *([version.default] if version.default else [])]
    return all(spec.training == TaskTraining() for spec in specs)


def contradiction(
    chosen: Instructions, brought: tuple[Instructions, Instructions], *, base: str, flag: str
) -> str | None:
    """Say where instructions do not begin with the prompts of a base; None where all do, or where it has none.

    Args:
        chosen: instructions of the tasks that are used.
        brought: those that the base has of its own, for queries and for keys.
        base: its name, for the message.
        flag: what chose the instructions, as the user knows it.
    """
    found = list(clashes(chosen, brought))
    if not found:
        return None
    task, side, own, used = found[0]
    others = len({name for name, *_ in found} - {task})
    more = f", and {counted(others, 'other task')} too" if others else ""
    way = f"; --version {own_name} has its own" if (own_name := own_version(base)) else ""
    return (
        f"{flag} contradicts the prompts of {base}: {SIDES[side]} of task {task} get "
        f"{excerpt(used) if used else 'none'}, its own is {excerpt(own)}{more}{way}"
    )


def clashes(chosen: Instructions, brought: tuple[Instructions, Instructions]) -> Iterable[tuple[str, int, str, str]]:
    """Task, side, the base's own prompt and the instruction that does not begin with it, one after another."""
    for task, used in chosen.items():
        for side, text in enumerate(used):
            pair = instructions_for(brought[side], task)
            if pair is not None and not text.startswith(pair[side]):
                yield task, side, pair[side], text
