"""An encoder's spec: prompts of folders become instructions; lengths of training and of use, sides that are cut."""

import json
from dataclasses import replace

import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.models.encoder import load_encoder, with_prompts
from zh_embedder.models.spec import OUR_FILE, EncoderSpec, from_prompts, in_use, read_spec

SPEC = EncoderSpec(
    query_max_length=40,
    key_max_length=50,
    training_lengths=(8, 12),
    instructions={"qa": ("问：", ""), "chat": ("话：", ""), "default": ("", "")},
    truncation_sides={"chat": ("left", None), "convsearch": ("left", "right"), "default": (None, "left")},
)


class Positions:
    """A configuration with this many positions."""

    model_type = "bert"
    max_position_embeddings = 64


@pytest.mark.parametrize(
    ("own", "trained", "asked", "found"),
    [
        ((64, 64), (8, 12), None, (64, 64)),  # what is cut in training need not be cut in use
        ((10, 64), (32, 12), None, (32, 64)),  # what was read in training is read in use
        ((64, 64), (8, 12), (8, 12), (8, 12)),
        ((30, 30), (8, 12), (64, 9), (64, 9)),
    ],
)
def test_lengths_in_use_are_the_bases_and_no_less_than_in_training(own, trained, asked, found):
    spec = replace(SPEC, query_max_length=own[0], key_max_length=own[1], training_lengths=trained)
    made = in_use(spec, Positions, asked=asked)
    assert (made.lengths, made.lengths_in_training) == (found, trained)


def test_more_than_the_positions_is_refused():
    with pytest.raises(
        UserError, match=r"^--saved_max_length: got 65, expected at most 64, the positions of this base"
    ):
        in_use(SPEC, Positions, asked=(20, 65))


def test_a_task_without_an_entry_is_cut_as_the_default():
    assert [SPEC.truncation_side("chat", side) for side in (0, 1)] == ["left", None]
    assert [SPEC.truncation_side("convsearch", side) for side in (0, 1)] == ["left", "right"]
    assert [SPEC.truncation_side("qa", side) for side in (0, 1)] == [None, "left"]
    one = EncoderSpec(instructions={"chat": ("", "")}, truncation_sides={"chat": ("left", None)})
    assert one.truncation_side(None, 0) == "left"  # the only task there is
    assert EncoderSpec().truncation_side(None, 0) is None


def test_both_lengths_and_the_sides_are_written_and_read_and_older_files_still_are(tiny_bert, tmp_path):
    changes = {"training_lengths": (8, 12), "instructions": SPEC.instructions, "query_max_length": 300}
    encoder = load_encoder(str(tiny_bert), changes={**changes, "truncation_sides": SPEC.truncation_sides})
    encoder.save(tmp_path)
    assert read_spec(tmp_path) == encoder.spec
    said = [
        json.loads((tmp_path / name).read_text()) for name in ("sentence_bert_config.json", "tokenizer_config.json")
    ]
    assert (said[0]["max_seq_length"], said[1]["model_max_length"]) == (512, 512)
    own = json.loads((tmp_path / OUR_FILE).read_text())
    older = {name: value for name, value in own.items() if name not in ("training_lengths", "truncation_sides")}
    (tmp_path / OUR_FILE).write_text(json.dumps(older))
    read = read_spec(tmp_path)
    assert read == replace(encoder.spec, training_lengths=None, truncation_sides={})
    assert read.to_json().keys() == older.keys() - {"format"}  # and is written as it was
    for name, wrong in (
        ("training_lengths", [8]), ("training_lengths", [8, True]), ("training_lengths", [0, 8]),
        ("truncation_sides", {"qa": "left"}), ("truncation_sides", {"qa": ["up", None]}), ("truncation_sides", [1]),
    ):  # fmt: skip
        (tmp_path / OUR_FILE).write_text(json.dumps({**own, name: wrong}))
        with pytest.raises(UserError, match=f"{OUR_FILE}: {name}"):
            read_spec(tmp_path)


# ---- prompts of folders ----------------------------------------------------------------------------------------------

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
    assert with_prompts(EncoderSpec(), "nano-zh-static").instructions == {}
    own = EncoderSpec(instructions={"qa": ("问", "答")})
    assert with_prompts(own, "intfloat/multilingual-e5-small") is own
