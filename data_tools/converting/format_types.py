"""Format types: the options of readers, the items that they yield, and the row of a format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.converting.values import Raw
from zh_embedder.core.numbers import AMOUNT, COUNT, FINITE, SEED, whole
from zh_embedder.core.options import check_numbers, limited

Record = dict[str, Any]
HUB = "hf:"  # in front of the name of a data set on the hub


class SourceItem(NamedTuple):
    """What came of one unit of a source, or of several that became one record."""

    where: str
    record: Record | None = None
    reason: str = ""  # why there is no record
    of: int = 1  # units of the source that it represents
    note: str = ""  # something done to units that are in the record, counted by its wording


@dataclass(frozen=True, slots=True)
class Source:
    """One input as the user typed it, and the name that ids begin with."""

    spec: str
    name: str

    @property
    def path(self) -> Path:
        """The file or folder."""
        return Path(self.spec).expanduser()

    @property
    def is_hub(self) -> bool:
        """Whether it is a name on the hub."""
        return self.spec.startswith(HUB)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """What the user asked for: the flags of `convert` that readers look at, with their defaults."""

    task: str | None = None
    shape: str | None = None  # --as
    columns: Mapping[str, str] = field(default_factory=dict)
    join: str = "\n"
    header: bool | None = None  # None: looked at
    encoding: str = "auto"
    split: str | None = None
    queries: str | None = None
    qrels: str | None = None
    negatives: str | None = None
    answers: str | None = None
    labels: Sequence[str] = ()  # what the numbers of inference classes are called
    min_relevance: int = limited(1, whole())
    threshold: float = limited(1.0, FINITE)
    turns: int = limited(4, AMOUNT)
    facts: str = "repeated"
    template: str = "文本：{text}\n标签：{label}"
    examples: int = limited(1, COUNT)
    wrong_examples: int = limited(7, AMOUNT)
    seed: int = limited(0, SEED)

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a source, to tell its format by."""

    path: Path
    text: str = ""
    first: Raw = field(default_factory=dict)  # the first object of JSON Lines, or the header of a table
    names: frozenset[str] = frozenset()  # in a folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A source format: one function and this row."""

    name: str
    about: str
    example: str
    unit: str  # what is counted in the source
    read: Callable[[Source, ReadOptions], Iterator[SourceItem]]
    shapes: tuple[str, ...] = ("groups",)  # what --as chooses from, the default first
    tasks: Mapping[str, str] = field(default_factory=dict)  # shape -> task, where a shape has an unmistakable one
    carries_task: bool = False  # records name their own task
    is_folder: bool = False  # a source is a folder, not each file in it
    is_it: Callable[[Head], bool] = lambda head: False
    write_evaluation: Callable[[Source, ReadOptions, Path], str] | None = None  # for --output_eval


def identity(source: Source, *parts: object) -> str:
    """Return a stable id: the source's name, then what the source calls the item (or its position)."""
    return "-".join([source.name, *map(str, parts)])


def distinct(values: Sequence[str]) -> list[str]:
    """Return values once each, in order."""
    return list(dict.fromkeys(values))
