"""Bases by name: what cannot be loaded is refused with what to do about it."""

import shutil

import pytest

from zh_embedder.bases.names import hub_folder, load_tokenizer
from zh_embedder.core.errors import UserError
from zh_embedder.models.folders import encoder_folder


def test_a_tokenizer_is_loaded_from_its_folder(tiny_bert):
    assert len(load_tokenizer(str(tiny_bert), flag="--f")) > 6000
    assert load_tokenizer(encoder_folder("nano-zh-static"), flag="--f").is_fast


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"--tokenizer_name: .*has no tokenizer, expected its files in the folder"):
        load_tokenizer(str(tmp_path), flag="--tokenizer_name")


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
