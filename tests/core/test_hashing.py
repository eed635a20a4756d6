"""Hashes are pinned: a changed value means other caches, other splits, and runs that cannot be resumed."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zh_embedder.core.hashing import (
    file_hash,
    files_hashes,
    hash_of,
    ids_identity,
    model_hash,
    nonzero_63_bits,
    sha256_of,
    text_hash,
    text_identity,
    text_name,
    texts_hash,
    weights_hash,
)

ROOT = Path(__file__).resolve().parents[2]
SHA_256 = "0996d9bfc4a8bdb1f6b7e744b3ba3acaa9e18882ae08096a41ebe9c7356f325a"  # of "猫\n"


@pytest.mark.parametrize(
    ("text", "identity", "whole", "name"),
    [
        ("猫", 2070014464972919452, 4140028929945838904, "3825438160567439"),
        ("", 6510301506637419378, 13020603013274838756, "e4a6a0577479b2b4"),
        ("a b", 1476217369544039389, 2952434739088078779, "bb37dea5c027f928"),
    ],
)
def test_the_hash_of_a_text_has_three_forms(text, identity, whole, name):
    assert (text_identity(text), text_hash(text), text_name(text)) == (identity, whole, name)
    assert whole >> 1 == identity
    assert bytes.fromhex(name) == whole.to_bytes(8, "little")
    assert torch.tensor([identity]).item() == identity


def test_an_identity_is_never_zero():
    assert [nonzero_63_bits(value) for value in (0, 1, 2, 2**64 - 1)] == [1, 1, 1, 2**63 - 1]


def test_token_ids_have_an_identity():
    assert ids_identity(np.array([101, 7, 102], np.int32)) == 4556592099589408075
    assert ids_identity(np.array([], np.int32)) == text_identity("")


def test_a_lone_surrogate_has_a_hash():
    assert text_hash("\ud800") == 7497787021708494914


def test_texts_are_told_apart_by_where_they_end():
    assert texts_hash(["猫", "ab"]) == "f6dba78fb968f6a74ba9877261d11559"
    assert texts_hash(iter([])) == "cae66941d9efbd404e4d88758ea67670"
    assert texts_hash(["a", "b"]) == "b46a1d2facd4cbe5d5d1db09b83f6c37"
    assert texts_hash(["ab"]) == "4d02c7dc4c4499d90726f4f7e26f2c8c"


def test_bytes():
    assert hash_of(b"abc") == "cf4ab791c62b8d2b2109c90275287816"
    assert sha256_of("猫\n".encode()) == SHA_256


def test_a_file_is_known_by_its_content_and_by_what_reads_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("猫\n", "utf-8")
    assert file_hash(path) == SHA_256
    assert files_hashes([path, path]) == [SHA_256, SHA_256]
    assert file_hash(path, salt=b"2") == "aff6fb9d6558ce18c4ebc7b0cd57b06f"
    assert file_hash(path, salt=b"2.gz") == "8f382552559886bd78b22e62e166ee20"
    assert file_hash(path, salt=b"2") == hash_of(b"2" + path.read_bytes())


def test_a_model_is_known_by_the_files_that_decide_it(tmp_path):
    folder = tmp_path / "m"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}", "utf-8")
    (folder / "model.safetensors").write_bytes(b"12")
    (folder / "1_Pooling" / "config.json").write_text("[]", "utf-8")
    whole = "899824997348a84b97ee058d8aff707f3c6357e23f722c0f4d42638d90b52c5a"
    assert model_hash(str(folder)) == whole
    (folder / "README.md").write_text("x", "utf-8")
    assert model_hash(str(folder)) == whole
    (folder / "1_Pooling" / "config.json").write_text("[0]", "utf-8")
    assert model_hash(str(folder)) != whole
    assert model_hash("BAAI/bge-small-zh") == "BAAI/bge-small-zh"


def test_weights_are_known_by_name_type_shape_and_value():
    weights = {
        "b": torch.tensor([1.0, 2.0]),
        "a": torch.tensor([[1], [2]]),
        "h": torch.ones(3, dtype=torch.bfloat16),
    }
    whole = "c097e1eeac3f01eda7a72cc6222482835537a02d787417c946619a0231c72e17"
    assert weights_hash(weights) == whole
    assert weights_hash(dict(reversed(weights.items()))) == whole
    assert weights_hash(weights | {"a": torch.tensor([1, 2])}) != whole
    assert weights_hash(weights | {"b": torch.tensor([1.0, 2.0000002])}) != whole


def test_hashes_are_the_same_in_a_process_with_another_hash_seed():
    code = "from zh_embedder.core.hashing import text_hash; import sys; sys.stdout.write(str(text_hash('猫')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={"PYTHONHASHSEED": "7"}
    )
    assert done.stdout == "4140028929945838904", done.stderr


def salted_or_home_made(tree):
    """Lines that call Python's own `hash` or import hashlib."""
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hash"
        if called or "hashlib" in names:
            found.append(node.lineno)
    return sorted(found)


def test_nothing_else_hashes():
    files = [path for package in ("zh_embedder", "data_tools") for path in (ROOT / package).rglob("*.py")]
    found = {path.name for path in files if salted_or_home_made(ast.parse(path.read_text("utf-8")))}
    assert found == {"hashing.py"}
    assert salted_or_home_made(ast.parse("import hashlib\nfrom hashlib import md5\nhash('a')\ntext.hash()")) == [
        1,
        2,
        3,
    ]
