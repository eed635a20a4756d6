"""Record cleaning: texts normalised on request, empty and repeated ones removed, each counted."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data_tools.converting.format_types import Record, SourceItem
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.names import check_name
from zh_embedder.text.empty_cells import EMPTY_CELLS, EMPTY_LABELS, is_empty

Clean = Callable[[str], str]
SINGLE = ("query", "text1", "text2", "text", "prompt")  # fields that hold a text
LISTS = ("pos", "neg", "history", "answers")
NEEDED = ("query", "text1", "text2", "text")
FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class Finished(NamedTuple):
    """A record, or why there is none; and what was done to it."""

    record: Record | None
    reason: str = ""
    notes: tuple[str, ...] = ()


def cleaner(*, simplify: bool, normalize: str | None) -> Clean | None:
    """Return what is done to every text; None where nothing is.

    Raises:
        UserError: OpenCC is not installed, or the normal form is unknown.
    """
    if normalize is not None and normalize not in FORMS:
        raise reject("--normalize", normalize, f"one of {', '.join(FORMS)}")
    if not simplify:
        return None if normalize is None else lambda text: unicodedata.normalize(normalize, text)  # type: ignore[arg-type]
    try:
        from opencc import OpenCC
    except ImportError:
        raise UserError(
            "--simplify: needs OpenCC: pip install 'zh_embedder[tools]', or pip install opencc-python-reimplemented"
        ) from None
    convert: Clean = OpenCC("t2s").convert
    if normalize is None:
        return convert
    return lambda text: convert(unicodedata.normalize(normalize, text))  # type: ignore[arg-type]


def cleaned(record: Record, clean: Clean) -> Record:
    """Return a record with its texts cleaned."""
    changed: Record = {name: clean(record[name]) for name in SINGLE if isinstance(record.get(name), str)}
    for name in LISTS:
        if isinstance(record.get(name), list):
            changed[name] = [clean(text) if isinstance(text, str) else text for text in record[name]]
    return record | changed


@dataclass(frozen=True, slots=True)
class Finisher:
    """What is done to every record."""

    clean: Clean | None = None
    min_chars: int = 1
    task: str | None = None  # of records that name none
    override: bool = False  # or of all
    tasks: set[str] = field(default_factory=set)  # that may become names of files

    def __call__(self, item: SourceItem) -> Finished:
        """Finish one record."""
        if item.record is None:
            return Finished(None, item.reason)
        record = dict(item.record) if self.clean is None else cleaned(item.record, self.clean)
        if reason := self.too_short(record):
            return Finished(None, reason)
        notes = [item.note] if item.note else []
        for name in ("pos", "neg", "history", "answers"):
            if name in record:
                notes += self.filter_list(record, name)
        if "query" in record and not record.get("pos") and not record.get("history"):
            return Finished(None, no_positive(notes) if "pos" in record else "no positive")
        if "score" in record and (reason := self.number(record, item.where)):
            return Finished(None, reason)
        if self.task is not None and (self.override or not record.get("task")):
            record["task"] = self.task
        self.check_task(record, item.where)
        for name in ("neg", "answers"):
            if not record.get(name):
                record.pop(name, None)
        return Finished(record, "", tuple(notes))

    def too_short(self, record: Record) -> str:
        """Return why a record has no query (or no pair, or no text with a label)."""
        label = record.get("label", 0)
        if label is None or (isinstance(label, str) and is_empty(label, EMPTY_LABELS)):
            return "no label"
        for name in NEEDED:
            if name in record and isinstance(record[name], str):
                size = len(record[name].strip())
                if size == 0:
                    return f"{name} is empty"
                if is_empty(record[name]):
                    return f"{name} is an empty cell ({record[name].strip()})"
                if size < self.min_chars:
                    return f"{name} is under {self.min_chars} characters"
        return ""

    def check_task(self, record: Record, where: str) -> None:
        """Refuse a task that cannot be the name of a file or folder; a record may have none."""
        task = record.get("task")
        if isinstance(task, str) and task and task not in self.tasks:
            self.tasks.add(check_name("--task" if task == self.task else f"{where}: task", task, what="a task"))

    def filter_list(self, record: Record, name: str) -> list[str]:
        """Leave texts out of a list that are empty, too short, there already or, of negatives, positive; say which."""
        texts = record[name]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return []  # validation says what is wrong, and where
        least = 1 if name == "answers" else self.min_chars
        empty = EMPTY_LABELS if name == "answers" else EMPTY_CELLS
        positives = record.get("pos") if name == "neg" else None
        known = {text for text in positives if isinstance(text, str)} if isinstance(positives, list) else set()
        keep, notes = [], []
        for index, text in enumerate(texts):
            if text.strip() in empty:
                notes.append(f"{name} texts that are empty cells ({text.strip()}) left out")
            elif len(text.strip()) < least:
                notes.append(f"{name} texts under {least} characters left out")
            elif text in known:
                notes.append(f"{name} texts that are positives or twice there left out")
            else:
                known.add(text)
                keep.append(index)
        if len(keep) < len(texts):
            realign(record, name, keep)
        return notes

    def number(self, record: Record, where: str) -> str:
        """Turn a score into a number; returns why there is none."""
        score = record["score"]
        if score is None or (isinstance(score, str) and is_empty(score)):
            return "no score"
        record["score"] = score_of(score, where)
        return "no score" if math.isnan(record["score"]) else ""


def no_positive(notes: Sequence[str]) -> str:
    """Say why a record has no positive, by what was left out of its texts."""
    empty = sorted({note.removesuffix(" left out") for note in notes if note.startswith("pos texts that are empty")})
    return f"no positive is left: {', '.join(empty)}" if empty else "no positive is left"


def score_of(value: object, where: str) -> float:
    """Return a score as a number.

    Raises:
        UserError: it is none, or beyond all numbers.
    """
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise reject(f"{where}: score", value, "a number") from None


def realign(record: Record, name: str, keep: list[int]) -> None:
    """Keep some texts of a list, and the scores that are theirs."""
    texts, scores = record[name], record.get("teacher_scores")
    first = len(record.get("pos") or []) if name == "neg" else 0
    total = len(record.get("pos") or []) + len(record.get("neg") or []) + len(record.get("history") or [])
    if name != "answers" and isinstance(scores, list) and len(scores) == total:
        own = scores[first : first + len(texts)]
        record["teacher_scores"] = [*scores[:first], *(own[i] for i in keep), *scores[first + len(texts) :]]
    for beside in (f"{name}_scores", f"{name}_index"):
        values = record.get(beside)
        if isinstance(values, list) and len(values) == len(texts):
            record[beside] = [values[i] for i in keep]
    record[name] = [texts[i] for i in keep]
