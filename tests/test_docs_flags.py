"""Commands that the pages and the help show have flags that their command knows."""

import json
import re
import shlex
from dataclasses import fields

import pytest
from transformers import TrainingArguments

from tests.config.frozen_flags import LIST, ROOT
from zh_embedder.cli import COMMANDS
from zh_embedder.config.published import JOINED, NEEDLESS, NOT_YET, SPECIAL

PAGES = ("README.md", "README_zh.md", "CONTRIBUTING.md", "examples/demo/README.md", "examples/nano/README.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "log"))  # fmt: skip
DOORS = {
    "run_dense.py": "train",
    "zh_embedder.pretrain": "pretrain",
    "zh_embedder.vocabulary": "vocabulary",
    "zh_embedder.new_base": "new-base",
    "zh_embedder.export": "export",
    **{command.module: word for word, command in COMMANDS.items()},
}


def known_flags() -> dict[str, set[str]]:
    """Flags of each command: ours, their other spellings, transformers' and published ones of training."""
    found = {}
    for command, flags in json.loads(LIST.read_text("utf-8")).items():
        others = [part for value in flags.values() for part in value.split(" | ")[1:]]
        found[command] = {name.replace("-", "_").lstrip("_") for name in (*flags, *others)} | {"help"}
    inherited = {field.name for field in fields(TrainingArguments)}
    for command in ("train", "pretrain"):
        found[command] |= inherited | {*JOINED, *NEEDLESS, *NOT_YET, *SPECIAL}
        found[command] |= {f"no_{name}" for name in found[command]}
    found["mine"] |= {"metrics", "cutoffs"}
    return found


KNOWN = known_flags()


def command_lines(text: str):
    """(command, words that follow it) of each command in shell code."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for part in re.split(r"&&|\||;| # ", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                words = part.split()
            for place, word in enumerate(words):
                name = words[place + 1] if word == "zh-embedder" and words[place + 1 :] else DOORS.get(word)
                if name in KNOWN:
                    start = place + (2 if word == "zh-embedder" else 1)
                    yield name, words[start:]
                    break


def unknown(text: str) -> list[str]:
    """Flags in shell code that their command does not know."""
    found = []
    for command, words in command_lines(text):
        flags = [match[1] for word in words if (match := re.match(r"--([A-Za-z][\w-]*)", word))]
        found += [f"{command} --{flag}" for flag in flags if flag.replace("-", "_") not in KNOWN[command]]
    return found


def shell_of(page: str) -> str:
    """Code blocks and inline code of a page, but output and other languages."""
    blocks = re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *(code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", rest))])


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_pages_have_flags_that_exist(page):
    assert unknown(shell_of((ROOT / page).read_text("utf-8"))) == []


def test_the_pages_show_commands():
    shown = [name for page in PAGES for name, _ in command_lines(shell_of((ROOT / page).read_text("utf-8")))]
    assert {"train", "evaluate", "encode", "export", "convert", "doctor", "split", "mine"} <= set(shown)


@pytest.mark.parametrize("word", COMMANDS)
def test_examples_of_the_help_have_flags_that_exist(word):
    assert unknown(f"zh-embedder {word} {COMMANDS[word].example}") == []


def test_examples_of_the_training_commands_have_flags_that_exist():
    from zh_embedder.config.train import EXAMPLE as TRAIN
    from zh_embedder.pretraining.arguments import EXAMPLE as PRETRAIN

    assert unknown(TRAIN) + unknown(PRETRAIN) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("zh-embedder evaluate m --data d --no-instruction | head --lines 3", []),
        ("zh-embedder evaluate m --dtaa d", ["evaluate --dtaa"]),
        ("torchrun --nproc_per_node=2 run_dense.py --temperature 1 \\\n --bf16 --lr 1", ["train --lr"]),
        ("python -m data_tools.split a --output_dir b --layers 3", ["split --layers"]),
    ],
)  # fmt: skip
def test_a_flag_that_its_command_does_not_know_is_found(text, found):
    assert unknown(text) == found
