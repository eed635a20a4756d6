"""A damaged base gives sentence-transformers' vectors or one message that names its file, whatever the damage."""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from zh_embedder.bases.folder_format import Layout, write_layout
from zh_embedder.core.errors import UserError
from zh_embedder.models.encoder import load_encoder

TEXTS = ["今天天气怎么样？", "Beijing 北京", "猫"]
PIECES = sorted({*"".join(TEXTS).lower(), *"ABC", *"北京上海的了是"} - {" "})
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES, *(f"##{piece}" for piece in PIECES)]

Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A base with every file that hubs have."""
    folder = tmp_path_factory.mktemp("whole") / "base"
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCABULARY), "utf-8")
    BertTokenizerFast.from_pretrained(folder, model_max_length=64).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    prompts = {"query": "问：", "document": ""}
    write_layout(folder, Layout(pooling="mean", dimension=8, metric="cos", max_length=64, prompts=prompts))
    (folder / "special_tokens_map.json").write_text(json.dumps({"unk_token": "[UNK]", "pad_token": "[PAD]"}))
    return folder


# ---- damage ---------------------------------------------------------------------------------------------------------


def put(name: str, content: bytes | str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def half(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def change(name: str, *place: str | int, to: Any = None, leave_out: bool = False) -> Damage:
    """Another value at a place of a JSON file, or none."""

    def damage(folder: Path) -> None:
        whole = json.loads((folder / name).read_text("utf-8"))
        inner = whole
        for step in place[:-1]:
            inner = inner[step]
        if leave_out:
            del inner[place[-1]]
        else:
            inner[place[-1]] = to
        (folder / name).write_text(json.dumps(whole), "utf-8")

    return damage


def weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        state = edit(state) or state
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def as_pickle(content: Any = None) -> Damage:
    def damage(folder: Path) -> None:
        state = load_file(folder / "model.safetensors") if content is None else content
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")

    return damage


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


class Hostile:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("hostile-code-ran"),))


def hostile(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"embeddings.word_embeddings.weight": Hostile()}))


def one_nan(state: dict[str, torch.Tensor]) -> None:
    state["encoder.layer.1.output.dense.weight"][3, 5] = float("nan")


def nan_of_an_unused_piece(state: dict[str, torch.Tensor]) -> None:
    state["embeddings.word_embeddings.weight"][-1, 0] = float("inf")


def without(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {name: tensor for name, tensor in state.items() if part not in name}


def cast(dtype: torch.dtype) -> Damage:
    return weights(lambda state: {name: tensor.to(dtype) for name, tensor in state.items()})


def deeper(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    more = {n.replace("layer.1.", "layer.2."): t.clone() for n, t in state.items() if "layer.1." in n}
    return {**state, **more}


def with_mlm_head(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    inner = {f"bert.{name}": tensor for name, tensor in state.items() if "pooler" not in name}
    return {**inner, "cls.predictions.bias": torch.zeros(len(VOCABULARY))}


def sharded(folder: Path, *, lose: bool = False) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, own in parts.items():
        save_file({name: state[name] for name in own}, folder / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if lose:
        (folder / "model-00002-of-00002.safetensors").unlink()


def word_list(edit: Callable[[list[str]], list[str]]) -> Damage:
    """Another word list, in place of the tokenizer's other files."""

    def damage(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in edit(list(VOCABULARY))), "utf-8")

    return damage


