"""What `pip install .` brings along, built from a copy of the sources without network."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.slow


def test_the_wheel_holds_the_library_the_tools_and_the_instructions(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", "demo-output", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignore)
    words = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("zh_embedder-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path in (ROOT / "instructions").glob("*.yaml"):
            packed = archive.read(f"zh_embedder/_instructions/{path.name}").decode("utf-8")
            assert packed == path.read_text("utf-8")
        points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "zh-embedder = zh_embedder.cli:main" in archive.read(points).decode()
        for path in (ROOT / "zh_embedder" / "report_assets").iterdir():
            assert archive.read(f"zh_embedder/report_assets/{path.name}") == path.read_bytes()
    modules = {f"zh_embedder/{path.name}" for path in (ROOT / "zh_embedder").glob("*.py")}
    assert modules | {"data_tools/__init__.py", "data_tools/formats/__init__.py", "zh_embedder/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "benchmarks/"))]
