"""Question readers: SQuAD-style JSON, BEIR folders, MS MARCO's and T2Ranking's tables."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, distinct
from data_tools.converting.format_types import identity as make_id
from data_tools.converting.source_text import read_document, text_lines
from data_tools.converting.values import Raw, as_list, as_object, as_text, pick, pick_name, pick_text
from zh_embedder.core.errors import UserError, nearest
from zh_embedder.evaluation.read_qrels import read_qrels
from zh_embedder.evaluation.read_retrieval import read_texts
from zh_embedder.evaluation.set_files import LINE_IDS, identity, read_rows
from zh_embedder.text.prefix import line_text

logger = logging.getLogger(__name__)

Judgements = dict[str, dict[str, int]]  # query -> key -> relevance
RELEVANCE = re.compile(r"-?[0-9]{1,9}")
QRELS_HEADER = re.compile(r"(?i)q(uery)?[-_]?id")


# ---- SQuAD ----------------------------------------------------------------------------------------------------------


def read_squad(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Question -> passage, in SQuAD's layout or CMRC 2018's first one; grouped by article."""
    document = read_document(source.path, options.encoding)
    articles = document.get("data") if isinstance(document, dict) else document
    for number, raw in enumerate(as_list(articles, f"{source.path}: data")):
        where = f"{source.path}: article {number + 1}"
        article = as_object(raw, where)
        paragraphs = as_list(article.get("paragraphs", [article]), f"{where}: paragraphs")
        known = pick_name(article, ("id", "context_id", "title"), where, "")
        for index, raw_paragraph in enumerate(paragraphs):
            place = f"{where}: paragraph {index + 1}"
            paragraph = as_object(raw_paragraph, place)
            group = make_id(source, known or pick_name(paragraph, ("id",), place, number + 1))
            yield from questions(source, paragraph, group, place)


def questions(source: Source, paragraph: Raw, group: str, where: str) -> Iterator[SourceItem]:
    """Yield an item for each question of a passage."""
    passage = pick_text(paragraph, ("context", "context_text"), where)
    for number, raw in enumerate(as_list(pick(paragraph, ("qas",), where), f"{where}: qas")):
        place = f"{where}: question {number + 1}"
        asked = as_object(raw, place)
        if asked.get("is_impossible"):
            yield SourceItem(place, reason="the passage holds no answer (is_impossible)")
            continue
        name = pick_name(asked, ("id", "query_id"), place, f"{group}-{number + 1}")
        answers = answers_of(asked.get("answers"), f"{place}: answers")
        record: Record = {
            "query": pick_text(asked, ("question", "query_text"), place),
            "pos": [passage],
            "answers": distinct([answer for answer in answers if answer.strip()]),
            "id": make_id(source, name),
            "group": group,
        }
        yield SourceItem(place, record)


def answers_of(value: Any, where: str) -> list[str]:
    """Return the answers of a question: texts, objects with a text, or one with a list of them, as on the hub."""
    if isinstance(value, dict):
        value = as_list(pick(value, ("text",), where), f"{where}: text")
    answers = [] if value is None else as_list(value, where)
    return [
        as_text(one.get("text") if isinstance(one, dict) else one, f"{where}[{i}]") for i, one in enumerate(answers)
    ]


def is_squad(head: Head) -> bool:
    """Recognise SQuAD's layout."""
    return ('"context"' in head.text and '"qas"' in head.text) or '"context_text"' in head.text


# ---- judged sets ----------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """Queries with judgements, and the texts that they need."""

    queries: Mapping[str, str]
    keys: Mapping[str, str]
    relevant: Mapping[str, list[str]]
    negatives: Mapping[str, list[str]]


def judged_items(source: Source, judged: Judged, where: str) -> Iterator[SourceItem]:
    """Yield an item for each query, in the order of the queries' file; each query is a group of its own."""
    for name, query in judged.queries.items():
        place = f"{where}: query {name}"
        relevant = judged.relevant.get(name, [])
        found = [judged.keys[key] for key in relevant if key in judged.keys]
        if not found:
            reason = "its relevant keys are not in the corpus" if relevant else "no key is judged relevant to it"
            yield SourceItem(place, reason=reason)
            continue
        negatives = [judged.keys[key] for key in judged.negatives.get(name, []) if key in judged.keys]
        record: Record = {"query": query, "pos": distinct(found), "neg": distinct(negatives)}
        lost = len(relevant) - sum(key in judged.keys for key in relevant)
        note = "queries of which some relevant keys are not in the corpus" if lost else ""
        yield SourceItem(place, record | {"id": make_id(source, name), "group": make_id(source, name)}, note=note)


def divide(qrels: Judgements, minimum: int) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the relevant keys of each query, and those judged irrelevant (0 or less); what lies between is neither."""
    relevant = {query: [key for key, score in keys.items() if score >= minimum] for query, keys in qrels.items()}
    wrong = {query: [key for key, score in keys.items() if score <= 0 < minimum] for query, keys in qrels.items()}
    return relevant, wrong


def needed(*sides: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the keys that some query needs: a corpus of millions is read, not held."""
    return {key for side in sides for keys in side.values() for key in keys}


