"""Requests for passages: many at a time, within a budget, every answer in the ledger at once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data_tools.generating.endpoint import EndpointSettings, Refused, Reply, Unanswered, ask, characters, connect
from data_tools.generating.ledger import ANSWERED, GARBAGE, REFUSED, Entry, Ledger, request_key
from data_tools.generating.limits import CONCURRENCY
from data_tools.generating.passages import Passage
from data_tools.generating.prompts import Garbage, Message, Prompts, Written, read_answer
from zh_embedder.core.counts import counted
from zh_embedder.core.errors import UserError
from zh_embedder.core.numbers import COUNT, NOT_NEGATIVE, POSITIVE, SEED
from zh_embedder.core.options import check_numbers, limited
from zh_embedder.core.progress import Bar

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger("data_tools.generate_queries")

OVERHEAD = 64  # tokens that a chat template may add to a request
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """One passage asked about for one task."""

    passage: Passage
    task: str
    messages: Sequence[Message]
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestPolicy:
    """How to ask."""

    concurrency: int = limited(8, CONCURRENCY)
    attempts: int = limited(3, COUNT)  # where answers hold no queries
    give_up: int = limited(20, COUNT)  # failures in a row
    seed: int = limited(0, SEED)
    retry: bool = False  # ask again what the endpoint refused or answered with garbage

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(slots=True)
class Budget:
    """What may be spent, what was, and what requests under way may still cost. None is no limit."""

    tokens: int | None = limited(None, COUNT, flag="max_total_tokens")
    cost: float | None = limited(None, POSITIVE, flag="max_cost")
    prices: tuple[float, float] | None = limited(None, NOT_NEGATIVE)  # of a million tokens, in and out
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    reserved: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.cost is not None and self.prices is None:
            raise UserError("--max_cost: needs --prices, the prices of a million tokens, in and out")

    def count(self, prompt: int, completion: int, *, estimated: bool) -> None:
        """Add what was spent."""
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.estimated |= estimated

    def price(self, prompt: int, completion: int) -> float:
        """What tokens cost."""
        first, second = self.prices or (0.0, 0.0)
        return (prompt * first + completion * second) / MILLION

    def reserve(self, request: Request, completion: int) -> bool:
        """Set the most that a request can cost aside; False where that is no longer there.

        A token is at least one byte, so that the bytes of a prompt are more tokens than it can have.
        """
        most = sum(len(message["content"].encode()) for message in request.messages) + OVERHEAD, completion
        prompt = self.prompt_tokens + sum(own[0] for own in self.reserved.values()) + most[0]
        answer = self.completion_tokens + sum(own[1] for own in self.reserved.values()) + most[1]
        if self.tokens is not None and prompt + answer > self.tokens:
            return False
        if self.cost is not None and self.price(prompt, answer) > self.cost:
            return False
        self.reserved[request.key] = most
        return True

    def said(self) -> str:
        """What was spent, in words."""
        about = "about " if self.estimated else ""
        money = f", cost {self.price(self.prompt_tokens, self.completion_tokens):.4f}" if self.prices else ""
        return f"{about}{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out{money}"


def requests_for(
    passages: Sequence[Passage], tasks: Sequence[str], prompts: Prompts, settings: EndpointSettings, count: int
) -> list[Request]:
    """Lay out every request, in the order of the passages."""
    found = []
    for passage in passages:
        for task in tasks:
            messages = prompts.messages(task, passage.key, count)
            found.append(Request(passage, task, messages, request_key(settings.model, messages, settings.decisive)))
    return found


@dataclass(slots=True)
class Run:
    """The requests of one start, and what came of them."""

    settings: EndpointSettings
    plan: RequestPolicy
    budget: Budget
    ledger: Ledger
    client: AsyncOpenAI
    waiting: Iterator[Request]
    bar: Bar
    failed: Counter[str] = field(default_factory=Counter)  # by their reason
    in_a_row: int = 0
    out_of_budget: bool = False
    settled: asyncio.Condition = field(default_factory=asyncio.Condition)
    fatal: UserError | None = None

    async def worker(self) -> None:
        """Ask until nothing waits, the budget is used up or the endpoint is of no use."""
        while not self.out_of_budget and self.fatal is None:
            request = next(self.waiting, None)
            if request is None:
                return
            try:
                await self.settle(request)
            except UserError as error:
                self.fatal = self.fatal or error
            self.bar.set_postfix_str(self.budget.said(), refresh=False)

    async def settle(self, request: Request) -> None:
        """Ask until there is an answer with queries, and write down what came.

        Raises:
            UserError: no request would be answered, or too many in a row were not.
        """
        spent, estimated, text = [0, 0], False, ""
        state: str | None = GARBAGE
        for _ in range(self.plan.attempts):
            if not await self.may_ask(request):
                state = GARBAGE if text else None
                break
            try:
                reply = await self.attempt(request)
            except Refused as error:
                state, text = REFUSED, str(error)
                break
            except Unanswered as error:
                self.failed[str(error)] += 1
                if error.received:
                    spent = [spent[0] + characters(request.messages), spent[1] + error.received]
                estimated, state = estimated or bool(error.received), None
                continue
            finally:
                await self.release(request)
            spent[0] += reply.prompt_tokens
            spent[1] += reply.completion_tokens
            self.budget.count(reply.prompt_tokens, reply.completion_tokens, estimated=reply.estimated)
            estimated, text, state = estimated or reply.estimated, reply.text, state_of(reply)
            if state == ANSWERED:
                break
        self.record(request, state, text, spent, estimated=estimated)

    async def may_ask(self, request: Request) -> bool:
        """Reserve what a request may cost; where that is lacking, wait for what requests under way leave over."""
        async with self.settled:
            while not self.budget.reserve(request, self.settings.max_tokens):
                if not self.budget.reserved:
                    self.out_of_budget = True
                if self.out_of_budget:
                    return False
                await self.settled.wait()
            return True

    async def release(self, request: Request) -> None:
        """Give back what was reserved: by now it is spent, or not."""
        async with self.settled:
            self.budget.reserved.pop(request.key, None)
            self.settled.notify_all()

    async def attempt(self, request: Request) -> Reply:
        """Ask once; what came of a stream that broke off is counted."""
        try:
            return await ask(self.client, self.settings, request.messages)
        except Unanswered as error:
            if error.received:
                self.budget.count(characters(request.messages), error.received, estimated=True)
            raise

    def record(self, request: Request, state: str | None, text: str, spent: Sequence[int], *, estimated: bool) -> None:
        """Write down what came of a request; one without an answer is left for the next start."""
        if state is None:
            self.in_a_row += not self.out_of_budget
            if self.in_a_row >= self.plan.give_up:
                last = next(reversed(self.failed))
                raise UserError(f"{self.settings.place}: {self.in_a_row} requests in a row were not answered: {last}")
            return
        self.in_a_row = self.in_a_row + 1 if state == REFUSED else 0
        self.ledger.add(
            Entry(
                key=request.key, passage=request.passage.id, task=request.task, state=state, text=text,
                prompt_tokens=spent[0], completion_tokens=spent[1], estimated=estimated,
            )
        )  # fmt: skip
        self.bar.update(1)
        if self.in_a_row >= self.plan.give_up:
            raise UserError(f"{self.settings.place}: refused {self.in_a_row} requests in a row: {text}")


def state_of(reply: Reply) -> str:
    """Whether an answer has queries."""
    try:
        read_answer(reply.text)
    except Garbage:
        return GARBAGE
    return ANSWERED


def open_requests(requests: Sequence[Request], ledger: Ledger, plan: RequestPolicy) -> list[Request]:
    """Return what is still to be asked, shuffled: a run that stops at its budget has asked about all documents."""
    done = {key for key, entry in ledger.entries.items() if entry.state == ANSWERED or not plan.retry}
    left = list({request.key: request for request in requests if request.key not in done}.values())
    random.Random(plan.seed).shuffle(left)
    return left


def ask_all(
    requests: Sequence[Request], ledger: Ledger, settings: EndpointSettings, plan: RequestPolicy, budget: Budget
) -> None:
    """Ask about everything that the ledger does not know yet.

    Raises:
        UserError: the endpoint is of no use; what it did answer is in the ledger.
    """
    for entry in ledger.spent:
        budget.count(entry.prompt_tokens, entry.completion_tokens, estimated=entry.estimated)
    left = open_requests(requests, ledger, plan)
    if known := len({request.key for request in requests}) - len(left):
        logger.info("%s: %s of the requests are answered already", ledger.path, f"{known:,}")
    if not left:
        return
    logger.info("asking %s about %s", settings.place, counted(len(left), "passage"))
    run = asyncio.run(ask_these(left, ledger, settings, plan, budget))
    logger.info("spent, earlier starts included: %s", budget.said())
    for said, count in run.failed.most_common(5):
        logger.warning("not answered, %s: %s", counted(count, "time"), said)
    if run.fatal is not None:
        raise UserError(f"{run.fatal}\n(what was answered is in {ledger.path}; the same command goes on from there)")
    if run.out_of_budget:
        logger.warning("the budget is used up: %s left unasked", counted(unasked(requests, ledger), "request"))


async def ask_these(
    left: Sequence[Request], ledger: Ledger, settings: EndpointSettings, plan: RequestPolicy, budget: Budget
) -> Run:
    """Ask with as many workers as may ask at a time."""
    async with connect(settings) as client:
        with Bar(len(left), name="asking", unit="requests") as bar:
            run = Run(settings, plan, budget, ledger, client, iter(left), bar)
            await asyncio.gather(*(run.worker() for _ in range(plan.concurrency)))
    return run


def unasked(requests: Sequence[Request], ledger: Ledger) -> int:
    """Count the requests that the ledger knows nothing of."""
    return len({request.key for request in requests} - ledger.entries.keys())


def answers_of(requests: Sequence[Request], entries: Mapping[str, Entry]) -> Iterator[tuple[Request, list[Written]]]:
    """Yield the requests that were answered, with their queries, in the order of the passages."""
    for request in requests:
        entry = entries.get(request.key)
        if entry is not None and entry.state == ANSWERED:
            yield request, read_answer(entry.text)
