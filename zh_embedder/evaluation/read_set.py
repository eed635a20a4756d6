"""Readers of everything a model is measured on besides BEIR's folders: pairs, labelled texts, queries with their keys.

A file is known by the fields of its first line; `read_set` finds the reader of a file or folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, nearest, reject, unknown_name
from zh_embedder.data.schema import (
    GROUP,
    check_text,
    empty_row,
    group_row,
    labelled_row,
    need_text,
    pair_row,
    text_list,
)
from zh_embedder.evaluation.sets import (
    BEIR,
    FLAG_EMBEDDING,
    TEST,
    TRAIN,
    EvalSet,
    LabelSet,
    PairSet,
    RetrievalSet,
    find,
    has,
    identity,
    name_of,
    only_task,
    read_retrieval_set,
    read_rows,
)

KINDS = ("retrieval", "reranking", "similarity", "pair_classification", "classification", "clustering")
PAIRS = '{"text1": ..., "text2": ..., "score": ...}'
LABELS = '{"text": ..., "label": ...}'
QUERIES = '{"query": ..., "pos": [...], "neg": [...]}'
RANKED = '{"query": ..., "key": [...], "pos_index": [...]}'
EXAMPLES = (PAIRS, LABELS, QUERIES, RANKED)
ALIASES = {"positive": "pos", "negative": "neg"}  # mteb's names in C-MTEB's reranking files
KNOWN = ("text1", "text2", "score", "text", "label", "query", "pos", "neg", "key", "pos_index", "task", *ALIASES)


def read_set(path: str | Path, *, task: str | None = None, kind: str | None = None) -> EvalSet:
    """Read what is there: a BEIR or FlagEmbedding folder, a folder of train.jsonl and test.jsonl, or a file.

    Args:
        path: folder or file.
        task: overrides the lines' own `task`.
        kind: how to measure it, where that is not what one would think: a labelled folder as `clustering`, pairs of
            scores 0 and 1 as `similarity`, queries with their keys as `retrieval` among all keys of the file.

    Raises:
        UserError: there is no set, a line is wrong, or it cannot be measured that way.
    """
    path = Path(path)
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    if not path.is_dir():
        return of_kind(read_file(path, task=task), kind, path)
    if any(has(place, name) for place in (path, path / "test") for name in {*BEIR, *FLAG_EMBEDDING}):
        return of_kind(read_retrieval_set(path, task=task), kind, path)
    return of_kind(read_folder(path, task=task), kind, path)


def of_kind(data: EvalSet, kind: str | None, path: Path) -> EvalSet:
    """Return a set as one of another kind, where it can be one.

    Raises:
        UserError: it cannot.
    """
    if kind is None or data.kind == kind:
        return data
    if isinstance(data, PairSet) and kind == "similarity":
        return replace(data, graded=True)
    if isinstance(data, LabelSet) and kind == "clustering":
        return replace(data, train_texts=(), train_labels=())
    if isinstance(data, RetrievalSet) and kind == "retrieval":
        return replace(data, candidates=None)
    needs = {
        "pair_classification": "pairs whose scores are 0 and 1",
        "classification": f"a folder of {TRAIN} and {TEST} with labelled texts",
        "reranking": f"a file of {QUERIES} or {RANKED}",
        "similarity": f"a file of {PAIRS}",
        "clustering": f"a file of {LABELS}",
        "retrieval": "a BEIR folder",
    }[kind]
    raise UserError(f"{path}: kind: got {kind!r} of a set for {data.kind}, expected {needs}")


def read_folder(folder: Path, *, task: str | None = None) -> EvalSet:
    """Read test.jsonl of a folder; of labelled texts, those of train.jsonl are learnt from.

    Raises:
        UserError: there is no test.jsonl, or a line is wrong.
    """
    if not has(folder, TEST):
        inside = sorted(p.name for p in folder.iterdir())
        found = ", ".join(inside[:8]) or "nothing"
        layouts = f"BEIR's {', '.join(BEIR)}, or {TEST} (with {TRAIN} for classification)"
        raise UserError(f"{folder}: got a folder of {found}{nearest(TEST, inside)}, expected {layouts}")
    data = replace(read_file(find(folder, TEST, (TEST,)), task=task), name=name_of(folder))
    if not isinstance(data, LabelSet) or not has(folder, TRAIN):
        return data
    known = read_labels(find(folder, TRAIN, (TRAIN,)), task=task)
    return replace(data, train_texts=known.texts, train_labels=known.labels)


def read_file(path: Path, *, task: str | None = None) -> EvalSet:
    """Read a file by the reader that the fields of its first line ask for.

    Raises:
        UserError: no reader knows these fields, or a line is wrong.
    """
    where, first = next(lines_of(path), (str(path), {}))
    return reader_of(first, where)(path, task=task)


def lines_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`path:line`, object) of a file, mteb's names turned into ours.

    Raises:
        UserError: a line is no object, or there is none.
    """
    empty = True
    for where, raw in read_rows(path, " or ".join(EXAMPLES)):
        empty = False
        yield where, {ALIASES.get(name, name): value for name, value in raw.items()}
    if empty:
        raise UserError(f"{path}: got no lines, expected some such as {' or '.join(EXAMPLES)}")


