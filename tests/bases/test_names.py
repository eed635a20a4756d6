"""Bases by name: what cannot be loaded is refused with what to do about it."""

import pytest

from zh_embedder.bases.names import load_tokenizer
from zh_embedder.core.errors import UserError
from zh_embedder.models.folders import encoder_folder


def test_a_tokenizer_is_loaded_from_its_folder(tiny_bert):
    assert len(load_tokenizer(str(tiny_bert), flag="--f")) > 6000
    assert load_tokenizer(encoder_folder("nano-zh"), flag="--f").is_fast


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"--tokenizer_name: .*has no tokenizer, expected its files in the folder"):
        load_tokenizer(str(tmp_path), flag="--tokenizer_name")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--f: got .*nowhere', expected a folder that is there, or a hub name"):
        load_tokenizer(str(tmp_path / "nowhere"), flag="--f")