def vocabulary(edit: Callable[[dict[str, int]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        found = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        edit(found["model"]["vocab"])
        (folder / "tokenizer.json").write_text(json.dumps(found), "utf-8")

    return damage


def renamed(old: str, new: str) -> Damage:
    """A special token under another name in every file of the tokenizer."""

    def damage(folder: Path) -> None:
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
            path = folder / name
            path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")

    return damage


def renumbered(vocab: dict[str, int]) -> None:
    vocab["北"] = 10**6


SETTINGS = "config_sentence_transformers.json"
LENGTHS = "sentence_bert_config.json"
POOLING = "1_Pooling/config.json"
JSON_FILES = ("config.json", "modules.json", SETTINGS, LENGTHS, POOLING, "tokenizer.json", "tokenizer_config.json")
JSON_FILES = (*JSON_FILES, "special_tokens_map.json")
CONTENTS = {
    "empty": "",
    "{}": "{}",
    "[]": "[]",
    "null": "null",
    "a number": "5",
    "garbage": b"\x80\x02\xff\x00garbage",
    "nested": "[" * 3000 + "]" * 3000,
    "a long number": '{"x": ' + "9" * 5000 + "}",
}


def every_file() -> Iterator[tuple[str, Damage]]:
    for name in JSON_FILES:
        yield f"{name}: missing", gone(name)
        yield f"{name}: half", half(name)
        for what, content in CONTENTS.items():
            yield f"{name}: {what}", put(name, content)
    for name in ("model.safetensors", "vocab.txt"):
        yield f"{name}: missing", gone(name)
        yield f"{name}: empty", put(name, b"")
        yield f"{name}: garbage", put(name, b"\x80\x02\xff\x00garbage")
        yield f"{name}: half", half(name)
    yield "a folder in place of config.json", both(gone("config.json"), lambda folder: (folder / "config.json").mkdir())
    yield "a folder in place of modules.json", both(gone("modules.json"), lambda f: (f / "modules.json").mkdir())


FIELDS: dict[str, dict[tuple[str | int, ...], list[Any]]] = {
    "config.json": {
        ("model_type",): [5, None, "bertt", "gpt2", "vit", ["bert"]],
        ("architectures",): [5, "BertModel", [5]],
        ("hidden_size",): [16, 0, -8, "8", 8.5, None, 10**9],
        ("num_hidden_layers",): [12, 1, 0, -1, "2", None, [2]],
        ("num_attention_heads",): [3, 0, -1, "2", None],
        ("intermediate_size",): [32, 0, "16", None],
        ("vocab_size",): [10, len(VOCABULARY) + 7, 0, -1, "x", None],
        ("max_position_embeddings",): [8, 0, -1, "64", None, 1e30],
        ("type_vocab_size",): [1, 0, "2"],
        ("hidden_act",): ["nix", 5, None],
        ("layer_norm_eps",): ["x", -1.0, None, 0.0],
        ("hidden_dropout_prob",): ["x", 2.0, -1.0],
        ("attention_probs_dropout_prob",): ["x", 5],
        ("pad_token_id",): [10**6, -5, "x", None],
        ("initializer_range",): ["x", -1.0],
        ("dtype",): ["float16", "nix", 5],
        ("is_decoder",): [True, "x"],
        ("auto_map",): [{"AutoModel": "code.Model"}, 5],
        ("quantization_config",): [{"quant_method": "nix"}, 5],
    },
    "modules.json": {
        (0,): [5, {}, None],
        (0, "type"): [5, "nix.Nix", None],
        (0, "path"): [5, "nowhere", "../..", None],
        (1, "path"): [5, "nowhere", "/"],
        (2, "type"): ["sentence_transformers.models.Pooling", "sentence_transformers.models.WordWeights"],
    },
    SETTINGS: {
        ("prompts",): [5, [], "x", {"query": 5}, {"query": ["x"]}, {"query": None}, {"query": "\ud800"}],
        ("similarity_fn_name",): [5, "nix", None, "manhattan", ["cosine"]],
        ("default_prompt_name",): [5, "nix", "query"],
        ("__version__",): [5, None],
    },
    LENGTHS: {
        ("max_seq_length",): [0, -1, "64", 1.5, None, 10**9, 10**400, True, 2, [64]],
        ("do_lower_case",): [True, "x", 5, None],
    },
    POOLING: {
        ("word_embedding_dimension",): [16, "8", None, -1],
        ("pooling_mode_mean_tokens",): [False, "x", None],
        ("pooling_mode_cls_token",): [True, 5],
        ("pooling_mode_max_tokens",): [True],
        ("pooling_mode_weightedmean_tokens",): [True],
        ("pooling_mode",): ["cls", "max", 5, ["cls", "mean"]],
        ("include_prompt",): [False, 5, None],
    },
    "tokenizer.json": {
        ("model",): [{}, 5],
        ("model", "type"): ["nix", 5],
        ("model", "vocab"): [{}, 5, []],
        ("model", "unk_token"): ["[NIX]", 5],
        ("normalizer",): [5, {"type": "nix"}],
        ("pre_tokenizer",): [5, None],
        ("post_processor",): [5, None],
        ("added_tokens",): [5, [], [{"id": "x"}]],
        ("truncation",): [5, {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}],
        ("version",): ["9.0", 5],
    },
    "tokenizer_config.json": {
        ("tokenizer_class",): [5, "NixTokenizer", "T5Tokenizer", None, "PreTrainedTokenizerFast"],
        ("do_lower_case",): ["x", False],
        ("model_max_length",): [0, -1, "64", None, 1e30, [64]],
        ("unk_token",): [5, "[NIX]", None, "北"],
        ("pad_token",): [5, "[NIX]", None],
        ("cls_token",): [5, "[NIX]", None],
        ("truncation_side",): ["up", 5],
        ("padding_side",): ["up", "left"],
        ("auto_map",): [{"AutoTokenizer": ["code.Tokenizer", None]}, 5],
        ("extra_special_tokens",): [5, ["[NEW]"], {"x": 5}],
    },
}


def every_field() -> Iterator[tuple[str, Damage]]:
    for name, places in FIELDS.items():
        for place, values in places.items():
            shown = f"{name}: {'.'.join(map(str, place))}"
            for value in values:
                yield f"{shown} = {repr(value)[:30]}", change(name, *place, to=value)
            yield f"{shown} left out", absent(name, *place)


def absent(name: str, *place: str | int) -> Damage:
    def damage(folder: Path) -> None:
        try:
            change(name, *place, leave_out=True)(folder)
        except KeyError:  # it is not there as it is
            return

    return damage


OURS = {
    "pooling": "mean",
    "dense": False,
    "normalize": True,
    "metric": "cos",
    "query_max_length": 32,
    "key_max_length": 32,
    "default_task": None,
    "instructions": {"qa": ["问：", "答："]},
}
WRONG = {
    "pooling": [5, "nix", None],
    "dense": ["x", True],
    "normalize": ["x", None],
    "metric": [5, "nix", None],
    "query_max_length": ["x", 0, -1, None, 1.5, 10**9],
    "key_max_length": ["x", 0],
    "default_task": [5, "nix"],
    "instructions": [5, [], {"qa": 5}, {"qa": ["x"]}, {"qa": [5, 6]}, {"qa": ["", "\ud800"]}],
    "heads": [5, [], ["nix"], "dense", [5]],
    "nix": [5],
}


def our_file() -> Iterator[tuple[str, Damage]]:
    name = "zh_embedder.json"
    contents = {**CONTENTS, "only a format": '{"format": 1}', "a newer format": json.dumps({"format": 2, **OURS})}
    for what, content in contents.items():
        yield f"{name}: {what}", put(name, content)
    for place, values in WRONG.items():
        if place in OURS:
            left = {key: value for key, value in OURS.items() if key != place}
            yield f"{name}: {place} left out", put(name, json.dumps({"format": 1, **left}))
        for value in values:
            yield f"{name}: {place} = {value!r}", put(name, json.dumps({"format": 1, **OURS, place: value}))
    yield f"{name}: whole", put(name, json.dumps({"format": 1, **OURS}))


STATE = "embeddings.word_embeddings.weight"
OTHERS: dict[str, Damage] = {
    "nothing is changed": lambda folder: None,
    "one layer is missing": weights(without("layer.1.")),
    "one weight is missing": weights(without("layer.0.attention.self.query.bias")),
    "all layers are missing": weights(without("encoder.")),
    "word embeddings are missing": weights(without(STATE)),
    "every weight is missing": weights(lambda state: {"x": torch.zeros(1)}),
    "the pooler is missing": weights(without("pooler")),
    "an output layer of masked words": weights(with_mlm_head),
    "one layer more": weights(deeper),
    "one weight has another shape": weights(lambda s: {**s, "encoder.layer.0.output.dense.weight": torch.zeros(8, 4)}),
    "too few word embeddings": weights(lambda state: {**state, STATE: state[STATE][:20].clone()}),
    "a NaN in one weight": weights(one_nan),
    "an infinity in the row of an unused piece": weights(nan_of_an_unused_piece),
    "fp16": cast(torch.float16),
    "bf16": cast(torch.bfloat16),
    "fp64": cast(torch.float64),
    "whole numbers": cast(torch.int64),
    "no metadata in the weights": lambda f: save_file(load_file(f / "model.safetensors"), f / "model.safetensors"),
    "a pickle": as_pickle(),
    "a pickle of a list": as_pickle([1, 2]),
    "a pickle that runs code": hostile,
    "an empty pickle": both(gone("model.safetensors"), put("pytorch_model.bin", b"")),
    "half a pickle": both(as_pickle(), half("pytorch_model.bin")),
    "in two files": sharded,
    "in two files, one missing": lambda folder: sharded(folder, lose=True),
    "in two files, an index of nothing": both(sharded, put("model.safetensors.index.json", "{}")),
    "in two files, an index of a number": both(
        sharded, change("model.safetensors.index.json", "weight_map", to=dict.fromkeys(["x"], 5))
    ),
    "12 layers in the configuration, 2 in the file": change("config.json", "num_hidden_layers", to=12),
    "more pieces than embeddings": word_list(lambda words: [*words, "龘", "龖"]),
    "an id far beyond the embeddings": vocabulary(renumbered),
    "a word list without [UNK]": word_list(lambda words: [word for word in words if word != "[UNK]"]),
    "a word list without [PAD]": word_list(lambda words: [word for word in words if word != "[PAD]"]),
    "a word list without [CLS]": word_list(lambda words: [word for word in words if word != "[CLS]"]),
    "a word list in another order": word_list(lambda words: words[::-1]),
    "a word list of nothing": word_list(lambda words: []),
    "a word list with a word twice": word_list(lambda words: [*words[:-1], words[-2]]),
    "only a word list": lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
    "no word list at all": lambda f: [(f / name).unlink() for name in ("tokenizer.json", "vocab.txt")],
    "[UNK] has another name": renamed("[UNK]", "<unk>"),
    "[PAD] has another name": renamed("[PAD]", "<pad>"),
    "[CLS] has another name": renamed("[CLS]", "<s>"),
    "only weights and config": lambda f: [
        p.unlink() for p in f.glob("*") if p.suffix in (".json", ".txt") and p.name != "config.json"
    ],
}

DAMAGES = {**OTHERS, **dict(every_file()), **dict(every_field()), **dict(our_file())}
QUICK = [*OTHERS, *[name for name in DAMAGES if name not in OTHERS][::5]]


@pytest.fixture
def base(whole, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "base"))


def theirs(folder: Path) -> np.ndarray | None:
    """Vectors of sentence-transformers, each text alone: its padding on the left would move BERT's positions."""
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        return np.concatenate([model.encode([text], prompt="") for text in TEXTS])
    except (TypeError, AttributeError):  # it reads a field that we have no use for
        return None


def ours(folder: Path) -> np.ndarray:
    return load_encoder(str(folder)).eval().encode(TEXTS)


def check(base: Path, whole: Path, name: str) -> None:
    DAMAGES[name](base)
    try:
        vectors = ours(base)
    except UserError as error:
        assert str(base) in str(error)
        assert "\n" not in str(error)
    else:
        expected = (
            theirs(base) if (base / "modules.json").is_file() else vectors
        )  # without it we warn, they pool by mean
        np.testing.assert_allclose(vectors, ours(whole) if expected is None else expected, atol=1e-5)
        load_encoder(str(base)).save(base.with_name("saved"))
        np.testing.assert_array_equal(ours(base.with_name("saved")), vectors)
    assert {path.name for path in base.parent.iterdir()} <= {"base", "saved"}  # no code of a pickle ran


@pytest.mark.parametrize("name", QUICK)
def test_a_damaged_base_works_as_elsewhere_or_is_refused_by_its_file(base, whole, name):
    check(base, whole, name)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in DAMAGES if name not in QUICK])
