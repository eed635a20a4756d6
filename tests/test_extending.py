"""docs/extending.md does what it says: its patches apply to a copy of this repository, and its commands run there."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.jsonl import write
from tests.processes import environment, finish, forked, start
from zh_embedder.bases.tiny import build

SECONDS = 30
ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
SECTIONS = {part.splitlines()[0]: part for part in PAGE.split("\n## ")[1:]}
PATCHED = [title for title, text in SECTIONS.items() if "```diff" in text]
LINES = 40  # of a patch: what goes, what comes, and what shows the place
COPIED = ("zh_embedder", "instructions", "data_tools", "tests")
FAQ = {"pos": ["如何申请退货"], "neg": ["如何开发票"]}
QUERIES = [f"{i}号订单怎么退货？" for i in range(8)]
DUREADER = {"question_id": "1", "question": "怎么退货？", "answer_paragraphs": [{"paragraph_text": "先申请，再寄回。"}]}


def block(section: str, language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], flags=re.DOTALL)
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """What patches change and commands run, a tiny base, and the files of the page's commands."""
    folder = tmp_path_factory.mktemp("extending")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name)  # with its bytecode: compiling takes as long as the tests
    for name in ("run_dense.py", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    build(folder / "base", hidden=32, heads=2)
    write(folder / "faq.jsonl", [{"query": query, **FAQ, "task": "faq"} for query in QUERIES])
    write(folder / "qa.jsonl", [{"query": query, **FAQ, "task": "qa"} for query in QUERIES])
    write(folder / "dureader.jsonl", [DUREADER])
    return folder


def apply(patch: str, folder: Path, *options: str) -> None:
    subprocess.run(["git", "apply", *options, "-"], input=patch, text=True, cwd=folder, check=True)


@pytest.fixture
def outputs(request, copy):
    """What the commands of a section print where its patch is applied; the patch is then taken back."""
    section = request.param
    apply(block(section, "diff"), copy)
    try:
        yield [run(line, copy) for line in re.split(r"(?<!\\)\n", block(section, "bash")) if line]
    finally:
        apply(block(section, "diff"), copy, "--reverse")


def run(command: str, folder: Path) -> str:
    """Run one command of the page, in the copy and with its modules."""
    words = shlex.split(command.replace("\\\n", " "))
    before = {"python": [], "zh-embedder": ["-m", "zh_embedder.cli"]}[words[0]]
    env = {**environment(folder), "PYTHONPATH": str(folder)}
    return finish(start([*forked(), *before, *words[1:]], folder, env=env))


def passed(printed: str) -> int:
    return int(re.search(r"(\d+) passed", printed)[1])


def of(section: str):
    return pytest.mark.parametrize("outputs", [section], indirect=True, ids=[""])


def test_ten_questions_are_answered_six_of_them_with_a_patch():
    rows = re.findall(r"^\| \[.*\]\(#(.*?)\) \|", PAGE, re.MULTILINE)
    headings = [title.lower().replace(" ", "-") for title in re.findall(r"^##+ (.*)$", PAGE, re.MULTILINE)]
    assert len(rows) >= 10
    assert rows == [heading for heading in headings if heading != "other-additions"]
    assert len(PATCHED) == 6


@pytest.mark.parametrize("section", PATCHED)
def test_a_patch_is_short_and_brings_a_test(section):
    lines = block(section, "diff").splitlines()
    assert 5 < len(lines) <= LINES
    assert any(line.startswith("+++ b/tests/") for line in lines)


@pytest.mark.slow
@of("A new loss")
def test_a_new_loss_is_one_patch(outputs):
    tests, losses = outputs
    assert passed(tests) > 20
    assert "arXiv 2110.06848" in losses
    assert "options: temperature=0.05*" in losses


@pytest.mark.slow
@of("A new task")
def test_a_new_task_is_one_patch(copy, outputs):
    tests, versions, train = outputs
    assert passed(tests) == 2
    assert "faq\n    query: '为这个用户提问生成表示" in versions
    assert "1 info_nce" in train
    settings = json.loads((copy / "out/encoder/config_sentence_transformers.json").read_text("utf-8"))
    assert settings["prompts"]["faq.key"] == "为这个常见问题生成表示，以用于检索："


@pytest.mark.slow
@of("A new metric")
def test_a_new_metric_is_one_patch(outputs):
    tests, metrics = outputs
    assert passed(tests) == 5  # two values by hand, with all others, and two tests of its row
    assert metrics == "capped_recall@10 (retrieval, reranking): recall out of at most K keys\n"


@pytest.mark.slow
@of("A new source format")
def test_a_new_source_format_is_one_patch(copy, outputs):
    tests, converted = outputs
    assert passed(tests) == 3  # its reader, and the two of lists
    assert "read as dureader" in converted
    record = json.loads((copy / "records.jsonl").read_text("utf-8"))
    assert (record["query"], record["pos"], record["task"]) == ("怎么退货？", ["先申请，再寄回。"], "qa")


@pytest.mark.slow
@of("A new pooling")
def test_a_new_pooling_is_one_patch(copy, outputs):
    tests, train, export = outputs
    assert passed(tests) > 10
    assert "pooling max" in train
    assert re.search(r"parity with sentence-transformers: max \|diff\| \d\.\de-0[5-9]", export)
    assert json.loads((copy / "exported/1_Pooling/config.json").read_text("utf-8"))["pooling_mode_max_tokens"]


@pytest.mark.slow
@of("A new command")
def test_a_new_command_is_one_patch(outputs):
    tests, tokens = outputs
    assert passed(tests) >= 5
    assert tokens == "5: 怎 么 退 货 ？\n1: 好\n"
