"""Training-record readers: FlagEmbedding's and LLM-Embedder's formats, which are nearly ours."""

from __future__ import annotations

from collections.abc import Iterator

from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, identity
from data_tools.converting.tables import json_rows
from data_tools.converting.values import Raw, pick_name, pick_text, texts_of
from zh_embedder.data.schema import CARRIED_FIELDS, GROUP_FIELDS

KEPT = (*GROUP_FIELDS, *CARRIED_FIELDS)
NAMES = ("id", "query_id", "qid", "_id")


def read_flag_embedding(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """FlagEmbedding: query, pos, neg, and the scores of either half."""
    yield from kept(source, options)


def read_llm_embedder(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """LLM-Embedder: query, pos, neg or history, teacher_scores, answers, task."""
    yield from kept(source, options)


def kept(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Yield records with an id and a group; fields that no record has are left out and counted."""
    for number, (where, raw) in enumerate(json_rows(source, options), start=1):
        record: Record = {name: value for name, value in raw.items() if name in KEPT and value is not None}
        record["query"] = pick_text(raw, ("query",), where)
        for side in ("pos", "neg"):
            if isinstance(record.get(side), str):  # FlagEmbedding's readers take a bare string for a list
                record[side] = texts_of(record[side], f"{where}: {side}")
        record["id"] = identity(source, pick_name(raw, NAMES, where, number))
        record["group"] = pick_name(raw, ("group",), where, record["id"])
        extra = sorted(name for name in raw if name not in (*KEPT, *NAMES))
        yield SourceItem(where, record, note=f"records without their fields {', '.join(extra)}" if extra else "")


def has_records(raw: Raw) -> bool:
    """Recognise a query with keys."""
    return "query" in raw and bool({"pos", "history"} & raw.keys())


def is_llm_embedder(head: Head) -> bool:
    """Recognise LLM-Embedder's records: they name their task."""
    return has_records(head.first) and "task" in head.first


def is_flag_embedding(head: Head) -> bool:
    """Recognise FlagEmbedding's records."""
    return has_records(head.first) and "task" not in head.first
