"""What is packaged: one version, a description that holds by itself, and every file of the packages in the wheel."""

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import zh_embedder
from tests.processes import ROOT

PACKAGES = {"zh_embedder": "zh_embedder", "data_tools": "data_tools", "instructions": "zh_embedder/_instructions"}
TRACES = shutil.ignore_patterns(
    ".venv*", ".git", "build", "dist", "*.egg-info", "demo-output", "__pycache__", ".*_cache"
)


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def shipped():
    """Every file of the packages on disk, by its path in the wheel."""
    for folder, inside in PACKAGES.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{inside}/{path.relative_to(ROOT / folder).as_posix()}", path


def test_the_version_is_written_once_and_cited_alike():
    assert setup_cfg()["metadata"]["version"] == "attr: zh_embedder.__version__"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == zh_embedder.__version__


def test_the_version_is_read_without_importing_anything():
    # setuptools evaluates a literal; anything else makes it import the package, and torch is not there at build time.
    source = (ROOT / "zh_embedder" / "__init__.py").read_text("utf-8")
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+\w*"$', source, flags=re.MULTILINE)


def test_every_folder_of_modules_is_a_package():
    modules = [path for name in ("zh_embedder", "data_tools") for path in (ROOT / name).rglob("*.py")]
    assert not {str(path.parent) for path in modules if not (path.parent / "__init__.py").is_file()}


def test_the_description_links_to_nothing_that_a_package_index_lacks():
    name = setup_cfg()["metadata"]["long_description"].removeprefix("file: ")
    text = (ROOT / name).read_text("utf-8")
    targets = re.findall(r"\]\(\s*([^)\s]+)|^\[[^\]]+\]:\s*(\S+)|(?:src|href)=[\"']([^\"']+)", text, flags=re.MULTILINE)
    assert not [target for target in map("".join, targets) if not target.startswith(("https://", "#"))]


def test_the_description_names_commands_and_tools_that_exist():
    text = (ROOT / "docs" / "pypi.md").read_text("utf-8")
    listed = subprocess.run(
        [sys.executable, "-m", "zh_embedder.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"^    (\w[\w-]*)", listed, flags=re.MULTILINE))
    named = set(re.findall(r"^zh-embedder (\w[\w-]*)", text, flags=re.MULTILINE))
    assert named and named <= commands
    tools = set(re.findall(r"`(\w+)`", text.partition("data_tools.NAME")[2]))
    assert tools and not [tool for tool in tools if not (ROOT / "data_tools" / f"{tool}.py").is_file()]
    extras = set(re.findall(r"^\| (`.*?`) \|", text, flags=re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", " ".join(extras))) <= set(setup_cfg()["options.extras_require"])


def test_the_dev_extra_repeats_no_line_of_another():
    extras = {name: set(lines.split("\n")) - {""} for name, lines in setup_cfg()["options.extras_require"].items()}
    (joined,) = (line for line in extras["dev"] if line.startswith("zh-embedder["))
    assert set(joined.partition("[")[2].rstrip("]").split(",")) <= set(extras)
    assert not [name for name, lines in extras.items() if name != "dev" and lines & extras["dev"]]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source distribution, built from a copy of the sources without network, and the wheel made from that."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "source", ignore=TRACES)
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    run([sys.executable, "-c", build], folder / "source")
    (sdist,) = folder.glob("zh_embedder-*.tar.gz")
    wheel = [sys.executable, "-m", "pip", "wheel", sdist, "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run(wheel, folder)
    return sdist, *folder.glob("zh_embedder-*.whl")


def run(words, folder: Path):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.full
def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        inside = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "zh-embedder = zh_embedder.cli:main" in archive.read(points).decode()
    expected = {name: path.read_bytes() for name, path in shipped()}
    assert sorted(inside) == sorted(expected)
    assert inside == expected
    assert built[1].name.startswith(f"zh_embedder-{zh_embedder.__version__}-")


@pytest.mark.slow
@pytest.mark.full
def test_the_source_distribution_holds_no_tests(built):
    # Half of them would come along by default, without what they read.
    with tarfile.open(built[0]) as archive:
        parts = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"setup.py", "setup.cfg", "run_dense.py", "constraints.txt", "CITATION.cff", "LICENSE"} <= parts
    assert not parts & {"tests", "examples", "benchmarks"}
