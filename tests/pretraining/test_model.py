"""What trains: packed equals padded, the output layer sees predicted tokens alone, folders come back as they were."""

import pytest
import torch

from zh_embedder.bases.tiny import build
from zh_embedder.models.encoder import load_encoder
from zh_embedder.pretraining.batches import Surroundings, WindowCollator, WindowRequest, WindowRows
from zh_embedder.pretraining.corpus import CorpusRule, load_corpus
from zh_embedder.pretraining.heads import Head, fill_head, make_head
from zh_embedder.pretraining.masking import mask_rule
from zh_embedder.pretraining.model import MaskedLM, fill_decoder, make_decoder

TEXT = "".join("北京大学的学生在图书馆看书，外面下着雨。" * (1 + i % 3) + "雨" * i + "\n" for i in range(12))


def model_of(base, *, retromae=False, packing=True):
    torch.manual_seed(0)
    encoder = load_encoder(str(base), packing=packing)
    head = make_head(encoder.config, encoder.backbone.get_input_embeddings())
    return MaskedLM(encoder, head, make_decoder(encoder, 64) if retromae else None)


@pytest.fixture(scope="module", params=["mean", "cls"])
def base(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp("base"), hidden=32, heads=2, dropout=0.0, pooling=request.param)


@pytest.fixture(scope="module")
def examples(base, tmp_path_factory):
    """Rows of all windows of a small corpus, for either objective."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text(TEXT, "utf-8")
    tokenizer = load_encoder(str(base)).tokenizer
    files = load_corpus([folder / "a.txt"], tokenizer, CorpusRule(limit=62), cache=folder / "cache")
    rule = mask_rule(tokenizer, size=len(tokenizer), probability=0.15, whole_words=True)

    def batch(*, retromae=False):
        decoder = 0.5 if retromae else None
        rows = WindowRows(files, Surroundings.of(tokenizer), rule, seed=0, decoder_probability=decoder)
        return WindowCollator(rule.hidden)([rows[WindowRequest(0, row, True, ())] for row in range(len(rows))])

    return batch


def outcome(model, batch):
    found = model(batch)
    (found.loss + found.decoder_loss).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, gradients


@pytest.mark.parametrize("retromae", [False, True])
def test_packed_equals_padded(retromae, base, examples):
    batch = examples(retromae=retromae)
    assert len(set(batch.tokens.sizes)) > 5
    packed, padded = (outcome(model_of(base, retromae=retromae, packing=p), batch) for p in (True, False))
    for one, other in zip(packed[0], padded[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert packed[1].keys() == padded[1].keys()
    for name, gradient in packed[1].items():
        torch.testing.assert_close(gradient, padded[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("retromae", [False, True])
def test_every_weight_that_trains_gets_a_gradient(retromae, base, examples):
    """Or DDP would wait for it."""
    model = model_of(base, retromae=retromae)
    _, gradients = outcome(model, examples(retromae=retromae))
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}


def test_only_predicted_tokens_go_through_the_output_layer(base, examples, monkeypatch):
    seen = []
    forward = Head.forward
    monkeypatch.setattr(Head, "forward", lambda self, x, words: (seen.append(len(x)), forward(self, x, words))[1])
    batch = examples(retromae=True)
    model_of(base)(batch)
    assert seen == [len(batch.labels)]
    assert len(batch.labels) < 0.25 * len(batch.tokens.ids)
    model_of(base, retromae=True)(batch)
    assert seen[1:] == [len(batch.labels), len(batch.decoded)]


def test_the_output_layer_is_tied_to_the_word_embeddings(base, examples):
    model = model_of(base)
    assert not [name for name, p in model.named_parameters() if p.shape == model.words().weight.shape][1:]
    before = model(examples()).loss.item()
    with torch.no_grad():
        model.words().weight.mul_(2)
    assert model(examples()).loss.item() != pytest.approx(before)
    assert model_of(base).words() is not model.words()


def test_the_loss_is_that_of_transformers_on_each_window_alone(base, examples):
    """Window by window through the backbone as it comes, logits of the whole window, labels where tokens are hidden."""
    model, batch = model_of(base), examples()
    total, right, at = 0.0, 0, 0
    labels = torch.full_like(batch.tokens.ids, -100)
    labels[batch.places] = batch.labels
    with torch.no_grad():
        for size in batch.tokens.sizes:
            own = slice(at, at + size)
            states = model.encoder.backbone(input_ids=batch.tokens.ids[own].unsqueeze(0)).last_hidden_state[0]
            logits = model.head(states, model.words().weight)
            total += torch.nn.functional.cross_entropy(logits, labels[own], reduction="sum", ignore_index=-100).item()
            right += int((logits.argmax(-1) == labels[own]).sum())
            at += size
        found = model(batch)
    assert found.loss.item() == pytest.approx(total, rel=1e-5)
    assert found.right.item() == right


def test_a_decoder_starts_with_the_positions_of_its_base(base):
    encoder = load_encoder(str(base))
    table = encoder.backbone.embeddings.position_embeddings.weight
    assert torch.equal(make_decoder(encoder, 40).positions.weight, table[:40])


def test_a_saved_model_comes_back_and_goes_on(base, examples, tmp_path):
    model, batch = model_of(base, retromae=True), examples(retromae=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.01)
    model.save(tmp_path)
    assert (tmp_path / "encoder" / "1_Pooling" / "config.json").is_file()
    again = model_of(base, retromae=True)
    again.load(tmp_path)
    for one, other in zip(model(batch), again(batch), strict=True):
        assert torch.equal(one, other)
    # A later run that starts from the folder finds its output layer and decoder.
    on = model_of(tmp_path / "encoder", retromae=True)
    assert fill_head(on.head, str(tmp_path / "encoder"), on.config).startswith("read from")
    assert fill_decoder(on.decoder, str(tmp_path / "encoder")).startswith("read from")
    for one, other in zip(model(batch), on(batch), strict=True):
        assert torch.equal(one, other)
    assert fill_decoder(model_of(base, retromae=True).decoder, str(base)) == "fresh"
