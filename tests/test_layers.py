"""The architecture as a test: who may import whom, who owns which library, and what no module may do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zh_embedder", "data_tools")
LAYERS = [  # bottom to top; a module imports from lower layers only
    {"errors", "quiet", "parallel", "progress"},
    {
        "files",
        "sources",
        "pooling",
        "attention",
        "dropout",
        "machine",
        "embedded",
        "selection",
        "teachers",
        "options",
        "validation",
        "sampling",
        "metrics",
        "agreement",
        "manifest",
        "segment",
        "sentences",
        "grouping",
        "loading",
        "charsmap",
        "saturation",
    },
    {"losses"},
    {"pair_losses"},
    {"objectives", "gather", "old_flags"},
    {
        "tokens",
        "packing",
        "vectors",
        "st_format",
        "guard",
        "instructions",
        "model_arguments",
        "eval_arguments",
        "run_arguments",
    },
    {"arguments", "windows", "masking"},
    {"tables", "texts", "eval_sets", "outcome"},
    {"probes", "bootstrap", "labelled_sets", "thresholds", "query_errors"},
    {"verdict"},
    {"decline"},
    {"records"},
    {"spec", "tiny", "validation_split", "gradcache"},
    {"settings", "forward"},
    {"lora"},
    {"encoder"},
    {"encoding"},
    {"collator", "checkpoints"},
    {"token_cache"},
    {"exact"},
    {"index"},
    {"bm25"},
    {"evaluation"},
    {"report_data"},
    {"export", "merge", "report", "mteb_run"},
    {"scoreboard"},
    {"monitor"},
    {"retrieval_run"},
    {"bi_encoder", "callbacks"},
    {"corpus", "base_trainer", "mlm_head", "scratch"},
    {"window_batches"},
    {"masked_lm"},
    {"pretrainer", "pretrain_arguments"},
    {"trainer"},
    {"description", "run_report"},
    {"training"},
    {"pretrain"},
    {"cli", "vocabulary", "new_base"},
]
OWNERS = {  # a library that is neither here nor in FREE has no owner yet
    "yaml": {"instructions"},
    "datasets": {"records", "tables"},
    "pyarrow": {"records", "sources", "tables", "token_cache"},
    "filelock": {"tables", "vectors"},
    "tokenizers": {"vocabulary"},
    "opencc": {"vocabulary"},
    "transformers": {
        "new_base",
        "vocabulary",
        "arguments",
        "run_arguments",
        "encoder",
        "packing",
        "tiny",
        "callbacks",
        "base_trainer",
        "training",
        "mlm_head",
        "scratch",
        "pretrain",
        "pretrain_arguments",
    },
    "accelerate": {"trainer"},
    "faiss": {"index"},
    "bm25s": {"bm25"},
    "jieba": {"segment"},
    "sentence_transformers": {"export", "evaluation"},
    "ir_measures": {"metrics"},
    "scipy": {"agreement"},
    "sklearn": {"agreement", "probes"},
    "mteb": {"mteb_run"},
    "peft": {"lora"},
    "deepspeed": set(),  # transformers loads it
}
FREE = {"tqdm", "numpy", "torch", "safetensors", "huggingface_hub"}
HEAVY = {
    "datasets",
    "faiss",
    "jieba",
    "deepspeed",
    "sentence_transformers",
    "ir_measures",
    "scipy",
    "sklearn",
    "bm25s",
    "pyarrow",
    "filelock",
    "peft",
    "mteb",
    "opencc",
}
OPTIONAL = {"peft", "faiss", "jieba", "deepspeed", "bm25s", "ir_measures", "mteb"}  # training works without them
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
LIBRARY = [p for p in sorted((ROOT / "zh_embedder").glob("*.py")) if p.stem != "__init__"]
FILES = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]


def parsed(path):
    return ast.parse(path.read_text("utf-8"))


def names_of(node):
    """Dotted names that one statement imports, `from package import module` by the module."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return {"zh_embedder." + (node.module or alias.name) for alias in node.names}
        if node.module in PACKAGES:
            return {f"{node.module}.{alias.name}" for alias in node.names}
        return {node.module}
    return set()