def reader_of(first: Mapping[str, Any], where: str) -> Callable[..., EvalSet]:
    """Return the reader of a file whose first line has these fields."""
    if "text1" in first or "text2" in first:
        return read_pairs
    if "text" in first and "label" in first:
        return read_labels
    if "query" in first and "key" in first:
        return read_ranked
    if "query" in first and first.keys() & {"pos", "neg", "history"}:
        return read_queries
    hints = [nearest(name, KNOWN) for name in first if name not in KNOWN]
    hint = next((hint for hint in hints if hint), "")
    if "query" in first and "pos_index" in first:
        hint = "; its rows are those of a corpus: name it with --corpus"
    raise UserError(f"{where}: got the fields {', '.join(first) or 'none'}{hint}, expected {' or '.join(EXAMPLES)}")


# ---- readers of files -----------------------------------------------------------------------------------------------


def read_pairs(path: Path, *, task: str | None = None) -> PairSet:
    """Read pairs of texts with a score each: {"text1", "text2", "score", "task"}."""
    rows = [pair_row(raw, where) for where, raw in lines_of(path)]
    return PairSet(
        name=name_of(path),
        task=task or only_task({row["task"] for row in rows}, str(path)),
        firsts=[row["query"] for row in rows],
        seconds=[row["pos"][0] for row in rows],
        scores=[row["score"] for row in rows],
    )


def read_labels(path: Path, *, task: str | None = None) -> LabelSet:
    """Read labelled texts: {"text", "label", "task"}."""
    rows = []
    for where, raw in lines_of(path):
        need_text(raw, "text", where, ("text", "label", "task"))
        if "label" not in raw:
            hint = nearest("label", raw)
            raise UserError(f"{where}: label: is missing{hint or ';'} found {', '.join(raw)}, expected {LABELS}")
        rows.append(labelled_row(raw, where))
    return LabelSet(
        name=name_of(path),
        task=task or only_task({row["task"] for row in rows}, str(path)),
        texts=[row["query"] for row in rows],
        labels=[row["label"] for row in rows],
    )


def key_id(text: str) -> str:
    """Return the id of a key without one: the same text has the same in every file.

    It says nothing of where the text stood: where a model scores all keys alike, and ids break the tie, positives must
    not come first because a file lists them first.
    """
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _Ranking:
    """Queries with their own candidates, as they are read."""

    def __init__(self) -> None:
        self.queries: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.qrels: dict[str, dict[str, int]] = {}
        self.candidates: dict[str, list[str]] = {}
        self.tasks: set[Any] = set()

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

    def done(self, path: Path, task: str | None, *, reranking: bool) -> RetrievalSet:
        """Return the set."""
        task = task or only_task(self.tasks, str(path))
        candidates = self.candidates if reranking else None
        return RetrievalSet(name_of(path), task, self.queries, self.keys, self.qrels, candidates)


def read_queries(path: Path, *, task: str | None = None) -> RetrievalSet:
    """Read queries with their keys, {"query", "pos", "neg", "task"}: the format of training, and C-MTEB's reranking.

    Each query ranks its own keys. Where no line has `neg`, there is nothing to rank: queries then search among the
    keys of all lines.

    Raises:
        UserError: a line is wrong, or has no `neg` where others have.
    """
    found, alone = _Ranking(), ""
    for where, raw in lines_of(path):
        row = group_row(raw, where)
        if not row["pos"]:
            raise UserError(f"{where}: pos: is missing beside history, expected the texts that answer the query")
        if not row["neg"]:
            alone = alone or where
        query = found.query(raw, where)
        positives = [found.key(text) for text in row["pos"]]
        found.qrels[query] = dict.fromkeys(positives, 1)
        found.candidates[query] = list(dict.fromkeys([*positives, *map(found.key, row["neg"])]))
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
    found = _Ranking()
    for where, raw in lines_of(path):
        check_text(raw.get("query"), f"{where}: query")
        texts = text_list(raw, "key", where)
        if not texts:
            raise reject(f"{where}: key", raw.get("key"), "at least one text to rank")
        query = found.query(raw, where)
        found.candidates[query] = list(dict.fromkeys(map(found.key, texts)))
        if positives := right_keys(raw, texts, where):
            found.qrels[query] = dict.fromkeys(positives, 1)
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
    """Tell whether a value is the number of a row."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