def test_every_other_damage_too(base, whole, name):
    check(base, whole, name)


# ---- what is said ---------------------------------------------------------------------------------------------------

LACKS = "weights that config.json describes are missing"
SAID = {
    "one layer is missing": f"model.safetensors: 16 of the 37 {LACKS}, encoder.layer.1.attention.self.",
    "one weight is missing": f"model.safetensors: 1 of the 37 {LACKS}, encoder.layer.0.attention.self.query.bias first",
    "every weight is missing": f"model.safetensors: 37 of the 37 {LACKS}, embeddings.word_embeddings.weight first",
    "12 layers in the configuration, 2 in the file": f"model.safetensors: 160 of the 197 {LACKS}, encoder.layer.2.",
    "config.json: model_type = 'gpt2'": f"model.safetensors: 28 of the 28 {LACKS}, wte.weight first",
    "too few word embeddings": "model.safetensors: embeddings.word_embeddings.weight: got the shape (20, 8), expected",
    "config.json: hidden_size = 16": "model.safetensors: embeddings.LayerNorm.bias: got the shape (8,), expected (16,)",
    "a NaN in one weight": "model.safetensors: encoder.layer.1.output.dense.weight: holds NaN or infinity",
    "config.json: layer_norm_eps = -1.0": "config.json: the model that it describes makes vectors that are not finite",
    "config.json: hidden_act = 'nix'": "config.json: hidden_act: KeyError: 'nix'",
    "an id far beyond the embeddings": "tokenizer.json: its tokenizer has 1 piece with ids beyond the 53",
    "half a pickle": "pytorch_model.bin: cannot be read as weights: ",
    "a pickle that runs code": "pytorch_model.bin: not a file of weights that can be read safely",
    "tokenizer.json: {}": "tokenizer.json: Model missing",
    "zh_embedder.json: only a format": "zh_embedder.json: pooling: is missing, expected it in every folder that zh_emb",
    "sentence_bert_config.json: max_seq_length = '64'": "sentence_bert_config.json: max_seq_length: got '64'",
    "modules.json: {}": "modules.json: got {}, expected a list of stages",
}


@pytest.mark.parametrize("name", SAID)
def test_the_message_names_file_and_field(base, name):
    DAMAGES[name](base)
    with pytest.raises(UserError) as error:
        load_encoder(str(base))
    assert str(error.value).removeprefix("--query_encoder: ").startswith(f"{base}/{SAID[name]}")


def test_a_file_that_our_own_makes_needless_is_read_whole_or_refused(whole, tmp_path):
    load_encoder(str(whole)).save(tmp_path / "ours")
    modules = tmp_path / "ours" / "modules.json"
    modules.write_bytes(modules.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"ours/modules\.json: not valid JSON"):
        load_encoder(str(tmp_path / "ours"))


@pytest.mark.parametrize("name", ["the pooler is missing", "an output layer of masked words"])
def test_weights_that_make_no_vectors_may_be_missing_or_unused(base, whole, name, caplog):
    DAMAGES[name](base)
    np.testing.assert_array_equal(ours(base), ours(whole))
    assert not caplog.records


def test_layers_that_are_left_out_are_said(base, caplog):
    DAMAGES["one layer more"](base)
    load_encoder(str(base))
    (message,) = [record.getMessage() for record in caplog.records]
    assert "model.safetensors: 16 weights are left out, encoder.layer.2." in message
