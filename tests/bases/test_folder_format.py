"""Folders of published models are read as sentence-transformers reads them; ours are read by it as we mean them."""

import json
import shutil
from dataclasses import replace

import pytest

from zh_embedder.bases.folder_format import (
    NEWER_NAMES,
    SENTENCE_TRANSFORMERS_SWITCH,
    Layout,
    read_layout,
    write_layout,
)
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json, write_json
from zh_embedder.models.pooling import POOLINGS, WITHOUT_PROMPT

OLDER = "sentence_transformers.models."
OFF = {
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
LAYOUT = Layout(pooling="cls", dimension=32, metric="cos", max_length=512, prompts={"qa": "问：", "qa.key": ""})


def stages(*types: str, prefix: str = OLDER) -> list[dict]:
    """Entries of modules.json, as sentence-transformers numbers them."""
    paths = ["", *(f"{i}_{kind.rsplit('.')[-1]}" for i, kind in enumerate(types) if i)]
    return [{"idx": i, "name": str(i), "path": paths[i], "type": prefix + kind} for i, kind in enumerate(types)]


def write_files(folder, files: dict):
    for name, value in files.items():
        write_json(folder / name, value)
    return folder


# Written by hand after the files of published models: what the older and the newer schema look like on a hub.
BGE_LARGE_ZH = {
    "modules.json": stages("Transformer", "Pooling", "Normalize"),
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "2.2.2", "transformers": "4.28.1", "pytorch": "1.13.0+cu117"}
    },
    "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": True},
    "1_Pooling/config.json": {"word_embedding_dimension": 1024, **OFF, "pooling_mode_cls_token": True},
}
TEXT2VEC_CHINESE = {  # neither normalised nor with a file of prompts
    "modules.json": stages("Transformer", "Pooling"),
    "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
    "1_Pooling/config.json": {"word_embedding_dimension": 768, **OFF, "pooling_mode_mean_tokens": True},
}
QWEN3_EMBEDDING = {  # the tokenizer alone says how long a text may be
    "modules.json": stages("Transformer", "Pooling", "Normalize"),
    "config_sentence_transformers.json": {
        "prompts": {"query": "Instruct: 找出回答问题的段落\nQuery:", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
    "tokenizer_config.json": {"model_max_length": 131072},
    "1_Pooling/config.json": {
        "word_embedding_dimension": 1024,
        **OFF,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
        "include_prompt": True,
    },
}
WITH_DENSE = {
    "modules.json": stages("Transformer", "Pooling", "Dense", "Normalize"),
    "config_sentence_transformers.json": {"prompts": {}, "similarity_fn_name": "dot"},
    "sentence_bert_config.json": {"max_seq_length": 256},
    "tokenizer_config.json": {"model_max_length": 512},
    "1_Pooling/config.json": {"word_embedding_dimension": 64, **OFF, "pooling_mode_mean_tokens": True},
}
NEWER = {  # sentence-transformers 6
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        },
    ],
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": None},
        "similarity_fn_name": "euclidean",
    },
    "sentence_bert_config.json": {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"},
    "tokenizer_config.json": {"model_max_length": 10**30},
    "1_Pooling/config.json": {"embedding_dimension": 768, "pooling_mode": "lasttoken", "include_prompt": True},
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (BGE_LARGE_ZH, Layout(pooling="cls", dimension=1024, metric="cos", max_length=512)),
        (TEXT2VEC_CHINESE, Layout(pooling="mean", dimension=768, metric="cos", max_length=128, normalize=False)),
        (
            QWEN3_EMBEDDING,
            Layout(
                pooling="last_token",
                dimension=1024,
                metric="cos",
                max_length=131072,
                prompts={"query": "Instruct: 找出回答问题的段落\nQuery:", "document": ""},
            ),
        ),
        (WITH_DENSE, Layout(pooling="mean", dimension=64, metric="ip", max_length=256, dense=True)),
        (
            NEWER,
            Layout(
                pooling="last_token",
                dimension=768,
                metric="l2",
                max_length=0,  # 1e30 is no maximum
                normalize=False,
                prompts={"query": "", "document": ""},
            ),
        ),
    ],
    ids=["bge-large-zh", "text2vec", "qwen3", "dense", "newer"],
)
def test_a_published_layout_is_read_as_it_is_meant(tmp_path, files, expected):
    assert read_layout(write_files(tmp_path, files), poolings=POOLINGS) == expected


def test_a_folder_without_stages_says_nothing(tmp_path):
    assert read_layout(write_files(tmp_path, {"config.json": {"model_type": "bert"}}), poolings=POOLINGS) is None


ON = {"word_embedding_dimension": 8, **OFF}


