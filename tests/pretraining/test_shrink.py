"""Smaller bases: what is kept keeps its weights and its pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.jsonl import write
from zh_embedder.bases.e5_folder import Base, bert_config, write_base
from zh_embedder.bases.e5_format import Sizes
from zh_embedder.bases.unigram import xlm_r_tokenizer
from zh_embedder.core.errors import UserError
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.pretraining.shrink import choose, shrink

WORDS = ["合同", "违约", "赔偿", "离婚", "電腦", "电脑"]
LETTERS = [chr(code) for code in range(33, 127)]
HIDDEN, LAYERS = 16, 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the shape of multilingual-e5-small, with pieces that are no character of a common set but few."""
    folder = tmp_path_factory.mktemp("unigram") / "base"
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS, *sorted(set("".join(WORDS))), *WORDS, "<mask>"]
    scores = [0.0, 0.0, 0.0, 0.0, -3.0, *([-8.0] * (len(pieces) - 5))]
    for word in WORDS:
        scores[pieces.index(word)] = -6.0
    torch.manual_seed(0)
    from transformers import BertConfig, BertModel

    sizes = Sizes(HIDDEN, LAYERS, 2, 24, len(pieces), 64, 2, 1e-12)
    config = bert_config(sizes)
    model = BertModel(BertConfig(**config))
    weights = {name: tensor.half().numpy() for name, tensor in model.state_dict().items()}
    content = xlm_r_tokenizer(pieces, scores, {"Ａ": "A"})
    write_base(folder, Base(config=config, weights=weights, tokenizer=content, origin="hub", whole=len(pieces)))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Texts with two of the words, and one in Traditional characters."""
    texts = ["合同违约", "合同违约怎么办", "離婚合同", "電腦"] * 3
    return [write(tmp_path / "corpus.jsonl", [{"text": text} for text in texts])]


def vectors(encoder: Encoder, *texts: str) -> Any:
    return encoder.encode(list(texts), dtype="fp32", show_progress=False)


def test_texts_of_kept_pieces_keep_their_vectors(base: Path, corpus: list[Path]) -> None:
    whole = Encoder.from_pretrained(str(base))
    small = shrink(str(base), layers=None, pieces=len(whole.tokenizer) - 3, corpus=corpus)
    assert {"合同", "违约"} < set(small.tokenizer.get_vocab())
    assert len(small.tokenizer) == len(small.backbone.get_input_embeddings().weight) == len(whole.tokenizer) - 3
    np.testing.assert_allclose(vectors(small, "合同违约, Ａb"), vectors(whole, "合同违约, Ａb"), atol=1e-6)
    assert small.spec == whole.spec


def test_a_word_without_a_piece_is_cut_into_characters(base: Path, corpus: list[Path]) -> None:
    small = shrink(str(base), layers=None, pieces=6 + len(LETTERS) + 12, corpus=corpus)
    assert small.tokenizer.tokenize("离婚赔偿") == ["▁", "离", "婚", "赔", "偿"]


def test_layers_are_those_of_the_base(base: Path) -> None:
    whole = Encoder.from_pretrained(str(base))
    small = shrink(str(base), layers=[0, 2], pieces=None, corpus=())
    assert small.config.num_hidden_layers == 2
    kept, all_of = small.backbone.encoder.layer, whole.backbone.encoder.layer
    for new, old in ((0, 0), (1, 2)):
        for mine, theirs in zip(kept[new].parameters(), all_of[old].parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_traditional_texts_have_the_vectors_of_simplified_ones(base: Path, corpus: list[Path], tmp_path: Path) -> None:
    small = shrink(str(base), layers=[0], pieces=5 + len(LETTERS) + 13, corpus=corpus, fold=True)
    assert "電腦" not in small.tokenizer.get_vocab()
    small.save(tmp_path / "small")
    read = Encoder.from_pretrained(str(tmp_path / "small"))
    traditional, simple = vectors(read, "電腦合同", "电脑合同")
    np.testing.assert_array_equal(traditional, simple)
    assert read.spec.prompts() == Encoder.from_pretrained(str(base)).spec.prompts()


@pytest.mark.parametrize(
    ("layers", "pieces", "said"),
    [
        ([0, 3], None, "--layers: got '0 3', expected numbers that rise, from 0 to 2"),
        ([1, 1], None, "--layers: got '1 1'"),
        (None, 20, "--pieces: got 20, expected"),
        (None, 10**6, "--pieces: got 1000000, expected"),
    ],
)
def test_what_the_base_lacks_is_refused(
    base: Path, corpus: list[Path], layers: list[int] | None, pieces: int | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        shrink(str(base), layers=layers, pieces=pieces, corpus=corpus)


def test_other_tokenizers_are_refused(corpus: list[Path]) -> None:
    with pytest.raises(UserError, match="has a WordPiece tokenizer, expected Unigram"):
        shrink("nano-zh-static", layers=None, pieces=6000, corpus=corpus)


def test_every_file_weighs_the_same_and_ties_go_to_the_lower_id(base: Path) -> None:
    content = json.loads((base / "tokenizer.json").read_text("utf-8"))
    names = [piece for piece, _ in content["model"]["vocab"]]
    shares = np.zeros(len(names))
    shares[[names.index("离婚"), names.index("赔偿")]] = 0.5
    needed = len(choose(content, np.zeros(len(names)), len(names), folds={}))
    kept = choose(content, shares, needed + 1, folds={})
    assert (names.index("赔偿") in kept) == (names.index("赔偿") < names.index("离婚"))


def test_a_linear_layer_behind_the_pooling_stays(base: Path) -> None:
    whole = load_encoder(str(base), dense=True)
    torch.nn.init.normal_(whole.dense.weight)  # type: ignore[union-attr]
    whole.save(base.parent / "dense")
    small = shrink(str(base.parent / "dense"), layers=[0, 1, 2], pieces=None, corpus=())
    np.testing.assert_allclose(vectors(small, "合同"), vectors(whole, "合同"), atol=1e-6)
