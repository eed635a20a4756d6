"""The architecture as a test: which room may import which, who owns which library, and what no module may do."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.processes import finish, forked, start

ROOT = Path(__file__).resolve().parent.parent
# Bottom to top: a room imports from itself and from rooms before it; a command, a tool's door or the CLI from any.
ROOMS = {
    "zh_embedder": (
        *("core", "text", "data", "losses", "bases", "models", "search", "evaluation", "report", "config"),
        *("training", "pretraining", "export", "commands"),
    ),
    "data_tools": ("shared", "converting", "doctoring", "mining", "teaching", "splitting", "generating", "pairing"),
}
DOORS = {  # the only modules that lie loose
    "zh_embedder": {"__init__", "cli", "pretrain", "vocabulary", "new_base", "tiny"},
    "data_tools": {
        *("__init__", "convert", "doctor", "split", "make_pairs", "mine_negatives"),
        *("score_teacher", "generate_queries"),
    },
}
OWNERS = {  # a library that is neither here nor in FREE has no owner yet
    "tqdm": {"core.progress"},
    "yaml": {"core.strict_yaml", "config.instructions"},
    "datasets": {"data.records", "data.record_tables", "converting.arrow_tables"},
    "pyarrow": {
        *("data.records", "data.sources", "data.record_tables", "data.token_cache"),
        *("converting.arrow_tables", "shared.record_files", "evaluation.set_files"),
    },
    "filelock": {"core.outputs", "core.locks", "search.vector_store", "generating.ledger"},
    "tokenizers": {"bases.vocabulary", "bases.tokenizer_backend"},
    "opencc": {"bases.vocabulary", "doctoring.text_checks", "converting.record_cleaning"},
    "accelerate": {"training.dense_trainer"},
    "faiss": {"search.faiss_index"},
    "bm25s": {"search.bm25"},
    "jieba": {"text.words"},
    "sentence_transformers": {"export.sentence_transformers"},
    "ir_measures": {"evaluation.retrieval_metrics"},
    "scipy": {"evaluation.pair_metrics"},
    "sklearn": {"evaluation.pair_metrics", "evaluation.probes"},
    "mteb": {"evaluation.mteb"},
    "modelscope": {"bases.modelscope"},
    "peft": {"models.lora"},
    "openai": {"generating.endpoint", "generating.requests"},
    "httpx2": {"generating.endpoint"},
    "bs4": {"generating.html_blocks"},
    "mammoth": {"generating.documents"},
    "markdown_it": {"generating.documents"},
    "pypdfium2": {"generating.pdf_text"},
    "bokeh": {"report.page"},
    "deepspeed": {"config.inherited_checks"},  # transformers loads it
}
FREE = {"numpy", "torch", "safetensors", "huggingface_hub", "transformers"}
HEAVY = set(OWNERS) - {"tqdm", "yaml", "tokenizers", "accelerate"}
READERS = {"core.numbers", "core.options", "core.runtime"}  # what all command lines are read with
OPTIONAL = {
    "modelscope",
    "peft",
    "faiss",
    "jieba",
    "deepspeed",
    "bm25s",
    "ir_measures",
    "mteb",
}  # training works without them
RIDDLE = re.compile(r"(What|How|Which|From|Where|When|Why|Who|Whose|Whether)\b")
SPLIT_REACHES = 33  # library modules that `data_tools.split` may reach, lazy imports included: it needs no model


def name_of(path):
    """Return (package, dotted name below it) of a file; a room's own `__init__` goes by the room's name."""
    package, *parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return package, ".".join(parts)


@cache
def parsed(path):
    return ast.parse(path.read_text("utf-8"))


FILES = [path for package in ROOMS for path in sorted((ROOT / package).rglob("*.py"))]
KNOWN = {f"{package}.{name}" for package, name in map(name_of, FILES)}


def names_of(node, own=""):
    """Dotted names that one statement imports, `from package import module` by the module."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        if node.level:
            base = ".".join(own.split(".")[: -node.level]) + (f".{node.module}" if node.module else "")
        else:
            base = node.module
        inner = {f"{base}.{alias.name}" for alias in node.names}
        return {name if name in KNOWN else base for name in inner} if base.split(".")[0] in ROOMS else {base}
    return set()


