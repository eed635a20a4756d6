"""Readers of queries that bring their own keys: reranking.

Training records (`pos` and `neg`, C-MTEB's reranking files as well), and LLM-Embedder's records with `key`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.hashing import text_name
from zh_embedder.data.schema import GROUP, check_text, empty_row, group_row, text_list
from zh_embedder.evaluation.left_out import Tally
from zh_embedder.evaluation.set_files import identity, lines_of, name_of, only_task
from zh_embedder.evaluation.sets import RetrievalSet


def read_queries(path: Path, *, task: str | None = None) -> RetrievalSet:
    """Read queries with their keys, {"query", "pos", "neg", "task"}: the format of training, and C-MTEB's reranking.

    Each query ranks its own keys. Where no line has `neg`, there is nothing to rank: queries then search among the
    keys of all lines.

    Raises:
        UserError: a line is wrong, or has no `neg` where others have.
    """
    found, alone = Ranking(), ""
    for where, raw in lines_of(path):
        row = group_row(raw, where)
        if not row["pos"]:
            raise UserError(f"{where}: pos: is missing beside history, expected the texts that answer the query")
        if not row["neg"]:
            alone = alone or where
        query = found.query(raw, where)
        positives, negatives = ([found.key(text) for text in row[side]] for side in ("pos", "neg"))
        found.qrels[query] = dict.fromkeys(positives, 1)
        found.candidates[query] = list(dict.fromkeys([*positives, *negatives]))
        for key in negatives:
            if key in found.qrels[query]:
                found.count("both_sides", query, key)
        found.count_repeated(query, [*positives, *(key for key in negatives if key not in found.qrels[query])])
    reranking = any(len(own) > len(found.qrels[query]) for query, own in found.candidates.items())
    if reranking and alone:
        raise UserError(
            f"{alone}: neg: is missing, expected keys that `pos` is ranked among, as in other lines; or measure the "
            "file as `retrieval`"
        )
    return found.done(path, task, reranking=reranking)


def read_ranked(path: Path, *, task: str | None = None) -> RetrievalSet:
    """Read LLM-Embedder's records for reranking: {"query", "key": [text], "pos_index": [...]} or "pos": [text].

    `pos_index` counts the keys of the line from 0; where the line has `key_index` (the rows of a corpus that the keys
    are), it names such rows. A positive that is not among the keys stays one that is missed.

    Raises:
        UserError: a line is wrong, or no line has a positive.
    """
    found = Ranking()
    for where, raw in lines_of(path):
        check_text(raw.get("query"), f"{where}: query")
        texts = text_list(raw, "key", where)
        if not texts:
            raise reject(f"{where}: key", raw.get("key"), "at least one text to rank")
        query = found.query(raw, where)
        keys = [found.key(text) for text in texts]
        found.candidates[query] = list(dict.fromkeys(keys))
        found.count_repeated(query, keys)
        positives = right_keys(raw, texts, where)
        for key in dict.fromkeys(positives):
            if key not in found.candidates[query]:
                found.tally.add("missed_positives", query)
        if positives:
            found.qrels[query] = dict.fromkeys(positives, 1)
        else:
            found.tally.add("no_positive", query)
    if not found.qrels:
        raise UserError(f"{path}: no query has a positive, expected `pos_index` or `pos`")
    found.queries = {name: text for name, text in found.queries.items() if name in found.qrels}
    found.candidates = {name: own for name, own in found.candidates.items() if name in found.qrels}
    return found.done(path, task, reranking=True)


def right_keys(raw: Mapping[str, Any], texts: list[str], where: str) -> list[str]:
    """Return the ids of the keys that a line calls right."""
    if raw.get("pos_index") is None:
        return [key_id(text) for text in text_list(raw, "pos", where)]
    rows = raw["key_index"] if raw.get("key_index") is not None else list(range(len(texts)))
    if not isinstance(rows, list) or len(rows) != len(texts) or not all(map(is_row, rows)):
        raise reject(f"{where}: key_index", rows, f"{len(texts)} whole numbers, one for each of key")
    given = raw["pos_index"] if isinstance(raw["pos_index"], list) else [raw["pos_index"]]
    ids = {row: key_id(text) for row, text in zip(rows, texts, strict=True)}
    inside = raw.get("key_index") is not None
    if not all(is_row(row) and (inside or row in ids) for row in given):
        expected = "whole numbers" if inside else f"numbers of key, 0 to {len(texts) - 1}"
        raise reject(f"{where}: pos_index", raw["pos_index"], expected)
    return [ids.get(row, f"row {row}") for row in given]


def is_row(value: object) -> bool:
    """Whether a value is the number of a row."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def key_id(text: str) -> str:
    """Return the id of a key without one: the same text has the same in every file.

    It does not depend on the text's position: where a model scores all keys alike, and ids break the tie, positives
    must not come first because a file lists them first.
    """
    return text_name(text)


class Ranking:
    """Queries with their own candidates, as they are read."""

    def __init__(self) -> None:
        self.queries: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.qrels: dict[str, dict[str, int]] = {}
        self.candidates: dict[str, list[str]] = {}
        self.tasks: set[Any] = set()
        self.tally = Tally()

    def query(self, raw: Mapping[str, Any], where: str) -> str:
        """Take a line's query up; returns its id: its own, or its number from 0."""
        named = {"query_id", "id"} & raw.keys()
        name = identity(raw, where, "query_id", "id") if named else str(len(self.queries))
        if name in self.queries:
            raise reject(f"{where}: {'query_id' if 'query_id' in named else 'id'}", name, "one that no line before has")
        self.queries[name] = raw["query"]
        self.tasks.add(empty_row(GROUP, raw, where)["task"])
        return name

    def key(self, text: str) -> str:
        """Take a key up; returns its id."""
        name = key_id(text)
        self.keys[name] = text
        return name

    def count(self, kind: str, query: str, key: str) -> None:
        """Count a key of a query, shown by how its text begins."""
        self.tally.add(kind, f"{query}: {self.keys[key][:40]}")

    def count_repeated(self, query: str, keys: Sequence[str]) -> None:
        """Count the keys that a query has more than once."""
        for key, times in Counter(keys).items():
            if times > 1:
                self.count("repeated_keys", query, key)

    def done(self, path: Path, task: str | None, *, reranking: bool) -> RetrievalSet:
        """Return the set."""
        task = task or only_task(self.tasks, str(path))
        candidates = self.candidates if reranking else None
        left_out = self.tally.done()
        return RetrievalSet(name_of(path), task, self.queries, self.keys, self.qrels, candidates, left_out=left_out)
