"""The output layer is that of transformers' masked-language models, tied; the decoder is what its paper says."""

import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoConfig, AutoModelForMaskedLM

from tests.backbones import BERT, FAMILIES, SMALL
from zh_embedder.core.errors import UserError
from zh_embedder.pretraining import heads as mlm_head
from zh_embedder.pretraining.heads import Decoder, Head, fill_head, make_head, save_head
from zh_embedder.text.tokens import TokenBatch

LIKE_BERT = {
    "Bert": BERT,
    "Roberta": FAMILIES["Roberta"],
    "Electra": FAMILIES["Electra"],
    "Ernie": BERT,
    "ModernBert": FAMILIES["ModernBert"],
    "DistilBert": {"vocab_size": 90, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
}


def random_base(folder, family, **changes):
    """A masked-language model with no weight at its default, saved."""
    config = getattr(transformers, f"{family}Config")(**{**LIKE_BERT[family], **changes})
    model = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    return model


def head_of(folder):
    config = AutoConfig.from_pretrained(folder)
    words = AutoModelForMaskedLM.from_pretrained(folder).get_input_embeddings()
    head = make_head(config, words)
    return head, words, fill_head(head, str(folder), config)


@pytest.mark.parametrize("family", LIKE_BERT)
def test_the_head_of_a_base_makes_its_logits(family, tmp_path):
    model = random_base(tmp_path, family)
    head, words, origin = head_of(tmp_path)
    assert origin == f"that of the base ({family}ForMaskedLM)"
    ids = torch.randint(5, 90, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model.base_model(ids).last_hidden_state[0]
        torch.testing.assert_close(head(states, words.weight), model(ids).logits[0], rtol=1e-5, atol=1e-5)


def test_a_base_without_a_head_gets_a_fresh_one(tmp_path):
    bare = transformers.BertModel(transformers.BertConfig(**BERT))
    bare.save_pretrained(tmp_path / "bare")
    assert head_of(tmp_path / "bare")[2] == "fresh: the base has none"
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    (tmp_path / "bare" / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    origin = head_of(tmp_path / "bare")[2]
    assert origin.startswith("fresh: the base lacks cls.predictions.transform.LayerNorm")


def test_a_head_that_an_earlier_run_left_is_read(tmp_path):
    random_base(tmp_path, "Bert")
    head, words, _ = head_of(tmp_path)
    torch.nn.init.normal_(head.bias)
    save_head({f"head.{name}": tensor for name, tensor in head.state_dict().items()}, tmp_path)
    other, _, origin = head_of(tmp_path)
    assert origin == "read from pretraining.safetensors of the base"
    assert torch.equal(other.bias, head.bias)
    states = torch.randn(3, 32)
    assert torch.equal(other(states, words.weight), head(states, words.weight))


def test_a_model_that_reads_from_left_to_right_is_refused():
    config = transformers.Qwen3Config(**SMALL)
    with pytest.raises(UserError, match="a qwen3 model does not predict masked words"):
        make_head(config, torch.nn.Embedding(90, 32))


def test_the_loss_is_the_cross_entropy_by_hand():
    head, words = Head(4, 3, 4), torch.randn(3, 4)
    states, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    logits = head(states, words)
    by_hand = sum(-logits[i].softmax(-1)[label].log() for i, label in enumerate(labels.tolist()))
    found = head.predict(states, labels, words)
    torch.testing.assert_close(found.loss, by_hand)
    assert found.right == (logits.argmax(-1) == labels).sum()


def test_many_tokens_in_parts_give_the_loss_and_gradients_of_all(monkeypatch):
    torch.manual_seed(0)
    head, words = Head(8, 50, 6), torch.randn(50, 6, requires_grad=True)
    states, labels = torch.randn(101, 8, requires_grad=True), torch.randint(50, (101,))

    def gradients():
        inputs = [states, words, *head.parameters()]
        found = head.predict(states, labels, words)
        return found, torch.autograd.grad(found.loss, inputs)

    seen = []
    monkeypatch.setattr(Head, "losses", lambda *given, old=Head.losses: (seen.append(len(given[1])), old(*given))[1])
    whole, expected = gradients()
    monkeypatch.setattr(mlm_head, "LOGITS_AT_ONCE", 50 * 20)
    parts, found = gradients()
    assert seen[0] == 101
    assert max(seen[1:]) == 20
    torch.testing.assert_close(parts.loss, whole.loss)
    assert parts.right == whole.right
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_nothing_to_predict_is_a_loss_of_zero_with_gradients():
    head, words = Head(4, 3, 4), torch.randn(3, 4, requires_grad=True)
    found = head.predict(torch.randn(0, 4), torch.zeros(0, dtype=torch.int64), words)
    assert (found.loss.item(), found.right.item()) == (0, 0)
    found.loss.backward()


def naive_decoder(decoder, vector, words, visible):
    """One text, head by head, token by token: vector (H,), words (L, E), visible (L, L) -> (L, H)."""
    places = decoder.positions.weight[: len(words)]
    asked = vector + places
    seen = decoder.seen_norm(decoder.widen(words) + places).clone()
    seen[0] = vector
    size = seen.shape[1] // decoder.heads
    q, k, v = decoder.query(asked), decoder.key(seen), decoder.value(seen)
    rows = []
    for token in range(len(words)):
        parts = []
        for head in range(decoder.heads):
            own = slice(head * size, (head + 1) * size)
            scores = torch.stack([q[token, own] @ k[other, own] / size**0.5 for other in range(len(words))])
            shares = scores.masked_fill(~visible[token], float("-inf")).softmax(0)
            parts.append(sum(share * v[other, own] for other, share in enumerate(shares)))
        rows.append(torch.cat(parts))
    states = decoder.out_norm(asked + decoder.out(torch.stack(rows)))
    return decoder.last_norm(states + decoder.down(F.gelu(decoder.up(states))))


@pytest.mark.parametrize("width", [16, 10])
def test_the_decoder_is_one_layer_that_sees_what_it_may(width):
    torch.manual_seed(0)
    config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=24)
    embeddings = torch.nn.Embedding(30, width)
    decoder = Decoder(config, embeddings, 12)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    sizes = (9, 4, 1)
    tokens = TokenBatch.of(torch.randint(30, (sum(sizes),)), sizes)
    vectors, words = torch.randn(3, 16), embeddings(tokens.ids)
    visible = torch.zeros(3, 9, 9, dtype=torch.bool)
    for text, size in enumerate(sizes):
        visible[text, :size, :size] = torch.rand(size, size) < 0.5
    visible[:, :, 0] = True
    with torch.no_grad():
        found = decoder(vectors, words, tokens, visible).split(sizes)
        for text, own in enumerate(words.split(sizes)):
            size = sizes[text]
            expected = naive_decoder(decoder, vectors[text], own, visible[text, :size, :size])
            torch.testing.assert_close(found[text], expected, rtol=1e-4, atol=1e-5)


def test_a_token_that_is_not_seen_changes_nothing():
    torch.manual_seed(0)
    config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=24)
    decoder = Decoder(config, torch.nn.Embedding(30, 16), 6)
    tokens = TokenBatch.of(torch.zeros(6, dtype=torch.int64), (6,))
    visible = torch.ones(1, 6, 6, dtype=torch.bool)
    visible[0].fill_diagonal_(False)
    visible[0, :, 0] = True
    words = torch.randn(6, 16)
    changed = words.clone()
    changed[3] += 1
    with torch.no_grad():
        vector = torch.randn(1, 16)
        one, other = (decoder(vector, w, tokens, visible) for w in (words, changed))
        assert torch.equal(one[3], other[3])  # no token sees itself
        assert not torch.equal(one[2], other[2])
        again = decoder(vector + 1, words, tokens, visible)
        assert not torch.equal(one[3], again[3])
