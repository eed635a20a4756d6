"""The flags of every command are frozen: what is added, renamed or given another default is visible in review."""

import ast
import json
import re
from dataclasses import fields

import pytest

from data_tools.mining.pipeline import Job
from tests.config.frozen_flags import LIST, PAGE, REGENERATE, ROOT, command_parser, commands, flags_of, frozen, page
from zh_embedder.cli import COMMANDS
from zh_embedder.core.spellings import SPELLINGS, TRAINING
from zh_embedder.search.bm25 import K1, B

HABITS = re.compile(r"\b(shall|stands?|beside|so many|said|aloud|nobody|goes on|go on|mend)\b")
# Flags of one name whose defaults differ, each for a reason.
DIFFERENT = {
    "--hidden_size": "pretrain's own base, or the shipped one",
    "--hits": "LLM-Embedder's 200 in train; in mine it replaces --range",
    "--intermediate_size": "pretrain's own base, or the shipped one",
    "--key_max_length": "the model's own in evaluate",
    "--learning_rate": "pretraining takes larger steps",
    "--method": "kinds of candidates in mine, of teachers in score",
    "--metrics": "LLM-Embedder's in train",
    "--min_chars": "of a text in convert, of a section in generate",
    "--model": "score cannot do without",
    "--near": "a negative in doctor, a query in generate; split's is off by default",
    "--negatives": "a file in convert, a number in mine",
    "--num_heads": "pretrain's own base, or the shipped one",
    "--num_layers": "pretrain's own base, or the shipped one",
    "--output": "not needed with --list, --save_name, --dry_run",
    "--output_dir": "mteb has a folder of its own",
    "--queries": "a file in convert, a number in generate",
    "--query_encoder": "only train has a default base",
    "--query_max_length": "the model's own in evaluate",
    "--tasks": "mteb's tasks, or ours in generate",
    "--train_group_size": "doctor checks it only if given",
    "--validation_share": "pretraining evaluates by default",
    "--words": "a segmentation, a number of words in vocabulary, a share in pairs",
}


def test_the_list_of_flags_is_the_frozen_one():
    """After a change: python -m tests.config.frozen_flags, and look at the difference."""
    assert frozen() == json.loads(LIST.read_text("utf-8")), f"flags have changed; if meant so: {REGENERATE}"


def test_the_page_of_flags_is_generated():
    assert page() == PAGE.read_text("utf-8"), f"docs/flags.md is not what the code says: {REGENERATE}"


@pytest.mark.parametrize("command", commands())
def test_every_flag_has_a_help_text_in_plain_english(command):
    for name, _, text, *_ in flags_of(command):
        assert text, f"{command} {name}"
        assert not HABITS.search(text), f"{command} {name}: {text}"
        assert len(text) < 280, f"{command} {name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_described_in_plain_english(command):
    assert not HABITS.search(COMMANDS[command].text)


@pytest.mark.parametrize("command", commands())
def test_every_flag_is_spelt_with_underscores(command):
    for name, *_ in flags_of(command):
        assert "-" not in name.removeprefix("--"), f"{command} {name}"


@pytest.mark.parametrize("command", sorted(SPELLINGS))
def test_every_other_spelling_leads_to_a_flag_of_the_command_and_is_none_itself(command):
    parser = command_parser(command)
    own = {option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")}
    table = SPELLINGS[command]
    if command == "pretrain":  # FlagEmbedding's flags that pretraining has not are refused under our name
        table = {old: ours for old, ours in table.items() if old not in TRAINING}
    assert set(table.values()) <= own
    assert not set(SPELLINGS[command]) & own


def test_flags_of_one_name_have_one_default():
    found: dict[str, set[str]] = {}
    for command in commands():
        for name, default, *_ in flags_of(command):
            if name.startswith("--"):
                found.setdefault(name, set()).add(default)
    assert {name for name, defaults in found.items() if len(defaults) > 1} == set(DIFFERENT)


@pytest.mark.parametrize("command", ["train", "evaluate", "mine"])
def test_bm25_has_one_k1_and_one_b(command):
    defaults = {action.dest: action.default for action in command_parser(command)._actions}
    assert defaults["k1"] is K1
    assert defaults["b"] is B


def test_a_mining_job_has_the_same_k1_and_b():
    defaults = {field.name: field.default for field in fields(Job)}
    assert defaults["k1"] is K1
    assert defaults["b"] is B


def test_no_other_module_writes_bm25s_numbers_down():
    for path in [*(ROOT / "zh_embedder").rglob("*.py"), *(ROOT / "data_tools").rglob("*.py")]:
        numbers = {
            node.value
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, float)
        }
        assert path.name == "bm25.py" or not {K1, B} & numbers, path
