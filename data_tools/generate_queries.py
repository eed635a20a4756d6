"""`zh-embedder generate`: the flags of queries for documents."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.generating.limits import CONCURRENCY, PASSAGE_CHARS, TIMEOUT
from zh_embedder.cli import call
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.numbers import AMOUNT, COUNT, NOT_NEGATIVE, POSITIVE, SEED, SHARE
from zh_embedder.core.options import choose
from zh_embedder.core.outputs import Output, Places, next_to

if TYPE_CHECKING:
    from data_tools.generating.endpoint import EndpointSettings
    from data_tools.generating.pipeline import GenerateOptions

DETAILS = """\
DOCUMENTS are txt, md, html, docx, pdf or JSON Lines (`text`, `title`): files, folders, globs. Passages end with a
sentence, repeat some sentences of the previous one and begin with their headings. The model is any OpenAI-compatible
endpoint; its address is --base_url or OPENAI_BASE_URL, its key is read from OPENAI_API_KEY only. Every answer is saved
in OUTPUT.ledger.jsonl at once: if interrupted, out of budget or cut off, rerun the same command, and nothing is asked
twice. Queries are kept if they make sense alone, repeat nothing and find their passage again; the others are in
OUTPUT.refused.jsonl with the reason, and OUTPUT.sample.html shows both. Look first with --dry_run, then with
--limit 20."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument
    add(
        "documents",
        nargs="+",
        metavar="DOCUMENTS",
        help="txt, md, html, docx, pdf or JSON Lines: files, folders or globs",
    )
    add(
        "--output", type=Path, metavar="FILE", help="file for the records: query, pos, task, id, group (.gz compresses)"
    )
    add(
        "--output_corpus",
        type=Path,
        metavar="FILE",
        help="also write all passages to this file, as id and text, for mining and search",
        dest="corpus",
    )
    add(
        "--tasks",
        nargs="+",
        default=["qa"],
        metavar="NAME",
        help="tasks to write queries for, one request each (default: qa)",
    )
    add("--queries", type=COUNT, default=3, metavar="N", help="number of queries per request")
    add("--prompts", type=Path, metavar="YAML", help="YAML file of prompts (default: the built-in ones)")
    add("--limit", type=COUNT, metavar="N", help="use only N passages, drawn with --seed")
    add(
        "--dry_run",
        action="store_true",
        help="cut and count, write --output_corpus and show a prompt, without any request",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace the files if they exist",
    )
    add("--skip_unreadable", action="store_true", help="skip files that cannot be read")
    add("--seed", type=SEED, default=0, help="random seed")
    add_passages(parser.add_argument_group("passages"))
    add_endpoint(parser.add_argument_group("endpoint"))
    add_asking(parser.add_argument_group("asking"))
    add_filters(parser.add_argument_group("which queries are kept"))


def add_passages(own: argparse._ArgumentGroup) -> None:
    """Flags of the cutting."""
    own.add_argument(
        "--passage_chars", type=PASSAGE_CHARS, default=400, help="maximum characters of a passage, without headings"
    )
    own.add_argument(
        "--overlap", type=AMOUNT, default=60, help="characters repeated from the previous passage, in whole sentences"
    )
    own.add_argument("--min_chars", type=AMOUNT, default=50, help="merge sections shorter than this with the next")


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
    own.add_argument("--temperature", type=NOT_NEGATIVE, default=0.7, help="sampling temperature")
    own.add_argument("--max_tokens", type=COUNT, default=1024, help="maximum tokens of an answer")
    own.add_argument("--json_mode", action="store_true", help="send response_format json_object")
    own.add_argument("--stream", action="store_true", help="stream the answers, for endpoints that only stream")
    own.add_argument(
        "--extra_body", metavar="JSON", help="further request fields, such as '{\"enable_thinking\": false}'"
    )
    own.add_argument("--timeout", type=TIMEOUT, default=120.0, help="seconds to wait for an answer")


