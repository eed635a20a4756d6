"""The flags of every command, collected from the code, as the list that tests freeze and as docs/flags.md.

Regenerate both after a change: `python -m tests.config.frozen_flags`
"""

import argparse
import json
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from transformers import TrainingArguments

from zh_embedder import cli
from zh_embedder.core.options import default_text, range_text
from zh_embedder.core.spellings import SPELLINGS

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("flags.json")
PAGE = ROOT / "docs" / "flags.md"
REGENERATE = "python -m tests.config.frozen_flags"
TITLES = {
    "train": "Train on the records of many tasks; the same flags as `run_dense.py`, which `torchrun` starts.",
    "pretrain": "Pretrain on plain text; `torchrun` starts `-m zh_embedder.pretrain`.",
}
PARSERS = {  # modules that have a parser of their own
    "train": ("zh_embedder.config.train", "parser"),
    "pretrain": ("zh_embedder.pretraining.arguments", "parser"),
}
INTRODUCTION = f"""# Flags

This page is generated from the code (`{REGENERATE}`). `zh-embedder COMMAND --help` shows the same.

- Dashes and underscores are interchangeable: `--no-instruction` is `--no_instruction`.
- "Also" lists other spellings: older ones, and those of FlagEmbedding, LLM-Embedder and transformers. They work, and
  the log notes them once. Flags whose values are translated as well are in [migrating](migrating.md).
- A switch is off unless its default says otherwise; `--no_NAME` turns off one that is on.
- `train` and `pretrain` also take every flag of transformers' `TrainingArguments`; listed are those that differ there.

## One name for one meaning

| flag | meaning |
|---|---|
| `--output`, `--output_dir` | the result: a file, a folder |
| `--json` | a copy of the table that goes to the terminal |
| `--overwrite` | replace what is in the output |
| `MODEL` | the finished model that a command is about |
| `--model` | a model that a data tool uses |
| `--query_encoder` | the base to train |
| `--task` | the task of all texts that a command reads |
| `--eval_task` | the task of the evaluation sets in training |
| `--default_task` | the task of records without one, and of an export's prompts |
| `--corpus` | text to read: keys to search in, or plain text to learn from |
| `--output_corpus` | passages that `generate` writes |
| `--metrics ndcg@10` | a metric with its cutoff (`--metrics ndcg --cutoffs 10` works too) |
| `--bm25`, `--k1`, `--b`, `--user_dict` | evaluate BM25 too; its parameters; extra words for jieba |
"""


def command_parser(command):
    """The parser of a command."""
    if command not in PARSERS:
        return cli.build_parser(command)
    module, name = PARSERS[command]
    return getattr(import_module(module), name)()


def commands():
    """All commands, in the order of `zh-embedder --help`."""
    return list(cli.COMMANDS)


def inherited(command):
    """Fields that a command has from transformers as they are there; they change with its version."""
    if command not in ("train", "pretrain"):
        return set()
    module = import_module(PARSERS[command][0])
    own = {
        field.name
        for cls in module.CLASSES
        for base in cls.__mro__
        if base.__module__.startswith("zh_embedder.")
        for field in fields(base)
        if field.name in base.__annotations__
    }
    return {field.name for field in fields(TrainingArguments)} - own


def flags_of(command):
    """(name, default, meaning, other spellings, its numbers) of each flag of a command, in the order of its help."""
    others = SPELLINGS.get(command, {})
    skipped = inherited(command)
    found = []
    for action in command_parser(command)._actions:
        name = max(action.option_strings, key=len, default=action.metavar or action.dest)
        plain = name.removeprefix("--")
        if isinstance(action, argparse._HelpAction) or plain.removeprefix("no_") in skipped:
            continue
        if command in ("train", "pretrain") and plain.startswith("no_"):
            continue  # the complement that transformers' parser adds to a switch that is on
        also = [f"--{old}" for old, ours in others.items() if ours == plain]
        also += [option for option in action.option_strings if option[2:].replace("-", "_") != plain]
        default = default_text(action.default).removeprefix("default: ").replace("%%", "%")
        if action.required and action.option_strings:
            default = "required"
        found.append((name, default, (action.help or "").replace("%%", "%"), also, range_text(action)))
    return found


def frozen():
    """Command -> flag -> default, the numbers that it takes in parentheses, other spellings after a bar."""
    return {
        command: {
            name: " | ".join([default + (f" ({numbers})" if numbers else ""), *also])
            for name, default, _, also, numbers in flags_of(command)
        }
        for command in commands()
    }


def cell(text):
    """A text as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def page():
    """docs/flags.md."""
    parts = [INTRODUCTION]
    for command in commands():
        title = TITLES.get(command)
        if title is None and command in cli.COMMANDS:
            text = cli.COMMANDS[command].text
            title = f"{text[:1].upper()}{text[1:]}."
        parts.append(f"## {command}\n\n" + (f"{title}\n\n" if title else "") + table(flags_of(command)))
    return "\n".join(parts)


def table(flags):
    """A Markdown table of flags."""
    rows = ["| flag | default | numbers | meaning |", "|---|---|---|---|"]
    for name, default, meaning, also, numbers in flags:
        more = f" Also: {', '.join(f'`{old}`' for old in also)}." if also else ""
        text = meaning.strip()
        text = text if text.endswith(".") or not more else f"{text}."
        shown = default if default in ("", "required") else f"`{default.encode('unicode_escape').decode()}`"
        rows.append(f"| `{name}` | {shown} | {numbers} | {cell(text)}{more} |")
    return "\n".join(rows) + "\n"


def main():
    """Write the list and the page."""
    LIST.write_text(json.dumps(frozen(), ensure_ascii=False, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
