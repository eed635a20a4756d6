"""Readers of retrieval sets: folders in one of `layouts`, and LLM-Embedder's `eval_data` file with a corpus file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, nearest, reject
from zh_embedder.data.schema import text_list
from zh_embedder.evaluation.layouts import Layout, find_layout
from zh_embedder.evaluation.left_out import Tally
from zh_embedder.evaluation.read_qrels import Judgements, read_qrels
from zh_embedder.evaluation.set_files import LINE_IDS, identity, name_of, only_task, read_rows, task_of
from zh_embedder.evaluation.sets import RetrievalSet
from zh_embedder.text.prefix import KEY_TEMPLATE, field_text, line_text, template_fields

TEXT_FIELDS = ("text", "content", "contents")  # of a corpus line
LINE = '{"_id": ..., "text": ...}'


def read_retrieval_set(folder: str | Path, *, task: str | None = None) -> RetrievalSet:
    """Read a folder of queries, corpus and judgements (or one whose `test/` is one).

    Queries without judgements are not measured, and judgements of queries that are not there are left out, as BEIR
    does. Judged keys that the corpus lacks stay judged: a relevant one is one that is not found, as in trec_eval.

    Args:
        folder: where the queries, the corpus and the judgements are.
        task: overrides the queries' own `task`.

    Raises:
        UserError: a file is missing or wrong, the queries belong to several tasks, or no judgement can be used.
    """
    folder = Path(folder)
    layout = find_layout(folder)
    tally = Tally()
    queries = read_texts(*layout.queries, empty="empty_queries", tally=tally)
    keys = read_texts(*layout.corpus, empty="empty_keys", tally=tally, queries=queries.texts)
    judged = read_qrels(*layout.judged)
    check_ids(judged, queries.texts, keys.texts, layout)
    qrels = count_left_out(judged, queries.texts, keys.texts, tally)
    own = frozenset(name for name in keys.own if qrels.get(name, {}).get(name, 0) <= 0 and name in qrels)
    for name in queries.texts:
        if name in own:
            tally.add("own_keys", name)
    return RetrievalSet(
        name=name_of(folder),
        task=task or only_task(queries.tasks, str(folder)),
        queries={name: text for name, text in queries.texts.items() if name in qrels},
        keys=keys.texts,
        qrels=qrels,
        own_keys=own,
        left_out=(*tally.done(), *judged.tally.done()),
    )


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of a side by their ids."""

    texts: dict[str, str] = field(default_factory=dict)
    tasks: set[str | None] = field(default_factory=set)
    own: set[str] = field(default_factory=set)  # ids that a query has too, with the same text


def read_texts(
    *paths: Path, empty: str = "", tally: Tally | None = None, queries: Mapping[str, str] | None = None
) -> Texts:
    """Read lines of an id and a text.

    Args:
        paths: files whose lines belong together.
        empty: under which kind lines without text are counted.
        tally: counts them.
        queries: of the set, where the lines are keys: which are queries themselves is noted, and tasks are not read.

    Raises:
        UserError: a line is wrong, an id is there twice, or there is no line.
    """
    found = Texts()
    for path in paths:
        for where, raw in read_rows(path, LINE):
            name = identity(raw, where, *LINE_IDS)
            if name in found.texts:
                raise reject(f"{where}: id", name, "one that no line before has")
            found.texts[name] = text = line_text(raw, where)
            if tally is not None and not text.strip():
                tally.add(empty, name)
            if queries is None:
                found.tasks.add(task_of(raw, where))
            elif name in queries and queries[name] in (text, line_text(raw, where, with_title=False)):
                found.own.add(name)
    if not found.texts:
        raise UserError(f"{', '.join(map(str, paths))}: got no lines, expected some such as {LINE}")
    return found


# ---- what judgements can be used ------------------------------------------------------------------------------------


def count_left_out(
    judged: Judgements, queries: Mapping[str, str], keys: Mapping[str, str], tally: Tally
) -> dict[str, dict[str, int]]:
    """Return the judgements of queries that are there; what they lack is counted."""
    for name in queries:
        if name not in judged.qrels:
            tally.add("unjudged_queries", name)
    for query, own in judged.qrels.items():
        if query not in queries:
            tally.add("unknown_queries", query)
            continue
        for key in own:
            if key not in keys:
                tally.add("unknown_keys", f"{query} {key}")
        if max(own.values()) <= 0:
            tally.add("no_relevant", query)
    return {query: own for query, own in judged.qrels.items() if query in queries}


