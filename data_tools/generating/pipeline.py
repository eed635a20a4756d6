"""Generation pipeline: documents, passages, requests within a budget, filters, records."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_tools.generating.documents import read_documents
from data_tools.generating.endpoint import EndpointSettings, characters, check_endpoint
from data_tools.generating.filters import (
    FilterLimits,
    GeneratedQuery,
    Summary,
    apply_round_trip,
    judged,
    records_of,
    refused_rows,
)
from data_tools.generating.ledger import GARBAGE, REFUSED, SUFFIX, Ledger
from data_tools.generating.passages import Passage, PassageSize, cut_into_passages
from data_tools.generating.prompts import PROMPTS, read_prompts
from data_tools.generating.requests import Budget, Request, RequestPolicy, answers_of, ask_all, requests_for
from data_tools.generating.round_trip import load_retriever, ranks_of
from data_tools.generating.sample_page import write_page
from data_tools.shared.record_files import write_records
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError, nearest
from zh_embedder.core.files import beside_file

logger = logging.getLogger(__name__)

Ranks = Callable[[Sequence[GeneratedQuery]], list[int | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateOptions:
    """What to write queries for, how to ask for them, and which to keep."""

    documents: Sequence[str]
    endpoint: EndpointSettings
    output: Path | None = None
    dry_run: bool = False  # cut and count, ask nothing
    corpus: Path | None = None
    tasks: Sequence[str] = ("qa",)
    queries: int = 3  # asked for at a time
    prompts: Path = PROMPTS
    limit: int | None = None
    skip_unreadable: bool = False
    seed: int = 0
    size: PassageSize = PassageSize()
    asking: RequestPolicy = RequestPolicy()
    max_total_tokens: int | None = None
    max_cost: float | None = None
    prices: tuple[float, float] | None = None
    filters: FilterLimits = FilterLimits()  # `refuse` comes from the prompts
    retriever: str = "bm25"
    words: str = "jieba"
    sample: int = 50  # passages in the sample page


def draw_passages(passages: Sequence[Passage], options: GenerateOptions) -> Sequence[Passage]:
    """Return the passages to ask about, in their order."""
    if options.limit is None or options.limit >= len(passages):
        return passages
    rows = random.Random(options.seed).sample(range(len(passages)), options.limit)
    return [passages[row] for row in sorted(rows)]


def say_default(tasks: Sequence[str], known: Sequence[str]) -> None:
    """Say which tasks are asked about with the prompt of `default`, which a misspelt one would be."""
    for task in tasks:
        if task not in known:
            logger.warning("--tasks %s: has no prompt of its own, `default` is used%s", task, nearest(task, known))


def cut_documents(options: GenerateOptions) -> list[Passage]:
    """Read and cut, and say what came of it; passages with the same text are one."""
    documents = read_documents(options.documents, skip_unreadable=options.skip_unreadable)
    every = [passage for document in documents for passage in cut_into_passages(document, options.size)]
    passages = list({passage.key: passage for passage in reversed(every)}.values())[::-1]
    if again := len(every) - len(passages):
        logger.info("%s left out: repeated from an earlier one", counted(again, "passage"))
    lengths = sorted(len(passage.body) for passage in passages)
    logger.info(
        "%s, %s of %d to %d characters, half of them below %d",
        counted(len(documents), "document"), counted(len(passages), "passage"),
        lengths[0], lengths[-1], lengths[len(lengths) // 2] + 1,
    )  # fmt: skip
    return passages


def write_corpus(path: Path, passages: Sequence[Passage]) -> None:
    """Write all passages."""
    count = write_records(path, ({"id": passage.id, "text": passage.key} for passage in passages))
    logger.info("%s: %s written", path, counted(count, "passage"))


def show(requests: Sequence[Request], count: int) -> None:
    """Show the first request, and how much all of them are."""
    total = sum(characters(request.messages) for request in requests)
    logger.info(
        "%s of %s together, for %s each",
        *(counted(len(requests), "request"), counted(total, "character"), counted(count, "query")),
    )
    for message in requests[0].messages:
        logger.info("%s:\n%s", message["role"], message["content"])


def generate(options: GenerateOptions) -> None:
    """Write queries, or only count what would be asked.

    Raises:
        UserError: anything that the user can fix.
    """
    if not options.dry_run:
        check_endpoint(options.endpoint)
    prompts = read_prompts(options.prompts)
    say_default(options.tasks, tuple(prompts.tasks))
    limits = replace(options.filters, refuse=prompts.refuse)
    budget = Budget(options.max_total_tokens, options.max_cost, options.prices)
    passages = cut_documents(options)
    if options.corpus is not None:
        write_corpus(options.corpus, passages)
    asked = draw_passages(passages, options)
    requests = requests_for(asked, options.tasks, prompts, options.endpoint, options.queries)
    if options.dry_run or options.output is None:
        show(requests, options.queries)
        return
    model = load_retriever(options.retriever)  # now: a wrong name must not come out when all is paid
    keys = [passage.key for passage in passages]
    ranks = partial(ranks_of, keys=keys, hits=limits.round_trip, model=model, words=options.words)
    with closing(Ledger(options.output.with_name(f"{options.output.name}{SUFFIX}"))) as ledger:
        try:
            ask_all(requests, ledger, options.endpoint, options.asking, budget)
        except KeyboardInterrupt:
            raise UserError(f"stopped: what was answered is in {ledger.path}; the same command goes on") from None
        queries = judge(requests, ledger, limits, ranks)
        say_silent(requests, ledger)
    write(options.output, queries, options)


def judge(requests: Sequence[Request], ledger: Ledger, limits: FilterLimits, ranks: Ranks) -> list[GeneratedQuery]:
    """Read the answers and judge the queries, the round trip last."""
    answers = answers_of(requests, ledger.entries)
    queries = judged(((request.passage, request.task, written) for request, written in answers), limits)
    good = [query for query in queries if not query.reason]
    if limits.round_trip and good:
        apply_round_trip(good, ranks(good), limits)
    return queries


def say_silent(requests: Sequence[Request], ledger: Ledger) -> None:
    """Say which passages got no queries, and why."""
    own = {request.key for request in requests}
    for state, why in ((REFUSED, "refused by the endpoint"), (GARBAGE, "answered without queries")):
        entries = [entry for key, entry in ledger.entries.items() if key in own and entry.state == state]
        if entries:
            said = f"{entries[0].passage}: {entries[0].text[:200]}"
            logger.warning("%s %s (--retry asks again), such as %s", counted(len(entries), "request"), why, said)
    if missing := len(own - ledger.entries.keys()):
        logger.warning("%s without an answer yet: rerun the same command to continue", counted(missing, "request"))


def write(output: Path, queries: Sequence[GeneratedQuery], options: GenerateOptions) -> None:
    """Write records, what was refused and the sample."""
    name = output.name.split(".")[0]
    for line in Summary.of(queries).lines():
        logger.info("%s", line)
    if all(query.reason for query in queries):
        raise UserError(f"{output}: nothing to write: no query was kept")
    count = write_records(output, records_of(queries, name))
    write_records(output.with_name(f"{output.name}.refused.jsonl"), refused_rows(queries))
    page = write_page(output.name, queries, passages=options.sample, seed=options.seed)
    beside_file(output.with_name(f"{output.name}.sample.html"), page)
    logger.info("%s: %s written; look at %s.sample.html", output, counted(count, "record"), output)
