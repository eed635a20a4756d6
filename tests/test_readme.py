"""README as a newcomer reads it: its ten lines work as they are, its twin has the same commands, its links lead on."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.test_packaging import TRACES

PAGES = ("README.md", "README_zh.md")
MOST_LINES = 160
ANSWER = "一般下单后两到三天送达。"


def text_of(page):
    return (ROOT / page).read_text("utf-8")


def blocks(page):
    """The shell blocks of a page, without comments."""
    found = re.findall(r"```bash\n(.*?)```", text_of(page), flags=re.DOTALL)
    return [re.sub(r"\s+#.*", "", block) for block in found]


def ten_lines():
    (block,) = [block for block in blocks("README.md") if "train.jsonl <<" in block]
    return block


def run(block, folder, environment):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean(*bins):
    """An environment in which nothing names this checkout."""
    ours = {"PATH": os.pathsep.join([*map(str, bins), os.environ["PATH"]]), "HF_HUB_OFFLINE": "1"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ours


def test_readme_is_short_and_its_twin_has_the_same_commands():
    for page in PAGES:
        assert len(text_of(page).splitlines()) <= MOST_LINES
    assert blocks("README.md") == blocks("README_zh.md")


@pytest.mark.parametrize("page", ["README.md", "README_zh.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))])  # fmt: skip
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text_of(page)):
        if target.startswith(("http", "mailto")):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", path.read_text("utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, f"{target}#{heading}"


@pytest.mark.slow
def test_three_records_of_ones_own_become_a_model_that_searches(tmp_path):
    """The lines as they are, in an empty folder, with the package installed."""
    block = ten_lines()
    records = [line for line in block.splitlines() if line.startswith('{"query"')]
    others = [line for line in block.splitlines() if not line.startswith('{"query"') and line != "EOF"]
    assert len(records) == 3
    assert len(others) <= 10
    assert run(block, tmp_path, clean(Path(sys.executable).parent)).splitlines()[-1] == ANSWER


@pytest.mark.slow
@pytest.mark.full
def test_the_wheel_alone_is_enough_for_them(tmp_path):
    shutil.copytree(ROOT, tmp_path / "source", ignore=TRACES)
    source = tmp_path / "source"
    wheel = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    done = subprocess.run(wheel, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site, bin_folder, empty = tmp_path / "site", tmp_path / "bin", tmp_path / "empty"
    bin_folder.mkdir(), empty.mkdir()
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(site)
    script = bin_folder / "zh-embedder"
    code = f"#!{sys.executable}\nimport sys\nfrom zh_embedder.cli import main\nsys.exit(main())\n"
    script.write_text(code, "utf-8")
    script.chmod(0o755)
    environment = clean(bin_folder, Path(sys.executable).parent) | {"PYTHONPATH": str(site)}
    place = run("python -c 'import zh_embedder; print(zh_embedder.__file__)'", empty, environment)
    assert place.startswith(str(site))
    assert run(ten_lines(), empty, environment).splitlines()[-1] == ANSWER
