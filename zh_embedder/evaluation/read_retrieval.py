"""Readers of retrieval sets.

A set is a BEIR folder (queries.jsonl, corpus.jsonl, qrels.tsv), FlagEmbedding's (test_queries.jsonl, corpus.jsonl,
test_qrels.jsonl), or LLM-Embedder's `eval_data` file with a corpus file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, nearest, reject
from zh_embedder.data.sources import read_lines
from zh_embedder.evaluation.set_files import BEIR, FLAG_EMBEDDING, find, has, identity, name_of, only_task, read_rows
from zh_embedder.evaluation.sets import RetrievalSet
from zh_embedder.text.prefix import KEY_TEMPLATE, full_text, template_fields

TEXT_FIELDS = ("text", "content", "contents")  # of a corpus line


def read_retrieval_set(folder: str | Path, *, task: str | None = None) -> RetrievalSet:
    """Read a BEIR or FlagEmbedding folder (or one whose `test/` is one).

    Args:
        folder: where the queries, the corpus and the judgements are.
        task: overrides the queries' own `task`.

    Raises:
        UserError: a file is missing or wrong, or the queries belong to several tasks.
    """
    folder = Path(folder)
    if (folder / "test").is_dir() and not (has(folder, BEIR[2]) or has(folder, FLAG_EMBEDDING[2])):
        folder = folder / "test"
    names = FLAG_EMBEDDING if has(folder, FLAG_EMBEDDING[2]) else BEIR
    queries, tasks = read_texts(find(folder, names[0], names))
    keys, _ = read_texts(find(folder, names[1], names))
    published = folder / "qrels" / "test.tsv"  # where the published BEIR sets keep them
    judged = published if names is BEIR and published.is_file() else find(folder, names[2], names)
    qrels = read_qrels(judged) if names is BEIR else read_json_qrels(judged)
    if not qrels:
        raise UserError(f"{folder}: {names[2]}: no judgements")
    return RetrievalSet(
        name=name_of(folder),
        task=task or only_task(tasks, str(folder)),
        queries={name: text for name, text in queries.items() if name in qrels},
        keys=keys,
        qrels=qrels,
    )


def read_texts(path: Path) -> tuple[dict[str, str], set[Any]]:
    """Read lines of an id and a text; returns id -> text, and the tasks that lines name."""
    found: dict[str, str] = {}
    tasks: set[Any] = set()
    for where, raw in read_rows(path, '{"id": ..., "text": ...}'):
        name = identity(raw, where, "id", "_id")
        if name in found:
            raise reject(f"{where}: id", name, "one that no line before has")
        found[name] = text_of(raw, where)
        tasks.add(raw.get("task"))
    return found, tasks


def text_of(raw: Mapping[str, Any], where: str) -> str:
    """Return the text of a query or key, its title in front; a list is joined, as FlagEmbedding does."""
    text = raw.get("text")
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = " ".join(text)
    if not isinstance(text, str):
        raise reject(f"{where}: text", text, "a string, or a list of strings")
    return full_text(text, title=raw.get("title"))


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read BEIR's qrels.tsv: query-id, corpus-id, score, under a header."""
    qrels: dict[str, dict[str, int]] = {}
    for number, text in read_lines(path):
        if isinstance(text, UserError):
            raise text
        cells = text.split("\t")
        if not text or (number == 1 and cells[-1] == "score"):
            continue
        if len(cells) != 3 or not cells[2].lstrip("-").isdigit():
            raise reject(f"{path}:{number}", text, "query-id, corpus-id and a whole score, between tabs")
        qrels.setdefault(cells[0], {})[cells[1]] = int(cells[2])
    return qrels


