"""The catalogue says of each base what is so, and knows a base by its name and by its folder."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from zh_embedder.bases.catalogue import BASES, RECORD, Packaged, Wheel, named_base, own_version
from zh_embedder.bases.fetching import base_folder
from zh_embedder.core.files import read_json

PACKAGED = [base for base in BASES.values() if isinstance(base.source, Packaged)]


@pytest.mark.parametrize("base", PACKAGED, ids=lambda base: base.name)
def test_the_figures_of_a_packaged_base_are_those_of_its_folder(base):
    folder = base_folder(base.name)
    with safe_open(folder / "model.safetensors", "np") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    assert base.parameters == sum(rows * (columns[0] if columns else 1) for rows, *columns in shapes)
    assert base.size == pytest.approx(
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), rel=0.01
    )
    assert base.dimensions == read_json(folder / "config.json")["hidden_size"]
    assert f"license: {base.licence.lower()}" in (folder / "README.md").read_text("utf-8")


def test_bases_of_one_wheel_name_the_same_file():
    wheels = {base.source.file: (base.source.sha256, base.source.member_sha256) for base in BASES.values()
              if isinstance(base.source, Wheel)}  # fmt: skip
    assert len(wheels) == 1
    assert {len(text) for pair in wheels.values() for text in pair} == {64}


def test_a_base_is_known_by_its_name_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own_version("e5-small-zh") == own_version("intfloat/multilingual-e5-small") == "e5"
    assert own_version("BAAI/bge-large-zh-v1.5") is None
    assert own_version("nobody/knows-it") is None
    assert named_base("modelscope:intfloat/multilingual-e5-small@v1").name == "intfloat/multilingual-e5-small"
    assert named_base("modelscope:nano-zh-static") is None
    (tmp_path / "e5-small-zh").mkdir()
    assert named_base("e5-small-zh") is None


def test_a_base_is_known_by_the_record_in_its_folder_wherever_it_is_copied_to(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (made / RECORD).write_text(json.dumps({"name": "e5-small-zh"}), "utf-8")
    shutil.copytree(made, tmp_path / "copy")
    assert own_version(str(tmp_path / "copy")) == "e5"
    for damaged in ("", "[]", '{"name": 1}', '{"name": "another"}'):
        (made / RECORD).write_text(damaged, "utf-8")
        assert named_base(str(made)) is None


@pytest.mark.parametrize("base", PACKAGED, ids=lambda base: base.name)
def test_a_packaged_base_is_known_by_its_folder(base):
    assert named_base(str(base.source.folder)) is base


@pytest.mark.parametrize("base", BASES.values(), ids=lambda base: base.name)
def test_the_page_has_the_row_of_every_base(base):
    page = (Path(__file__).resolve().parents[2] / "docs" / "bases.md").read_text("utf-8")
    line = next(line for line in page.splitlines() if line.startswith(f"| `{base.name}` |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    sizes = [f"{base.parameters / 1e6:.1f} M", f"{base.size / 1e6:.0f}", str(base.dimensions)]
    assert cells[1:6] == [*sizes, base.languages, base.licence]
    assert all(f"`{prompt}`" in cells[6] for prompt in base.prompts.values()) or base.version is None
