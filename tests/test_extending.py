"""docs/extending.md does what it says: its patches apply to a copy of this repository, and its commands run there."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import environment, finish, forked, start
from zh_embedder.bases.tiny import build

SECONDS = 30
ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
SECTIONS = {part.splitlines()[0]: part for part in PAGE.split("\n## ")[1:]}
LINES = 40  # that a patch may add


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], flags=re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    """This repository without its tools, a tiny base, and records of the new task."""
    for name in ("zh_embedder", "instructions", "data_tools", "tests", "examples", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_dense.py", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    build(tmp_path / "base", hidden=32, heads=2)
    row = {"query": "怎么退货？", "pos": ["如何申请退货"], "neg": ["如何开发票"], "task": "faq"}
    lines = [json.dumps({**row, "query": f"{i}号订单怎么退货？"}, ensure_ascii=False) for i in range(8)]
    (tmp_path / "faq.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path


def apply(patch: str, folder: Path) -> None:
    subprocess.run(["git", "apply", "-"], input=patch, text=True, cwd=folder, check=True)


def run(command: str, folder: Path) -> str:
    """Run one command of the page, in the copy and with its modules."""
    words = shlex.split(command.replace("\\\n", " "))
    before = {"python": [], "zh-embedder": ["-m", "zh_embedder.cli"]}[words[0]]
    env = {**environment(folder), "PYTHONPATH": str(folder)}
    return finish(start([*forked(), *before, *words[1:]], folder, env=env))


def commands(section: str) -> list[str]:
    (block,) = blocks(section, "bash")
    return [line for line in re.split(r"(?<!\\)\n", block) if line]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_patch_is_short(section):
    (patch,) = blocks(section, "diff")
    added = [line for line in patch.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert 5 < len(added) <= LINES


@pytest.mark.slow
def test_a_new_loss_is_one_patch(copy):
    apply(*blocks("A new loss", "diff"), copy)
    tests, losses = commands("A new loss")
    printed = run(tests, copy)
    assert int(re.search(r"(\d+) passed", printed)[1]) > 20
    printed = run(losses, copy)
    assert "arXiv 2110.06848" in printed
    assert "options: temperature=0.05*" in printed


@pytest.mark.slow
def test_a_new_task_is_one_patch(copy):
    apply(*blocks("A new task", "diff"), copy)
    versions, train = commands("A new task")
    assert "faq\n    query: '为这个用户提问生成表示" in run(versions, copy)
    assert "1 info_nce" in run(train, copy)
    settings = json.loads((copy / "out/encoder/config_sentence_transformers.json").read_text("utf-8"))
    assert settings["prompts"]["faq.key"] == "为这个常见问题生成表示，以用于检索："
