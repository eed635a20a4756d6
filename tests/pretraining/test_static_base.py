"""A base without pretraining: weights that survive normalisation, layers that change nothing until they learn."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zh_embedder.cli import main as zh_embedder
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.new_base import main
from zh_embedder.pretraining.static_base import IDLE, LEAST, document_frequency, passages, piece_vectors, weights
from zh_embedder.vocabulary import main as build_vocabulary

LINES = [
    "我们在北京大学学习人工智能。",
    "北京大学的学生在学习中文。",
    "学习人工智能要用服务器。",
    "今天天气很好，我们在公园。",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tokenizer and a base without layers."""
    folder = tmp_path_factory.mktemp("base")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(LINES * 5), "utf-8")
    assert build_vocabulary([str(corpus), "--output_dir", str(folder / "vocabulary"), "--words", "5"]) == 0
    flags = ["--corpus", str(corpus), "--hidden_size", "64", "--heads", "4"]
    assert main([str(folder / "vocabulary"), "--output_dir", str(folder / "flat"), *flags]) == 0
    return folder


def test_weights_by_hand():
    # 3 passages: log(4/(n+1)) / log(4) for n = 0, 1, 3, squared, times the most; a special piece counts least.
    got = weights(np.array([0, 1, 3, 0]), 3, power=2, special=[3])
    assert got.tolist() == pytest.approx([0.6, 0.15, LEAST, LEAST])


def test_a_piece_counts_once_in_a_text(made):
    tokenizer = Encoder.from_pretrained(str(made / "flat")).tokenizer
    found, total = document_frequency(tokenizer, iter(["学习学习", "学习", "天气"]))
    assert total == 3
    assert [found[tokenizer.convert_tokens_to_ids(piece)] for piece in ("学习", "天", "[CLS]")] == [2, 1, 3]


def test_passages_come_from_every_file_alike(tmp_path):
    for name, lines in (("a", 100), ("b", 10)):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name}{n}" for n in range(lines)))
    found = list(passages([tmp_path / "a.txt", tmp_path / "b.txt"], 20))
    assert sum(text[0] == "a" for text in found) == sum(text[0] == "b" for text in found) == 10


def test_rows_survive_normalisation_and_weigh_what_they_should():
    weight = np.array([0.6, 0.5, 0.02], np.float32)
    rows = piece_vectors(weight, 64, seed=0)
    torch.testing.assert_close(F.layer_norm(rows, (64,)), rows, atol=1e-4, rtol=1e-4)
    rows[:, IDLE] = 0
    torch.testing.assert_close(rows.norm(dim=1) / 8, torch.from_numpy(weight), atol=1e-5, rtol=1e-4)


def test_a_text_begins_as_the_weighted_sum_of_its_pieces(made):
    encoder = Encoder.from_pretrained(str(made / "flat"), dtype="fp32")
    text = "北京大学的学生在学习人工智能"
    rows = encoder.backbone.embeddings.word_embeddings.weight.detach().clone()
    rows[:, IDLE] = 0
    naive = F.normalize(rows[encoder.tokenizer(text)["input_ids"]].sum(0), dim=0)
    np.testing.assert_allclose(encoder.encode(text), naive.numpy(), atol=1e-5)


@pytest.mark.parametrize("before", [0, 1])
def test_layers_that_are_put_on_change_no_vector(made, tmp_path, before):
    """Not even when what was there has been trained: every parameter of it moved."""
    source = str(made / "flat")
    if before:
        assert main([source, "--output_dir", str(tmp_path / "one"), "--layers", "1", "--heads", "4"]) == 0
        source = str(tmp_path / "one")
    encoder = Encoder.from_pretrained(source)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    encoder.save(tmp_path / "trained")
    assert (
        main([str(tmp_path / "trained"), "--output_dir", str(tmp_path / "grown"), "--layers", "3", "--heads", "4"]) == 0
    )
    grown = Encoder.from_pretrained(str(tmp_path / "grown"), dtype="fp32")
    trained = Encoder.from_pretrained(str(tmp_path / "trained"), dtype="fp32")
    assert len(grown.backbone.encoder.layer) == 3
    np.testing.assert_allclose(grown.encode(LINES), trained.encode(LINES), atol=1e-5)