def with_mined(negatives: dict[str, list[str]], relevant: Mapping[str, list[str]], path: str | None) -> None:
    """Add hard negatives of a file of `query <tab> key ...`, or MS MARCO's `query <tab> positive <tab> negative`.

    A positive among them is left out later, by its text, and counted.
    """
    if path is None:
        return
    for _, cells in table_lines(Path(path)):
        positives = relevant.get(cells[0], ())
        key = cells[2] if len(cells) == 3 and cells[1] in positives else cells[1]
        negatives.setdefault(cells[0], []).append(key)


def read_beir(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Query -> judged passages of a BEIR folder: queries.jsonl, corpus.jsonl, qrels/SPLIT.tsv or qrels.tsv."""
    folder = source.path
    queries = read_texts(existing(folder, ("queries.jsonl", "queries.jsonl.gz", "queries.jsonl.zst"))).texts
    path = Path(options.qrels) if options.qrels else beir_qrels(folder, options.split)
    relevant, negatives = divide(read_qrels(path).qrels, options.min_relevance)
    with_mined(negatives, relevant, options.negatives)
    wanted = needed(relevant, negatives)
    keys: dict[str, str] = {}
    corpus = existing(folder, ("corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"))
    for where, raw in read_rows(corpus, '{"_id": ..., "text": ...}'):
        if (name := identity(raw, where, *LINE_IDS)) in wanted:
            keys[name] = line_text(raw, where)
    yield from judged_items(source, Judged(queries, keys, relevant, negatives), str(folder))


def beir_qrels(folder: Path, split: str | None) -> Path:
    """Return the judgements of a split; without a name train's, else the only ones, which is logged."""
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    if (folder / "qrels.tsv").is_file():
        found["qrels"] = folder / "qrels.tsv"
    if split is not None:
        if split not in found:
            raise UserError(f"--split: no {split}.tsv in {folder / 'qrels'}{nearest(split, found)} found {list(found)}")
        return found[split]
    chosen = "train" if "train" in found else next(iter(found), None)
    if chosen is None or (len(found) > 1 and chosen != "train"):
        raise UserError(f"{folder}: found judgements {list(found)}, expected --split to name one of them")
    logger.info("%s: judgements are those of %s", folder, found[chosen].relative_to(folder))
    return found[chosen]


def existing(folder: Path, names: Iterable[str]) -> Path:
    """Return the first file of a folder that is there."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    beside = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    first = next(iter(names))
    raise UserError(f"{folder}: {first}: is missing{nearest(first, beside) or ';'} found {', '.join(beside[:8])}")


def is_beir(head: Head) -> bool:
    """Recognise a BEIR folder."""
    return bool({"corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"} & head.names)


# ---- MS MARCO, T2Ranking --------------------------------------------------------------------------------------------


def read_msmarco(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Query -> judged passages of tables with tabs: collection, queries, qrels; negatives where a file is named."""
    split = options.split or "train"
    collection = source.path
    if collection.is_dir():
        collection = existing(source.path, ("collection.tsv", "collection.tsv.gz", "corpus.tsv"))
    folder = collection.parent
    queries = Path(options.queries) if options.queries else existing(folder, (f"queries.{split}.tsv", "queries.tsv"))
    names = (f"qrels.{split}.tsv", f"qrels.retrieval.{split}.tsv", "qrels.tsv")
    qrels = Path(options.qrels) if options.qrels else existing(folder, names)
    relevant, negatives = divide(table_qrels(qrels), options.min_relevance)
    with_mined(negatives, relevant, options.negatives)
    asked = {cells[0]: cells[1] for _, cells in table_lines(queries)}
    wanted = needed(relevant, negatives)
    keys = {cells[0]: "\t".join(cells[1:]) for _, cells in table_lines(collection) if cells[0] in wanted}
    yield from judged_items(source, Judged(asked, keys, relevant, negatives), str(folder))


def table_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) of a table of ids, its header left out where it has one."""
    for number, (where, line) in enumerate(text_lines(path, "auto")):
        cells = line.split("\t") if "\t" in line else line.split()
        if number == 0 and (QRELS_HEADER.fullmatch(cells[0]) or cells[0].lower() in ("pid", "docid", "doc_id", "id")):
            continue
        if len(cells) < 2:
            raise UserError(f"{where}: got {line[:80]!r}, expected an id and a text or another id, with a tab between")
        yield where, cells


def table_qrels(path: Path) -> Judgements:
    """Read judgements: query, 0 (or Q0), key, relevance; or query and key, which are relevant."""
    qrels: Judgements = {}
    for where, cells in table_lines(path):
        key, score = (cells[2], cells[3]) if len(cells) == 4 else (cells[1], cells[2] if len(cells) == 3 else "1")
        if not RELEVANCE.fullmatch(score):
            raise UserError(f"{where}: relevance: got {score!r}, expected a whole number")
        qrels.setdefault(cells[0], {})[key] = int(score)
    return qrels


def is_msmarco(head: Head) -> bool:
    """Recognise a folder with a collection."""
    return bool({"collection.tsv", "collection.tsv.gz"} & head.names)
