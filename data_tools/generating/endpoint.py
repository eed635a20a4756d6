"""OpenAI-compatible endpoint, through the `openai` client, and the four outcomes of a request.

Answered, or: refused (this request will never do), unanswered (it may do later), or a mistake of the user's (stop).
The client itself waits and tries again on 408, 409, 429 and 5xx and where no connection comes about.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data_tools.generating.limits import TIMEOUT
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.numbers import AMOUNT, COUNT, NOT_NEGATIVE
from zh_embedder.core.options import check_numbers, limited

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"


class Refused(Exception):
    """The endpoint will not answer this request: too long, or its filter says no."""


class Unanswered(Exception):
    """No answer after all retries: overload, network, a stream that broke off. `received`: characters that came."""

    def __init__(self, why: str, received: int = 0) -> None:
        super().__init__(why)
        self.received = received


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSettings:
    """What every request carries, and how patient to be."""

    model: str
    base_url: str | None = None  # else that of the environment, else OpenAI's
    key_name: str = KEY  # the environment variable that holds the key
    temperature: float = limited(0.7, NOT_NEGATIVE)
    max_tokens: int = limited(1024, COUNT)
    json_mode: bool = False
    stream: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = limited(120.0, TIMEOUT)  # seconds
    retries: int = limited(5, AMOUNT)

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def decisive(self) -> dict[str, Any]:
        """What an answer depends on, besides model and messages."""
        return {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "json_mode": self.json_mode,
            "extra_body": dict(self.extra_body),
        }

    @property
    def url(self) -> str | None:
        """Where requests go; None is OpenAI's own."""
        return self.base_url or os.environ.get(URL) or None

    @property
    def place(self) -> str:
        """The endpoint's address as it may be logged: without names, passwords and parameters."""
        if self.url is None:
            return "api.openai.com"
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and what it cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool  # the endpoint did not count: characters are counted as tokens
    cut: bool  # it ended because of `max_tokens`


def check_endpoint(settings: EndpointSettings) -> None:
    """Refuse settings with which no request can be made, before documents are read.

    Raises:
        UserError: the client is not installed, the address is none, or a key is needed and is not there.
    """
    if find_spec("openai") is None:
        raise UserError("generate_queries: needs the `openai` client: pip install 'zh-embedder[documents]'")
    if settings.url is not None and urlsplit(settings.url).scheme not in ("http", "https"):
        raise reject("--base_url", settings.url, "an address such as http://127.0.0.1:8000/v1")
    if not os.environ.get(settings.key_name) and not is_near(settings.url):
        raise UserError(f"{settings.key_name}: is not set in the environment, expected the key of {settings.place}")


def connect(settings: EndpointSettings) -> AsyncOpenAI:
    """Make the client; raises as `check_endpoint`."""
    check_endpoint(settings)
    from openai import AsyncOpenAI

    quiet()
    key = os.environ.get(settings.key_name)
    return AsyncOpenAI(
        base_url=settings.url, api_key=key or "none", timeout=settings.timeout, max_retries=settings.retries
    )


def quiet() -> None:
    """Keep the client's own log lines, one or more for each request, out of ours."""
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_near(url: str | None) -> bool:
    """Whether an endpoint is on this machine or network, and so may need no key."""
    host = urlsplit(url or "").hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".local", ".internal"))


async def ask(client: AsyncOpenAI, settings: EndpointSettings, messages: Sequence[Mapping[str, str]]) -> Reply:
    """Send one request.

    Raises:
        Refused: it will never be answered.
        Unanswered: it was not answered, after all retries.
        UserError: no request would be: key, model or address are wrong, or the account is empty.
    """
    import openai

    try:
        return await send(client, settings, messages)
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise UserError(
            f"{settings.place}: {said(error)} (model {settings.model!r}, key of {settings.key_name})"
        ) from None
    except openai.RateLimitError as error:
        if error.code == "insufficient_quota":
            raise UserError(f"{settings.place}: the account is empty: {said(error)}") from None
        raise Unanswered(said(error)) from None
    except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
        raise Refused(said(error)) from None
    except openai.OpenAIError as error:  # 5xx, timeouts, connections, what is no JSON
        raise Unanswered(said(error)) from None
    except ValueError as error:  # an answer with status 200 whose body is no JSON
        raise Unanswered(f"not an answer of a chat endpoint: {str(error)[:200]}") from None


def said(error: Exception) -> str:
    """Return an endpoint's answer, in one line."""
    # The causes of others repeat the address, which may hold a password.
    system = next((one for one in causes(error) if isinstance(one, OSError) and one.strerror), None)
    cause = f" ({type(error.__cause__).__name__})" if error.__cause__ is not None else ""
    cause = f" ({system.strerror})" if system is not None else cause
    return " ".join(f"{type(error).__name__}: {error}{cause}".split())[:300]


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what led to an error, the nearest first."""
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


async def send(client: AsyncOpenAI, settings: EndpointSettings, messages: Sequence[Mapping[str, str]]) -> Reply:
    """Send a request and read its answer, whole or as a stream."""
    wanted: dict[str, Any] = {
        "model": settings.model,
        "messages": list(messages),
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "extra_body": dict(settings.extra_body) or None,
    }
    if settings.json_mode:
        wanted["response_format"] = {"type": "json_object"}
    if settings.stream:
        return await read_stream(client, wanted)
    answer = await client.chat.completions.create(**wanted)
    choices = getattr(answer, "choices", None)  # a server may answer 200 with anything
    if not choices:
        raise Unanswered(f"not an answer of a chat endpoint: {str(answer)[:200]}")
    return reply(wanted, choices[0].message.content or "", choices[0].finish_reason, answer.usage)


async def read_stream(client: AsyncOpenAI, wanted: Mapping[str, Any]) -> Reply:
    """Read an answer piece by piece.

    Raises:
        Unanswered: it broke off.
    """
    import httpx2
    import openai

    parts: list[str] = []
    usage, finish = None, None
    try:
        stream = await client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                parts.append(choice.delta.content or "")
                finish = choice.finish_reason or finish
    except (httpx2.HTTPError, openai.APIConnectionError) as error:
        raise Unanswered(f"the stream broke off: {said(error)}", len("".join(parts))) from None
    if finish is None:
        raise Unanswered("the stream ended before the answer did", len("".join(parts)))
    return reply(wanted, "".join(parts), finish, usage)


def reply(wanted: Mapping[str, Any], text: str, finish: str | None, usage: Any) -> Reply:
    """Make the reply; where the endpoint does not count tokens, characters are counted."""
    cut = finish == "length"
    if usage is None or not usage.total_tokens:
        return Reply(text, characters(wanted["messages"]), len(text), estimated=True, cut=cut)
    return Reply(text, usage.prompt_tokens or 0, usage.completion_tokens or 0, estimated=False, cut=cut)


def characters(messages: Sequence[Mapping[str, str]]) -> int:
    """Count the characters of a request."""
    return sum(len(message["content"]) for message in messages)
