"""Instruction versions: one YAML file each, with the instructions and the training settings of every task.

default:                 # optional: serves every task that the file does not name
  query: "为这个句子生成表示以用于检索相关文章："
  key: ""
tasks:
  icl:
    query: "..."         # a plain prefix
    key: ""
    truncation_side: {query: left}   # optional, the end of longer texts that is cut; `left` alone is of both sides
    training:            # optional, used with --use_train_config
      select_positive: random
truncation_side:         # optional, of tasks that `default` serves
  chat: {query: left}
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import yaml

from zh_embedder.core.errors import UserError, nearest, reject, unknown_name
from zh_embedder.core.options import AUTO
from zh_embedder.core.strict_yaml import compose, plain, read_text
from zh_embedder.data.groups import SELECT_NEGATIVE, SELECT_POSITIVE

HERE = Path(__file__).parent.parent
PACKAGED = (HERE / "_instructions", HERE.parent / "instructions")
SUFFIXES = (".yaml", ".yml")
SIDES = ("query", "key")
CUT, SIDES_OF_TEXTS = "truncation_side", ("left", "right")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTraining:
    """What a task changes in the run's settings under --use_train_config; None leaves a setting as the flags say."""

    select_positive: str | None = None
    select_negative: str | None = None
    max_sample_num: int | None = None
    teacher_scores_min: float | None = None
    teacher_scores_margin: float | None = None
    contrastive_weight: float | None = None
    distill_weight: float | None = None
    teacher_temperature: float | str | None = None  # a number, or auto
    student_temperature: float | None = None
    stable_distill: bool | None = None
    loss: tuple[Any, ...] | None = None  # LossTerms, in place of what the settings of CHOOSE_LOSS choose
    weight: float | None = None  # of the task in the steps of an epoch
    dataset_weights: Mapping[str, float] | None = None  # of a file or folder name of its data, within the task


CHOICES: Mapping[str, tuple[str, ...]] = {"select_positive": SELECT_POSITIVE, "select_negative": SELECT_NEGATIVE}
POSITIVE = ("max_sample_num", "teacher_temperature", "student_temperature", "weight")
CHOOSE_LOSS = ("contrastive_weight", "distill_weight", "stable_distill")  # instead of `loss`
NOT_NEGATIVE = ("contrastive_weight", "distill_weight")


