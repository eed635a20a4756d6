"""A base's own settings are honoured, whoever reads what is saved; parts that are named apart are blamed apart."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer, BertTokenizerFast

from zh_embedder.bases.tiny import build
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json, write_json
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.load_options import LoadOptions
from zh_embedder.text.tokens import save_tokenizer, unknown_share

TEXTS = ["A B C", "a b c", "今天 PDF 打不开", "İ ẞ Ǆ É é", "X光"]
LENGTHS = "sentence_bert_config.json"


@pytest.fixture
def cased(tmp_path):
    """A base of lower-case letters whose tokenizer keeps capitals, and whose settings ask for lower case."""
    folder = build(tmp_path / "cased", hidden=16, layers=1, heads=2)
    BertTokenizerFast.from_pretrained(folder, do_lower_case=False, strip_accents=False).save_pretrained(folder)
    write_json(folder / LENGTHS, {**read_json(folder / LENGTHS), "do_lower_case": True})
    return folder


def ours(folder) -> np.ndarray:
    return load_encoder(str(folder)).eval().encode(TEXTS)


def theirs(folder) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt="")


def test_lower_case_is_that_of_sentence_transformers_and_survives_every_save(cased, tmp_path):
    vectors = ours(cased)
    np.testing.assert_allclose(vectors, theirs(cased), atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert unknown_share(AutoTokenizer.from_pretrained(cased), TEXTS[:1]) == 1  # what went wrong without it
    encoder = load_encoder(str(cased)).eval()
    for name in ("once", "twice"):
        encoder.save(tmp_path / name)
        np.testing.assert_array_equal(ours(tmp_path / name), vectors)
        np.testing.assert_allclose(theirs(tmp_path / name), vectors, atol=1e-6)
        encoder = load_encoder(str(tmp_path / name)).eval()
    save_tokenizer(encoder.tokenizer, tmp_path / "tokenizer")
    again = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert again(TEXTS)["input_ids"] == encoder.tokenizer(TEXTS)["input_ids"]
    assert (again.pad_token_id, again.unk_token_id, again.cls_token_id) == (0, 1, 2)


def test_a_tokenizer_that_lower_cases_already_is_left_alone(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "base")
    write_json(folder / LENGTHS, {**read_json(folder / LENGTHS), "do_lower_case": True})
    assert type(load_encoder(str(folder)).tokenizer) is type(load_encoder(str(tiny_bert)).tokenizer)
    np.testing.assert_array_equal(ours(folder), ours(tiny_bert))


@pytest.mark.parametrize(("name", "flag"), [("tokenizer_name", "--tokenizer_name"), ("config_name", "--config_name")])
def test_a_part_that_is_missing_is_blamed_on_its_own_flag(tiny_bert, name, flag):
    with pytest.raises(UserError, match=rf"^{flag}: nowhere could not be loaded: there is no such folder here"):
        load_encoder(str(tiny_bert), LoadOptions(**{name: "nowhere"}))


# ---- hub names, without a network -----------------------------------------------------------------------------------


def test_a_cached_base_is_loaded_by_its_hub_name(tiny_bert, tmp_path):
    home = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_bert, home / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    encoder = load_encoder("someone/tiny", LoadOptions(cache_dir=str(tmp_path))).eval()
    assert encoder.spec == replace(load_encoder(str(tiny_bert)).spec, base="someone/tiny")
    np.testing.assert_array_equal(encoder.encode(TEXTS), ours(tiny_bert))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_file_in_the_cache_is_said_with_what_to_delete(tiny_bert, tmp_path, file):
    home = tmp_path / "models--someone--tiny"
    folder = shutil.copytree(tiny_bert, home / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(
        UserError, match=rf"^--query_encoder: someone/tiny: .*damaged: delete {re.escape(str(home))}, and"
    ):
        load_encoder("someone/tiny", LoadOptions(cache_dir=str(tmp_path)))


def test_a_folder_that_looks_like_the_hub_name_is_offered(tiny_bert, workdir):
    shutil.copytree(tiny_bert, workdir / "bge-large-zh")
    with pytest.raises(UserError) as error:
        load_encoder("BAAI/bge-large-zh-v1.5", LoadOptions(cache_dir="cache"))
    first = str(error.value).splitlines()[0]
    assert first.startswith("--query_encoder: BAAI/bge-large-zh-v1.5 could not be loaded: there is no such folder here")
    assert first.endswith("; did you mean './bge-large-zh'?")


def test_the_encoder_of_the_library_names_its_argument(tmp_path):
    with pytest.raises(UserError, match=r"^from_pretrained: got '\./nowhere', expected a folder that is there"):
        Encoder.from_pretrained("./nowhere")