def imported(tree, own=""):
    """Dotted names imported anywhere in a file, lazy imports included."""
    return {name for node in ast.walk(tree) for name in names_of(node, own)}


def imported_on_import(node):
    """Dotted names that are imported when the file is: neither inside a function nor for type checkers only."""
    names = set()
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        if for_types:
            names |= {name for branch in child.orelse for name in names_of(branch) | imported_on_import(branch)}
        elif not lazy:
            names |= names_of(child) | imported_on_import(child)
    return names


def level(package, name):
    """Place of a module in its package's order; doors come last, `python -m` of a room among them."""
    room = name.partition(".")[0]
    is_door = room not in ROOMS[package] or name.endswith(".__main__")
    return len(ROOMS[package]) if is_door else ROOMS[package].index(room)


def complaints(package, name, tree):
    """What is wrong with the imports of one module."""
    found = []
    for dotted in sorted(imported(tree, f"{package}.{name}")):
        top, _, rest = dotted.partition(".")
        if top in ROOMS:
            if top == package and level(package, rest) > level(package, name):
                found.append(f"{name} must not import {rest}: {name.partition('.')[0]} comes first")
            elif package == "zh_embedder" and top == "data_tools":
                found.append(f"{name} must not import {dotted}: the library knows no tools")
            elif dotted not in KNOWN and rest:
                found.append(f"{name} imports {dotted}, which is not there")
        elif top in ("run_dense", "tests", "benchmarks"):
            found.append(f"{name} must not import {top}")
        elif top in OWNERS:
            if name not in OWNERS[top]:
                owners = ", ".join(sorted(OWNERS[top])) or "nobody"
                found.append(f"{top} belongs to {owners}, not to {name}")
        elif top not in sys.stdlib_module_names | FREE:
            found.append(f"{name} imports {top}, which has no owner yet: add it to OWNERS")
    return found


def command_faces(package, name, tree):
    """What makes a library module a command: argparse, or functions that take what it parsed."""
    room = name.partition(".")[0]
    if package != "zh_embedder" or room in ("commands", "config") or level(package, name) == len(ROOMS[package]):
        return []
    found = ["argparse"] if "argparse" in imported(tree) else []
    return found + [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and (node.name == "add_arguments" or "Namespace" in " ".join(map(ast.unparse, node.args.args)))
    ]


def forbidden_calls(tree):
    """Lines with `print(...)` or `assert`."""
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
    )


def headline_complaint(tree):
    """What is wrong with a module's first line: its subject comes first, in the field's words, and no question."""
    headline = (ast.get_docstring(tree) or "").partition("\n")[0]
    if not headline:
        return "no headline"
    return f"a riddle: {headline}" if RIDDLE.match(headline) or headline.endswith("?") else None


def reached(start):
    """Modules that a module reaches, itself not counted: everything it imports anywhere, and so on."""
    paths = {f"{package}.{name}": path for path in FILES for package, name in [name_of(path)]}
    todo, seen = [start], set()
    while todo:
        name = todo.pop()
        for found in imported(parsed(paths[name]), name) & paths.keys() - seen:
            seen.add(found)
            todo.append(found)
    return seen - {start}


def test_every_module_is_in_a_room_or_is_a_door():
    loose = {package: {n for p, n in map(name_of, FILES) if p == package and "." not in n} for package in ROOMS}
    for package, names in loose.items():
        assert names - set(ROOMS[package]) == DOORS[package]
    assert len(DOORS["zh_embedder"]) <= 8


def test_rooms_hold_what_they_are_named_for():
    """A room is worth its walls: three modules at least."""
    sizes = {room: sum(n.startswith(f"{room}.") for _, n in map(name_of, FILES)) for r in ROOMS.values() for room in r}
    assert {room for room, size in sizes.items() if size < 3} == set()