Sides = tuple[str | None, str | None]  # end of a task's queries and of its keys that is cut; None: as flags say


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """One task of a version."""

    name: str
    query: str  # prefix of its queries
    key: str  # prefix of its keys
    training: TaskTraining = field(default_factory=TaskTraining)
    truncation_sides: Sides = (None, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A family of instructions: task -> TaskSpec."""

    name: str
    source: str  # where it was read from, for messages
    tasks: Mapping[str, TaskSpec]
    default: TaskSpec | None = None
    default_sides: Mapping[str, Sides] = field(default_factory=dict)  # of tasks that `default` serves

    @property
    def instructions(self) -> dict[str, tuple[str, str]]:
        """Instructions of queries and of keys, by task; `default` serves those that are not named."""
        default = {"default": self.default} if self.default is not None else {}
        return {name: (spec.query, spec.key) for name, spec in {**self.tasks, **default}.items()}

    def task(self, name: str, *, where: str = "task") -> TaskSpec:
        """Return the spec of a task.

        Raises:
            UserError: neither the task nor a `default` entry is there; names both the task and the version.
        """
        if name in self.tasks:
            return self.tasks[name]
        if self.default is not None:
            sides = self.default_sides.get(name, self.default.truncation_sides)
            return replace(self.default, name=name, truncation_sides=sides)
        raise UserError(
            f"{where}: version {self.name!r} ({self.source}) has no task {name!r}{nearest(name, self.tasks) or '.'} "
            f"Known: {', '.join(sorted(self.tasks)) or 'none'}. To add a task, add it to that file."
        )


class _Reader:
    """YAML nodes to plain values, with the file and line of whatever is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, node: yaml.Node, *names: str) -> str:
        return ": ".join([f"{self.path}:{node.start_mark.line + 1}", *([".".join(names)] if names else [])])

    def mapping(self, node: yaml.Node, *names: str) -> dict[str, yaml.Node]:
        """Return the entries of a mapping node, each marked with its name's line; refuse other nodes and odd keys."""
        if not isinstance(node, yaml.MappingNode):
            raise reject(self.where(node, *names), self.plain(node), "a mapping of names to values")
        entries: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.plain(key)
            if not isinstance(name, str) or not name:
                raise reject(self.where(key, *names), name, "a name (put quotes around it if it looks like a number)")
            if name in entries:
                raise UserError(f"{self.where(key, *names, name)}: appears twice in this file, expected once")
            entries[name] = copy(value)
            entries[name].start_mark = key.start_mark
        return entries

    def plain(self, node: yaml.Node) -> Any:
        """Return a node as Python's own types."""
        return plain(node, self.where(node))

    def known_only(self, entries: Mapping[str, yaml.Node], known: Iterable[str], *names: str) -> None:
        known = list(known)
        for name, value in entries.items():
            if name not in known:
                raise unknown_name(self.where(value, *names), name, known)

    def version(self, root: yaml.Node) -> Version:
        top = self.mapping(root)
        self.known_only(top, ("tasks", "default", CUT))
        if "tasks" not in top and "default" not in top:
            raise UserError(f"{self.where(root)}: expected `tasks:` or `default:`, found neither")
        tasks = {}
        if "tasks" in top and not (
            isinstance(top["tasks"], yaml.ScalarNode) and top["tasks"].value in ("", "null", "~")
        ):
            for name, node in self.mapping(top["tasks"], "tasks").items():
                if name == "default":
                    raise UserError(
                        f"{self.where(node, 'tasks.default')}: `default:` belongs next to `tasks:`, not inside it"
                    )
                tasks[name] = self.task(name, node, f"tasks.{name}")
        default = self.task("default", top["default"], "default") if "default" in top else None
        if not tasks and default is None:
            raise UserError(f"{self.where(root)}: expected at least one task or a `default:`, found none")
        sides = self.default_sides(top[CUT], tasks, default) if CUT in top else {}
        return Version(name=self.path.stem, source=str(self.path), tasks=tasks, default=default, default_sides=sides)

    def default_sides(
        self, node: yaml.Node, tasks: Mapping[str, TaskSpec], default: TaskSpec | None
    ) -> dict[str, Sides]:
        found = {}
        for name, own in self.mapping(node, CUT).items():
            where = self.where(own, CUT, name)
            if name in tasks:
                raise UserError(f"{where}: the task has an entry of its own, expected `{CUT}:` there")
            if default is None:
                raise UserError(f"{where}: no `default:` serves this task, expected an entry for it below `tasks:`")
            check_task_name(name, where=where)
            found[name] = self.sides(own, CUT, name)
        return found

    def sides(self, node: yaml.Node, *names: str) -> Sides:
        if not isinstance(node, yaml.MappingNode):
            both = self.plain(node)
            if both not in SIDES_OF_TEXTS:
                raise reject(self.where(node, *names), both, f"left or right, or one for each of {', '.join(SIDES)}")
            return both, both
        entries = self.mapping(node, *names)
        self.known_only(entries, SIDES, *names)
        for side, own in entries.items():
            if self.plain(own) not in SIDES_OF_TEXTS:
                raise reject(self.where(own, *names, side), self.plain(own), "left or right")
        query, key = (self.plain(entries[side]) if side in entries else None for side in SIDES)
        return query, key

    def task(self, name: str, node: yaml.Node, where: str) -> TaskSpec:
        check_task_name(name, where=self.where(node, where))
        entries = self.mapping(node, where)
        self.known_only(entries, (*SIDES, CUT, "training"), where)
        sides = {}
        for side in SIDES:
            if side not in entries:
                raise UserError(f'{self.where(node, where)}: {side}: is missing, expected an instruction ("" for none)')
            sides[side] = self.plain(entries[side])
            if not isinstance(sides[side], str):
                raise reject(self.where(entries[side], where, side), sides[side], "a string, in quotes")
            if "{" in sides[side]:
                raise reject(
                    self.where(entries[side], where, side), sides[side], "a plain prefix without {placeholders}"
                )
        training = self.training(entries["training"], where) if "training" in entries else TaskTraining()
        cut = self.sides(entries[CUT], where, CUT) if CUT in entries else (None, None)
        return TaskSpec(name=name, query=sides["query"], key=sides["key"], training=training, truncation_sides=cut)

    def training(self, node: yaml.Node, *names: str) -> TaskTraining:
        entries = self.mapping(node, *names, "training")
        hints = get_type_hints(TaskTraining)
        self.known_only(entries, (f.name for f in fields(TaskTraining)), *names, "training")
        values: dict[str, Any] = {}
        for name, value_node in entries.items():
            where, value = self.where(value_node, *names, "training", name), self.plain(value_node)
            if name == "loss":
                from zh_embedder.losses.table import parse_terms  # torch: `zh-embedder versions` does without

                values[name] = parse_terms(value, where=where)
            elif name == "dataset_weights":
                values[name] = self.weights(value_node, *names, "training", name)
            else:
                values[name] = check_setting(name, value, hints[name], where=where)
        if "loss" in values and (both := [name for name in CHOOSE_LOSS if name in values]):
            where = self.where(entries["loss"], *names, "training", "loss")
            raise UserError(f"{where}: cannot be used with {both[0]}, expected one of them: `loss` has its own weights")
        return TaskTraining(**values)

    def weights(self, node: yaml.Node, *names: str) -> Mapping[str, float]:
        entries = self.mapping(node, *names)
        return {
            name: check_setting("weight", self.plain(value), float, where=self.where(value, *names, name))
            for name, value in entries.items()
        }