def test_a_base_has_no_instructions_whatever_it_was_trained_with(made, tmp_path):
    changes = {"instructions": {"qa": ("问：", "")}, "query_max_length": 64}
    load_encoder(str(made / "flat"), changes=changes).save(tmp_path / "run" / "encoder")
    assert main([str(tmp_path / "run"), "--output_dir", str(tmp_path / "base"), "--heads", "4"]) == 0
    spec = Encoder.from_pretrained(str(tmp_path / "base")).spec
    assert (spec.pooling, spec.query_max_length, spec.key_max_length, spec.instructions) == ("mean", 512, 512, {})


def test_new_layers_learn(made, tmp_path):
    assert main([str(made / "flat"), "--output_dir", str(tmp_path / "two"), "--layers", "2", "--heads", "4"]) == 0
    encoder = Encoder.from_pretrained(str(tmp_path / "two"))
    backbone = encoder.backbone.train()
    ids = torch.tensor([encoder.tokenizer(LINES[0])["input_ids"]])
    backbone(ids).last_hidden_state[0, 1, 30].backward()
    for layer in backbone.encoder.layer:
        assert layer.output.dense.weight.grad.abs().max() > 0
        assert layer.attention.output.dense.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers", "-1"], "--layers: got -1"),
        (["--hidden_size", "64", "--heads", "4"], "--corpus: is missing, expected files"),
        (["--hidden_size", "20"], "--hidden_size: got 20, expected a whole number from 40 to 100000"),
        (["--passages", "0"], "--passages: got 0"),
    ],
)
def test_wrong_flags_are_refused(made, tmp_path, capsys, flags, said):
    assert main([str(made / "vocabulary"), "--output_dir", str(tmp_path / "x"), *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["vocabulary", "new-base"])
def test_a_folder_with_other_things_is_never_replaced(made, tmp_path, capsys, command):
    (tmp_path / "texts.jsonl").write_text('{"text": "今天天气很好"}\n', "utf-8")
    texts, own = str(tmp_path / "texts.jsonl"), tmp_path / "docs"
    own.mkdir()
    (own / "mine.txt").write_text("一", "utf-8")
    words = [texts] if command == "vocabulary" else [str(made / "vocabulary"), "--corpus", texts]
    for flags, said in (([], "is there already"), (["--overwrite"], "and nothing else")):
        assert zh_embedder([command, *words, "--output_dir", str(own), *flags]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in own.iterdir()] == ["mine.txt"]


def test_a_source_that_is_not_there_is_told_at_once(made, tmp_path, capsys):
    assert main([str(made / "vocabulry"), "--output_dir", str(tmp_path / "x")]) == 2
    assert (
        f"SOURCE: no such folder: {made / 'vocabulry'}; did you mean '{made / 'vocabulary'}'?"
        in capsys.readouterr().err
    )


def test_heads_must_divide_the_width(made, tmp_path, capsys):
    assert main([str(made / "flat"), "--output_dir", str(tmp_path / "x"), "--layers", "1", "--heads", "5"]) == 2
    assert "--heads: got 5, expected a divisor of the width, 64" in capsys.readouterr().err


def test_a_base_is_not_made_smaller(made, tmp_path, capsys):
    assert main([str(made / "flat"), "--output_dir", str(tmp_path / "one"), "--layers", "1", "--heads", "4"]) == 0
    assert main([str(tmp_path / "one"), "--output_dir", str(tmp_path / "x"), "--heads", "4"]) == 2
    assert "--num_layers: got 0, expected at least 1" in capsys.readouterr().err