def test_imports_point_down_and_respect_owners():
    assert [c for path in FILES for c in complaints(*name_of(path), parsed(path))] == []


def test_heavy_libraries_are_imported_where_they_are_used():
    tops = {path: {name.partition(".")[0] for name in imported_on_import(parsed(path))} for path in FILES}
    assert {name_of(path): sorted(found & HEAVY) for path, found in tops.items() if found & HEAVY} == {}


def test_only_commands_and_doors_read_command_lines():
    """So that whoever wants what a command does calls a function with arguments."""
    faces = {name_of(path)[1]: found for path in FILES if (found := command_faces(*name_of(path), parsed(path)))}
    assert faces.keys() <= READERS


def test_nothing_prints_and_nothing_asserts():
    assert {name_of(path): lines for path in FILES if (lines := forbidden_calls(parsed(path)))} == {}


def test_a_headline_names_its_subject():
    """So that whoever looks for a thing finds it in a list of first lines."""
    paths = [*FILES, *sorted((ROOT / "benchmarks").glob("*.py"))]
    found = {str(path.relative_to(ROOT)): headline_complaint(parsed(path)) for path in paths}
    assert {name: complaint for name, complaint in found.items() if complaint} == {}


def test_a_text_tool_needs_no_model():
    library = {name for name in reached("data_tools.split") if name.startswith("zh_embedder.") and name.count(".") > 1}
    assert len(library) < SPLIT_REACHES, sorted(library)


# The rules themselves, on code that breaks them.


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("losses.pairs", "from zh_embedder.core.errors import reject", None),
        ("losses.pairs", "from zh_embedder.losses.batch import LossBatch", None),
        (
            "losses.pairs",
            "from zh_embedder.models.encoder import Encoder",
            "losses.pairs must not import models.encoder: losses comes first",
        ),
        (
            "losses.pairs",
            "from zh_embedder.training import run",
            "losses.pairs must not import training.run: losses comes first",
        ),
        (
            "losses.pairs",
            "def f():\n    import zh_embedder.cli",
            "losses.pairs must not import cli: losses comes first",
        ),
        (
            "losses.pairs",
            "from ..models.encoder import Encoder",
            "losses.pairs must not import models.encoder: losses comes first",
        ),
        ("export.__main__", "from zh_embedder.commands.export import main", None),
        (
            "export.parity",
            "from zh_embedder.commands.export import main",
            "export.parity must not import commands.export: export comes first",
        ),
        ("cli", "from zh_embedder import __version__", None),
        (
            "cli",
            "from data_tools.split import main",
            "cli must not import data_tools.split: the library knows no tools",
        ),
        ("cli", "import zh_embedder.nowhere", "cli imports zh_embedder.nowhere, which is not there"),
        ("search.faiss_index", "import faiss", None),
        ("models.encoder", "import faiss.contrib", "faiss belongs to search.faiss_index, not to models.encoder"),
        (
            "models.encoder",
            "from tqdm.auto import tqdm",
            "tqdm belongs to core.progress, not to models.encoder",
        ),
        ("training.run", "import deepspeed", "deepspeed belongs to config.inherited_checks, not to training.run"),
        ("models.encoder", "import pandas", "models.encoder imports pandas, which has no owner yet: add it to OWNERS"),
        ("models.encoder", "import json\nfrom numpy import ndarray\nimport numpy.typing", None),
    ],
)
def test_a_wrong_import_is_noticed(module, code, complaint):
    assert complaints("zh_embedder", module, ast.parse(code)) == ([complaint] if complaint else [])


@pytest.mark.parametrize(
    ("code", "noticed"),
    [
        ("import datasets", True),
        ("try:\n    from datasets import Dataset\nexcept ImportError:\n    pass", True),
        ("class A:\n    import datasets", True),
        ("if True:\n    import datasets", True),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import datasets", True),
        ("if TYPE_CHECKING:\n    from datasets import Dataset", False),
        ("class A:\n    def f(self):\n        import datasets", False),
    ],
)
def test_a_heavy_import_is_noticed_wherever_it_runs_on_import(code, noticed):
    assert ("datasets" in imported_on_import(ast.parse(code))) is noticed


