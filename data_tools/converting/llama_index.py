"""Reader of llama-index's EmbeddingQAFinetuneDataset, as records and as an evaluation folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_tools.converting.format_types import Head, ReadOptions, Source, SourceItem, distinct
from data_tools.converting.qa import Judged, judged_items
from data_tools.converting.source_text import read_document
from data_tools.converting.values import as_list, as_object, as_text, pick
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, reject
from zh_embedder.text.empty_cells import is_empty

logger = logging.getLogger(__name__)

FIELDS = ("queries", "corpus", "relevant_docs")
BEGINNING = re.compile(r'\s*\{\s*"(queries|corpus|relevant_docs)"\s*:\s*\{')  # of a file too long to be looked at
QRELS_HEADER = "query-id\tcorpus-id\tscore\n"


def read_llama_index(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Query -> its relevant texts."""
    yield from judged_items(source, read_judged(source, options), str(source.path))


def read_judged(source: Source, options: ReadOptions) -> Judged:
    """Read queries, corpus and judgements.

    Raises:
        UserError: one of them is missing, or no text where one belongs.
    """
    where = str(source.path)
    document = as_object(read_document(source.path, options.encoding), where)
    queries, corpus, relevant = (as_object(pick(document, (name,), where), f"{where}: {name}") for name in FIELDS)
    found: dict[str, list[str]] = {}
    for name, keys in relevant.items():
        place = f"{where}: relevant_docs {name!r}"
        found[name] = distinct([as_text(key, place) for key in as_list(keys, place)])
    unknown = [name for name in found if name not in queries]
    if unknown:
        logger.warning(
            "%s: judgements of %s that are not in the file left out, such as %r",
            where,
            counted(len(unknown), "query"),
            unknown[0],
        )
    return Judged(
        {name: as_text(text, f"{where}: queries {name!r}") for name, text in queries.items()},
        {name: as_text(text, f"{where}: corpus {name!r}") for name, text in corpus.items()},
        found,
        {},
    )


def write_evaluation(source: Source, options: ReadOptions, folder: Path) -> str:
    """Write a BEIR folder under the file's own ids: every query, every text of the corpus, the judgements of both.

    Returns:
        What was written, in words.

    Raises:
        UserError: the file is wrong, or no judgement of it names a query and a text that are there.
    """
    # Only here: it loads tqdm, and --help has no use for it.
    from data_tools.shared.record_files import as_line, lines_to

    judged = read_judged(source, options)
    queries, corpus = with_text(judged.queries), with_text(judged.keys)
    pairs = [(query, key) for query, keys in judged.relevant.items() for key in keys]
    kept = [(query, key) for query, key in pairs if query in queries and key in corpus]
    if not kept:
        raise UserError(f"{source.spec}: no judgement names a query and a text that are in the file")
    for name in dict.fromkeys(name for pair in kept for name in pair):
        if name != " ".join(name.split()):
            raise reject(f"{source.spec}: id", name, "an id without tabs, line breaks and outer blanks")
    task = {} if options.task is None else {"task": options.task}
    for name, texts, extra in (("queries", queries, task), ("corpus", corpus, {})):
        with lines_to(folder / f"{name}.jsonl") as stream:
            stream.writelines(as_line({"_id": own, "text": text, **extra}) for own, text in texts.items())
    with lines_to(folder / "qrels.tsv") as stream:
        stream.write(QRELS_HEADER)
        stream.writelines(f"{query}\t{key}\t1\n" for query, key in kept)
    left = {
        "query": len(judged.queries) - len(queries),
        "text": len(judged.keys) - len(corpus),
        "judgement": len(pairs) - len(kept),
    }
    made = ", ".join([counted(len(queries), "query"), counted(len(corpus), "text"), counted(len(kept), "judgement")])
    gone = ", ".join(counted(count, what) for what, count in left.items() if count)
    return made + (f"; left out, empty or of ids that are not in the file: {gone}" if gone else "")


def with_text(texts: Mapping[str, str]) -> dict[str, str]:
    """Leave empty texts out."""
    return {name: text for name, text in texts.items() if not is_empty(text)}


def is_llama_index(head: Head) -> bool:
    """Recognise a file of queries, corpus and relevant documents."""
    return set(FIELDS) <= head.first.keys() or BEGINNING.match(head.text) is not None