def read_json_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read FlagEmbedding's judgements: {qid, docid, relevance} a line."""
    qrels: dict[str, dict[str, int]] = {}
    for where, raw in read_rows(path, '{"qid": ..., "docid": ..., "relevance": 1}'):
        value = raw.get("relevance", 1)
        if not isinstance(value, int) or isinstance(value, bool):
            raise reject(f"{where}: relevance", value, "a whole number")
        qrels.setdefault(identity(raw, where, "qid"), {})[identity(raw, where, "docid")] = value
    return qrels


# ---- LLM-Embedder's files -------------------------------------------------------------------------------------------


def read_eval_data(
    path: str | Path, corpus: str | Path, *, task: str | None = None, key_template: str = KEY_TEMPLATE
) -> RetrievalSet:
    """Read LLM-Embedder's `eval_data`: queries whose positives are rows of the corpus, or texts in it.

    Args:
        path: JSON Lines of {"query", "pos_index": [row of the corpus, from 0]} or {"query", "pos": [text]}, with
            `query_id` or `id` where queries have names.
        corpus: JSON Lines.
        task: overrides the queries' own `task`.
        key_template: how a line of the corpus becomes a key.

    Raises:
        UserError: a line is wrong, a row is not in the corpus, or no query has a positive there.
    """
    path = Path(path)
    keys = read_corpus(Path(corpus), key_template)
    rows: dict[str, str] = {}
    for name, text in keys.items():
        rows.setdefault(text, name)
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    tasks: set[Any] = set()
    for where, raw in read_rows(path, '{"query": ..., "pos_index": [...]}'):
        if not isinstance(raw.get("query"), str):
            raise reject(f"{where}: query", raw.get("query"), "a string")
        name = identity(raw, where, "query_id", "id") if {"query_id", "id"} & raw.keys() else str(len(queries))
        if name in queries:
            raise reject(f"{where}: query_id", name, "one that no line before has")
        queries[name] = raw["query"]
        tasks.add(raw.get("task"))
        if positives := positive_rows(raw, where, rows, len(keys)):
            qrels[name] = dict.fromkeys(positives, 1)
    if not qrels:
        raise UserError(f"{path}: no query has a positive in {corpus}, expected `pos_index` or `pos`")
    return RetrievalSet(name_of(path), task or only_task(tasks, str(path)), queries, keys, qrels)


def read_corpus(path: Path, template: str = KEY_TEMPLATE) -> dict[str, str]:
    """Read a corpus file; a key is its line through the template, its id the number of its line from 0.

    Args:
        path: JSON Lines.
        template: with fields of a line in braces; a field that a line lacks is empty, `text` is also found as
            `content` or `contents`.

    Raises:
        UserError: a line is wrong, or has none of the template's fields.
    """
    wanted = template_fields(template, flag="--key_template")
    if "" in wanted:
        raise reject("--key_template", template, "names in the braces, such as {text}")
    keys: dict[str, str] = {}
    for where, raw in read_rows(path, '{"text": ...}'):
        alias = next((raw[name] for name in TEXT_FIELDS if name in raw), None)
        values = {name: raw.get(name, alias if name == "text" else None) for name in wanted}
        if all(value is None for value in values.values()):
            hint = nearest(wanted[0], raw) if wanted else ""
            raise UserError(f"{where}: no field of the key template {template!r}{hint}; found {', '.join(raw)}")
        keys[str(len(keys))] = template.format_map({n: "" if v is None else v for n, v in values.items()}).strip()
    return keys


def positive_rows(raw: Mapping[str, Any], where: str, rows: Mapping[str, str], count: int) -> list[str]:
    """Return the rows of the corpus that are a query's positives."""
    given = raw.get("pos_index")
    if given is not None:
        given = [given] if isinstance(given, int) else given
        right = isinstance(given, list) and all(isinstance(row, int) and 0 <= row < count for row in given)
        if not right:
            raise reject(f"{where}: pos_index", given, f"rows of the corpus, 0 to {count - 1}")
        return [str(row) for row in given]
    texts = raw.get("pos") or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise reject(f"{where}: pos", texts, "a list of strings")
    return [rows[text] for text in texts if text in rows]