def imported(tree):
    """Dotted names imported anywhere in a file, lazy imports included."""
    return {name for node in ast.walk(tree) for name in names_of(node)}


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


def complaints(name, tree):
    """What is wrong with the imports of the library module `name`."""
    found = []
    for dotted in sorted(imported(tree)):
        top, _, rest = dotted.partition(".")
        module = rest.partition(".")[0]
        if top == "zh_embedder":
            if module in LEVEL and LEVEL[module] >= LEVEL[name]:
                found.append(f"{name} must not import {module}: it stands no lower")
            elif module and module not in LEVEL and not module.startswith("__"):
                found.append(f"{name} imports {module}, which has no layer")
        elif top in OWNERS:
            if name not in OWNERS[top]:
                found.append(f"{top} belongs to {', '.join(sorted(OWNERS[top])) or 'nobody'}, not to {name}")
        elif top not in sys.stdlib_module_names | FREE:
            found.append(f"{name} imports {top}, which has no owner yet: add it to OWNERS")
    return found


def forbidden_calls(tree):
    """Lines with `print(...)` or `assert`."""
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
    )


def test_every_module_has_a_layer():
    homeless = sorted(path.stem for path in LIBRARY if path.stem not in LEVEL)
    assert not homeless, f"add to LAYERS: {homeless}"


@pytest.mark.parametrize("path", [p for p in LIBRARY if p.stem in LEVEL], ids=lambda p: p.stem)
def test_imports_point_down_and_respect_owners(path):
    assert complaints(path.stem, parsed(path)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_heavy_libraries_are_imported_where_they_are_used(path):
    tops = {name.partition(".")[0] for name in imported_on_import(parsed(path))}
    assert not tops & HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_nothing_prints_and_nothing_asserts(path):
    assert forbidden_calls(parsed(path)) == []


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_the_library_knows_neither_its_tools_nor_its_entry_point(path):
    tops = {name.partition(".")[0] for name in imported(parsed(path))}
    assert not tops & {"data_tools", "run_dense", "tests"}


# The rules themselves, on code that breaks them.


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("losses", "from zh_embedder.core.errors import reject", None),
        (
            "losses",
            "from zh_embedder.core.distributed import world",
            "losses must not import gather: it stands no lower",
        ),
        ("losses", "from zh_embedder import trainer", "losses must not import trainer: it stands no lower"),
        ("losses", "def f():\n    import zh_embedder.cli", "losses must not import cli: it stands no lower"),
        ("losses", "from .encoder import Encoder", "losses must not import encoder: it stands no lower"),
        ("cli", "from zh_embedder import __version__", None),
        ("cli", "from zh_embedder.nowhere import x", "cli imports nowhere, which has no layer"),
        ("index", "import faiss", None),
        ("encoder", "import faiss.contrib", "faiss belongs to index, not to encoder"),
        ("trainer", "import deepspeed", "deepspeed belongs to nobody, not to trainer"),
        ("encoder", "import pandas", "encoder imports pandas, which has no owner yet: add it to OWNERS"),
        ("encoder", "import json\nfrom tqdm.auto import tqdm\nimport numpy.typing", None),
    ],
)
def test_a_wrong_import_is_noticed(module, code, complaint):
    assert complaints(module, ast.parse(code)) == ([complaint] if complaint else [])


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
    modules = [f"zh_embedder.{path.stem}" for path in LIBRARY]
    done = run_python(f"""
import importlib, sys
for name in {sorted(OPTIONAL)!r}:
    sys.modules[name] = None  # makes `import name` fail
for name in {modules!r}:
    importlib.import_module(name)
sys.stdout.write("all imported")
""")
    assert done.stdout == "all imported", done.stderr
