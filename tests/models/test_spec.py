"""Prompts of sentence-transformers folders become instructions of every task."""

import pytest

from zh_embedder.models.encoder import with_prompts
from zh_embedder.models.spec import EncoderSpec, from_prompts

BOTH = {"default": ("问", "答"), **dict.fromkeys(("sts", "classification", "clustering"), ("问", "问"))}


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_a_prompt_of_keys_serves_them_under_any_of_its_names(name):
    assert from_prompts({"query": "问", name: "答"}) == BOTH


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({}, {}),
        ({"query": "问", "document": "", "passage": "答"}, BOTH),  # as sentence-transformers saves such a folder again
        ({"query": "问"}, {"default": ("问", "")}),  # texts without a prompt are known to this base
        (
            {"document": "答"},
            {**dict.fromkeys(("sts", "classification", "clustering"), ("", "")), "default": ("", "答")},
        ),
        ({"query": "问", "document": "答", "sts": "句", "sts.key": "子"}, {**BOTH, "sts": ("句", "子")}),
        ({"qa": "问", "qa.key": "答"}, {"qa": ("问", "答")}),
    ],
)
def test_other_prompts_are_those_of_tasks_and_the_folders_own_words_win(prompts, expected):
    assert from_prompts(prompts) == expected


def test_a_base_of_the_catalogue_has_its_prompts_where_its_files_say_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = with_prompts(EncoderSpec(), "intfloat/multilingual-e5-small")
    assert (found.prefix(None, 0), found.prefix("qa", 1), found.prefix("sts", 1)) == ("query: ", "passage: ", "query: ")
    assert with_prompts(EncoderSpec(), "BAAI/bge-large-zh-v1.5").instructions == {}
    assert with_prompts(EncoderSpec(), "nano-zh").instructions == {}
    own = EncoderSpec(instructions={"qa": ("问", "答")})
    assert with_prompts(own, "intfloat/multilingual-e5-small") is own