def check_ids(judged: Judgements, queries: Mapping[str, str], keys: Mapping[str, str], layout: Layout) -> None:
    """Refuse judgements of which none is of a query and a relevant key that are there: every figure would be 0.

    Raises:
        UserError: with an id of either side.
    """
    place = ", ".join(map(str, layout.judged))
    if not judged.qrels:
        raise UserError(f"{place}: got no judgements, expected lines of a query's id, a key's id and a score")
    there = [own for query, own in judged.qrels.items() if query in queries]
    if not there:
        raise unmatched(place, "query", judged.qrels, queries, layout.queries)
    if not any(key in keys for own in there for key in own):
        raise unmatched(place, "key", [key for own in there for key in own], keys, layout.corpus)
    relevant = [key for own in there for key, score in own.items() if score > 0]
    if not relevant:
        raise UserError(f"{place}: no score is above 0, expected a relevant key for some query")
    if not any(key in keys for key in relevant):
        raise unmatched(place, "relevant key", relevant, keys, layout.corpus)


def unmatched(
    place: str, what: str, judged: Sequence[str] | Mapping[str, Any], known: Mapping[str, str], paths: Sequence[Path]
) -> UserError:
    """Build the error for ids of which none is known, with one of either side and what may tell them apart."""
    theirs, ours = next(iter(judged)), next(iter(known))
    loose = {bare(name): name for name in known}
    alike = next(((name, loose[bare(name)]) for name in judged if bare(name) in loose), None)
    hint = ""
    if alike is not None:
        theirs, ours = alike
        hint = "; they differ in zeros, blanks or a trailing .0: write both the same way"
    return UserError(
        f"{place}: no {what} of a judgement is in {', '.join(map(str, paths))}: got {theirs!r}, expected ids such as "
        f"{ours!r}{hint}"
    )


def bare(name: str) -> str:
    """Return an id without what spreadsheets and data frames do to numbers."""
    return name.strip().removesuffix(".0").lstrip("0")


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
    tally = Tally()
    for where, raw in read_rows(path, '{"query": ..., "pos_index": [...]}'):
        if not isinstance(raw.get("query"), str):
            raise reject(f"{where}: query", raw.get("query"), "a string")
        name = identity(raw, where, "query_id", "id") if {"query_id", "id"} & raw.keys() else str(len(queries))
        if name in queries:
            raise reject(f"{where}: query_id", name, "one that no line before has")
        queries[name] = raw["query"]
        tasks.add(task_of(raw, where))
        if positives := positive_rows(raw, where, rows, len(keys), tally):
            qrels[name] = dict.fromkeys(positives, 1)
        else:
            tally.add("no_positive", name)
    if not qrels:
        raise UserError(f"{path}: no query has a positive in {corpus}, expected `pos_index` or `pos`")
    return RetrievalSet(
        name=name_of(path),
        task=task or only_task(tasks, str(path)),
        queries=queries,
        keys=keys,
        qrels=qrels,
        left_out=tally.done(),
    )


def read_corpus(path: Path, template: str = KEY_TEMPLATE) -> dict[str, str]:
    """Read a corpus file; a key is its line through the template, its id the number of its line from 0.

    Args:
        path: JSON Lines.
        template: with fields of a line in braces; a field that a line lacks is empty, `text` is also found as
            `content` or `contents`.

    Raises:
        UserError: a line is wrong, or has none of the template's fields.
    """
    wanted = key_fields(template)
    keys: dict[str, str] = {}
    for where, raw in read_rows(path, '{"text": ...}'):
        alias = next((raw[name] for name in TEXT_FIELDS if name in raw), None)
        values = {name: raw.get(name, alias if name == "text" else None) for name in wanted}
        if all(value is None for value in values.values()):
            hint = nearest(wanted[0], raw)
            raise UserError(f"{where}: no field of the key template {template!r}{hint}; found {', '.join(raw)}")
        texts = {name: field_text(value, f"{where}: {name}") for name, value in values.items()}
        keys[str(len(keys))] = template.format_map(texts).strip()
    return keys


def key_fields(template: str) -> list[str]:
    """Return the fields that a key template names.

    Raises:
        UserError: it names none, or does more than name them.
    """
    names = template_fields(template, flag="--key_template")
    if not names or any(not name or name.isdigit() for name in names):
        raise reject("--key_template", template, "fields of a line in braces: {title} {text}")
    return names


def positive_rows(raw: Mapping[str, Any], where: str, rows: Mapping[str, str], count: int, tally: Tally) -> list[str]:
    """Return the rows of the corpus that are a query's positives; texts that are not in it are counted."""
    given = raw.get("pos_index")
    if given is not None:
        given = given if isinstance(given, list) else [given]
        if not all(isinstance(row, int) and not isinstance(row, bool) and 0 <= row < count for row in given):
            raise reject(f"{where}: pos_index", raw["pos_index"], f"rows of the corpus, 0 to {count - 1}")
        return [str(row) for row in given]
    texts = text_list(raw, "pos", where)
    for text in texts:
        if text not in rows:
            tally.add("unknown_positives", f"{where.rpartition(':')[2]}: {text[:40]}")
    return [rows[text] for text in texts if text in rows]
