"""Mining by blocks of records: each block is searched, judged and written as a whole, and survives a restart.

    .OUT.mining/settings.json      what decides the result; another run with other settings is refused
    .OUT.mining/pool-00/texts      keys (data_tools.mining.pools)
    .OUT.mining/pool-00/vectors    their vectors (zh_embedder.search.vector_store), pool-00/bm25, pool-00/index.faiss
    .OUT.mining/blocks/00000.jsonl what was refused, the audit's entries, then the records; there whole or not at all

Ranks share shards of keys and blocks of records by their number, and wait for each other between the two. What a block
holds depends on nothing but the settings, so any number of ranks and any kill give the same file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.mining.false_negatives import Candidate, JudgedQuery, RefusalLimits
from data_tools.mining.finders import FINDERS, WITH_WORDS, Asked, Pool, draw_rows, rows_of
from data_tools.mining.pools import MiningRecord, PositiveIndex
from data_tools.mining.selection import Choice, PairScorer, choose, draw_order
from data_tools.shared.record_files import as_line, lines_to
from zh_embedder.core.files import renamed
from zh_embedder.core.similarity import one_with_many
from zh_embedder.evaluation.model import KEY, QUERY, Model
from zh_embedder.text.words import letters

STALE = ("teacher_scores", "pos_scores", "neg_scores", "neg_index")  # they count the negatives that were there
SHOWN_REFUSED, SHOWN_TEXT = 40, 400  # of the audit
SHORT, NONE, KEPT, STALE_COUNT = "short", "without", "kept", "stale_scores"
OTHERS = "others"  # taken that are positives of other records
WORDLESS = "wordless"  # queries that a search by words cannot look for
SHORT_TAKEN, SHORT_REFUSED = "short_taken", "short_refused_"  # of those records alone: which rule left them short


@dataclass(frozen=True, kw_only=True, slots=True)
class MiningSettings:
    """How negatives are mined, apart from where they come from."""

    method: str = "dense"
    first: int = 10  # ranks first + 1 .. last are looked at
    last: int = 210
    negatives: int = 15
    shuffled: bool = True  # drawn from the window, not its best
    fill: bool = False  # up to the number, with random keys
    keep_neg: bool = False
    seed: int = 0
    block: int = 1024
    limits: RefusalLimits = RefusalLimits()
    cross_margin: float = 0.0


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What a block is mined with."""

    settings: MiningSettings
    known: PositiveIndex
    pools: Mapping[str | None, Pool]
    audited: frozenset[int]  # numbers of records that the audit shows
    model: Model | None = None
    scorer: PairScorer | None = None
    query_prompt: str | None = None  # instead of the model's


def mine_block(
    tools: BlockContext, records: Sequence[MiningRecord]
) -> tuple[Counter[str], list[dict[str, Any]], list[str]]:
    """Mine for some records.

    Returns:
        Counts of refusals and of what was done, the audit's entries, and the lines to write, in order.
    """
    chosen: dict[int, Choice] = {}
    by_task = sorted(records, key=lambda record: record.task or "")
    for task, own in groupby(by_task, key=lambda record: record.task):
        some = list(own)
        found = candidates(tools, task, some)
        chosen |= {record.number: choice for record, choice in zip(some, found, strict=True)}
    limits = tools.settings.limits
    choose(list(chosen.values()), limits, scorer=tools.scorer, cross_margin=tools.settings.cross_margin)
    counts: Counter[str] = Counter()
    audit, lines = [], []
    for record in records:
        choice = chosen[record.number]
        choice.taken.sort(key=lambda candidate: candidate.rank or tools.settings.last + 1)
        lines.append(as_line(mined(record, choice, tools.settings, counts)))
        counts.update({OTHERS: sum(tools.known.answers(candidate.text) for candidate in choice.taken)})
        if record.number in tools.audited:
            audit.append(audit_entry(record, choice))
    return counts, audit, lines


def mined(record: MiningRecord, choice: Choice, settings: MiningSettings, counts: Counter[str]) -> dict[str, Any]:
    """Return a record with its new negatives, counting what was done; scores of other negatives go."""
    kept = record.neg if settings.keep_neg else []
    old = set(kept)
    neg = [*kept, *(candidate.text for candidate in choice.taken if candidate.text not in old)]
    stale = [name for name in STALE if record.raw.get(name) is not None]
    counts.update(reason for _, reason in choice.refused)
    counts.update({"taken": len(choice.taken), "records": 1, KEPT: len(kept), STALE_COUNT: bool(stale)})
    counts.update({NONE: not neg, WORDLESS: settings.method in WITH_WORDS and not letters(record.query)})
    if len(choice.taken) < settings.negatives:
        counts.update({SHORT: 1, SHORT_TAKEN: len(choice.taken)})
        counts.update(SHORT_REFUSED + reason for _, reason in choice.refused)
    return {**{name: value for name, value in record.raw.items() if name not in stale}, "neg": neg}


def candidates(tools: BlockContext, task: str | None, records: Sequence[MiningRecord]) -> list[Choice]:
    """Find the candidates of a task's records; none is judged yet."""
    settings, pool, model = tools.settings, tools.pools[task], tools.model
    vectors = None if model is None or pool.vectors is None else query_vectors(model, records, task, tools.query_prompt)
    asked = Asked([r.number for r in records], [r.query for r in records], vectors, settings.seed)
    hits = min(settings.last, len(pool.texts))
    found = FINDERS[settings.method](pool, asked, hits)
    scores = positive_scores(model, records, task, vectors) if model is not None and vectors is not None else None
    return [
        Choice(
            query=JudgedQuery(
                text=record.query,
                positives=record.pos,
                known=frozenset(tools.known.of(record.query)),
                answers=record.answers,
                scores=scores[place] if scores is not None else (),
            ),
            coming=coming(settings, pool, record, rows, None if vectors is None else vectors[place]),
            wanted=settings.negatives,
        )
        for place, (record, rows) in enumerate(zip(records, found, strict=True))
    ]


