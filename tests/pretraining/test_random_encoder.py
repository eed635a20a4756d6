"""Encoders with random weights: as large as asked, with the words of their tokenizer, the same for the same seed."""

import pytest
import torch

from zh_embedder.bases.names import load_config
from zh_embedder.core.errors import UserError
from zh_embedder.pretraining.random_encoder import (
    bert_config,
    character_tokenizer,
    random_encoder,
)


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer()


def config_of(tokenizer, **changes):
    return bert_config(tokenizer, **{"hidden": 32, "layers": 2, "heads": 2, "positions": 64, **changes})


def test_a_model_has_the_sizes_asked_for_and_the_words_of_its_tokenizer(tokenizer):
    encoder = random_encoder(config_of(tokenizer, intermediate=40, dropout=0.2), tokenizer, pooling="mean", seed=0)
    config = encoder.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 2)
    assert (config.intermediate_size, config.max_position_embeddings, config.hidden_dropout_prob) == (40, 64, 0.2)
    assert encoder.backbone.get_input_embeddings().num_embeddings == len(tokenizer)
    assert (encoder.spec.pooling, encoder.spec.query_max_length) == ("mean", 64)
    assert encoder.why_padded is None
    assert config_of(tokenizer).intermediate_size == 128


def test_the_seed_decides_the_weights_and_leaves_other_draws_alone(tokenizer):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (
        random_encoder(config_of(tokenizer), tokenizer, pooling="cls", seed=seed).backbone.state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])


def test_a_configuration_with_fewer_words_than_the_tokenizer_is_refused(tokenizer):
    config = config_of(tokenizer)
    config.vocab_size = 100
    with pytest.raises(UserError, match=r"--tokenizer_name: got 68\d\d, expected at most 100 words"):
        random_encoder(config, tokenizer, pooling="cls", seed=0)


def test_folders_without_what_is_wanted_are_refused(tmp_path, tiny_bert):
    assert load_config(str(tiny_bert), flag="--query_encoder").hidden_size == 32
    with pytest.raises(UserError, match="--query_encoder: "):
        load_config(str(tmp_path), flag="--query_encoder")
