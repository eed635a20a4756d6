"""Sentence-pair readers: pairs with a score, and inference pairs with a label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, distinct, identity
from data_tools.converting.record_cleaning import score_of
from data_tools.converting.separated import header_names
from data_tools.converting.source_text import open_text, text_lines
from data_tools.converting.tables import check_scores, class_number, classes, rows, with_classes
from data_tools.converting.values import Raw, as_text, pick, pick_name, pick_text, picked
from zh_embedder.core.errors import UserError, reject, unknown_name
from zh_embedder.data.sources import kind
from zh_embedder.text.empty_cells import is_empty

FIRST = ("sentence1", "text_a", "text1", "question1", "q1", "query1", "s1", "premise", "sentence_A")
SECOND = ("sentence2", "text_b", "text2", "question2", "q2", "query2", "s2", "hypothesis", "hypo", "sentence_B")
SCORE = ("score", "label", "gold_label", "similarity")
NAME = ("id", "pair_id", "idx")
PREMISE_ID = ("prem_id", "premise_id", "promptID")
ENTAILS, NEUTRAL, CONTRADICTS = "entailment", "neutral", "contradiction"
LABELS = {
    **dict.fromkeys((ENTAILS, "entailed", "entail", "蕴含"), ENTAILS),
    **dict.fromkeys((NEUTRAL, "中立"), NEUTRAL),
    **dict.fromkeys((CONTRADICTS, "contradictory", "contradict", "矛盾"), CONTRADICTS),
}
LABEL_NAMES = ("label", "gold_label", "label_text", "label_desc", "label_name")
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
    if "score" not in options.columns:
        check_pair_scores(source, options)
    pairs = ((where, raw, number) for number, (where, raw) in enumerate(pair_rows(source, options), start=1))
    if options.shape == "groups":
        yield from grouped_pairs(source, options, pairs)
        return
    for where, raw, number in pairs:
        name = identity(source, pick_name(raw, NAME, where, number))
        record: Record = {
            "text1": pick_text(raw, FIRST, where),
            "text2": pick_text(raw, SECOND, where),
            "score": pick(raw, SCORE, where),
            "id": name,
            "group": name,
        }
        yield SourceItem(where, record)


def check_pair_scores(source: Source, options: ReadOptions) -> None:
    """Refuse labels that may be classes.

    Raises:
        UserError: they may be.
    """
    _, first = next(pair_rows(source, options), ("", {}))
    column = next((name for name in SCORE if name in first), "")
    check_scores(source.spec, column, (row.get(column) for _, row in pair_rows(source, options)))


def grouped_pairs(source: Source, options: ReadOptions, pairs: Iterable[tuple[str, Raw, int]]) -> Iterator[SourceItem]:
    """Make groups of pairs: what scores --threshold or more is a positive of its first sentence, else a negative."""
    found: dict[str, Gathered] = {}
    for where, raw, number in pairs:
        first, second = pick_text(raw, FIRST, where), pick_text(raw, SECOND, where)
        score = pick(raw, SCORE, where)
        if is_empty(as_text(score, f"{where}: score")):
            yield SourceItem(where, reason="no score")
            continue
        own = found.setdefault(first, Gathered(first, where, identity(source, number)))
        score = score_of(score, where)
        (own.pos if score >= options.threshold else own.neg).append(second)
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
            if options.header or (options.header is None and not is_number(cells[-1])):
                names = header_names(cells, where)
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
    for number, (where, raw) in enumerate(inference_rows(source, options), start=1):
        label = label_of(raw, where, options.labels)
        if label is None or label == NEUTRAL:
            yield SourceItem(
                where, reason="no gold label" if label is None else "neutral: neither positive nor negative"
            )
            continue
        premise = pick_text(raw, FIRST, where)
        known = pick_name(raw, PREMISE_ID, where, number)
        own = found.setdefault(premise, Gathered(premise, where, identity(source, known)))
        (own.pos if label == ENTAILS else own.neg).append(pick_text(raw, SECOND, where))
        own.lines += 1
    yield from (own.item("its premise entails nothing") for own in found.values())


def inference_pairs(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Yield scored pairs, grouped by premise."""
    for number, (where, raw) in enumerate(inference_rows(source, options), start=1):
        label = label_of(raw, where, options.labels)
        if label is None:
            yield SourceItem(where, reason="no gold label")
            continue
        known = pick_name(raw, ("id", *PREMISE_ID), where, number)
        premise = pick_name(raw, PREMISE_ID, where, number)
        record: Record = {
            "text1": pick_text(raw, FIRST, where),
            "text2": pick_text(raw, SECOND, where),
            "score": INFERENCE_SCORES[label],
            "id": identity(source, known),
            "group": identity(source, premise),
        }
        yield SourceItem(where, record)


def inference_rows(source: Source, options: ReadOptions) -> Iterator[tuple[str, Raw]]:
    """Yield (place, row) of pairs, with the names of their classes where the table holds them."""
    named = classes(source, options)
    for where, row in pair_rows(source, options):
        yield where, with_classes(row, named)


def label_of(raw: Raw, where: str, names: Sequence[str]) -> str | None:
    """Return a pair's label in our words; None where the annotators did not agree.

    Args:
        raw: the row.
        where: its place, for messages.
        names: what --labels calls the numbers 0, 1, ...

    Raises:
        UserError: it is another word, or a number without a name: data sets count their classes differently.
    """
    known = [name for name in LABEL_NAMES if name in raw]
    words = {name: as_text(raw[name], f"{where}: {name}").strip().lower() for name in known}
    word = next((name for name in known if words[name] in LABELS), None)
    if word is not None:
        return LABELS[words[word]]
    name = picked(raw, LABEL_NAMES, where)
    if words[name] in ("-", "-1", "-1.0") or is_empty(words[name]):
        return None
    number = class_number(raw[name])
    if number is None:
        raise reject(f"{where}: {name}", raw[name], f"{ENTAILS}, {NEUTRAL} or {CONTRADICTS}")
    if not names:
        raise UserError(
            f"{where}: {name}: got the number {number}, whose meaning differs between data sets, expected --labels "
            f"with the names of 0, 1 and 2: {ENTAILS},{NEUTRAL},{CONTRADICTS} (SNLI, XNLI) or "
            f"{NEUTRAL},{ENTAILS},{CONTRADICTS} (CLUE)"
        )
    if not 0 <= number < len(names):
        raise reject(f"{where}: {name}", raw[name], f"a number of 0 to {len(names) - 1}, as --labels names them")
    return LABELS[names[number]]


def read_labels(value: str | None) -> tuple[str, ...]:
    """Read --labels: the names of 0, 1, ... between commas.

    Raises:
        UserError: a name is unknown, or there twice.
    """
    names = tuple(name.strip().lower() for name in value.split(",")) if value is not None else ()
    for name in names:
        if name not in LABELS:
            raise unknown_name("--labels", name, LABELS)
    if len({LABELS[name] for name in names}) < len(names) or (names and len(names) < 2):
        raise reject("--labels", value, f"different names such as {ENTAILS},{NEUTRAL},{CONTRADICTS}")
    return names


def is_inference(head: Head) -> bool:
    """Recognise inference pairs: by their label, or by the names of their columns."""
    label = str(head.first.get("label") or head.first.get("gold_label") or "").lower()
    return label in LABELS or {"premise", "hypothesis"} <= head.first.keys() or {"premise", "hypo"} <= head.first.keys()
