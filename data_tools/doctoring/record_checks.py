"""Record checks: a function and a table row for each kind of finding in a text or record by itself.

A check of a text is `find(text) -> what was found, or None`; one of a record is `find(item, settings) -> messages`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from data_tools.doctoring import leftovers, text_checks
from data_tools.doctoring.findings import ERROR, INFO, WARNING
from data_tools.doctoring.text_checks import Style
from data_tools.shared.near_texts import near, normal
from zh_embedder.config.instructions import Version
from zh_embedder.core.hashing import text_hash
from zh_embedder.data.schema import GROUP, PAIR, SINGLE, Row
from zh_embedder.text.encodings import misread
from zh_embedder.text.prefix import excerpt

FILE_SHIFT = 40  # a place is the number of a file and of a line in one integer
MIN_TO_RANK = 3  # negatives: below it, a positive that scores lowest is no sign of turned scores
MIN_INSTRUCTION = 4  # characters
TEXTS_REMEMBERED = 1 << 15  # the same keys come again: most are looked at once
STYLES: Mapping[str, Callable[[str], Style]] = {
    "letters and digits": text_checks.letter_width,
    "punctuation": text_checks.mark_width,
    "script": text_checks.script,
}

OTHER: Mapping[str, Callable[[str], str]] = {  # what shows that a text does it the second way
    "letters and digits": lambda text: "".join(text_checks.FULL_LETTERS.findall(text)),
    "punctuation": lambda text: "".join(text_checks.HALF_MARKS.findall(text)),
    "script": text_checks.traditional,
}

Find = TypeVar("Find")


@dataclass(frozen=True, slots=True)
class Check(Generic[Find]):
    """A kind of finding."""

    severity: str
    what: str
    find: Find


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorSettings:
    """What the training will be like, so far as the data must fit it."""

    instructions: tuple[str, ...] = ()  # of the version, or of all known ones
    version: Version | None = None
    near: float = 0.85
    leak_near: float = 0.8
    train_group_size: int | None = None
    step_batch: int = 16
    teacher_temperature: float = 1.0
    tokenizer: Any = None
    base: str = ""  # name of the tokenizer
    max_lengths: tuple[int, int] = (256, 256)  # of queries, of keys


@dataclass(frozen=True, slots=True)
class Look:
    """A text and all that is known of it alone."""

    text: str
    normal: str
    digest: int  # of `normal`
    defects: tuple[tuple[str, str], ...]  # kind, what was found
    styles: tuple[Style, ...]  # in the order of STYLES


@dataclass(frozen=True, slots=True)
class CheckedRecord:
    """One record that the format allows."""

    file: str
    place: int
    kind: str
    task: str | None
    query: Look
    pos: Sequence[Look]
    neg: Sequence[Look]
    scores: Sequence[float] | None
    score: float | None
    label: str | None

    @property
    def line(self) -> int:
        """Its line, from 1."""
        return self.place & ((1 << FILE_SHIFT) - 1)

    def texts(self) -> Iterator[tuple[str, Look]]:
        """Yield (field, text) of all texts."""
        yield "text1" if self.kind == PAIR else "text" if self.kind in SINGLE else "query", self.query
        for index, look in enumerate(self.pos):
            yield "text2" if self.kind == PAIR else f"pos[{index}]", look
        for index, look in enumerate(self.neg):
            yield f"neg[{index}]", look


def item_of(row: Row, file: str, place: int) -> CheckedRecord:
    """Look at a checked row."""
    return CheckedRecord(
        file=file,
        place=place,
        kind=row["kind"],
        task=row["task"],
        query=look(row["query"]),
        pos=[look(text) for text in row["pos"]],
        neg=[look(text) for text in row["neg"]],
        scores=row["teacher_scores"],
        score=row["score"],
        label=row["label"],
    )


@lru_cache(maxsize=TEXTS_REMEMBERED)
def look(text: str) -> Look:
    """Look at a text. Of one that was decoded wrongly nothing else is reported: all else comes of that."""
    plain, found = normal(text), list[tuple[str, str | None]]()
    broken = False
    for kind, check in TEXT_CHECKS.items():
        found.append((kind, check.find(text)))
        if broken := kind in DECODING and found[-1][1] is not None:
            break
    return Look(
        text=text,
        normal=plain,
        digest=text_hash(plain),
        defects=tuple((kind, seen) for kind, seen in found if seen is not None),
        styles=tuple(None if broken else find(text) for find in STYLES.values()),
    )


# ---- texts ----------------------------------------------------------------------------------------------------------


def short(text: str) -> str | None:
    """A text of one character, or of marks alone."""
    return repr(text) if len(text.strip()) < 2 or not any(map(str.isalnum, text)) else None


TextCheck = Check[Callable[[str], str | None]]
DECODING = ("mojibake", "misread")
TEXT_CHECKS: Mapping[str, TextCheck] = {
    "mojibake": Check(ERROR, "text that was decoded wrongly", text_checks.mojibake),
    "misread": Check(ERROR, "text of one encoding that was read as another: Big5 as GB18030", misread),
    "written_list": Check(ERROR, "a list or an object written as a text", leftovers.written_list),
    "empty_cell": Check(ERROR, "what an empty cell of a table becomes: nan, None, NULL", leftovers.empty_cell),
    "subtitle": Check(WARNING, "tags or times of subtitles", leftovers.subtitle),
    "special_token": Check(WARNING, "special tokens of a tokenizer or chat template", leftovers.special_token),
    "escaped": Check(WARNING, "escapes that were written twice", leftovers.escaped),
    "percent_encoded": Check(WARNING, "percent-encoded Chinese", leftovers.percent_encoded),
    "repetition": Check(WARNING, "a few characters repeated over half a text", leftovers.repetition),
    "control": Check(WARNING, "control and invisible characters", text_checks.control),
    "private_use": Check(INFO, "characters that only one font knew", text_checks.private),
    "markup": Check(INFO, "HTML tags or entities", text_checks.markup),
    "short_text": Check(WARNING, "a text of one character, or without letter or digit", short),
}


# ---- records --------------------------------------------------------------------------------------------------------


def unknown_task(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """A task that the version has no instruction for."""
    version = settings.version
    if version is not None and version.default is None and item.task not in version.tasks:
        yield f"task {item.task!r} is not in version {version.name}: {', '.join(sorted(version.tasks))}"


def negative_is_positive(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """A negative that is a positive, letter for letter or but for case, width, white space and punctuation."""
    positives = {one.digest: index for index, one in enumerate(item.pos)}
    for index, one in enumerate(item.neg):
        if one.digest in positives:
            yield f"neg[{index}] is pos[{positives[one.digest]}]: {excerpt(one.text)}"


def negative_near_positive(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """A negative with nearly the meaning of a positive, in nearly the same words."""
    digests = {one.digest for one in item.pos}
    for index, one in enumerate(item.neg):
        if one.digest in digests:
            continue
        for at, positive in enumerate(item.pos):
            if (alike := near(one.normal, positive.normal, settings.near)) is not None:
                yield f"neg[{index}] is {alike:.2f} like pos[{at}]: {excerpt(one.text)} / {excerpt(positive.text)}"
                break


def query_is_key(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """A key that is the query itself: nothing to learn from as a positive, wrong as a negative."""
    if item.kind == GROUP:
        for name, one in item.texts():
            if name != "query" and one.digest == item.query.digest:
                yield f"{name} is the query itself: {excerpt(one.text)}"


def repeated_key(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """The same text twice among the positives, or among the negatives."""
    for side, looks in (("pos", item.pos), ("neg", item.neg)):
        seen: dict[int, int] = {}
        for index, one in enumerate(looks):
            if one.digest in seen:
                yield f"{side}[{index}] is {side}[{seen[one.digest]}] again: {excerpt(one.text)}"
            seen.setdefault(one.digest, index)


def baked_instruction(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """An instruction that is in the text already: training would put it there twice."""
    for name, one in item.texts():
        if one.text.startswith(settings.instructions) and (
            instruction := instruction_of(one.text, settings.instructions)
        ):
            yield f"{name} begins with the instruction {instruction!r}"


def instruction_of(text: str, instructions: Sequence[str]) -> str | None:
    """Return the longest instruction that a text begins with."""
    return next((one for one in instructions if text.startswith(one)), None)


def teacher_constant(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """All keys have the same score: nothing to learn from."""
    if item.scores and len(item.scores) > 1 and max(item.scores) == min(item.scores):
        yield f"all {len(item.scores)} teacher scores are {item.scores[0]:g}"


def teacher_reversed(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """Scores in the order neg then pos, or of distance where likeness is meant."""
    if not item.scores or not item.pos or len(item.neg) < MIN_TO_RANK:
        return
    positives, negatives = item.scores[: len(item.pos)], item.scores[len(item.pos) :]
    if max(positives) < min(negatives):
        yield f"every negative ({min(negatives):g} and more) scores above every positive (at most {max(positives):g})"
    elif max(positives) < max(negatives) == negatives[-1] and max(negatives) > max(item.scores[:-1]):
        yield f"the last negative scores best ({negatives[-1]:g}), the positives {max(positives):g}: neg before pos?"


def few_negatives(item: CheckedRecord, settings: DoctorSettings) -> Iterator[str]:
    """Fewer negatives than a group takes: some are used twice, or drawn from other records."""
    size = settings.train_group_size
    if size and item.kind == GROUP and len(item.neg) < size - 1:
        yield f"{len(item.neg)} negatives, --train_group_size {size} wants {size - 1}"


RecordCheck = Check[Callable[[CheckedRecord, DoctorSettings], Iterator[str]]]
RECORD_CHECKS: Mapping[str, RecordCheck] = {
    "unknown_task": Check(ERROR, "a task that the version does not know", unknown_task),
    "negative_is_positive": Check(ERROR, "a negative equal to a positive, normalised", negative_is_positive),
    "negative_near_positive": Check(WARNING, "a negative nearly equal to a positive", negative_near_positive),
    "query_is_key": Check(WARNING, "a key that is the query itself", query_is_key),
    "repeated_key": Check(WARNING, "the same key twice on one side of a record", repeated_key),
    "baked_instruction": Check(ERROR, "an instruction that stands in the text already", baked_instruction),
    "teacher_constant": Check(WARNING, "equal teacher scores", teacher_constant),
    "teacher_reversed": Check(WARNING, "teacher scores turned around", teacher_reversed),
    "few_negatives": Check(INFO, "fewer negatives than a group takes", few_negatives),
}