@pytest.mark.parametrize(
    ("module", "code", "faces"),
    [
        ("search.exact", "import argparse", ["argparse"]),
        ("search.exact", "def f():\n    from argparse import Namespace", ["argparse"]),
        ("export.parity", "def add_arguments(parser): pass", ["add_arguments"]),
        ("export.parity", "def run(args: argparse.Namespace) -> None: pass", ["run"]),
        ("export.parity", "def run(encoder: Encoder) -> None: pass", []),
        ("commands.encode", "import argparse\ndef run(args: argparse.Namespace) -> None: pass", []),
        ("cli", "import argparse", []),
        ("export.__main__", "import argparse", []),
    ],
)
def test_a_command_in_the_library_is_noticed(module, code, faces):
    assert command_faces("zh_embedder", module, ast.parse(code)) == faces


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import json", "no headline"),
        ('"""How sure a figure is.\n\nMore."""', "a riddle: How sure a figure is."),
        ('"""Do hard negatives help?"""', "a riddle: Do hard negatives help?"),
        ('"""Bootstrap confidence intervals: how sure a figure is."""', None),
        ('"""Whose"""', "a riddle: Whose"),
        ('"""Whole files."""', None),
    ],
)
def test_a_riddle_is_noticed(code, complaint):
    assert headline_complaint(ast.parse(code)) == complaint


def test_prints_and_asserts_are_noticed_and_words_like_them_are_not():
    assert forbidden_calls(ast.parse("def f():\n    print(1)\n    assert f")) == [2, 3]
    assert forbidden_calls(ast.parse("fingerprint(1)\nx.print()\n'print(1)'  # assert")) == []


# What really is loaded.


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_arguments_load_no_heavy_library_that_transformers_does_not_load_itself():
    code = f"""
import sys
from transformers import HfArgumentParser, TrainingArguments
before = set(sys.modules) & {HEAVY!r}
import zh_embedder.config.train
after = set(sys.modules) & {HEAVY!r}
sys.stdout.write(f"loaded: {{sorted(after - before)}}")
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "loaded: []"


@pytest.mark.slow
def test_every_module_can_be_imported_where_the_optional_libraries_are_not_installed():
    modules = [".".join((p, n)) for p, n in map(name_of, FILES) if p == "zh_embedder" and n != "__init__"]
    code = f"""
import importlib, sys
for name in {sorted(OPTIONAL)!r}:
    sys.modules[name] = None  # makes `import name` fail, in a fork of a process that has imported it as well
for name in {modules!r}:
    importlib.import_module(name)
sys.stdout.write("all imported")
"""
    assert finish(start([*forked(), "-c", code], ROOT, apart=True)) == "all imported"


# The pages that describe the rooms.


def test_the_pages_name_the_rooms_in_their_order():
    tree = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("```")[1]
    listed = re.findall(r"^  (\w+)/ ", tree, flags=re.MULTILINE)
    assert listed == [room for rooms in ROOMS.values() for room in rooms]
    for page in ("README.md", "README_zh.md"):
        lines = (ROOT / page).read_text("utf-8").split("```\ncore ")[1].split("```")[0].splitlines()
        assert ["core", *(line.split()[0] for line in lines[1:])] == [*ROOMS["zh_embedder"], "data_tools/"]


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/extending.md", "CONTRIBUTING.md"])
def test_the_pages_name_modules_that_are_there(page):
    named = re.findall(r"`((?:\w+/)+\w+\.\w+|\w+/)`", (ROOT / page).read_text("utf-8"))
    folders = (ROOT, ROOT / "zh_embedder", ROOT / "data_tools", ROOT / "zh_embedder" / "config")
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []
