"""Bases by name: what cannot be loaded is refused with what to do about it."""

import shutil
from pathlib import Path

import pytest

from zh_embedder.bases.names import hub_folder, load_tokenizer, unreachable
from zh_embedder.core.errors import UserError
from zh_embedder.models.folders import encoder_folder


def test_a_tokenizer_is_loaded_from_its_folder(tiny_bert):
    assert len(load_tokenizer(str(tiny_bert), flag="--f")) > 6000
    assert load_tokenizer(encoder_folder("nano-zh-static"), flag="--f").is_fast


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"--tokenizer_name: .*has no tokenizer, expected its files in the folder"):
        load_tokenizer(str(tmp_path), flag="--tokenizer_name")


@pytest.mark.parametrize(
    ("name", "meant"), [("nano_zh", "nano-zh"), ("nano-zh-statik", "nano-zh-static"), ("e5_small_zh", "e5-small-zh")]
)
def test_a_mistyped_base_is_said_before_any_hub_is_asked(name, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = rf"--f: {name}: no such folder here, and no base of that name; did you mean '{meant}'\?"
    with pytest.raises(UserError, match=message):
        encoder_folder(name, flag="--f")
    (tmp_path / name).mkdir()
    assert encoder_folder(name) == name


def test_a_folder_with_the_name_of_a_base_is_used_and_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    Path("e5-small-zh").mkdir()
    for _ in range(2):
        assert encoder_folder("e5-small-zh", flag="MODEL") == "e5-small-zh"
    assert caplog.text.count("MODEL e5-small-zh: the folder of that name here is used, not the base") == 1


def test_a_file_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/texts.jsonl").touch()
    with pytest.raises(UserError, match=r"--f: data/texts.jsonl: is a file, expected the folder of a model"):
        encoder_folder("data/texts.jsonl", flag="--f")


@pytest.mark.parametrize("name", ["bert-base-chinese", "gpt2", "xlm-roberta-base", "BAAI/nano_zh", "./nano_zh", "e5"])
def test_names_that_a_hub_or_a_folder_may_have_pass(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert encoder_folder(name) == str(Path(name)) or encoder_folder(name) == name


@pytest.mark.parametrize("name", ["BAAI/bge-large-zh-v15", "BAAI/bge-large-zh-v1.5"])
@pytest.mark.parametrize("error", [ConnectionError("no"), TimeoutError("late"), OSError("odd")])
def test_a_mistyped_hub_name_is_said_though_the_hub_cannot_be_reached(name, error):
    said = str(unreachable("--f", name, error))
    assert ("did you mean 'BAAI/bge-large-zh-v1.5'?" in said) == (name == "BAAI/bge-large-zh-v15")


def test_an_endpoint_that_is_no_address_is_said_to_be_none(monkeypatch):
    class UnsupportedProtocol(Exception):
        """As httpx names it."""

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "foo")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    error = OSError("Can't load the configuration of 'a/b'. " + "Otherwise, make sure " * 20)
    assert str(unreachable("--f", "a/b", error)).split("\n")[0].endswith(", ...")
    error.__cause__ = UnsupportedProtocol("Request URL is missing an 'http://' or 'https://' protocol.")
    assert "HF_ENDPOINT is 'foo', which is no address" in str(unreachable("--f", "a/b", error))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--f: got .*nowhere', expected a folder that is there, or a hub name"):
        load_tokenizer(str(tmp_path / "nowhere"), flag="--f")


@pytest.mark.parametrize(("pooled", "listed", "warned"), [(True, False, 0), (False, False, 1), (False, True, 0)])
def test_a_cache_that_may_lack_how_to_pool_is_warned_of(tiny_bert, tmp_path, caplog, pooled, listed, warned):
    """Without a hub to ask: other programs fetch a model without these files; a listing of the hub's tells."""
    commit, home = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--a--b"
    folder = shutil.copytree(tiny_bert, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    if not pooled:
        (folder / "modules.json").unlink()
    if listed:
        (home / "trees").mkdir()
        (home / "trees" / f"{commit}.json").write_text("{}")
    assert hub_folder("a/b", flag="--f", cache_dir=str(tmp_path), token=None) == folder
    assert len(caplog.records) == warned
