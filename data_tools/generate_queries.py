"""Write training records for documents: cut them into passages, have a language model write queries for each.

DOCUMENTS are txt, md, html, docx, pdf or JSON Lines (`text`, `title`): files, folders, globs. Passages end at sentence
ends, repeat some sentences and stand below their headings. The model is any OpenAI-compatible endpoint; its address is
--base_url or OPENAI_BASE_URL, its key OPENAI_API_KEY, from the environment alone. Every answer is kept in
OUTPUT.ledger.jsonl at once: killed, out of budget or cut off, the same command goes on and asks nothing twice. Kept are
queries that stand alone, repeat nothing and find their passage again; the others are in OUTPUT.refused.jsonl with the
reason, and OUTPUT.sample.html shows both. Look first with --dry_run, then with --limit 20.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.shared.command import call, make_parser
from data_tools.shared.record_files import write_records
from zh_embedder.core.errors import UserError, nearest, reject
from zh_embedder.core.files import beside_file
from zh_embedder.core.options import at_least, choose

if TYPE_CHECKING:
    from data_tools.generating.ask_all import Budget, Request
    from data_tools.generating.endpoint import Settings
    from data_tools.generating.filters import Limits, Query
    from data_tools.generating.ledger import Ledger
    from data_tools.generating.passages import Passage

    Ranks = Callable[[Sequence[Query]], list[int | None]]

logger = logging.getLogger("data_tools.generate_queries")  # __name__ is __main__ under `python -m`

EXAMPLE = (
    "docs/ --output queries.jsonl --output_corpus passages.jsonl --model qwen-plus --tasks qa title "
    "--max_total_tokens 2000000"
)


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = make_parser("generate_queries", __doc__, EXAMPLE)
    parser.add_argument(
        "documents",
        nargs="+",
        metavar="DOCUMENTS",
        help="txt, md, html, docx, pdf or JSON Lines: files, folders or globs",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file for the records: query, pos, task, id, group (.gz compresses)"
    )
    parser.add_argument(
        "--output_corpus",
        type=Path,
        metavar="FILE",
        help="also write all passages to this file, as id and text, for mining and search",
        dest="corpus",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["qa"],
        metavar="NAME",
        help="tasks to write queries for, one request each (default: qa)",
    )
    parser.add_argument("--queries", type=int, default=3, metavar="N", help="number of queries per request")
    parser.add_argument(
        "--prompts", type=Path, metavar="YAML", help="YAML file of prompts (default: the built-in ones)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use only N passages, drawn with --seed")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="cut and count, write --output_corpus and show a prompt, without any request",
    )
    parser.add_argument("--skip_unreadable", action="store_true", help="skip files that cannot be read")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    add_passages(parser.add_argument_group("passages"))
    add_endpoint(parser.add_argument_group("endpoint"))
    add_asking(parser.add_argument_group("asking"))
    add_filters(parser.add_argument_group("which queries are kept"))
    return parser


def add_passages(own: argparse._ArgumentGroup) -> None:
    """Flags of the cutting."""
    own.add_argument("--passage_chars", type=int, default=400, help="maximum characters of a passage, without headings")
    own.add_argument(
        "--overlap", type=int, default=60, help="characters repeated from the previous passage, in whole sentences"
    )
    own.add_argument("--min_chars", type=int, default=50, help="merge sections shorter than this with the next")


def add_endpoint(own: argparse._ArgumentGroup) -> None:
    """Flags of the requests."""
    own.add_argument("--model", metavar="NAME", help="model name at the endpoint")
    own.add_argument(
        "--base_url",
        metavar="URL",
        help="address of the endpoint, such as http://127.0.0.1:8000/v1 (default: OPENAI_BASE_URL)",
    )
    own.add_argument(
        "--api_key_name", default="OPENAI_API_KEY", metavar="VARIABLE", help="environment variable with the API key"
    )
    own.add_argument("--temperature", type=float, default=0.7, help="sampling temperature")
    own.add_argument("--max_tokens", type=int, default=1024, help="maximum tokens of an answer")
    own.add_argument("--json_mode", action="store_true", help="send response_format json_object")
    own.add_argument("--stream", action="store_true", help="stream the answers, for endpoints that only stream")
    own.add_argument(
        "--extra_body", metavar="JSON", help="further request fields, such as '{\"enable_thinking\": false}'"
    )
    own.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for an answer")


def add_asking(own: argparse._ArgumentGroup) -> None:
    """Flags of how often and how much."""
    own.add_argument("--concurrency", type=int, default=8, help="number of parallel requests")
    own.add_argument(
        "--retries", type=int, default=5, help="retries on 429, 5xx and connection errors, with growing delays"
    )
    own.add_argument("--attempts", type=int, default=3, help="attempts per passage if answers contain no queries")
    own.add_argument("--give_up", type=int, default=20, help="stop after this many failures in a row")
    own.add_argument("--retry", action="store_true", help="ask again for passages that failed earlier")
    own.add_argument(
        "--max_total_tokens", type=int, metavar="N", help="token budget, input and output, including earlier runs"
    )
    own.add_argument("--max_cost", type=float, metavar="SUM", help="budget in money, computed with --prices")
    own.add_argument("--prices", type=float, nargs=2, metavar=("IN", "OUT"), help="price of a million tokens")


def add_filters(own: argparse._ArgumentGroup) -> None:
    """Flags of the filters."""
    own.add_argument(
        "--round_trip",
        type=int,
        default=20,
        metavar="N",
        help="keep a query only if it finds its passage among the first N; 0: off",
    )
    own.add_argument(
        "--retriever", default="bm25", help="retriever for --round_trip: bm25, or a model's folder or hub name"
    )
    own.add_argument("--words", default="jieba", help="word segmentation for bm25: jieba or bigram")
    own.add_argument(
        "--near",
        type=float,
        default=0.8,
        help="reject queries more similar than this to another of the document; 1: off",
    )
    own.add_argument("--min_query_chars", type=int, default=4, help="minimum letters of a query")
    own.add_argument("--max_query_chars", type=int, default=500, help="maximum characters of a query")
    own.add_argument(
        "--max_copied_chars",
        type=int,
        default=20,
        help="reject queries that copy more characters in a row from the passage; 0: off",
    )
    own.add_argument(
        "--sample", type=int, default=50, metavar="N", help="number of passages to show in OUTPUT.sample.html"
    )


def extra_body(text: str | None) -> dict[str, Any]:
    """Read --extra_body.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise reject("--extra_body", text, 'a JSON object such as {"enable_thinking": false}')
    return found


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant."""
    choose("words", args.words, ("jieba", "bigram"))
    at_least("queries", args.queries, 1)
    at_least("limit", args.limit, 1)
    at_least("sample", args.sample, 0)
    args.tasks = list(dict.fromkeys(args.tasks))
    if not args.dry_run:
        for name in ("output", "model"):
            if getattr(args, name) is None:
                raise UserError(f"--{name}: is missing (--dry_run needs none)")


def settings_of(args: argparse.Namespace) -> Settings:
    """Return what every request carries."""
    from data_tools.generating.endpoint import Settings

    return Settings(
        model=args.model or "",
        base_url=args.base_url,
        key_name=args.api_key_name,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        json_mode=args.json_mode,
        stream=args.stream,
        extra_body=extra_body(args.extra_body),
        timeout=args.timeout,
        retries=args.retries,
    )


def limits_of(args: argparse.Namespace, refuse: Sequence[str]) -> Limits:
    """Return how strict to be."""
    from data_tools.generating.filters import Limits

    return Limits(
        shortest=args.min_query_chars,
        longest=args.max_query_chars,
        refuse=refuse,
        copied=args.max_copied_chars,
        near=args.near,
        round_trip=args.round_trip,
    )


def budget_of(args: argparse.Namespace) -> Budget:
    """Return what may be spent."""
    from data_tools.generating.ask_all import Budget

    return Budget(args.max_total_tokens, args.max_cost, tuple(args.prices) if args.prices else None)


def drawn(passages: Sequence[Passage], args: argparse.Namespace) -> Sequence[Passage]:
    """Return the passages to ask about, in their order."""
    if args.limit is None or args.limit >= len(passages):
        return passages
    rows = random.Random(args.seed).sample(range(len(passages)), args.limit)
    return [passages[row] for row in sorted(rows)]


def check_places(args: argparse.Namespace) -> None:
    """Refuse to write where documents are read: the next start would take what this one wrote for documents.

    Raises:
        UserError: an output lies in a folder of DOCUMENTS.
    """
    folders = [path.resolve() for spec in args.documents if (path := Path(spec).expanduser()).is_dir()]
    for flag, place in (("--output", args.output), ("--corpus", args.corpus)):
        for folder in folders:
            if place is not None and place.expanduser().resolve().is_relative_to(folder):
                raise reject(flag, str(place), f"a place outside of {folder}, whose files are read as documents")


def say_default(tasks: Sequence[str], known: Sequence[str]) -> None:
    """Say which tasks are asked about with the prompt of `default`, which a misspelt one would be."""
    for task in tasks:
        if task not in known:
            logger.warning("--tasks %s: has no prompt of its own, `default` is used%s", task, nearest(task, known))


def cut_documents(args: argparse.Namespace) -> list[Passage]:
    """Read and cut, and say what came of it; passages with the same text are one."""
    from data_tools.generating.documents import read_documents
    from data_tools.generating.passages import Size, cut

    size = Size(args.passage_chars, args.overlap, args.min_chars)
    documents = read_documents(args.documents, skip_unreadable=args.skip_unreadable)
    every = [passage for document in documents for passage in cut(document, size)]
    passages = list({passage.key: passage for passage in reversed(every)}.values())[::-1]
    if again := len(every) - len(passages):
        logger.info("%s passages repeat an earlier one and are left out", f"{again:,}")
    lengths = sorted(len(passage.body) for passage in passages)
    logger.info(
        "%s documents, %s passages of %d to %d characters, half of them below %d",
        f"{len(documents):,}", f"{len(passages):,}", lengths[0], lengths[-1], lengths[len(lengths) // 2] + 1,
    )  # fmt: skip
    return passages


def write_corpus(path: Path, passages: Sequence[Passage]) -> None:
    """Write all passages."""
    count = write_records(path, ({"id": passage.id, "text": passage.key} for passage in passages))
    logger.info("%s: %s passages written", path, f"{count:,}")


def show(requests: Sequence[Request], count: int) -> None:
    """Show the first request, and how much all of them are."""
    from data_tools.generating.endpoint import characters

    total = sum(characters(request.messages) for request in requests)
    logger.info("%s requests of %s characters together, for %d queries each", f"{len(requests):,}", f"{total:,}", count)
    for message in requests[0].messages:
        logger.info("%s:\n%s", message["role"], message["content"])


def run(args: argparse.Namespace) -> None:
    """Do the work.

    Raises:
        UserError: anything that the user can mend.
    """
    check(args)
    from data_tools.generating.ask_all import Plan, ask_all, requests_for
    from data_tools.generating.ledger import Ledger
    from data_tools.generating.prompts import PROMPTS, read_prompts
    from data_tools.generating.round_trip import load_retriever, ranks_of

    check_places(args)
    prompts, settings = read_prompts(args.prompts or PROMPTS), settings_of(args)
    say_default(args.tasks, tuple(prompts.tasks))
    limits, budget = limits_of(args, prompts.refuse), budget_of(args)
    plan = Plan(
        concurrency=args.concurrency, attempts=args.attempts, give_up=args.give_up, seed=args.seed, retry=args.retry
    )
    passages = cut_documents(args)
    if args.corpus is not None:
        write_corpus(args.corpus, passages)
    requests = requests_for(drawn(passages, args), args.tasks, prompts, settings, args.queries)
    if args.dry_run:
        show(requests, args.queries)
        return
    model = load_retriever(args.retriever)  # now: a wrong name must not come out when all is paid
    keys = [passage.key for passage in passages]
    ranks = partial(ranks_of, keys=keys, hits=args.round_trip, model=model, words=args.words)
    with closing(Ledger(args.output.with_name(f"{args.output.name}.ledger.jsonl"))) as ledger:
        try:
            ask_all(requests, ledger, settings, plan, budget)
        except KeyboardInterrupt:
            raise UserError(f"stopped: what was answered is in {ledger.path}; the same command goes on") from None
        queries = judge(requests, ledger, limits, ranks)
        say_silent(requests, ledger)
    write(queries, args)


def judge(requests: Sequence[Request], ledger: Ledger, limits: Limits, ranks: Ranks) -> list[Query]:
    """Read the answers and judge the queries, the round trip last."""
    from data_tools.generating.ask_all import answers_of
    from data_tools.generating.filters import judged, return_trip

    answers = answers_of(requests, ledger.entries)
    queries = judged(((request.passage, request.task, written) for request, written in answers), limits)
    good = [query for query in queries if not query.reason]
    if limits.round_trip and good:
        return_trip(good, ranks(good), limits)
    return queries


def say_silent(requests: Sequence[Request], ledger: Ledger) -> None:
    """Say which passages got no queries, and why."""
    from data_tools.generating.ledger import GARBAGE, REFUSED

    own = {request.key for request in requests}
    for state, why in ((REFUSED, "were refused by the endpoint"), (GARBAGE, "got answers without queries")):
        entries = [entry for key, entry in ledger.entries.items() if key in own and entry.state == state]
        if entries:
            said = f"{entries[0].passage}: {entries[0].text[:200]}"
            logger.warning("%s requests %s (--retry asks again), such as %s", f"{len(entries):,}", why, said)
    if missing := len(own - ledger.entries.keys()):
        logger.warning("%s requests have no answer yet: the same command goes on", f"{missing:,}")


def write(queries: Sequence[Query], args: argparse.Namespace) -> None:
    """Write records, what was refused and the sample."""
    from data_tools.generating.filters import Summary, records_of, refused_rows
    from data_tools.generating.sample_page import write_page

    name = args.output.name.split(".")[0]
    for line in Summary.of(queries).lines():
        logger.info("%s", line)
    if all(query.reason for query in queries):
        raise UserError(f"{args.output}: nothing to write: no query was kept")
    count = write_records(args.output, records_of(queries, name))
    write_records(args.output.with_name(f"{args.output.name}.refused.jsonl"), refused_rows(queries))
    page = write_page(args.output.name, queries, passages=args.sample, seed=args.seed)
    beside_file(args.output.with_name(f"{args.output.name}.sample.html"), page)
    logger.info("%s: %s records written; look at %s.sample.html", args.output, f"{count:,}", args.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; returns the exit code."""
    return call(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
