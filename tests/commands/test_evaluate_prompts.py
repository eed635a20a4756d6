"""`zh-embedder evaluate` uses the prompts of a model's folder, says which, and takes a version in their place."""

import json
import shutil

import pytest

from tests.jsonl import write
from tests.processes import ROOT
from zh_embedder.bases.folder_format import Layout, write_layout
from zh_embedder.cli import main

DEMO = ROOT / "examples" / "demo" / "test" / "qa"


@pytest.fixture(scope="module")
def e5_like(tiny_bert, tmp_path_factory):
    """A base whose files say what those of E5 say."""
    folder = tmp_path_factory.mktemp("e5") / "e5-like"
    shutil.copytree(tiny_bert, folder)
    prompts = {"query": "query: ", "passage": "passage: "}
    write_layout(folder, Layout(pooling="mean", dimension=32, metric="cos", max_length=128, prompts=prompts))
    (folder / "zh_embedder.json").unlink(missing_ok=True)
    return folder


def figures(capsys, tmp_path, model, *more, data=DEMO):
    """What is written and logged, and the figures."""
    words = ["evaluate", model, "--data", data, "--dtype", "fp32", "--json", tmp_path / "scores.json", *more]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr()
    return shown.out, shown.err, [row["value"] for row in json.loads((tmp_path / "scores.json").read_text())]


def test_the_prompts_of_the_folder_are_used_and_named_above_the_table(e5_like, capsys, tmp_path):
    shown, log, own = figures(capsys, tmp_path, e5_like)
    said = f"note: {e5_like}: 'query: ' in front of queries and 'passage: ' in front of keys (its own)\n"
    assert shown.index(said) < shown.index("ndcg@10")
    assert "contradicts" not in log
    shown, log, same = figures(capsys, tmp_path, e5_like, "--version", "e5")
    assert same == own
    assert "in front of keys (--version e5)\n" in shown
    assert "contradicts" not in log


def test_a_version_takes_their_place_and_one_that_contradicts_them_is_said(e5_like, capsys, tmp_path):
    own = figures(capsys, tmp_path, e5_like)[2]
    shown, log, bare = figures(capsys, tmp_path, e5_like, "--version", "none")
    assert f"note: {e5_like}: no instructions\n" in shown
    assert f"--version none contradicts the prompts of {e5_like}: queries of task qa get none, its own is " in log
    assert bare != own
    assert figures(capsys, tmp_path, e5_like, "--no_instruction")[2][len(bare) :] == bare
    log = figures(capsys, tmp_path, e5_like, "--version", "zh_llm_embedder")[1]
    assert "--version zh_llm_embedder contradicts the prompts of" in log


def test_texts_that_nothing_is_searched_in_have_the_prompt_of_queries(e5_like, capsys, tmp_path):
    texts = [json.loads(line)["text"] for line in (DEMO / "corpus.jsonl").open(encoding="utf-8")][:8]
    pairs = [
        {"text1": a, "text2": b, "score": i / 5} for i, (a, b) in enumerate(zip(texts[:4], texts[4:], strict=True))
    ]
    shown = figures(capsys, tmp_path, e5_like, data=write(tmp_path / "pairs.jsonl", pairs))[0]
    assert "'query: ' in front of every text (its own)\n" in shown


def test_a_wrong_version_is_found_before_anything_is_measured(e5_like, capsys):
    assert main(["evaluate", str(e5_like), "--data", "nowhere", "--version", "e5_hz"]) == 2
    assert "--version: unknown name 'e5_hz'; did you mean 'e5_zh'?" in capsys.readouterr().err
