"""Survey of files: each line checked once, then what only all lines together can show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.doctoring.dataset_checks import DATASET_CHECKS, LINE, Profile
from data_tools.doctoring.duplicate_checks import REPEAT_KINDS, DuplicateIndex
from data_tools.doctoring.findings import ERROR, INFO, Findings
from data_tools.doctoring.leak_checks import LEAK_KINDS, EvalTexts
from data_tools.doctoring.record_checks import (
    FILE_SHIFT,
    RECORD_CHECKS,
    TEXT_CHECKS,
    CheckedRecord,
    DoctorSettings,
    item_of,
)
from zh_embedder.core.errors import UserError, nearest
from zh_embedder.core.progress import with_bar
from zh_embedder.data.schema import ALONE_FIELDS, GROUP_FIELDS, LABELLED_FIELDS, PAIR_FIELDS, parse_line
from zh_embedder.data.sources import BOMS, block_lines, not_utf8, read_blocks

LINE_KINDS: Mapping[str, tuple[str, str]] = {
    "schema": (ERROR, "a line that is no record"),
    "encoding": (ERROR, "bytes that are not UTF-8: GB18030, UTF-16"),
    "unreadable": (ERROR, "a file that cannot be read to its end"),
    "empty_text": (ERROR, "a text without characters, or of white space alone"),
    "teacher_length": (ERROR, "another number of teacher scores than of keys"),
    "unused_field": (INFO, "a field that training does not use, once for each file"),
}
# The library says in words what is wrong with a line; these words have kinds of their own.
SAID = {
    "teacher_length": re.compile(r"got \d+ scores, expected"),
    "empty_text": re.compile("a string that is not empty$"),
    "empty_cell": re.compile("what an empty cell of a table becomes$"),
}
SEVERITY: Mapping[str, str] = {
    **{kind: row[0] for kinds in (LINE_KINDS, REPEAT_KINDS, LEAK_KINDS) for kind, row in kinds.items()},
    **{kind: check.severity for kind, check in TEXT_CHECKS.items()},
    **{kind: check.severity for kind, check in RECORD_CHECKS.items()},
    **{kind: check.severity for kind, check in DATASET_CHECKS.items()},
}
DROPPED_KINDS = ("duplicate_record", "leak_query", "leak_key", "leak_query_near", "leak_key_near")


@dataclass(slots=True)
class FixPlan:
    """What a cleaned copy leaves out, as far as a record by itself does not tell; never limited."""

    drop: dict[int, str] = field(default_factory=dict)  # place -> kind
    cut: dict[int, set[int]] = field(default_factory=dict)  # place -> digests of query and negative


@dataclass(slots=True)
class Survey:
    """All that a pass finds."""

    files: Sequence[Path]
    settings: DoctorSettings
    evals: EvalTexts | None = None
    findings: Findings = field(default_factory=lambda: Findings(SEVERITY))
    profiles: dict[tuple[int, str], Profile] = field(default_factory=dict)
    seen: DuplicateIndex = field(default_factory=DuplicateIndex)
    plan: FixPlan = field(default_factory=FixPlan)
    records: int = 0

    def run(self) -> Survey:
        """Read every file, then look at datasets and at records that have to do with each other."""
        for number, path in enumerate(self.files):
            self._read(path, number << FILE_SHIFT)
        for profile in self.profiles.values():
            for kind, dataset_check in DATASET_CHECKS.items():
                for line, message in dataset_check.find(profile, self.settings):
                    self.findings.add(profile.file, line, kind, message)
        self._compare()
        return self

    def where(self, place: int) -> tuple[str, int]:
        """Return file and line of a place."""
        return str(self.files[place >> FILE_SHIFT]), place & LINE

    def _read(self, path: Path, base: int) -> None:
        file, before, unknown = str(path), self.records, set[str]()
        for number, text in with_bar(every_line(path), name=path.name, unit="lines"):
            if not text:
                continue
            self.records += 1
            try:
                if isinstance(text, UserError):
                    raise text
                row, unused = parse_line(text, f"{file}:{number}")
            except UserError as error:
                message = str(error).removeprefix(f"{file}:{number}: ").removeprefix(f"{file}: ")
                self.findings.add(file, number, kind_of(message, readable=isinstance(text, str)), message)
                continue
            for name in sorted(unused - unknown):
                hint = nearest(name, {*GROUP_FIELDS, *PAIR_FIELDS, *LABELLED_FIELDS, *ALONE_FIELDS})
                self.findings.add(file, number, "unused_field", f"{name!r} is of no use to training{hint}")
            unknown |= unused
            self._look(item_of(row, file, base + number))
        if self.records == before:
            self.findings.add(file, 1, "schema", "the file holds no records")

    def _look(self, item: CheckedRecord) -> None:
        for name, one in item.texts():
            for kind, found in one.defects:
                self.findings.add(item.file, item.line, kind, f"{name}: {found}")
        for kind, check in RECORD_CHECKS.items():
            for message in check.find(item, self.settings):
                self.findings.add(item.file, item.line, kind, message)
        for kind, message in self.evals.find(item) if self.evals else ():
            self.findings.add(item.file, item.line, kind, message)
            if kind in DROPPED_KINDS:
                self.plan.drop.setdefault(item.place, kind)
        key = (item.place >> FILE_SHIFT, item.task or "(none)")
        if key not in self.profiles:
            self.profiles[key] = Profile(item.file, key[1], item.line)
        self.profiles[key].add(item)
        self.seen.add(item)

    def _compare(self) -> None:
        for repeat in self.seen.find():
            other = ":".join(map(str, self.where(repeat.other)))
            self.findings.add(*self.where(repeat.place), repeat.kind, f"{REPEAT_KINDS[repeat.kind][1]} ({other})")
            if repeat.kind in DROPPED_KINDS:
                self.plan.drop.setdefault(repeat.place, repeat.kind)
            if repeat.kind == "negative_elsewhere_positive" and repeat.key is not None:
                self.plan.cut.setdefault(repeat.place, set()).add(repeat.key)


def kind_of(message: str, *, readable: bool) -> str:
    """Return the kind of a line that cannot be used."""
    if not readable:
        return "encoding" if "UTF-" in message else "unreadable"
    return next((kind for kind, words in SAID.items() if words.search(message)), "schema")


def every_line(path: Path) -> Iterator[tuple[int, str | UserError]]:
    """Yield (number, text) of every line; unlike training, which needs a right file, continue after a wrong line."""
    last = 0
    for block in read_blocks(path):
        if isinstance(block, UserError):
            yield last + 1, block
            return
        last = block.first - 1
        for number, text in block_lines(path, block):
            yield number, text
            last = number
            if isinstance(text, UserError) and block.raw[:2] in BOMS:
                return
        for number, raw in list(enumerate(block.raw.removesuffix(b"\n").split(b"\n"), start=block.first)):
            if number <= last:
                continue
            try:
                yield number, raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                yield number, UserError(f"{path}:{number}: {not_utf8(raw, error)}")
