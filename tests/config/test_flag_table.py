"""Every flag of every command: what it takes is declared, and anything else is refused with its name."""

import argparse
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from tests.config.frozen_flags import command_parser, commands, inherited
from zh_embedder.config.inherited_flags import INHERITED, MAY_BE_EMPTY
from zh_embedder.core.errors import UserError
from zh_embedder.core.numbers import Number
from zh_embedder.core.options import any_text

PARSERS = {command: command_parser(command) for command in commands()}
ACTIONS = [(command, action) for command, parser in PARSERS.items() for action in parser._actions]
NUMBERS = [(command, action) for command, action in ACTIONS if isinstance(action.type, Number)]
TEXTS = [(c, a) for c, a in ACTIONS if a.type in (None, str, Path) and a.nargs != 0 and a.choices is None]
BAD = ["nan", "inf", "-inf", "", " ", "abc", "1" + "0" * 400, "-1000000000", "²", "1_0", "0x10", " 5 ", "1e400"]
# To these an empty text means something: no instruction, nothing between columns, off.
EMPTY = {
    *("query_instruction", "key_instruction", "inbatch_same_dataset", "false_negative_margin", "prompt", "join"),
    *("query_instruction_for_retrieval", "fsdp", "resume_from_checkpoint"),
}


def read(command, action, text):
    """What a parser makes of one value of a flag, and its message if it refuses it."""
    parser = PARSERS[command]
    count = action.nargs if isinstance(action.nargs, int) else 1
    try:
        values = parser._get_values(action, [text] * count)
    except argparse.ArgumentError as error:
        return None, str(parser.mistake(str(error)))
    return values if isinstance(values, list) else [values], ""


def name(pair):
    command, action = pair
    return f"{command} {action.option_strings[0] if action.option_strings else action.dest}"


def test_no_flag_reads_numbers_without_a_declaration():
    assert [name(pair) for pair in ACTIONS if pair[1].type in (int, float, complex)] == []


def test_there_are_as_many_numeric_flags_as_commands_suggest():
    """So that the tables below are not empty by a mistake."""
    assert len(NUMBERS) > 150
    assert len(TEXTS) > 100
    assert {command for command, _ in NUMBERS} >= {"train", "pretrain", "evaluate", "encode", "mine", "generate"}


def test_bad_numbers_are_refused_with_the_flag_or_valid_by_declaration():
    wrong = []
    for command, action in NUMBERS:
        for text in BAD:
            values, message = read(command, action, text)
            if values is not None:
                if not all(action.type.holds(value) and abs(float(value)) < 1e18 for value in values):
                    wrong.append((name((command, action)), text, values))
            elif (
                not message.startswith(f"{max(action.option_strings, key=len)}: got ") or ", expected a " not in message
            ):
                wrong.append((name((command, action)), text, message))
    assert wrong == []


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "", "abc", "²", "1e400"])
def test_no_numeric_flag_takes_what_is_no_number(text):
    assert [name(pair) for pair in NUMBERS if read(*pair, text)[0] is not None] == []


def test_defaults_are_valid_by_declaration():
    bad = [
        name((command, action))
        for command, action in NUMBERS
        for value in (action.default if isinstance(action.default, list) else [action.default])
        if value not in (None, argparse.SUPPRESS) and not action.type.holds(value)
    ]
    assert bad == []


def test_help_and_message_say_the_declared_range():
    for command, action in NUMBERS:
        shown = PARSERS[command]._get_formatter()._get_help_string(action)
        assert action.type.range in shown, name((command, action))


@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_no_flag_takes_an_empty_text_but_those_that_say_so(text):
    assert [name(pair) for pair in TEXTS if read(*pair, text)[0] is not None] == []
    assert {action.dest for _, action in ACTIONS if action.type is any_text} == EMPTY


def test_every_number_of_transformers_is_in_the_table():
    """A new version of transformers cannot bring a number that nobody checks."""
    hints = get_type_hints(TrainingArguments)
    numeric = {
        field.name
        for field in fields(TrainingArguments)
        if {int, float} & {hints[field.name], *getattr(hints[field.name], "__args__", ())}
    }
    assert numeric & (inherited("train") | inherited("pretrain")) == INHERITED.keys()
    assert {f.name for f in fields(TrainingArguments)} >= MAY_BE_EMPTY
    defaults = {
        f.name: f.default for f in fields(TrainingArguments) if f.name in INHERITED and f.default is not MISSING
    }
    assert [flag for flag, value in defaults.items() if value is not None and not INHERITED[flag].holds(value)] == []


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(NUMBERS), st.text(alphabet="0123456789eE+-._ ninfax²５", max_size=12))
def test_whatever_is_typed_is_a_declared_number_or_one_line(pair, text):
    command, action = pair
    values, message = read(command, action, text)
    assert "\n" not in message
    assert all(action.type.holds(value) for value in values or ())
    assert (values is None) == bool(message)


@pytest.mark.parametrize("command", [command for command in PARSERS if command not in ("train", "pretrain")])
def test_a_whole_command_line_is_refused_too(command):
    numeric = [action for owner, action in NUMBERS if owner == command]
    for action in numeric[:3]:
        flag = max(action.option_strings, key=len)
        with pytest.raises(UserError, match=f"^{flag}: got nan, expected a "):
            PARSERS[command].parse_args([f"{flag}=nan"])
