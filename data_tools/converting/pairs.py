"""Sentence-pair readers: pairs with a score, and inference pairs with a label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from data_tools.converting.format_types import (
    Head,
    Raw,
    ReadOptions,
    Record,
    Source,
    SourceItem,
    as_text,
    distinct,
    identity,
    pick,
)
from data_tools.converting.source_text import open_text, text_lines
from data_tools.converting.tables import rows
from zh_embedder.core.errors import UserError, reject
from zh_embedder.data.sources import kind

FIRST = ("sentence1", "text_a", "text1", "question1", "q1", "query1", "s1", "premise", "sentence_A")
SECOND = ("sentence2", "text_b", "text2", "question2", "q2", "query2", "s2", "hypothesis", "hypo", "sentence_B")
SCORE = ("score", "label", "gold_label", "similarity")
NAME = ("id", "pair_id", "idx")
PREMISE_ID = ("prem_id", "premise_id", "promptID")
ENTAILS, NEUTRAL, CONTRADICTS = "entailment", "neutral", "contradiction"
LABELS = {
    **dict.fromkeys((ENTAILS, "entailed", "entail", "蕴含", "0"), ENTAILS),
    **dict.fromkeys((NEUTRAL, "中立", "1"), NEUTRAL),
    **dict.fromkeys((CONTRADICTS, "contradictory", "contradict", "矛盾", "2"), CONTRADICTS),
}
INFERENCE_SCORES = {ENTAILS: 1.0, NEUTRAL: 0.5, CONTRADICTS: 0.0}


# ---- scored pairs ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Gathered:
    """What shares a first sentence."""

    query: str
    where: str
    name: str
    pos: list[str] = field(default_factory=list)
    neg: list[str] = field(default_factory=list)
    lines: int = 0

    def item(self, no_positive: str) -> SourceItem:
        """The record, or why there is none."""
        if not self.pos:
            return SourceItem(self.where, reason=no_positive, of=self.lines)
        record: Record = {"query": self.query, "pos": distinct(self.pos), "neg": distinct(self.neg)}
        return SourceItem(self.where, record | {"id": self.name, "group": self.name}, of=self.lines)


def read_pairs(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Pairs with a score, from JSON Lines, or lines of two sentences and a score with or without a header."""
    pairs = ((where, raw, number) for number, (where, raw) in enumerate(pair_rows(source, options), start=1))
    if options.shape == "groups":
        yield from grouped_pairs(source, options, pairs)
        return
    for where, raw, number in pairs:
        name = identity(source, pick(raw, NAME, where) if any(n in raw for n in NAME) else number)
        record: Record = {
            "text1": as_text(pick(raw, FIRST, where)),
            "text2": as_text(pick(raw, SECOND, where)),
            "score": pick(raw, SCORE, where),
            "id": name,
            "group": name,
        }
        yield SourceItem(where, record)


def grouped_pairs(source: Source, options: ReadOptions, pairs: Iterable[tuple[str, Raw, int]]) -> Iterator[SourceItem]:
    """Make groups of pairs: what scores --threshold or more is a positive of its first sentence, else a negative."""
    found: dict[str, Gathered] = {}
    for where, raw, number in pairs:
        first, second = as_text(pick(raw, FIRST, where)), as_text(pick(raw, SECOND, where))
        own = found.setdefault(first, Gathered(first, where, identity(source, number)))
        score = pick(raw, SCORE, where)
        try:
            (own.pos if float(score) >= options.threshold else own.neg).append(second)
        except (TypeError, ValueError):
            raise reject(f"{where}: score", score, "a number") from None
        own.lines += 1
    yield from (own.item("its first sentence has no pair that scores --threshold") for own in found.values())


def pair_rows(source: Source, options: ReadOptions) -> Iterator[tuple[str, Raw]]:
    """Yield (place, row) of pairs, those of a table without a header under our names."""
    if source.is_hub or kind(source.path) not in (".tsv", ".txt", ".csv") or options.columns:
        for where, row in rows(source, options):
            yield where, renamed(row, options.columns, where)
        return
    if kind(source.path) == ".csv":
        yield from rows(source, options)
        return
    yield from pair_lines(source, options)


def renamed(row: Raw, columns: Mapping[str, str], where: str) -> Raw:
    """Return a row under our names, where the user named the columns."""
    return dict(row) | {ours: pick(row, (theirs,), where) for ours, theirs in columns.items()}


