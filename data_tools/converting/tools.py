"""Function-calling readers: a request -> the tools that it needs, as `name：description`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_tools.converting.format_types import Head, ReadOptions, Record, Source, SourceItem, distinct
from data_tools.converting.format_types import identity as make_id
from data_tools.converting.source_text import objects, parse
from data_tools.converting.tables import json_rows
from data_tools.converting.values import Raw, as_list, as_object, as_part, pick, pick_name, pick_text
from zh_embedder.core.errors import UserError

SPEAKER = re.compile(r"^(user|system|assistant)\s*[:：]\s*", re.MULTILINE)
REPEAT = re.compile(r"_\d+$")
ANSWERS = "possible_answer"


def read_acebench(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """ACEBench: requests with candidate tools; the gold ones are in a file of the same name under possible_answer/."""
    path = Path(options.answers) if options.answers else source.path.parent / ANSWERS / source.path.name
    if not path.is_file():
        raise UserError(f"{source.path}: no answers at {path}, expected them there, or --answers FILE")
    gold = {pick_text(raw, ("id",), where): raw for where, raw in objects(path, options.encoding)}
    for where, raw in objects(source.path, options.encoding):
        name = pick_text(raw, ("id",), where)
        if name not in gold:
            yield SourceItem(where, reason=f"no answer in {path.name}")
            continue
        truth = pick(gold[name], ("ground_truth",), f"{path}: {name}")
        called = [key for part in (truth if isinstance(truth, list) else [truth]) for key in as_object(part, where)]
        request = last_request(pick_text(raw, ("question",), where))
        tools = as_list(pick(raw, ("function",), where), f"{where}: function")
        yield tool_item(make_id(source, name), request, described(tools, where), called, where)


def read_tool_calls(source: Source, options: ReadOptions) -> Iterator[SourceItem]:
    """Query, tools and answers in one object, as in xlam: tools and answers are lists, or JSON of them."""
    for number, (where, raw) in enumerate(json_rows(source, options), start=1):
        tools = described(listed(pick(raw, ("tools", "functions"), where), f"{where}: tools"), where)
        calls = listed(pick(raw, ("answers", "tool_calls"), where), f"{where}: answers")
        called = [pick_text(function_of(as_object(call, where)), ("name",), where) for call in calls]
        name = make_id(source, pick_name(raw, ("id",), where, number))
        yield tool_item(name, pick_text(raw, ("query", "question"), where), tools, called, where)


def listed(value: Any, where: str) -> list[Any]:
    """Return a list that may be written as JSON."""
    return as_list(parse(value, where) if isinstance(value, str) else value, where)


def function_of(raw: Raw) -> Raw:
    """Return what OpenAI's layout wraps in {"type": "function", "function": ...}."""
    inner = raw.get("function")
    return inner if isinstance(inner, dict) else raw


def described(tools: list[Any], where: str) -> dict[str, str]:
    """Return name -> `name：description` of the candidates."""
    found: dict[str, str] = {}
    for raw in tools:
        tool = function_of(as_object(raw, where))
        name = pick_text(tool, ("name",), where).strip()
        about = as_part(tool.get("description"), f"{where}: description").strip()
        found[name] = f"{name}：{about}" if about else name
    return found


def tool_item(name: str, request: str, tools: Mapping[str, str], called: list[str], where: str) -> SourceItem:
    """Make a record of a request: positives are the tools called, negatives the other candidates."""
    gold = distinct([key if key in tools else REPEAT.sub("", key) for key in called])
    if not gold:
        return SourceItem(where, reason="no tool is called")
    if any(key not in tools for key in gold):
        return SourceItem(where, reason="a tool that is called is not among the candidates")
    record: Record = {
        "query": request,
        "pos": [tools[key] for key in gold],
        "neg": [text for key, text in tools.items() if key not in gold],
        "id": name,
        "group": "+".join(sorted(gold)),
    }
    return SourceItem(where, record)


def last_request(question: str) -> str:
    """Return the user's words since the last tool call: `system: [name(...)]`."""
    parts = SPEAKER.split(question)
    turns = list(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))
    if not turns:
        return question.strip()
    calls = [i for i, (who, text) in enumerate(turns) if who != "user" and text.startswith("[") and text.endswith("]")]
    recent = turns[calls[-1] + 1 :] if calls else turns
    return "\n".join(text for who, text in recent if who == "user")


def is_acebench(head: Head) -> bool:
    """Recognise ACEBench's requests."""
    return {"question", "function"} <= head.first.keys()


def is_tool_calls(head: Head) -> bool:
    """Recognise one object with query, tools and answers."""
    names = head.first.keys()
    return bool(names & {"tools", "functions"}) and bool(names & {"answers", "tool_calls"})