@pytest.mark.parametrize(
    "pooling",
    [
        *({**ON, switch: True} for name, switch in SENTENCE_TRANSFORMERS_SWITCH.items() if name not in POOLINGS),
        {**ON, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {**ON, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
        {**ON, "pooling_mode_cls_token": True, "include_prompt": False},
        ON,
        {},
        {"embedding_dimension": 8, "pooling_mode": "median"},
        {"embedding_dimension": 8, "pooling_mode": "weightedmean"},
        {"embedding_dimension": 8, "pooling_mode": ["cls", "mean"]},
        {"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": False},
    ],
)
def test_a_pooling_that_we_lack_is_refused_and_a_flag_may_stand_in_its_place(tmp_path, pooling):
    folder = write_files(tmp_path, {**BGE_LARGE_ZH, "1_Pooling/config.json": pooling})
    with pytest.raises(
        UserError,
        match=r"1_Pooling/config\.json: .*expected (one of cls, mean|true with the pooling (cls|mean): --inc)",
    ):
        read_layout(folder, poolings=POOLINGS)
    layout = read_layout(folder, poolings=POOLINGS, pooling="mean")
    assert (layout.pooling, layout.max_length) == ("mean", 512)


@pytest.mark.parametrize(
    "types", [("Transformer", "Pooling", "LayerNorm"), ("Transformer", "Pooling", "Dense", "Dense")]
)
def test_a_stage_that_we_lack_is_refused(tmp_path, types):
    folder = write_files(tmp_path, {**BGE_LARGE_ZH, "modules.json": stages(*types)})
    with pytest.raises(
        UserError, match=f"modules.json: got the stages {' -> '.join(types)}, expected Transformer and Pooling"
    ):
        read_layout(folder, poolings=POOLINGS)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("metric", "normalize"), [("cos", True), ("cos", False), ("ip", False), ("l2", False)])
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_what_is_written_is_read_back(tmp_path, pooling, metric, normalize, dense):
    layout = replace(LAYOUT, pooling=pooling, metric=metric, normalize=normalize, dense=dense)
    write_layout(tmp_path, layout)
    assert read_layout(tmp_path, poolings=POOLINGS) == layout


@pytest.mark.parametrize("schema", ["older", "newer"])
def test_a_mean_without_the_prompt_is_read_unless_something_else_is_chosen(tmp_path, schema):
    own = {
        "older": {**ON, "pooling_mode_mean_tokens": True},
        "newer": {"embedding_dimension": 8, "pooling_mode": "mean"},
    }
    folder = write_files(tmp_path, {**BGE_LARGE_ZH, "1_Pooling/config.json": {**own[schema], "include_prompt": False}})

    def read(**chosen):
        layout = read_layout(folder, poolings=POOLINGS, without_prompt=WITHOUT_PROMPT, **chosen)
        return layout.pooling, layout.include_prompt

    assert read() == ("mean", False)
    assert read(include_prompt=True) == ("mean", True)
    assert read(pooling="mean") == ("mean", False)
    assert read(pooling="cls") == ("cls", True)  # takes one token


def test_a_mean_without_the_prompt_is_written(tmp_path):
    layout = replace(LAYOUT, pooling="mean", include_prompt=False)
    write_layout(tmp_path, layout)
    assert read_json(tmp_path / "1_Pooling" / "config.json")["include_prompt"] is False
    assert read_layout(tmp_path, poolings=POOLINGS, without_prompt=WITHOUT_PROMPT) == layout


def test_the_older_schema_is_written(tmp_path):
    write_layout(tmp_path, replace(LAYOUT, dense=True))
    assert read_json(tmp_path / "modules.json") == stages("Transformer", "Pooling", "Dense", "Normalize")
    assert read_json(tmp_path / "sentence_bert_config.json") == {"max_seq_length": 512, "do_lower_case": False}
    assert read_json(tmp_path / "1_Pooling" / "config.json") == {
        "word_embedding_dimension": 32,
        **OFF,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": False,
        "pooling_mode_cls_token": True,
        "include_prompt": True,
    }
    settings = read_json(tmp_path / "config_sentence_transformers.json")
    assert settings.pop("__version__").keys() == {"sentence-transformers", "transformers", "torch"}
    assert settings == {
        "prompts": {"qa": "问：", "qa.key": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    assert "问：" in (tmp_path / "config_sentence_transformers.json").read_text("utf-8")  # as people read it


@pytest.mark.parametrize(("metric", "name"), [("cos", "cosine"), ("ip", "dot"), ("l2", "euclidean")])
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_sentence_transformers_loads_what_is_written(tiny_bert, tmp_path, pooling, metric, name):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    layout = replace(LAYOUT, pooling=pooling, metric=metric, normalize=metric == "cos", max_length=77)
    write_layout(folder, layout)
    model = SentenceTransformer(str(folder), device="cpu")
    assert [type(stage).__name__ for stage in model] == ["Transformer", "Pooling", "Normalize"][: 2 + (metric == "cos")]
    assert NEWER_NAMES.get(model[1].pooling_mode, model[1].pooling_mode) == pooling
    assert model.get_embedding_dimension() == 32
    assert model.max_seq_length == 77
    assert {task: text for task, text in model.prompts.items() if task.startswith("qa")} == layout.prompts
    assert model.default_prompt_name is None
    assert model.similarity_fn_name == name


def test_a_folder_without_our_files_would_be_mean_pooled(tmp_path):
    """Why they are written at all."""
    from sentence_transformers import SentenceTransformer

    from zh_embedder.bases.tiny import build

    build(tmp_path, hidden=8, layers=1, heads=1, pooling=None)
    assert not (tmp_path / "modules.json").exists()
    assert SentenceTransformer(str(tmp_path), device="cpu")[1].pooling_mode == "mean"


def test_what_sentence_transformers_saves_is_read_back(tiny_bert, tmp_path):
    from sentence_transformers import SentenceTransformer

    shutil.copytree(tiny_bert, tmp_path / "older")
    write_layout(tmp_path / "older", replace(LAYOUT, pooling="last_token", metric="ip", normalize=False))
    model = SentenceTransformer(str(tmp_path / "older"), device="cpu")
    model.max_seq_length = 99
    model.save(str(tmp_path / "newer"))
    newer = json.loads((tmp_path / "newer" / "modules.json").read_text("utf-8"))
    assert not newer[1]["type"].startswith(OLDER)  # another schema than the one that we wrote
    expected = replace(LAYOUT, pooling="last_token", metric="ip", normalize=False, max_length=99)
    layout = read_layout(tmp_path / "newer", poolings=POOLINGS)
    assert replace(layout, prompts={}) == replace(expected, prompts={})
    assert {**layout.prompts} == {**LAYOUT.prompts, "query": "", "document": ""}
