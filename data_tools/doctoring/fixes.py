"""Safe fixes: a cleaned copy of files, and a ledger of every change.

Safe is what no reader of the data could want otherwise: invisible characters, an instruction that training adds itself,
a negative that is a positive, a copy, a record that is measured later. What needs judgement (a wrong decoding, near
copies among keys, scores, contradictions) is left as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_tools.doctoring.leftovers import without_escapes, without_frame, without_percents, without_subtitles
from data_tools.doctoring.record_checks import FILE_SHIFT, DoctorSettings, instruction_of, look
from data_tools.doctoring.survey import FixPlan, Survey, every_line, kind_of
from data_tools.doctoring.text_checks import mojibake
from data_tools.shared.near_texts import pair
from data_tools.shared.record_files import as_line, lines_to
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import missing_parents, real, remove, remove_empty
from zh_embedder.core.hashing import text_hash
from zh_embedder.core.progress import with_bar
from zh_embedder.data.json_lines import parse_object
from zh_embedder.data.schema import parse_line
from zh_embedder.text.empty_cells import is_empty
from zh_embedder.text.encodings import misread
from zh_embedder.text.letters import CONTROL

TEXTS = ("query", "text", "text1", "text2")
LISTS = ("pos", "neg", "history")
BREAKS = str.maketrans(dict.fromkeys("\x0b\x0c\x85\u2028\u2029", "\n"))
FOLDER, LEDGER = "records", "ledger.jsonl"

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the ledger."""

    file: str
    line: int
    kind: str
    action: str  # dropped record, dropped key, changed text
    field: str
    before: str
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is, and what is planned for it."""

    file: str
    line: int
    place: int
    plan: FixPlan
    settings: DoctorSettings

    def change(self, kind: str, action: str, name: str, before: str, after: str | None = None) -> Change:
        """Make a line of the ledger."""
        return Change(self.file, self.line, kind, action, name, before, after)


def write_fixed(survey: Survey, out: Path) -> tuple[int, int]:
    """Write the cleaned files below OUT/records and the ledger next to them; returns records written and changes.

    Raises:
        UserError: a file would be written over itself.
    """
    records = changes = 0
    places = targets(survey.files, out / FOLDER)
    with all_or_none([*places, out / LEDGER]), lines_to(out / LEDGER) as ledger:
        for number, (path, target) in enumerate(zip(survey.files, places, strict=True)):
            with lines_to(target) as stream:
                for line, text in with_bar(every_line(path), name=f"fixing {path.name}", unit="lines"):
                    if not text:
                        continue
                    place = Place(str(path), line, (number << FILE_SHIFT) + line, survey.plan, survey.settings)
                    mended, done = mend(text, place)
                    for change in done:
                        ledger.write(as_line(asdict(change)))
                    if mended is not None:
                        stream.write(as_line(mended))
                    records, changes = records + (mended is not None), changes + len(done)
    return records, changes


@contextmanager
def all_or_none(places: Sequence[Path]) -> Iterator[None]:
    """Take away what was written, where what follows it cannot be: cleaned files without their ledger tell nothing."""
    new = [(place, missing_parents(place)) for place in places if not place.exists()]
    try:
        yield
    except BaseException:
        for place, parents in new:
            remove(place)
            remove_empty(parents)
        raise


def targets(files: Sequence[Path], out: Path) -> list[Path]:
    """Return where each file goes: its path below the folder that all have in common.

    Raises:
        UserError: two would be written to one place, or one over itself.
    """
    absolute = [real(path) for path in files]
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    found = [real(out) / path.relative_to(common) for path in absolute]
    if len(set(found)) < len(found):
        raise UserError("FILES: the same file is given twice, expected each once with --fix")
    if clash := set(found) & set(absolute):
        raise UserError(f"--fix: {out} would be written over {clash.pop()}, expected another folder")
    return found


def mend(text: str | UserError, place: Place) -> tuple[Raw | None, list[Change]]:
    """Return a line's record as it is written, None where it is left out, and what was done."""
    if isinstance(text, UserError):
        return None, [place.change(kind_of(str(text), readable=False), "dropped record", "", str(text))]
    if kind := place.plan.drop.get(place.place):
        return None, [place.change(kind, "dropped record", "", text)]
    try:
        raw = parse_object(text, f"{place.file}:{place.line}", "{}")
    except UserError as error:
        return None, [place.change("schema", "dropped record", "", text, str(error))]
    changes = [change for step in STEPS for change in step(raw, place)]
    try:
        parse_line(json.dumps(raw, ensure_ascii=False), f"{place.file}:{place.line}")
    except UserError as error:
        kind = kind_of(str(error), readable=True)
        return None, [place.change(kind, "dropped record", "", text, str(error))]
    return raw, changes


