"""The bases that come with the package: their names, their sizes, what they know without training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from zh_embedder.bases.catalogue import BASES
from zh_embedder.bases.fetching import base_folder
from zh_embedder.bases.vocabulary import unknown_share
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json
from zh_embedder.evaluation.model import Model
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.folders import encoder_folder

SIZES = {"nano-zh": 24_000_000, "nano-zh-static": 12_000_000}  # bytes in the package at most
FOUND = {"nano-zh": 0.8, "nano-zh-static": 0.5}  # of the demo's questions, first of a hundred keys, without training
UNKNOWN = {"nano-zh": 0.01, "nano-zh-static": 0.005}  # share of pieces in common text
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "test"
TRADITIONAL, SIMPLIFIED = "臺灣的機器學習與語言處理", "台湾的机器学习与语言处理"


@pytest.fixture(scope="module", params=SIZES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZH_EMBEDDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return base_folder(name)


@pytest.fixture(scope="module")
def nano(folder):
    return Encoder.from_pretrained(str(folder), dtype="fp32")


def test_it_is_small_and_stored_in_half_precision(name, folder):
    package = BASES[name].source.folder
    assert sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) <= SIZES[name]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118


def test_it_is_loaded_in_full_precision(name, nano):
    assert {parameter.dtype for parameter in nano.parameters()} == {torch.float32}
    assert nano.config.max_position_embeddings == 512
    assert (nano.config.num_hidden_layers, nano.config.hidden_size) == {"nano-zh": (12, 384)}.get(name, (0, 368))
    assert sum(parameter.numel() for parameter in nano.parameters()) == BASES[name].parameters


def test_its_name_is_known_wherever_models_are_loaded(name, nano):
    assert encoder_folder(name) == str(base_folder(name))
    text = "合同违约怎么赔偿？"
    expected = nano.encode(text)
    np.testing.assert_allclose(load_encoder(name).eval().encode(text, dtype="fp32"), expected, atol=1e-6)
    model = Model.load(name, dtype="fp32")
    np.testing.assert_allclose(model.query.encode(text), expected, atol=1e-6)


def test_a_folder_of_that_name_comes_first(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert encoder_folder(name) == name


def test_a_base_that_cannot_be_reached_suggests_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"nano-zh, a small base .* can be named instead of nobody/"):
        load_encoder("nobody/there-is-no-such-model")


def test_sentence_transformers_makes_the_same_vectors(nano, folder):
    from sentence_transformers import SentenceTransformer

    texts = ["土星的光环是由什么组成的", "GPT-4 与 ＢＥＲＴ", TRADITIONAL, "", "𠮷😀"]
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(nano.encode(texts), theirs, atol=1e-5)


def test_traditional_is_read_as_simplified(nano):
    assert nano.tokenizer.tokenize(TRADITIONAL) == nano.tokenizer.tokenize(SIMPLIFIED)


def test_what_training_saves_is_cut_as_the_base_cuts(nano, tmp_path):
    nano.save(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in (TRADITIONAL, "北京大学生活动中心", "a 𠮷 GPU"):
        assert saved(text)["input_ids"] == nano.tokenizer(text)["input_ids"]


def test_it_searches_without_training(name, nano):
    found = read_retrieval_set(DEMO / "qa")
    queries, keys = nano.encode_queries(list(found.queries.values())), nano.encode_keys(list(found.keys.values()))
    first = [list(found.keys)[index] for index in (queries @ keys.T).argmax(1)]
    right = np.mean([key in found.qrels[query] for query, key in zip(found.queries, first, strict=True)])
    assert right > FOUND[name]  # a random model of the static base's shape finds about a fifth


def test_its_card_says_what_it_is(folder):
    text = (folder / "README.md").read_text("utf-8")
    for said in ("license: ", "CC0", "nDCG@10"):
        assert said in text


def test_whose_weights_it_began_with_is_said_on_the_card_and_in_the_notices():
    notices = (DEMO.parents[2] / "THIRD_PARTY_NOTICES").read_text("utf-8")
    card = (BASES["nano-zh"].source.folder / "README.md").read_text("utf-8")
    assert "nano-zh" in notices
    for said in ("intfloat/multilingual-e5-small", "MIT"):
        assert said in notices
        assert said in card


@pytest.mark.real
def test_common_text_has_hardly_any_unknown_piece(name, nano, folder, real_data):
    for path in sorted(real_data.glob("*/*/test")):
        found = read_retrieval_set(path)
        texts = [*found.queries.values(), *found.keys.values()][:800]
        assert unknown_share(nano.tokenizer, iter(texts)) < UNKNOWN[name]
    drcd = json.loads(next((real_data / "raw" / "drcd").glob("*.json")).read_text("utf-8"))
    texts = [part["context"] for article in drcd["data"] for part in article["paragraphs"]]
    assert unknown_share(nano.tokenizer, iter(texts)) < UNKNOWN[name]
    assert read_json(folder / "config.json")["vocab_size"] == len(nano.tokenizer)