def check_task_name(name: str, *, where: str) -> None:
    """Refuse names that could not become a prompt name (`qa`, `qa.key`) without confusion."""
    if any(not (c.isalnum() or c in "_-") for c in name) or name in ("query", "document"):
        raise reject(
            where, name, "a task name of letters, digits, _ and - (not `query` or `document`: prompts use them)"
        )


def check_setting(name: str, value: Any, hint: Any, *, where: str) -> Any:
    """Check one training setting against its type and range."""
    allowed = [t for t in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if t is not type(None)]
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise unknown_name(where, str(value), CHOICES[name])
        return value
    if name == "teacher_temperature" and value == AUTO:
        return value
    kind = allowed[0]
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and not isinstance(value, bool):
        raise reject(where, value, "true or false")
    if kind is int and not (numeric and isinstance(value, int)):
        raise reject(where, value, "a whole number")
    if kind is float and not (numeric and abs(value) <= sys.float_info.max):
        raise reject(where, value, "a finite number (with a point before an exponent: 1.0e-5)")
    if name in POSITIVE and not value > 0:
        raise reject(where, value, "a number above 0")
    if name in NOT_NEGATIVE and not value >= 0:
        raise reject(where, value, "0 or more")
    return value


def find_version(name_or_path: str, *, directory: str | None = None, flag: str = "--version") -> Path:
    """Find a version's file: a path, else a name in `directory`, ./instructions or the packaged ones, in that order.

    Raises:
        UserError: nothing has this name; the nearest known one is offered.
    """
    if name_or_path.endswith(SUFFIXES) or "/" in name_or_path:
        if Path(name_or_path).is_file():
            return Path(name_or_path)
        name = Path(name_or_path).stem  # a packaged version is found by its name alone
        hint = "" if "/" in name_or_path else nearest(name, known_versions(directory=directory))
        raise UserError(f"{flag}: no such file: {name_or_path}{hint}")
    for folder in folders_of(directory):
        for suffix in SUFFIXES:
            if (path := folder / f"{name_or_path}{suffix}").is_file():
                return path
    raise unknown_name(flag, name_or_path, known_versions(directory=directory))


def folders_of(directory: str | None) -> list[Path]:
    """Folders that versions are searched in, in order.

    Raises:
        UserError: `directory` is no folder.
    """
    if directory and not Path(directory).is_dir():
        raise UserError(f"--instructions_dir: no such folder: {directory}")
    return [*([Path(directory)] if directory else []), Path("instructions"), *PACKAGED]


def known_versions(*, directory: str | None = None) -> dict[str, Path]:
    """Every version that a name finds, with its file."""
    folders = folders_of(directory)
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.y*ml")):
            found.setdefault(path.stem, path)
    return found


def read_version(name_or_path: str, *, directory: str | None = None, flag: str = "--version") -> Version:
    """Read a version by name or path.

    Args:
        name_or_path: the name or the file.
        directory: searched first.
        flag: what the user typed it behind, for messages.

    Raises:
        UserError: not found, or anything in it is wrong: unknown key, missing side, not a string, duplicate task,
            unknown setting or value; with file, line and the nearest valid name.
    """
    path = find_version(name_or_path, directory=directory, flag=flag)
    root = compose(path, read_text(path))
    if root is None:
        raise UserError(f"{path}:1: the file is empty, expected `tasks:`")
    return _Reader(path).version(root)


def sides_of(version: Version) -> dict[str, Sides]:
    """Return the ends of texts that are cut, of the tasks that say so; `default` serves the others."""
    found = {name: spec.truncation_sides for name, spec in version.tasks.items()}
    usual = version.default.truncation_sides if version.default is not None else (None, None)
    if any(usual):  # a task that says nothing must not get that of `default`
        return {**found, **version.default_sides, "default": usual}
    return {name: sides for name, sides in {**found, **version.default_sides}.items() if any(sides)}


def single_instruction(query: str, key: str, *, source: str) -> Version:
    """Return a version in which every task has the same instructions (FlagEmbedding's instruction flags)."""
    return Version(name=source, source=source, tasks={}, default=TaskSpec(name="default", query=query, key=key))