# ---- steps: each changes the record in place and yields what it did -------------------------------------------------


def strip_control(raw: Raw, place: Place) -> Iterator[Change]:
    """Take control characters out; those that break lines become line breaks.

    Not of a text that was decoded wrongly: there they are bytes without which it can never be decoded rightly.
    """

    def stripped(text: str) -> str:
        if not CONTROL.search(text) or mojibake(text) or misread(text):
            return text
        return CONTROL.sub("", text.translate(BREAKS))

    yield from rewrite(raw, place, "control", stripped)


def strip_instructions(raw: Raw, place: Place) -> Iterator[Change]:
    """Take an instruction off that training puts in front."""

    def stripped(text: str) -> str:
        instruction = instruction_of(text, place.settings.instructions)
        return text.removeprefix(instruction).lstrip() or text if instruction else text

    yield from rewrite(raw, place, "baked_instruction", stripped)


def strip_leftovers(raw: Raw, place: Place) -> Iterator[Change]:
    """Take out what other tools left, where it cannot be meant."""
    yield from rewrite(raw, place, "subtitle", without_subtitles)
    yield from rewrite(raw, place, "special_token", without_frame)
    yield from rewrite(raw, place, "escaped", without_escapes)
    yield from rewrite(raw, place, "percent_encoded", without_percents)


def rewrite(raw: Raw, place: Place, kind: str, work: Callable[[str], str]) -> Iterator[Change]:
    """Rewrite every text of a record."""
    for name in TEXTS:
        if isinstance(before := raw.get(name), str) and (after := work(before)) != before:
            raw[name] = after
            yield place.change(kind, "changed text", name, before, after)
    for name in LISTS:
        texts = raw.get(name) if isinstance(raw.get(name), list) else []
        for index, before in enumerate(texts or []):
            if isinstance(before, str) and (after := work(before)) != before:
                raw[name][index] = after
                yield place.change(kind, "changed text", f"{name}[{index}]", before, after)


def drop_keys(raw: Raw, place: Place) -> Iterator[Change]:
    """Take out empty keys, repeated ones, and negatives that are a positive or the query, with their scores."""
    for side in ("neg", "pos"):
        texts = raw.get(side)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            continue
        reasons = [*unwanted(raw, side, place)]
        if side == "pos" and len(reasons) == len(texts):
            continue  # no record without a positive is made
        for index, kind in reasons:
            yield place.change(kind, "dropped key", f"{side}[{index}]", texts[index])
        if reasons:
            remove_keys(raw, side, {index for index, _ in reasons})


def unwanted(raw: Raw, side: str, place: Place) -> Iterator[tuple[int, str]]:
    """Yield (index, kind) of the keys that go."""
    query = raw.get("query")
    query = look(query).digest if isinstance(query, str) else None
    positives = raw.get("pos") if isinstance(raw.get("pos"), list) else []
    right = {look(text).digest for text in positives or [] if isinstance(text, str)} if side == "neg" else set()
    task = raw.get("task")  # of any type: the record is checked after it was changed
    subject = pair(text_hash(task if isinstance(task, str) else ""), query or 0)
    elsewhere = place.plan.cut.get(place.place, set())
    seen: set[int] = set()
    for index, text in enumerate(raw[side]):
        own = look(text).digest
        if not text.strip():
            yield index, "empty_text"
        elif is_empty(text):
            yield index, "empty_cell"
        elif own in right:
            yield index, "negative_is_positive"
        elif side == "neg" and own == query:
            yield index, "query_is_key"
        elif side == "neg" and pair(subject, own) in elsewhere:
            yield index, "negative_elsewhere_positive"
        elif own in seen:
            yield index, "repeated_key"
        seen.add(own)


def remove_keys(raw: Raw, side: str, gone: set[int]) -> None:
    """Take keys out of a side, and what goes with them: scores of either spelling, rows of the corpus."""
    counts = [len(raw[name]) if isinstance(raw.get(name), list) else 0 for name in ("pos", "neg")]
    count, first, both = len(raw[side]), counts[0] if side == "neg" else 0, sum(counts)
    for name, offset, length in (
        ("teacher_scores", first, both),
        (f"{side}_scores", 0, count),
        (f"{side}_index", 0, count),
        (side, 0, count),
    ):
        if isinstance(values := raw.get(name), list) and len(values) == length:
            raw[name] = [value for at, value in enumerate(values) if at - offset not in gone]


STEPS = (strip_leftovers, strip_control, strip_instructions, drop_keys)