def pair_lines(source: Source, options: ReadOptions) -> Iterator[tuple[str, Raw]]:
    """Yield pairs of lines such as `一 <tab> 二 <tab> 1`, `7 <tab> 一 <tab> 二 <tab> 1`, or with `||` between."""
    names: list[str] | None = None
    with open_text(source.path, options.encoding) as stream:
        separator = "||" if "\t" not in (first := stream.readline()) and "||" in first else "\t"
    for where, line in text_lines(source.path, options.encoding):
        cells = [cell for cell in line.split(separator) if separator == "\t" or cell]
        if names is None:
            names = [cell.strip() for cell in cells]
            if options.header or (options.header is None and not is_number(names[-1])):
                continue
            names = layout(len(cells), where)
        if len(cells) != len(names):
            raise UserError(f"{where}: got {len(cells)} columns, expected {len(names)}: {', '.join(names)}")
        yield where, dict(zip(names, cells, strict=True))


def layout(columns: int, where: str) -> list[str]:
    """Name the columns of a table of pairs without a header."""
    if columns not in (3, 4):
        raise UserError(f"{where}: got {columns} columns without a header, expected two sentences and a score")
    return ["sentence1", "sentence2", "score"] if columns == 3 else ["id", "sentence1", "sentence2", "score"]


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_pairs(head: Head) -> bool:
    """Recognise a table or JSON of pairs whose score is a number, by its columns."""
    names = set(head.first)
    if not names & set(FIRST) or not names & set(SECOND) or is_inference(head):
        return looks_like_lines(head)
    return bool(names & {"label", "similarity"}) and "sentence_A" not in names


def looks_like_lines(head: Head) -> bool:
    """Recognise lines of two sentences and a score: the first lines agree."""
    lines = [line for line in head.text.split("\n")[:20] if line.strip()][:10]
    for separator in ("\t", "||"):
        cells = [line.split(separator) for line in lines]
        if cells and all(len(c) in (3, 4) and [is_number(x) for x in c[-3:]] == [False, False, True] for c in cells):
            return len({len(c) for c in cells}) == 1
    return False


# ---- inference ------------------------------------------------------------------------------------------------------


def read_inference(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Premise -> what it entails, negatives what contradicts it; or pairs scored 1, 0.5 and 0."""
    if options.shape == "pairs":
        yield from inference_pairs(source, options)
        return
    found: dict[str, Gathered] = {}
    for number, (where, raw) in enumerate(pair_rows(source, options), start=1):
        label = label_of(raw, where)
        if label is None or label == NEUTRAL:
            yield SourceItem(
                where, reason="no gold label" if label is None else "neutral: neither positive nor negative"
            )
            continue
        premise = as_text(pick(raw, FIRST, where))
        known = next((raw[name] for name in PREMISE_ID if name in raw), number)
        own = found.setdefault(premise, Gathered(premise, where, identity(source, known)))
        (own.pos if label == ENTAILS else own.neg).append(as_text(pick(raw, SECOND, where)))
        own.lines += 1
    yield from (own.item("its premise entails nothing") for own in found.values())


def inference_pairs(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Yield scored pairs, grouped by premise."""
    for number, (where, raw) in enumerate(pair_rows(source, options), start=1):
        label = label_of(raw, where)
        if label is None:
            yield SourceItem(where, reason="no gold label")
            continue
        known = next((raw[name] for name in ("id", *PREMISE_ID) if name in raw), number)
        premise = next((raw[name] for name in PREMISE_ID if name in raw), number)
        record: Record = {
            "text1": as_text(pick(raw, FIRST, where)),
            "text2": as_text(pick(raw, SECOND, where)),
            "score": INFERENCE_SCORES[label],
            "id": identity(source, known),
            "group": identity(source, premise),
        }
        yield SourceItem(where, record)


def label_of(raw: Raw, where: str) -> str | None:
    """Return a pair's label in our words; None where the annotators did not agree.

    Raises:
        UserError: it is another word.
    """
    label = as_text(pick(raw, ("label", "gold_label"), where)).strip().lower()
    if label in ("-", "", "-1"):
        return None
    if label not in LABELS:
        raise reject(f"{where}: label", label, f"{ENTAILS}, {NEUTRAL} or {CONTRADICTS}")
    return LABELS[label]


def is_inference(head: Head) -> bool:
    """Recognise inference pairs: by their label, or by the names of their columns."""
    words = {word for word in LABELS if not word.isdigit()}
    label = str(head.first.get("label") or head.first.get("gold_label") or "").lower()
    return label in words or {"premise", "hypothesis"} <= head.first.keys() or {"premise", "hypo"} <= head.first.keys()
