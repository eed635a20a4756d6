"""Flags: how they are declared, and how a mistake names them."""

from dataclasses import dataclass

import pytest

from zh_embedder.cli import build_parser, call
from zh_embedder.core.errors import UserError
from zh_embedder.core.numbers import COUNT, SHARE
from zh_embedder.core.options import HelpFormatter, Parser, as_typed, check_numbers, limited, number_of


@dataclass(frozen=True)
class Settings:
    size: int = limited(3, COUNT)
    part: float | None = limited(None, SHARE, flag="share")


def test_a_dataclass_checks_its_numbers_under_the_names_of_its_flags():
    check_numbers(Settings())
    with pytest.raises(UserError, match=r"^--size: got 0, expected a whole number of 1 or more$"):
        check_numbers(Settings(size=0))
    with pytest.raises(UserError, match=r"^--share: got 2, expected a number from 0 to 1$"):
        check_numbers(Settings(part=2))
    assert number_of(Settings, "size") is COUNT


def test_help_check_and_message_come_from_one_declaration(capsys):
    parser = Parser(prog="x", formatter_class=HelpFormatter)
    parser.add_argument("--size", type=number_of(Settings, "size"), default=3, help="how many")
    assert "how many (1 or more; default: 3)" in " ".join(parser.format_help().split())
    assert parser.parse_args(["--size", "5"]).size == 5
    with pytest.raises(UserError, match=r"^--size: got -5, expected a whole number of 1 or more$"):
        parser.parse_args(["--size", "-5"])


@pytest.mark.parametrize("value", ["-inf", "-1e5", "-nan", "-.5"])
def test_a_negative_number_is_a_value_and_no_flag(value):
    parser = Parser(prog="x")
    parser.add_argument("--size", type=SHARE)
    with pytest.raises(UserError, match=rf"^--size: got {value}, expected a number from 0 to 1$"):
        parser.parse_args(["--size", value])


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("--num_layers: got 0", "--layers: got 0"),
        ("--num_layers_of: got 0", "--num_layers_of: got 0"),
        ("file.jsonl:3: --num_layers", "file.jsonl:3: --num_layers"),
    ],
)
def test_a_flag_is_named_as_it_was_typed(message, shown):
    assert str(as_typed(UserError(message), {"num_layers": "layers"})) == shown


def test_a_flag_given_twice_is_said_with_the_value_that_counts():
    parser = Parser(prog="x")
    for name in ("--seed", "--files"):
        parser.add_argument(name, nargs="+")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--no_packing", action="store_false", dest="packing")
    assert parser.repeated(["a", "--seed", "1", "--files", "b", "--", "--seed", "2"]) == []
    assert parser.repeated(
        ["--seed=1", "--files", "a", "b", "--seed", "-2", "--packing", "--files", "c", "--no-packing"]
    ) == [
        "--seed: is given 2 times, the last one counts: --seed -2",
        "--files: is given 2 times, the last one counts: --files c",
        "--packing: is given 2 times, the last one counts: --no_packing",
    ]


def test_every_command_says_that_a_flag_is_given_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        call("split", ["gone.jsonl", "--output_dir", "out", "--seed", "1", "--ratios", "0.5", "0.5", "--seed", "2"])
        == 2
    )
    assert "--seed: is given 2 times, the last one counts: --seed 2" in capsys.readouterr().err


def test_an_older_spelling_is_named_in_the_message(capsys):
    assert call("new-base", ["x", "--output_dir", "y", "--layers", "-1"]) == 2
    assert capsys.readouterr().err == "error: --layers: got -1, expected a whole number from 0 to 1000\n"


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (
            "split",
            ["t", "--output_dir", "", "--ratios", "1"],
            "--output_dir: got '', expected a text that is not empty",
        ),
        ("split", ["", "--output_dir", "s", "--ratios", "1"], "FILES: got '', expected a text that is not empty"),
        ("split", ["t", "--output_dir", "s", "--counts", "rest", "²"], "--counts: got '²', expected a whole number"),
        ("score", ["t", "--output", " ", "--model", "m"], "--output: got ' ', expected a text that is not empty"),
        (
            "pairs",
            ["t", "--output_dir", "s", "--shared", "-1"],
            "--shared: got -1, expected a whole number of 1 or more",
        ),
        ("doctor", ["t", "--show", "-1"], "--show: got -1, expected a whole number of 0 or more"),
        ("mine", ["t", "--output", "o", "--margin", "nan"], "--margin: got nan, expected a finite number"),
        (
            "convert",
            ["t", "--output", "o.jsonl", "--limit", "-1"],
            "--limit: got -1, expected a whole number of 1 or more",
        ),
        ("new-base", ["t", "--output_dir", "o", "--power", "nan"], "--power: got nan, expected a number above 0"),
    ],
)
def test_flags_of_tools_are_refused_while_they_are_read(command, words, message):
    with pytest.raises(UserError) as error:
        build_parser(command).parse_args(words)
    assert str(error.value).startswith(message)
