"""Any YAML becomes plain values or a message with its place, in bounded time and memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.core.strict_yaml import load_yaml

PLACE = Path("version.yaml")
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 500 + "]" * 500, "nested too deeply"),
        ("[" * 80 + "]" * 80, "nested too deeply"),
        (BOMB, "more than 100,000 values"),
        ("a: &a [*a]", "nested too deeply"),
        (f"weight: {'9' * 400}", "a number of 400 characters"),
        ('a:\n  - "\\ud800"', "version.yaml:2: holds half of a surrogate pair"),
        ("a: !!python/object/apply:os.getcwd []", "not a plain value"),
        ("a: 2024-13-45", "not a plain value"),
        ("{[a]: 1}", "not a plain value"),
        ("a: [1", "not valid YAML"),
        ('"\\UFFFFFFFF"', "not valid YAML"),
    ],
)
def test_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_yaml(PLACE, text)
    assert str(caught.value).startswith("version.yaml") and said in str(caught.value)


def test_right_files_are_as_yaml_reads_them() -> None:
    values = {"k": [1, 1.5, True, None, "是"]}
    assert load_yaml(PLACE, "a: &x {k: [1, 1.5, true, null, 是]}\nb: *x") == {"a": values, "b": values}
    assert load_yaml(PLACE, "") is None


def test_any_damage_is_values_or_a_message() -> None:
    """400 files with pieces cut, doubled and put in."""
    draw = random.Random(0)
    whole = (
        'default: &d\n  query: "为这个句子"\n  key: ""\ntasks:\n  qa: *d\n  icl: {query: "a", key: b, weight: 1.5}\n'
    )
    parts = [
        "&a ",
        "*a",
        "*d",
        "!!int ",
        "!x ",
        "? ",
        ": ",
        "- ",
        "\\ud800",
        "{",
        "]",
        "|",
        ">",
        "\t",
        "<<: *d",
        "0x",
        "1:60",
        "=",
        "\0",
    ]
    for _ in range(400):
        text = whole
        for _ in range(draw.randint(1, 4)):
            start = draw.randrange(len(text) + 1)
            text = text[:start] + draw.choice([*parts, text[start : start + 20]]) + text[start + draw.randint(0, 9) :]
        try:
            load_yaml(PLACE, text)
        except UserError as error:
            assert str(error).startswith("version.yaml")