def coming(
    settings: MiningSettings,
    pool: Pool,
    record: MiningRecord,
    rows: NDArray[np.int64],
    vector: NDArray[np.float32] | None,
) -> Iterator[Candidate]:
    """Yield a record's candidates in the order in which they are judged."""
    window = rows if settings.method == "random" else rows[settings.first : settings.last]
    first = 0 if settings.method == "random" else settings.first
    order = draw_order(len(window), seed=settings.seed, number=record.number, shuffled=settings.shuffled)
    ranked = ((first + place + 1, int(window[place])) for place in order)
    filling: Iterator[tuple[int, int]] = iter(())
    if settings.fill:
        more = draw_rows(len(pool.texts), 4 * settings.negatives + len(rows), seed=settings.seed, number=record.number)
        filling = ((0, row) for row in more.tolist() if row not in set(window.tolist()))
    scores: dict[int, float] = {}
    if vector is not None and pool.vectors is not None:
        found = one_with_many(vector, rows_of(pool.vectors, window.tolist()), pool.metric)
        scores = dict(zip(window.tolist(), found.tolist(), strict=True))
    for rank, row in chain(ranked, filling):
        if vector is not None and pool.vectors is not None and row not in scores:
            scores[row] = float(one_with_many(vector, rows_of(pool.vectors, [row]), pool.metric)[0])
        yield Candidate(row, rank, pool.texts[row], scores.get(row))


# ---- vectors of records ---------------------------------------------------------------------------------------------


def query_vectors(
    model: Model, records: Sequence[MiningRecord], task: str | None, asked: str | None
) -> NDArray[np.float32]:
    """Vectors of the records' queries, (Q, D), each behind its own `prompt`, the one asked for, or the task's."""
    encoder, prompt, limit = model.side(QUERY, task)
    prompt = prompt if asked is None else asked
    return encoder.encode(
        [r.query for r in records],
        prompt=[r.raw.get("prompt") or prompt for r in records],
        max_length=limit,
        truncation_side=model.truncation_side(QUERY, task),
        dtype=model.dtype,
        show_progress=False,
    )


def positive_scores(
    model: Model, records: Sequence[MiningRecord], task: str | None, queries: NDArray[np.float32]
) -> list[list[float]]:
    """Scores of each record's positives."""
    encoder, prompt, limit = model.side(KEY, task)
    texts = list(dict.fromkeys(text for record in records for text in record.pos))
    vectors = encoder.encode(
        texts,
        prompt=prompt,
        max_length=limit,
        truncation_side=model.truncation_side(KEY, task),
        dtype=model.dtype,
        show_progress=False,
    )
    rows = {text: row for row, text in enumerate(texts)}
    metric = model.query.spec.metric
    return [
        one_with_many(vector, vectors[[rows[text] for text in record.pos]], metric).tolist()
        for record, vector in zip(records, queries, strict=True)
    ]


# ---- audit and ledger -----------------------------------------------------------------------------------------------


def audit_entry(record: MiningRecord, choice: Choice) -> dict[str, Any]:
    """What the audit shows of a record."""
    scores: list[float | None] = [*choice.query.scores] or [None] * len(record.pos)
    return {
        "where": record.where,
        "task": record.task,
        "query": record.query[:SHOWN_TEXT],
        "pos": [{"text": text[:SHOWN_TEXT], "score": score} for text, score in zip(record.pos, scores, strict=True)],
        "taken": [audit_candidate(candidate) for candidate in choice.taken],
        "refused": [
            {**audit_candidate(candidate), "reason": reason} for candidate, reason in choice.refused[:SHOWN_REFUSED]
        ],
        "refused_in_all": len(choice.refused),
    }


def audit_candidate(candidate: Candidate) -> dict[str, Any]:
    """What the audit shows of a candidate."""
    return {"rank": candidate.rank, "score": candidate.score, "text": candidate.text[:SHOWN_TEXT]}


def audited_numbers(records: int, count: int, seed: int) -> frozenset[int]:
    """Draw the records that the audit shows."""
    return frozenset(draw_rows(records, count, seed=seed, number=records).tolist())


def block_file(folder: Path, block: int) -> Path:
    """Where a block of records is kept."""
    return folder / "blocks" / f"{block:05}.jsonl"


def write_block(path: Path, counts: Counter[str], audit: Sequence[Mapping[str, Any]], lines: Sequence[str]) -> None:
    """Write a block, whole or not at all: a line of counts and audit, then its records."""
    with renamed(path) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.write(as_line({"counts": dict(counts), "audit": list(audit)}))
        stream.writelines(lines)


def join_blocks(folder: Path, blocks: int, output: Path) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Write the records of all blocks into the output; returns the counts and the audit of all."""
    counts: Counter[str] = Counter()
    audit: list[dict[str, Any]] = []
    with lines_to(output) as out:
        for block in range(blocks):
            with block_file(folder, block).open(encoding="utf-8") as stream:
                head = json.loads(next(stream))
                counts.update(head["counts"])
                audit += head["audit"]
                for line in stream:
                    out.write(line)
    return counts, audit