def add_asking(own: argparse._ArgumentGroup) -> None:
    """Flags of how often and how much."""
    own.add_argument("--concurrency", type=CONCURRENCY, default=8, help="number of parallel requests")
    own.add_argument(
        "--retries", type=AMOUNT, default=5, help="retries on 429, 5xx and connection errors, with growing delays"
    )
    own.add_argument("--attempts", type=COUNT, default=3, help="attempts per passage if answers contain no queries")
    own.add_argument("--give_up", type=COUNT, default=20, help="stop after this many failures in a row")
    own.add_argument("--retry", action="store_true", help="ask again for passages that failed earlier")
    own.add_argument(
        "--max_total_tokens", type=COUNT, metavar="N", help="token budget, input and output, including earlier runs"
    )
    own.add_argument("--max_cost", type=POSITIVE, metavar="SUM", help="budget in money, computed with --prices")
    own.add_argument("--prices", type=NOT_NEGATIVE, nargs=2, metavar=("IN", "OUT"), help="price of a million tokens")


def add_filters(own: argparse._ArgumentGroup) -> None:
    """Flags of the filters."""
    own.add_argument(
        "--round_trip",
        type=AMOUNT,
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
        type=SHARE,
        default=0.8,
        help="reject queries more similar than this to another of the document; 1: off",
    )
    own.add_argument("--min_query_chars", type=COUNT, default=4, help="minimum letters of a query")
    own.add_argument("--max_query_chars", type=COUNT, default=500, help="maximum characters of a query")
    own.add_argument(
        "--max_copied_chars",
        type=AMOUNT,
        default=20,
        help="reject queries that copy more characters in a row from the passage; 0: off",
    )
    own.add_argument(
        "--sample", type=AMOUNT, default=50, metavar="N", help="number of passages to show in OUTPUT.sample.html"
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
    if not args.dry_run:
        for name in ("output", "model"):
            if getattr(args, name) is None:
                raise UserError(f"--{name}: is missing (--dry_run needs none)")


def places(args: argparse.Namespace) -> Places:
    """Where queries and passages go; those that an earlier start wrote from the same ledger are replaced."""
    from data_tools.generating.ledger import SUFFIX

    outputs = []
    if args.output is not None:
        ledger = next_to("--output", args.output, SUFFIX)
        earlier, there = "that of an earlier start", ledger.is_file()
        outputs.append(Output(flag="--output", path=args.output, earlier=earlier, is_earlier=lambda _: there))
    if args.corpus is not None:
        outputs.append(Output(flag="--output_corpus", path=args.corpus))
    prompts = [args.prompts] if args.prompts else []
    return Places(outputs, [*args.documents, *prompts], overwrite=args.overwrite)


def endpoint_of(args: argparse.Namespace) -> EndpointSettings:
    """Return what every request carries."""
    from data_tools.generating.endpoint import EndpointSettings

    return EndpointSettings(
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


def options_of(args: argparse.Namespace) -> GenerateOptions:
    """Turn the flags into options."""
    from data_tools.generating.filters import FilterLimits
    from data_tools.generating.passages import PassageSize
    from data_tools.generating.pipeline import GenerateOptions
    from data_tools.generating.prompts import PROMPTS
    from data_tools.generating.requests import RequestPolicy

    return GenerateOptions(
        documents=args.documents,
        output=args.output,
        dry_run=args.dry_run,
        corpus=args.corpus,
        tasks=tuple(dict.fromkeys(args.tasks)),
        queries=args.queries,
        prompts=args.prompts or PROMPTS,
        limit=args.limit,
        skip_unreadable=args.skip_unreadable,
        seed=args.seed,
        size=PassageSize(args.passage_chars, args.overlap, args.min_chars),
        endpoint=endpoint_of(args),
        asking=RequestPolicy(
            concurrency=args.concurrency, attempts=args.attempts, give_up=args.give_up, seed=args.seed, retry=args.retry
        ),
        max_total_tokens=args.max_total_tokens,
        max_cost=args.max_cost,
        prices=tuple(args.prices) if args.prices else None,
        filters=FilterLimits(
            shortest=args.min_query_chars,
            longest=args.max_query_chars,
            copied=args.max_copied_chars,
            near=args.near,
            round_trip=args.round_trip,
        ),
        retriever=args.retriever,
        words=args.words,
        sample=args.sample,
    )


def run(args: argparse.Namespace) -> None:
    """Generate."""
    check(args)
    from data_tools.generating.pipeline import generate

    generate(options_of(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return call("generate", argv, program="python -m data_tools.generate_queries")


if __name__ == "__main__":
    sys.exit(main())
