"""A layer that begins as BM25's saturation: what it gives is compared with the formula, piece by piece."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zh_embedder.bases.vocabulary import main as build_vocabulary
from zh_embedder.models.encoder import Encoder
from zh_embedder.pretraining.saturation import CODE, IDLE, SINK, make_codes
from zh_embedder.pretraining.static_base import main

LINES = ["我们在北京大学学习人工智能。", "北京大学的学生在学习中文。", "学习人工智能要用服务器。", "今天天气很好。"]
OTHERS = [chr(0x4E00 + 40 * n) * 9 for n in range(200)]  # so that every piece above weighs something
TEXT = "学习学习学习学习北京天气学习" * 3
RATE = 0.3


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The same base without a layer, and with one that saturates."""
    folder = tmp_path_factory.mktemp("saturation")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(LINES * 5 + OTHERS), "utf-8")
    assert build_vocabulary([str(corpus), "--output_dir", str(folder / "vocabulary"), "--words", "5"]) == 0
    flags = ["--corpus", str(corpus), "--hidden_size", "128", "--heads", "4"]
    assert main([str(folder / "vocabulary"), "--output_dir", str(folder / "flat"), *flags]) == 0
    for heads in ("1", "4"):
        flags = ["--layers", "1", "--heads", heads, "--saturate", str(RATE)]
        assert main([str(folder / "flat"), "--output_dir", str(folder / f"heads{heads}"), *flags]) == 0
    return folder


def naive(encoder, text, rate):
    """Each piece's state without what the layer takes off, normalised again, and the mean of all."""
    ids = encoder.tokenizer(text)["input_ids"]
    states = F.layer_norm(encoder.backbone.embeddings.word_embeddings.weight.detach(), (encoder.dimension,))
    found = []
    for piece in ids:
        state = states[piece].clone()
        state[IDLE.stop :] /= 1 + rate * (ids.count(piece) if piece != ids[0] else 0)
        found.append(F.layer_norm(state, (encoder.dimension,)))
    mean = torch.stack(found).mean(0)
    mean[IDLE] = 0
    return F.normalize(mean, dim=0).numpy()


@pytest.mark.parametrize("heads", [1, 4])
def test_repeated_pieces_count_as_the_formula_says(bases, heads):
    encoder = Encoder.from_pretrained(str(bases / f"heads{heads}"), dtype="fp32")
    got = encoder.encode(TEXT)
    assert got @ naive(encoder, TEXT, RATE) > 0.99999
    assert max(got @ naive(encoder, TEXT, rate) for rate in (0, 0.2, 0.4)) < 0.9999


def test_ever_more_of_a_piece_adds_ever_less(bases):
    """Without the layer a text becomes the piece that it repeats; with it the others stay to be seen."""
    flat, layer = (Encoder.from_pretrained(str(bases / name), dtype="fp32") for name in ("flat", "heads4"))
    once = "学习北京天气"
    kept = [encoder.encode(once) @ encoder.encode(once + "学习" * 20) for encoder in (flat, layer)]
    assert kept[1] > kept[0] + 0.05


def test_texts_without_repetition_stay_what_they_are(bases):
    flat, layer = (Encoder.from_pretrained(str(bases / name), dtype="fp32") for name in ("flat", "heads1"))
    texts = ["北京大学", "今天天气很好"]
    assert np.all((flat.encode(texts) * layer.encode(texts)).sum(1) > 0.99)


def test_codes_have_mean_0_and_length_1_and_differ():
    codes = make_codes(500, seed=0)
    torch.testing.assert_close(codes.mean(1), torch.zeros(500), atol=1e-6, rtol=0)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(500))
    assert ((codes @ codes.T).fill_diagonal_(0) > 0.9).float().mean() < 0.001


def test_rows_survive_normalisation_even_where_a_piece_leaves_no_room(bases, tmp_path):
    encoder = Encoder.from_pretrained(str(bases / "flat"))
    rows = encoder.backbone.embeddings.word_embeddings.weight
    with torch.no_grad():
        rows[7] = torch.randn(encoder.dimension, generator=torch.Generator().manual_seed(0))
        rows[7, IDLE] = 0  # all of it is said
        encoder.backbone.embeddings.position_embeddings.weight.fill_(1)
    encoder.save(tmp_path / "full")
    assert main([str(tmp_path / "full"), "--output_dir", str(tmp_path / "x"), "--layers", "1", "--saturate", "1"]) == 2
    flags = ["--layers", "1", "--heads", "2", "--saturate", "1"]
    assert main([str(tmp_path / "full"), "--output_dir", str(tmp_path / "made"), *flags]) == 0
    embeddings = Encoder.from_pretrained(str(tmp_path / "made")).backbone.embeddings
    made = embeddings.word_embeddings.weight.detach()
    torch.testing.assert_close(F.layer_norm(made, (128,)), made, atol=2e-3, rtol=2e-3)
    said = made[7, IDLE.stop :]
    before = F.layer_norm(rows.detach()[7], (128,))[IDLE.stop :]
    assert F.cosine_similarity(said, before, dim=0) > 0.9999
    assert embeddings.position_embeddings.weight[0].unique().tolist() == [
        0,
        1,
    ]  # where it would disturb codes, and elsewhere
    first = encoder.tokenizer.cls_token_id
    assert made[first, SINK].abs().min() > 0
    assert made[first, CODE].abs().max() == 0
    assert torch.cat((made[:first, SINK], made[first + 1 :, SINK])).abs().max() == 0


def test_pieces_that_layers_have_moved_have_no_codes(bases, tmp_path, capsys):
    flags = ["--layers", "2", "--heads", "4", "--saturate", "0.3"]
    assert main([str(bases / "heads4"), "--output_dir", str(tmp_path / "x"), *flags]) == 2
    assert "a SOURCE without layers" in capsys.readouterr().err


def test_a_base_must_have_dimensions_free(bases, tmp_path, capsys):
    """Codes would be part of what texts say."""
    encoder = Encoder.from_pretrained(str(bases / "flat"))
    with torch.no_grad():
        encoder.backbone.embeddings.LayerNorm.weight[7] = 1
    encoder.save(tmp_path / "other")
    flags = ["--layers", "1", "--heads", "4", "--saturate", "0.3"]
    assert main([str(tmp_path / "other"), "--output_dir", str(tmp_path / "x"), *flags]) == 2
    assert "whose first 20 dimensions say nothing" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_head_must_have_room_for_a_code(bases, tmp_path, capsys):
    flags = ["--layers", "1", "--heads", "8", "--saturate", "0.3"]
    assert main([str(bases / "flat"), "--output_dir", str(tmp_path / "x"), *flags]) == 2
    assert "--heads: got 8, expected at most 7" in capsys.readouterr().err
