"""Readers of relevance judgements: BEIR's table, and lines or rows with named fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import UserError, reject
from zh_embedder.data.sources import read_lines
from zh_embedder.evaluation.left_out import Tally
from zh_embedder.evaluation.set_files import KEY_IDS, QUERY_IDS, identity, plain, read_rows

TABLE = ".tsv"
SCORES = ("relevance", "score", "label", "rel")  # under which a line has its relevance
HEADER = re.compile(r"(?i)(q|query|topic)[-_ ]?id")
WHOLE = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")
MOST = 10**9  # of a relevance: beyond it metrics overflow
EXAMPLE = '{"qid": ..., "docid": ..., "relevance": 1}'
EXPECTED = "a whole number of at most nine digits"


class Judgements:
    """Relevance judgements as they are read."""

    def __init__(self) -> None:
        self.qrels: dict[str, dict[str, int]] = {}
        self.tally = Tally()

    def add(self, query: str, key: str, score: int, where: str) -> None:
        """Take a judgement up.

        Raises:
            UserError: a line before judges the same pair otherwise.
        """
        own = self.qrels.setdefault(query, {})
        if key not in own:
            own[key] = score
        elif own[key] == score:
            self.tally.add("repeated_judgements", f"{query} {key}")
        else:
            expected = f"{own[key]}, as a line before judges the query {query!r} and the key {key!r}"
            raise reject(f"{where}: score", score, expected)


def read_qrels(*paths: Path) -> Judgements:
    """Read judgements; those of several files are one set.

    Raises:
        UserError: a line is wrong, or two judge a pair differently.
    """
    found = Judgements()
    for path in paths:
        (read_table if plain(path).suffix == TABLE else read_named)(path, found)
    return found


def read_table(path: Path, found: Judgements) -> None:
    """Read BEIR's qrels.tsv: query-id, corpus-id, score, under a header or none."""
    for number, text in read_lines(path):
        if isinstance(text, UserError):
            raise text
        cells = text.split("\t")
        if not text or (number == 1 and is_header(cells)):
            continue
        score = WHOLE.fullmatch(cells[-1])
        if len(cells) != 3 or score is None:
            raise reject(f"{path}:{number}", text, "query-id, corpus-id and a whole score, between tabs")
        found.add(cells[0], cells[1], int(score[1]), f"{path}:{number}")


def is_header(cells: Sequence[str]) -> bool:
    """Whether a first line names columns."""
    return WHOLE.fullmatch(cells[-1]) is None and (cells[-1] in SCORES or HEADER.fullmatch(cells[0]) is not None)


def read_named(path: Path, found: Judgements) -> None:
    """Read judgements with names: FlagEmbedding's {qid, docid, relevance}, C-MTEB's columns."""
    for where, raw in read_rows(path, EXAMPLE):
        query, key = identity(raw, where, *QUERY_IDS), identity(raw, where, *KEY_IDS)
        found.add(query, key, relevance(raw, where), where)


def relevance(raw: Mapping[str, Any], where: str) -> int:
    """Return the relevance of a line, 1 where it names none."""
    name = next((name for name in SCORES if name in raw), SCORES[0])
    value = raw.get(name, 1)
    right = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
    if not right or value != int(value):
        raise reject(f"{where}: {name}", value, EXPECTED)
    return int(value)
