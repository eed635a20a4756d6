"""Evaluation folders in BEIR's layout, from record files: queries, every key that the records name, judgements."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from data_tools.mining.pools import corpus_texts
from data_tools.shared.record_files import as_line, lines_to, read_records
from data_tools.splitting.part_files import stem_of
from zh_embedder.core.counts import counted
from zh_embedder.core.hashing import text_hash

logger = logging.getLogger("data_tools.split")

QRELS_HEADER = "query-id\tcorpus-id\tscore\n"


class EvalFolder:
    """The open files of one BEIR folder, and the names that texts have there, by hash."""

    def __init__(self, folder: Path, task: str | None, stack: ExitStack) -> None:
        self.task = task
        names = ("queries.jsonl", "corpus.jsonl", "qrels.tsv")
        self.queries, self.corpus, self.qrels = (stack.enter_context(lines_to(folder / name)) for name in names)
        self.qrels.write(QRELS_HEADER)
        self.names: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.judged: set[tuple[str, str]] = set()

    def add_key(self, text: str) -> None:
        """Write a key of the corpus, which may belong to no query."""
        named(self.corpus, self.keys, text, "d", {})

    def add(self, record: Mapping[str, Any]) -> None:
        """Write what a record adds: its query once, its keys once, its judgements."""
        extra = {"task": self.task} if self.task else {}
        query = named(self.queries, self.names, record["query"], "q", extra)
        for text in record["pos"]:
            key = named(self.corpus, self.keys, text, "d", {})
            if (query, key) not in self.judged:
                self.judged.add((query, key))
                self.qrels.write(f"{query}\t{key}\t1\n")
        for text in record.get("neg") or ():
            named(self.corpus, self.keys, text, "d", {})


def named(stream: IO[str], names: dict[int, str], text: str, letter: str, extra: Mapping[str, str]) -> str:
    """Return the name of a text, which is written where it is new."""
    key = text_hash(text)
    if key not in names:
        names[key] = f"{letter}{len(names)}"
        stream.write(as_line({"id": names[key], "text": text, **extra}))
    return names[key]


def write_eval_sets(written: Mapping[str, Sequence[Path]], corpus: Sequence[Path] = ()) -> list[Path]:
    """Write a folder for each file and task, next to the file and under its name; returns the folders.

    The corpus of each is every key that its records name, and every text of `corpus`.

    Scored pairs and labelled texts are evaluation sets as they are; records without positives have no judgements.
    """
    folders = []
    for path in (path for files in written.values() for path in files):
        base = path.with_name(stem_of(path))
        tasks = {raw.get("task") for _, raw in read_records(path) if raw.get("pos") and "query" in raw}
        left = 0
        with ExitStack() as stack:
            open_ones = {
                task: EvalFolder(base / str(task) if len(tasks) > 1 else base, task, stack)
                for task in sorted(tasks, key=str)
            }
            for _, raw in read_records(path):
                if raw.get("pos") and "query" in raw:
                    open_ones[raw.get("task")].add(raw)
                else:
                    left += 1
            for text in corpus_texts(corpus) if corpus else ():
                for folder in open_ones.values():
                    folder.add_key(text)
        folders += [base / str(task) if len(tasks) > 1 else base for task in sorted(tasks, key=str)]
        if left:
            logger.info(
                "%s: not in a BEIR folder, without a query with positives: %s",
                path,
                counted(left, "record"),
            )
    return folders
