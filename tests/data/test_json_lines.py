"""A JSON line is the object that it says, or a message with its place: nothing else, and nothing lost."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.data.json_lines import parse_object
from zh_embedder.data.schema import parse_line

WHERE = "train.jsonl:3"


def message(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_object(text, WHERE, "{}")
    assert str(caught.value).startswith(f"{WHERE}: ")
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"query": "a", "query": "b"}',
        '{"query" : "a", "query"\t: "b"}',
        '{"query": "a", "qu\\u0065ry": "b"}',
        '{"q": "a", "meta": [{"query": 1, "query": 1}]}',
        '{"a": "12:30", "query": "x", "query": "y"}',
    ],
)
def test_a_key_twice_is_refused(text: str) -> None:
    assert "'query': appears twice" in message(text)


@pytest.mark.parametrize(
    "raw",
    [
        {"a": '"a": 1, "a": 2', "b": "12:30"},
        {"a": {"a": {"a": [{"a": 1}, {"a": 1}]}}},
        {"\\": '\\"', '"': ":", ":": '":'},
    ],
)
def test_keys_in_texts_and_other_objects_are_no_repetition(raw: dict[str, Any]) -> None:
    assert parse_object(json.dumps(raw), WHERE, "{}") == raw


@pytest.mark.parametrize(
    "value", ['{"x": "\\ud800"}', '{"\\udfff": 1}', '[[{"x": ["a\\uD83D"]}]]', '{"a": {"b": {"c": "\\ude00"}}}']
)
def test_half_a_character_is_refused_at_any_depth(value: str) -> None:
    assert f"{WHERE}: meta: holds half of a surrogate pair" in message(f'{{"query": "a", "meta": {value}}}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'{{"a": {"9" * 5000}}}', "not valid JSON"),
        (f'{{"a": {"[" * 100_000}{"]" * 100_000}}}', "nested too deeply"),
        ('{"a": 1}\r{"a": 2}', "lines end in CR, expected LF"),
        ('{"a": "\0"}', "not valid JSON"),
    ],
)
def test_odd_json(text: str, said: str) -> None:
    assert said in message(text)


@pytest.mark.parametrize("cell", ["nan", "None", "NULL", "#N/A"])
@pytest.mark.parametrize(
    "record",
    [
        {"query": "问", "pos": ["?"]},
        {"query": "问", "pos": ["?", "?"]},
        {"query": "?", "pos": ["答"]},
        {"text1": "甲", "text2": "?", "score": 1},
        {"text": "?", "label": "None"},
    ],
)
def test_an_empty_cell_is_no_text(cell: str, record: dict[str, Any]) -> None:
    line = json.dumps(record).replace("?", cell)
    with pytest.raises(UserError, match="what an empty cell of a table becomes"):
        parse_line(line, WHERE)


def test_an_empty_cell_among_others_is_kept() -> None:
    assert parse_line('{"query": "问", "pos": ["null", "空"], "neg": ["None"]}', WHERE)[0]["pos"] == ["null", "空"]


def test_any_damage_is_a_record_or_a_message() -> None:
    """2,000 records with bytes cut, doubled and swapped."""
    draw = random.Random(0)
    whole = '{"query": "问\\ud83d\\ude00", "pos": ["答", "b:c"], "neg": [], "task": "qa", "teacher_scores": [1e3, NaN]}'
    parts = [
        "{",
        "}",
        "[",
        "]",
        '"',
        ":",
        ",",
        "\\",
        "\\ud800",
        "null",
        "-1",
        "1e999",
        "NaN",
        "nan",
        "\r",
        "\0",
        "true",
    ]
    for _ in range(2000):
        text = whole
        for _ in range(draw.randint(1, 4)):
            start = draw.randrange(len(text) + 1)
            text = text[:start] + draw.choice([*parts, text[start : start + 9]]) + text[start + draw.randint(0, 9) :]
        try:
            json.dumps(parse_line(text, WHERE)[0], ensure_ascii=False).encode()
        except UserError as error:
            assert str(error).startswith(f"{WHERE}: ")
