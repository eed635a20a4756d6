"""Places of the tools' results: names of parts stay apart, and a refused command leaves nothing behind."""

import json
from pathlib import Path

import pytest

from data_tools import mine_negatives, score_teacher, split
from data_tools.generating.documents import read_documents
from data_tools.generating.ledger import Ledger
from data_tools.mining.blocks import MiningSettings
from data_tools.mining.pipeline import Job, begin_pools
from data_tools.mining.pools import scan
from data_tools.splitting.eval_folders import write_eval_sets
from data_tools.splitting.part_files import outputs
from tests.jsonl import write
from zh_embedder.cli import build_parser
from zh_embedder.core.errors import UserError
from zh_embedder.core.outputs import check_outputs
from zh_embedder.core.runtime import parse_command
from zh_embedder.data.sources import find_files

RECORD = {"query": "问", "pos": ["答"], "neg": ["错"], "task": "qa"}


def check(word, module, *argv):
    check_outputs(module.places(build_parser(word).parse_args(list(map(str, argv)))))


@pytest.mark.parametrize(
    "names",
    [
        ("x.1.jsonl", "x.2.jsonl"),
        ("x.jsonl", "x.jsonl"),
        ("a-b/c/x.jsonl", "a/b-c/x.jsonl"),
        ("x.1.jsonl.gz", "x.2.jsonl.gz", "x.1.jsonl.gz"),
    ],
)
def test_each_input_has_part_files_of_its_own(names):
    places = [place for own in outputs([Path(name) for name in names], Path("out"), ("train", "dev")) for place in own]
    assert len(set(places)) == 2 * len(names)


def test_parts_whose_names_share_a_start_have_evaluation_folders_of_their_own(tmp_path):
    files = {name: [write(tmp_path / f"{name}.jsonl", [RECORD])] for name in ("v1.dev", "v1.test")}
    assert write_eval_sets(files) == [tmp_path / "v1.dev", tmp_path / "v1.test"]


@pytest.mark.parametrize("rows", [[], [{"text": 3}]])
def test_a_corpus_that_cannot_be_mined_leaves_no_work_behind(tmp_path, rows):
    files, corpus = [write(tmp_path / "in.jsonl", [RECORD])], [write(tmp_path / "c.jsonl", rows)]
    before = sorted(tmp_path.rglob("*"))
    settings = MiningSettings(method="bm25", first=0, last=5, negatives=2)
    job = Job(files=files, output=tmp_path / "new" / "out.jsonl", settings=settings, corpus=corpus)
    with pytest.raises(UserError):
        begin_pools(job, scan(files))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("word", "module"), [("mine", mine_negatives), ("score", score_teacher)])
def test_an_output_without_a_name_is_a_folder(tmp_path, word, module):
    model = ("--model", "m") if word == "score" else ()
    with pytest.raises(UserError, match=r"--output: \.: is a folder, expected a file"):
        check(word, module, "in.jsonl", "--output", ".", *model)


def test_save_name_is_one_part_of_a_path():
    with pytest.raises(UserError, match="--save_name"):
        check("mine", mine_negatives, "in.jsonl", "--save_name", "../../evil")


def test_the_cache_of_scores_is_neither_the_output_nor_an_input(tmp_path):
    source, out = write(tmp_path / "in.jsonl", [RECORD]), tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=r"--cache: .*is the place of --output too"):
        check("score", score_teacher, source, "--output", out, "--model", "m", "--cache", out)
    with pytest.raises(UserError, match=r"--cache: .*is an input too"):
        check("score", score_teacher, source, "--output", out, "--model", "m", "--cache", source)


def test_a_ledger_of_something_else_is_left_alone_without_a_lock(tmp_path):
    path = tmp_path / "out.jsonl.ledger.jsonl"
    path.write_text("mine\n", encoding="utf-8")
    with pytest.raises(UserError, match="no entry of a ledger"):
        Ledger(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_text(encoding="utf-8") == "mine\n"


def test_a_zip_called_docx_is_named(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr("x.json", json.dumps({}))
    with pytest.raises(UserError, match=r"a\.docx: cannot be read as a Word file"):
        read_documents([str(tmp_path / "a.docx")])


def test_a_device_is_no_input():
    with pytest.raises(UserError, match="FILES: /dev/null: is a device or a pipe, expected a file"):
        find_files(["/dev/null"], data_root=None, flag="FILES")


def test_header_and_no_header_exclude_each_other(capsys):
    with pytest.raises((SystemExit, UserError)) as caught:
        build_parser("convert").parse_args(
            ["a.csv", "--from", "columns", "--output", "o.jsonl", "--header", "--no_header"]
        )
    assert "header" in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ratios", "0.5", "0.5", "--names", "a", "a"), "--names: got 'a a', expected 2 different names"),
        (("--ratios", "0.5", "0.5", "--names", "a"), "--names: got 'a', expected 2 different names"),
        (("--ratios", "1", "0"), "--ratios"),
        (("--counts", "rest", "2"), "--counts: got 2, expected fewer than the 2 records that there are"),
    ],
)
def test_parts_that_cannot_be_are_refused(tmp_path, flags, message):
    files = write(tmp_path / "in.jsonl", [RECORD, {**RECORD, "query": "再问"}])
    with pytest.raises(UserError, match=message):
        split.run(
            parse_command("split", build_parser("split"), [str(files), "--output_dir", str(tmp_path / "out"), *flags])
        )
    assert not (tmp_path / "out").exists()
