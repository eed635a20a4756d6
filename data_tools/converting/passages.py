"""Readers of queries with passages or messages: Tevatron, DPR, ms-swift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, identity
from data_tools.converting.tables import json_rows
from data_tools.converting.values import Raw, as_list, pick, pick_name, pick_text, texts_of, unread
from zh_embedder.core.errors import UserError

POSITIVE = ("positive_passages", "positive_ctxs")
NEGATIVE = ("negative_passages", "hard_negative_ctxs", "negative_ctxs")
NAMES = ("query_id", "id", "qid")
CHAT = ("messages", "positive_messages", "negative_messages")


def read_passages(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Tevatron and DPR: a query with lists of passages, each with title and text."""
    for number, (where, raw) in enumerate(json_rows(source, options), start=1):
        name = identity(source, pick_name(raw, NAMES, where, number))
        pick(raw, POSITIVE, where)
        record: Record = {
            "query": pick_text(raw, ("query", "question"), where),
            "pos": listed(raw, POSITIVE, where),
            "neg": listed(raw, NEGATIVE, where),
            "id": name,
            "group": name,
        }
        if raw.get("answers"):
            record["answers"] = texts_of(raw["answers"], f"{where}: answers")
        left = {field for side in (*POSITIVE, *NEGATIVE) for field in unread(raw.get(side))}
        note = f"records whose passages have the fields {', '.join(sorted(left))}, left out" if left else ""
        yield SourceItem(where, record, note=note)


def listed(raw: Raw, names: Sequence[str], where: str) -> list[str]:
    """Return the texts of all fields of these names, each a list where it is there."""
    found = [(name, raw[name]) for name in names if raw.get(name) is not None]
    return [text for name, value in found for text in texts_of(as_list(value, f"{where}: {name}"), f"{where}: {name}")]


def read_messages(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """ms-swift: a query, its positives and negatives as lists of one chat message each."""
    for number, (where, raw) in enumerate(json_rows(source, options), start=1):
        name = identity(source, pick_name(raw, NAMES, where, number))
        query, positives = pick_text(raw, ("messages",), where), listed(raw, ("positive_messages",), where)
        record: Record = {"id": name, "group": name}
        if options.shape == "pairs":
            if len(positives) != 1:
                raise UserError(f"{where}: positive_messages: got {len(positives)}, expected one for a scored pair")
            record |= {"text1": query, "text2": positives[0], "score": pick(raw, ("label",), where)}
        elif raw.get("label") is not None:
            raise UserError(f"{where}: label: got {raw['label']!r}, expected --as pairs for records with a score")
        else:
            record |= {"query": query, "pos": positives, "neg": listed(raw, ("negative_messages",), where)}
        extra = sorted(str(field) for field in raw if field not in (*CHAT, *NAMES, "label"))
        yield SourceItem(where, record, note=f"records without their fields {', '.join(extra)}" if extra else "")


def is_passages(head: Head) -> bool:
    """Recognise Tevatron's and DPR's records."""
    return not head.first.keys().isdisjoint(POSITIVE)


def is_messages_record(head: Head) -> bool:
    """Recognise ms-swift's records."""
    return set(CHAT[:2]) <= head.first.keys()
