"""Prompts for a passage, and the parsing of answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zh_embedder.core.errors import reject, unknown_name
from zh_embedder.core.strict_yaml import read_yaml

PROMPTS = Path(__file__).with_name("query_prompts.yaml")
PARTS = ("system", "refuse", "tasks")
PASSAGE, COUNT = "{passage}", "{count}"
THOUGHT = re.compile(r"(?s)<think>.*?</think>")  # of models that reason aloud
OPEN_THOUGHT = re.compile(r"(?s)<think>.*$")
LISTED = re.compile(r"(?m)^\s*(?:\d+\s*[.、)．）]|[-*•])\s*(.+?)\s*$")
QUERY_FIELDS = ("query", "question", "queries", "questions", "问题", "查询")

Message = dict[str, str]


class Garbage(ValueError):
    """An answer that holds no queries."""


@dataclass(frozen=True, slots=True)
class Written:
    """A query as the model wrote it."""

    query: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the tasks are asked with."""

    system: str
    refuse: Sequence[str]
    tasks: Mapping[str, str]

    def messages(self, task: str, passage: str, count: int) -> list[Message]:
        """Return the messages of one request.

        Raises:
            UserError: neither the task nor `default` has a prompt.
        """
        text = self.tasks.get(task, self.tasks.get("default"))
        if text is None:
            raise unknown_name("--tasks", task, self.tasks)
        user = text.replace(COUNT, str(count)).replace(PASSAGE, passage)  # the passage last: it may hold {count}
        own = [{"role": "system", "content": self.system}] if self.system else []
        return [*own, {"role": "user", "content": user}]


def read_prompts(path: Path) -> Prompts:
    """Read the prompts of tasks.

    Raises:
        UserError: the file is missing, is no YAML, or something in it is wrong.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("tasks"), dict) or not raw["tasks"]:
        raise reject(str(path), raw, "`tasks:` with a prompt for each")
    for name in raw:
        if name not in PARTS:
            raise unknown_name(str(path), str(name), PARTS)
    for task, text in raw["tasks"].items():
        if not isinstance(text, str) or PASSAGE not in text:
            raise reject(f"{path}: tasks: {task}", text, f"a text with {PASSAGE}")
    refuse, system = raw.get("refuse") or [], raw.get("system") or ""
    if not isinstance(refuse, list) or not all(isinstance(word, str) and word for word in refuse):
        raise reject(f"{path}: refuse", refuse, "a list of words")
    if not isinstance(system, str):
        raise reject(f"{path}: system", system, "a text")
    return Prompts(system, tuple(refuse), {str(task): text for task, text in raw["tasks"].items()})


def read_answer(text: str) -> list[Written]:
    """Read the queries out of an answer: JSON wherever it is, else the items of a list.

    Returns:
        The queries; none where the answer says so by an empty list.

    Raises:
        Garbage: there are none.
    """
    plain = OPEN_THOUGHT.sub("", THOUGHT.sub("", text))
    values = list(values_in(plain))
    for value in values:
        if found := written_in(value):
            return found
    if any(isinstance(value, dict) and [] in [value.get(name) for name in QUERY_FIELDS] for value in values):
        return []  # it says that there is nothing to ask
    if "{" not in plain and (listed := [Written(item) for item in LISTED.findall(plain)]):
        return listed
    raise Garbage(f"no queries in {text.strip()[:200]!r}" if text.strip() else "an empty answer")


def values_in(text: str) -> Iterator[Any]:
    """Yield the JSON objects and lists of a text, fenced or with words around them."""
    decoder, at = json.JSONDecoder(strict=False), 0
    while found := re.compile(r"[\[{]").search(text, at):
        try:
            value, at = decoder.raw_decode(text, found.start())
        except json.JSONDecodeError:
            at = found.start() + 1
            continue
        except RecursionError:
            return  # nothing nested this deep holds queries
        yield value


def written_in(value: Any) -> list[Written]:
    """Return the queries of an object, a list of objects or a list of texts, in order."""
    if isinstance(value, str):
        items: list[Any] = [value]
    elif isinstance(value, list):
        return [one for item in value for one in written_in(item)]
    elif isinstance(value, dict):
        name = next((name for name in QUERY_FIELDS if name in value), None)
        if name is None:
            return []
        if not isinstance(value[name], str):
            return written_in(value[name])
        items = [value[name]]
    else:
        return []
    answer = value.get("answer") if isinstance(value, dict) else None
    return [Written(own, answer.strip() if isinstance(answer, str) else "") for item in items if (own := sound(item))]


def sound(text: str) -> str:
    """Return a text without white space around it; one that cannot be written as UTF-8 (half a surrogate) is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return ""
    return text.strip()
