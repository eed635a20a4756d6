"""Which version a run has: asked for, the checkpoint's, the base's own, or the default; and what contradicts a base."""

import json

import pytest

from zh_embedder.bases.catalogue import E5, RECORD
from zh_embedder.config.instructions import read_version
from zh_embedder.config.run_version import (
    DEFAULT_VERSION,
    Choice,
    choose_version,
    contradiction,
    resumed_version,
    without_training,
)
from zh_embedder.models.spec import from_prompts

OWN = from_prompts({"query": "query: ", "passage": "passage: "})


def chosen(version, *tasks):
    return {name: (spec.query, spec.key) for name in tasks for spec in [read_version(version).task(name)]}


def said(version, *tasks, brought=OWN, base="folder"):
    return contradiction(chosen(version, *tasks), (brought, brought), base=base, flag=f"--version {version}")


@pytest.mark.parametrize(
    ("base", "asked", "name", "why"),
    [
        ("e5-small-zh", None, "e5", "the base's own"),
        ("e5-small", None, "e5", "the base's own"),
        (E5, None, "e5", "the base's own"),
        ("nano-zh-static", None, "none", "the base's own"),
        ("BAAI/bge-large-zh-v1.5", None, "zh_llm_embedder", "the default"),
        ("somebody/some-base", None, "zh_llm_embedder", "the default"),
        ("e5-small-zh", "none", "none", "--version"),
        ("e5-small-zh", "e5_zh", "e5_zh", "--version"),
        ("nano-zh-static", "zh_llm_embedder", "zh_llm_embedder", "--version"),
        ("BAAI/bge-large-zh-v1.5", "zh_llm_embedder", "zh_llm_embedder", "--version"),
    ],
)
def test_unset_is_the_bases_own_else_the_default(base, asked, name, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = choose_version(asked, base)
    assert (found.name, found.why.partition(";")[0]) == (name, why)
    assert ("--version chooses another" in str(found)) == (asked is None)
    assert found.read().name == name


def test_the_folder_of_a_base_is_known_by_its_record_and_any_other_folder_gets_the_default(tmp_path):
    (tmp_path / RECORD).write_text(json.dumps({"name": "e5-small-zh"}), "utf-8")
    assert choose_version(None, str(tmp_path)).name == "e5"
    (tmp_path / RECORD).unlink()
    assert choose_version(None, str(tmp_path)).name == DEFAULT_VERSION


def test_a_resumed_run_has_the_version_that_it_began_with():
    began = {"version": "e5", "instructions_dir": "own"}
    assert resumed_version(None, began, "out/checkpoint-2", directory=None) == Choice(
        "e5", "own", "as in out/checkpoint-2; --version chooses another"
    )
    assert resumed_version("e5", began, "out/checkpoint-2", directory=None).why == "--version"
    other = resumed_version("none", began, "out/checkpoint-2", directory=None)
    assert str(other) == "none (--version; out/checkpoint-2 was trained with e5)"


# ---- contradictions -------------------------------------------------------------------------------------------------


def test_instructions_that_do_not_begin_with_the_bases_own_are_named_with_them():
    assert said("zh_llm_embedder", "qa", "tool", base="e5-small-zh") == (
        "--version zh_llm_embedder contradicts the prompts of e5-small-zh: queries of task qa get "
        "'为这个问题生成表示，以用于检索能够回答它的段落：', its own is 'query: ', and 1 other task too; "
        "--version e5 has its own"
    )
    assert said("none", "qa") == (
        "--version none contradicts the prompts of folder: queries of task qa get none, its own is 'query: '"
    )


def test_instructions_behind_the_bases_own_are_no_contradiction():
    tasks = ("qa", "convsearch", "chat", "lrlm", "icl", "tool", "law", "title", "sts", "classification", "mine")
    assert said("e5", *tasks) is None
    assert said("e5_zh", *tasks) is None


def test_a_base_without_prompts_is_contradicted_by_nothing():
    for brought in ({}, {"default": ("", "")}, {"law": ("问：", "")}):
        assert said("zh_llm_embedder", "qa", brought=brought) is None


def test_each_side_is_held_against_its_own_encoder():
    pair = ({}, {"qa": ("", "答：")})
    found = contradiction({"qa": ("问：", "问：")}, pair, base="folder", flag="--version mine")
    assert "keys of task qa get '问：', its own is '答：'" in str(found)
    assert contradiction({"qa": ("问：", "答：这")}, pair, base="folder", flag="--version mine") is None


def test_a_version_without_training_settings_is_known():
    assert without_training(read_version("e5"))
    assert not without_training(read_version("zh_llm_embedder"))


# ---- the versions of E5 ---------------------------------------------------------------------------------------------


def test_e5_is_what_the_bases_folder_says():
    """A base measured alone, by its folder's prompts, and in training, by the version, is one and the same."""
    assert read_version("e5").instructions == OWN
    assert OWN["sts"] == OWN["classification"] == OWN["clustering"] == ("query: ", "query: ")
    assert OWN["default"] == ("query: ", "passage: ")


def test_e5_zh_has_the_chinese_instructions_behind_the_prompts():
    chinese, mixed = read_version("zh_llm_embedder"), read_version("e5_zh")
    assert mixed.task("mine").query == "query: "
    for name, spec in chinese.tasks.items():
        both = mixed.tasks[name]
        assert both.query == f"query: {spec.query}"
        assert both.key == (f"query: {spec.key}" if name == "sts" else "passage: ")
        assert both.training == spec.training
