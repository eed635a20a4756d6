"""A text's vector is its own, however it is batched; folders of every kind load, and what is saved comes back."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from tests.backbones import POOLED
from zh_embedder.bases.folder_format import Layout, write_layout
from zh_embedder.bases.tiny import build
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json, write_json
from zh_embedder.core.progress import Bar
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.models.spec import EncoderSpec, position_limit
from zh_embedder.text.tokens import concatenate, tokenize
from zh_embedder.text.truncation import tokenize_cut

TEXTS = [
    "土星的光环是由什么组成的",
    "猫",
    "",
    "揉好的面团里，面筋网络绷得很紧，一擀就往回缩。静置二三十分钟后，面筋逐渐松弛，水分也渗得更匀，面皮便听话多了。",
    "洗衣机羊毛档，冷水，晚八点洗完",
    "A:去西安玩，最想看兵马俑。\nB:一共几个坑来着？\nA:三个，那里头最大的是几号？",
    "下载的PDF打不开，请重新推送一份发票给我 2026-11-21",
    "猫",
]
QA = {"qa": ("为这个问题生成表示：", "为这个段落生成表示："), "tool": ("为这个请求生成表示：", "")}
CLOSE = {"rtol": 0, "atol": 1e-5}


def load(folder, *, dense=None, pooling=None, **changes) -> Encoder:
    torch.manual_seed(0)  # of a new linear layer
    return load_encoder(str(folder), pooling=pooling, dense=dense, changes=changes).eval()


def one_by_one(encoder: Encoder, texts=TEXTS) -> np.ndarray:
    """Each text alone through the bare model, pooled by its definition: no padding anywhere."""
    vectors = []
    with torch.inference_mode():
        for text in texts:
            encoded = encoder.tokenizer(text, return_tensors="pt")
            hidden = encoder.backbone(input_ids=encoded["input_ids"]).last_hidden_state[0]  # (L, H)
            vector = POOLED[encoder.spec.pooling](hidden)
            if encoder.spec.dense:
                vector = encoder.dense.weight @ vector
            vectors.append(vector / vector.norm() if encoder.spec.metric == "cos" else vector)
    return torch.stack(vectors).numpy()


@pytest.fixture(scope="module")
def encoder(tiny_bert) -> Encoder:
    return load(tiny_bert, instructions=QA, query_max_length=64, key_max_length=128)


# ---- texts to vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_a_vector_is_what_the_text_alone_gives(tiny_bert, pooling, metric, dense):
    encoder = load(tiny_bert, pooling=pooling, dense=dense, metric=metric, normalize=metric == "cos")
    vectors = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, one_by_one(encoder), **CLOSE)
    assert vectors.shape == (len(TEXTS), 32)
    assert vectors.dtype == np.float32
    norms = np.linalg.norm(vectors, axis=1)
    assert (np.abs(norms - 1) < 1e-6).all() if metric == "cos" else (np.abs(norms - 1) > 0.1).all()


@pytest.mark.parametrize("tokens_per_batch", [1, 10, 64, 8192])
def test_the_size_of_a_batch_changes_nothing(encoder, tokens_per_batch):
    np.testing.assert_allclose(encoder.encode(TEXTS, tokens_per_batch=tokens_per_batch), one_by_one(encoder), **CLOSE)


def test_batches_hold_no_more_tokens_than_asked(tiny_bert, monkeypatch):
    encoder, seen = load(tiny_bert), []
    embed = encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda tokens: (seen.append(tokens.sizes), embed(tokens))[1])
    encoder.encode(TEXTS, tokens_per_batch=40)
    lengths = sorted((len(ids) for ids in tokenize(encoder.tokenizer, TEXTS, 512)), reverse=True)
    assert [size for sizes in seen for size in sizes] == lengths  # longest first, each once
    assert all(len(sizes) == 1 or len(sizes) * sizes[0] <= 40 for sizes in seen)
    assert max(map(len, seen)) > 1


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_texts_is_the_order_of_the_vectors(encoder, seed):
    order = np.random.default_rng(seed).permutation(len(TEXTS))
    shuffled = encoder.encode([TEXTS[i] for i in order], tokens_per_batch=64)
    np.testing.assert_allclose(shuffled, encoder.encode(TEXTS)[order], **CLOSE)


@pytest.mark.parametrize("sub_batch_size", [None, 1, 3, 100])
@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_training_forward_gives_the_same_vectors(tiny_bert, sub_batch_size, multiple, side):
    encoder = load_encoder(str(tiny_bert), sub_batch_size=sub_batch_size, pad_to_multiple_of=multiple).eval()
    encoder.tokenizer.padding_side = side
    vectors = encoder(concatenate(tokenize(encoder.tokenizer, TEXTS, 512))).dense
    assert vectors.requires_grad
    np.testing.assert_allclose(vectors.detach().numpy(), one_by_one(encoder), **CLOSE)


@pytest.mark.parametrize("half", ["\ud83d", "\udc00", "\udfff"])
def test_half_a_character_is_refused_with_its_place(encoder, monkeypatch, half):
    monkeypatch.setattr("zh_embedder.models.encoder.TEXTS_PER_BLOCK", 2)
    texts = ["今天", "猫", "狗", f"天气{half}好"]
    for encode in (encoder.encode, lambda found: encoder.encode_queries(found, task="qa"), encoder.encode_keys):
        options = {"task": "qa"} if encode == encoder.encode_keys else {}
        with pytest.raises(UserError, match=r"^texts\[3\]: character 2: got '\\ud.*', expected whole characters"):
            encode(texts, **options)
    with pytest.raises(UserError, match=r"^texts\[0\]: character 0: "):
        encoder.encode(half)
    with pytest.raises(UserError, match=r"^prompt\[0\]: character 1: "):
        encoder.encode("猫", prompt=f"问{half}")


def test_one_text_gives_one_vector(encoder):
    vector = encoder.encode(TEXTS[0])
    assert vector.shape == (32,)
    np.testing.assert_allclose(vector, encoder.encode(TEXTS)[0], **CLOSE)
    assert encoder.encode_queries(TEXTS[0], task="qa").shape == (32,)
    assert encoder.encode([]).shape == (0, 32)
    np.testing.assert_array_equal(encoder.encode(tuple(TEXTS)), encoder.encode(TEXTS))


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["猫", 3], r"texts\[1\]: got 3"),
        ([None], r"texts\[0\]: got None"),
        ([["猫"]], r"texts\[0\]: got \['猫'\]"),
        ("猫".encode(), r"texts\[0\]: got 231"),
        (["猫", float("nan")], r"texts\[1\]: got nan"),  # an empty cell of a table
    ],
)
def test_what_is_no_string_is_refused(encoder, texts, shown):
    with pytest.raises(UserError, match=f"{shown}, expected a string"):
        encoder.encode(texts)


def test_encoding_is_without_dropout_and_leaves_training_as_it_was(tiny_bert):
    encoder = load(tiny_bert)
    assert encoder.config.hidden_dropout_prob > 0
    expected = encoder.encode(TEXTS)
    encoder.train()
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected)
    assert all(module.training for module in encoder.modules())
    tokens = concatenate(tokenize(encoder.tokenizer, TEXTS, 512))
    assert not torch.equal(encoder(tokens).dense, encoder(tokens).dense)  # dropout is on in training
    encoder.eval()
    encoder.encode(TEXTS)
    assert not encoder.training


# ---- precision ------------------------------------------------------------------------------------------------------


def exact_weights(encoder) -> dict:
    """The storage of every weight, and a copy of what is in it."""
    return {name: (p.data_ptr(), p.detach().clone()) for name, p in encoder.named_parameters()}


def assert_exact(encoder, before) -> None:
    """Every weight is back, in its own storage, bit for bit."""
    for name, parameter in encoder.named_parameters():
        where, value = before[name]
        assert parameter.data_ptr() == where, name
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, value), name


def precisions_seen(encoder, monkeypatch) -> list:
    """Precision of the weights, and whether in training, at each forward."""
    seen, embed = [], encoder.embed

    def watched(tokens):
        seen.append(({p.dtype for p in encoder.parameters()}, encoder.training))
        return embed(tokens)

    monkeypatch.setattr(encoder, "embed", watched)
    return seen


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("asked", "gains", "expected"),
    [
        ("fp32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_vectors_in_a_precision_and_the_exact_weights_afterwards(tiny_bert, asked, gains, expected, dense, monkeypatch):
    monkeypatch.setattr("zh_embedder.core.machine.cpu_gains_from_bf16", lambda: gains)
    encoder = load(tiny_bert, dense=dense).train()
    before, exact = exact_weights(encoder), load(tiny_bert, dense=dense).encode(TEXTS)
    seen = precisions_seen(encoder, monkeypatch)
    vectors = encoder.encode(TEXTS, dtype=asked, tokens_per_batch=40)
    assert len(seen) > 2
    assert all(one == ({expected}, False) for one in seen)
    assert_exact(encoder, before)
    assert encoder.training
    assert vectors.dtype == np.float32
    if expected is torch.float32:
        np.testing.assert_allclose(vectors, exact, **CLOSE)
    else:
        assert (vectors * exact).sum(axis=1).min() > 0.999
        assert np.abs(vectors - exact).max() > 1e-5  # it really was another precision
    np.testing.assert_allclose(encoder.encode(TEXTS), exact, **CLOSE)  # its own is fp32


def test_an_encoder_has_a_precision_of_its_own(tiny_bert, monkeypatch):
    encoder = Encoder.from_pretrained(str(tiny_bert), device="cpu", dtype="bf16")
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    seen = precisions_seen(encoder, monkeypatch)
    encoder.encode(TEXTS)
    encoder.encode(TEXTS, dtype="fp32")
    assert [dtypes for dtypes, _ in seen] == [{torch.bfloat16}, {torch.float32}]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_after_a_crash_the_weights_are_exact(tiny_bert, dtype, monkeypatch):
    encoder = load(tiny_bert, dense=True).train()
    before, embed, calls = exact_weights(encoder), encoder.embed, []

    def crash(tokens):
        calls.append(tokens)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return embed(tokens)

    monkeypatch.setattr(encoder, "embed", crash)
    with pytest.raises(RuntimeError, match="out of memory"):
        encoder.encode(TEXTS, dtype=dtype, tokens_per_batch=40)
    assert_exact(encoder, before)
    assert encoder.training


def test_training_goes_on_from_the_exact_weights(tiny_bert):
    """The optimizer holds the weights: encoding in between must not put others in their place."""
    found = []
    for between in (False, True):
        encoder = load(tiny_bert)
        optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            encoder(concatenate(tokenize(encoder.tokenizer, TEXTS, 512))).dense[:, 0].sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if between:
                encoder.encode(TEXTS, dtype="bf16")
        found.append(encoder.encode(TEXTS))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ["bf61", "float16", "int8"])
def test_an_unknown_precision_is_refused(tiny_bert, name):
    encoder = load(tiny_bert).train()
    before = exact_weights(encoder)
    with pytest.raises(UserError, match=f"^--dtype: unknown name '{name}'"):
        encoder.encode(TEXTS, dtype=name)
    assert_exact(encoder, before)
    assert encoder.training
    with pytest.raises(UserError, match=f"^--dtype: unknown name '{name}'"):
        Encoder.from_pretrained(str(tiny_bert), device="cpu", dtype=name)


# ---- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 7, 8, 100])
def test_blocks_change_nothing(encoder, block, monkeypatch):
    expected = encoder.encode(TEXTS)
    monkeypatch.setattr("zh_embedder.models.encoder.TEXTS_PER_BLOCK", block)
    tokenised = []
    monkeypatch.setattr(
        "zh_embedder.models.encoder.tokenize_cut",
        lambda tokenizer, texts, limit: (tokenised.append(len(texts)), tokenize_cut(tokenizer, texts, limit))[1],
    )
    np.testing.assert_allclose(encoder.encode(TEXTS, tokens_per_batch=64), expected, **CLOSE)
    assert sum(tokenised) == len(TEXTS)
    assert max(tokenised) <= block  # what is held as Python integers at a time


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 8192])
def test_who_listens_hears_of_every_batch(encoder, tokens_per_batch):
    ids = tokenize(encoder.tokenizer, TEXTS, 128)
    out, heard = np.full((len(ids), 32), np.nan, np.float32), []
    with encoder.encoding():
        encoder.encode_tokens(ids, out, tokens_per_batch=tokens_per_batch, done=lambda *counts: heard.append(counts))
    np.testing.assert_allclose(out, encoder.encode(TEXTS), **CLOSE)
    assert sum(texts for texts, _ in heard) == len(TEXTS)
    assert sum(tokens for _, tokens in heard) == sum(map(len, ids))
    assert len(heard) == {1: len(TEXTS), 8192: 1}.get(tokens_per_batch, len(heard))
    assert all(type(count) is int for counts in heard for count in counts)


def test_a_bar_counts_texts_and_tokens():
    with Bar(5, shown=False) as bar:
        bar.advance(2, 30)
        bar.advance(3, 12)
        assert bar.tokens == 42
    with Bar(5) as bar:
        bar.advance(2, 30)
        assert (bar.n, bar.total, bar.unit) == (2, 5, " texts")
        assert bar.postfix.endswith(" tokens/s")


# ---- instructions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(QA))
def test_instructions_stand_in_front_of_each_side(encoder, task):
    query, key = QA[task]
    expected = encoder.encode([query + text for text in TEXTS], max_length=64)
    np.testing.assert_array_equal(encoder.encode_queries(TEXTS, task=task), expected)
    expected = encoder.encode([key + text for text in TEXTS], max_length=128)
    np.testing.assert_array_equal(encoder.encode_keys(TEXTS, task=task), expected)
    np.testing.assert_array_equal(encoder.encode_corpus(TEXTS, task=task), expected)
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS, task=task), expected)


def test_each_side_is_cut_at_its_own_length(tiny_bert):
    encoder = load(tiny_bert, query_max_length=10, key_max_length=20, instructions={"qa": ("问题：", "")})
    text = "一二三四五六七八九十甲乙丙丁戊己庚辛壬癸子丑寅卯"
    whole = load(tiny_bert)
    np.testing.assert_allclose(encoder.encode_queries(text), whole.encode("问题：" + text[:5]), **CLOSE)  # 10 - 2 - 3
    np.testing.assert_allclose(encoder.encode_keys(text), whole.encode(text[:18]), **CLOSE)
    np.testing.assert_allclose(encoder.encode(text), whole.encode(text[:18]), **CLOSE)  # the longer of the two
    assert np.abs(whole.encode(text[:18]) - whole.encode(text)).max() > 1e-3


def spec(*tasks: str, default: str | None = None) -> EncoderSpec:
    return EncoderSpec(default_task=default, instructions={task: (f"{task}问：", f"{task}答：") for task in tasks})


@pytest.mark.parametrize(
    ("known", "task", "expected"),
    [
        (spec(), None, ("", "")),
        (spec("qa"), None, ("qa问：", "qa答：")),  # the only one
        (spec("qa"), "qa", ("qa问：", "qa答：")),
        (spec("qa", "tool"), "tool", ("tool问：", "tool答：")),
        (spec("qa", "tool", default="qa"), None, ("qa问：", "qa答：")),
        (spec("qa", "tool", default="qa"), "tool", ("tool问：", "tool答：")),
    ],
)
def test_a_task_gives_its_prefixes(known, task, expected):
    assert (known.prefix(task, 0), known.prefix(task, 1)) == expected


@pytest.mark.parametrize(
    ("known", "task", "message"),
    [
        (spec("qa", "tool"), None, r"^task: is missing, expected one of qa, tool$"),
        (spec("qa", "convsearch"), "convsaerch", r"^task: unknown name 'convsaerch'; did you mean 'convsearch'\?"),
        (spec("qa", default="qa"), "law", r"^task: unknown name 'law'\. Known: qa$"),
        (spec(), "qa", r"^task: unknown name 'qa'"),
        (spec("qa", default="tool"), None, r"^task: unknown name 'tool'"),
    ],
)
def test_a_task_that_is_not_there_is_refused_with_the_nearest(known, task, message):
    with pytest.raises(UserError, match=message):
        known.prefix(task, 0)


def test_prompts_are_named_by_task_and_side():
    both = {"qa": "qa问：", "qa.key": "qa答：", "tool": "tool问：", "tool.key": "tool答："}
    assert spec("qa", "tool").prompts() == both
    assert spec("qa", "tool", default="tool").prompts() == {**both, "query": "tool问：", "document": "tool答："}
    one = {"qa": "qa问：", "qa.key": "qa答：", "query": "qa问：", "document": "qa答："}
    assert spec("qa").prompts() == one
    assert spec().prompts() == {}


# ---- loading --------------------------------------------------------------------------------------------------------


def from_pretrained(folder, **options) -> Encoder:
    return Encoder.from_pretrained(str(folder), **{"device": "cpu", "dtype": "fp32", **options})


@pytest.mark.parametrize("inside", ["", "encoder"])
@pytest.mark.parametrize("dense", [False, True])
def test_what_is_saved_comes_back(tiny_bert, tmp_path, dense, inside):
    encoder = load(
        tiny_bert,
        pooling="last_token",
        dense=dense,
        metric="ip",
        normalize=False,
        instructions=QA,
        default_task="tool",
        query_max_length=20,
        key_max_length=300,
    )
    encoder.save(tmp_path / "run" / inside)
    again = from_pretrained(tmp_path / "run")
    assert again.spec == encoder.spec
    np.testing.assert_array_equal(again.encode_queries(TEXTS, task="qa"), encoder.encode_queries(TEXTS, task="qa"))
    np.testing.assert_array_equal(again.encode_keys(TEXTS), encoder.encode_keys(TEXTS))
    assert not again.training
    again.save(tmp_path / "again")  # and nothing is lost on a second way
    assert same_files(tmp_path / "run" / inside, tmp_path / "again")


def same_files(one: Path, other: Path) -> bool:
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) for folder in (one, other)]
    return names[0] == names[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names[0] if (one / name).is_file()
    )


def test_a_run_with_two_encoders_warns_that_one_is_loaded(tiny_bert, tmp_path, caplog):
    load(tiny_bert).save(tmp_path / "encoder")
    load(tiny_bert).save(tmp_path / "key_encoder")
    from_pretrained(tmp_path)
    assert "holds a key encoder too: load key_encoder/ for the keys" in caplog.text


def test_a_folder_may_be_named_from_home(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_bert, tmp_path / "base")
    load(tiny_bert).save(tmp_path / "run" / "encoder")
    for name in ("~/base", "~/run"):
        np.testing.assert_array_equal(from_pretrained(name).encode(TEXTS), load(tiny_bert).encode(TEXTS))


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize(
    ("pooling", "metric", "normalize"), [("cls", "cos", True), ("mean", "cos", False), ("mean", "ip", False)]
)
def test_a_sentence_transformers_folder_gives_its_own_vectors(tiny_bert, tmp_path, pooling, metric, normalize, newer):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path / "older"
    shutil.copytree(tiny_bert, folder)
    prompts = {"query": "问：", "document": "答：", "sts": "句："}
    write_layout(
        folder,
        Layout(pooling=pooling, dimension=32, metric=metric, max_length=20, normalize=normalize, prompts=prompts),
    )
    model = SentenceTransformer(str(folder), device="cpu")
    if newer:
        folder = tmp_path / "newer"
        model.save(str(folder))
    encoder = from_pretrained(folder)
    assert (encoder.spec.query_max_length, encoder.spec.key_max_length) == (20, 20)
    symmetric = dict.fromkeys(("classification", "clustering"), ("问：", "问："))
    assert encoder.spec.instructions == {"sts": ("句：", ""), "default": ("问：", "答："), **symmetric}
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), model.encode_query(TEXTS), **CLOSE)
    np.testing.assert_allclose(encoder.encode_keys(TEXTS), model.encode_document(TEXTS), **CLOSE)
    np.testing.assert_allclose(
        encoder.encode_queries(TEXTS, task="sts"), model.encode(TEXTS, prompt_name="sts"), **CLOSE
    )
    np.testing.assert_allclose(encoder.encode_keys(TEXTS, task="sts"), model.encode(TEXTS), **CLOSE)
    again = from_pretrained(folder, pooling="last_token")
    assert again.spec.pooling == "last_token"


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A plain model, as many hubs have them."""
    return build(tmp_path_factory.mktemp("bare") / "bare", hidden=8, layers=1, heads=1, pooling=None)


def test_a_bare_model_is_read_at_its_first_token_and_says_so(bare, caplog):
    encoder = from_pretrained(bare)
    assert encoder.spec == EncoderSpec(pooling="cls", query_max_length=512, key_max_length=512)
    np.testing.assert_allclose(encoder.encode(TEXTS), one_by_one(encoder), **CLOSE)
    (message,) = caplog.records
    assert message.levelno == logging.WARNING
    assert message.getMessage() == f"{bare} says nothing about pooling: cls is used (--pooling_method changes it)"


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_chosen_pooling_needs_no_warning(bare, caplog, pooling):
    assert from_pretrained(bare, pooling=pooling).spec.pooling == pooling
    assert not caplog.records


def with_settings(source: Path, target: Path, name: str, **changes) -> Path:
    shutil.copytree(source, target)
    write_json(target / name, {**read_json(target / name), **changes})
    return target


def test_lengths_of_a_folder_stop_at_the_positions_that_are_there(tiny_bert, tmp_path):
    folder = with_settings(tiny_bert, tmp_path / "model", "sentence_bert_config.json", max_seq_length=514)
    assert from_pretrained(folder).spec.key_max_length == 512
    assert load(folder, key_max_length=100).spec.key_max_length == 100


def test_a_pooling_that_is_not_there_is_refused(tiny_bert):
    with pytest.raises(UserError, match=r"^pooling: unknown name 'maen'; did you mean 'mean'\?"):
        from_pretrained(tiny_bert, pooling="maen")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "has no weights, expected model.safetensors in it"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 100),
            "model.safetensors: .*Error while deserializing",
        ),
        (lambda f: (f / "config.json").unlink(), "has no config.json, expected the folder of a base"),
        (lambda f: write_json(f / "config.json", {"model_type": "bertt"}), "config.json: model_type: .*bertt"),
        (lambda f: [p.unlink() for p in [*f.glob("tokenizer*"), f / "vocab.txt"]], "has no tokenizer"),
        (lambda f: write_json(f / "zh_embedder.json", {"matryoshka": [1]}), "matryoshka: written by a newer"),
    ],
    ids=["no weights", "broken weights", "no config", "unknown type", "no tokenizer", "newer"],
)
def test_a_damaged_folder_is_refused_by_name(tiny_bert, tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        load_encoder(str(folder), flag="--query_encoder")
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["./missing", "/no/such/folder", "data/outputs/icl", "out/checkpoint-2000/"])
def test_a_missing_folder_is_no_hub_name(name):
    with pytest.raises(UserError) as error:
        load_encoder(name)
    assert str(error.value) == (
        f"--query_encoder: got {name!r}, expected a folder that is there, or a hub name such as BAAI/bge-large-zh-v1.5"
    )


def test_an_unreachable_hub_is_said_with_what_to_do(tmp_path):
    with pytest.raises(UserError) as error:
        load_encoder("BAAI/bge-large-zh-v1.5", cache_dir=str(tmp_path))
    message = str(error.value)
    assert message.startswith(
        "--query_encoder: BAAI/bge-large-zh-v1.5 could not be loaded: there is no such folder here"
    )
    for help_ in (
        "`hf download BAAI/bge-large-zh-v1.5 --local-dir bge-large-zh-v1.5`",
        f"HF_HUB_OFFLINE is set, and not all of it is in the cache {tmp_path}",
        "`unset HF_HUB_OFFLINE`",
        "--model_cache_dir",
        "HF_ENDPOINT",
        "modelscope:BAAI/bge-large-zh-v1.5",
    ):
        assert help_ in message


DENSE_SETTINGS = {"in_features": 32, "out_features": 32, "bias": False}
IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    ("weights", "activation", "right"),
    [
        ({"linear.weight": torch.eye(32) * 2}, IDENTITY, True),
        ({"linear.weight": torch.eye(32)}, "torch.nn.modules.activation.Tanh", False),
        ({"linear.weight": torch.eye(32), "linear.bias": torch.zeros(32)}, IDENTITY, False),
        ({"linear.weight": torch.ones(16, 32)}, IDENTITY, False),
    ],
    ids=["ours", "activation", "bias", "narrower"],
)
def test_a_linear_layer_is_loaded_or_refused(tiny_bert, tmp_path, weights, activation, right):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    write_layout(folder, Layout(pooling="mean", dimension=32, metric="ip", normalize=False, max_length=512, dense=True))
    write_json(folder / "2_Dense" / "config.json", {**DENSE_SETTINGS, "activation_function": activation})
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    plain = load(folder, dense=False)  # without the layer
    if right:
        np.testing.assert_allclose(load(folder).encode(TEXTS), 2 * plain.encode(TEXTS), **CLOSE)
        return
    with pytest.raises(
        UserError, match=r"2_Dense/model\.safetensors: got a linear layer of .*square, without activation"
    ):
        load(folder)


def test_a_linear_layer_without_weights_is_refused(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    write_layout(folder, Layout(pooling="mean", dimension=32, metric="cos", max_length=512, dense=True))
    with pytest.raises(UserError, match=r"2_Dense/model\.safetensors: got a linear layer of \{\}"):
        load(folder)


# ---- lengths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["query_max_length", "key_max_length"])
def test_a_length_without_positions_is_refused_with_the_limit(tiny_bert, side):
    load(tiny_bert, **{side: 512})
    with pytest.raises(UserError, match=f"^--{side}: got 513, expected at most 512, the positions of this base$"):
        load(tiny_bert, **{side: 513})


SMALL = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "pad_token_id": 1,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Bert", 20), ("Electra", 20), ("Roberta", 18), ("XLMRoberta", 18), ("Camembert", 18), ("MPNet", 18)],
)
def test_the_limit_is_the_longest_text_that_the_model_can_read(name, expected):
    """RoBERTa-like models count their positions from behind the padding id."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**SMALL, max_position_embeddings=20)
    model = getattr(transformers, f"{name}Model")(config).eval()
    assert position_limit(config) == expected

    def read(length: int):
        return model(input_ids=torch.full((1, length), 5), attention_mask=torch.ones(1, length))

    assert read(expected).last_hidden_state.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        read(expected + 1)


def test_a_model_that_rotates_its_positions_has_the_limit_of_its_configuration():
    from transformers import ModernBertConfig, Qwen3Config

    assert position_limit(Qwen3Config(max_position_embeddings=32768)) == 32768
    assert position_limit(ModernBertConfig(max_position_embeddings=8192)) == 8192


# ---- saving ---------------------------------------------------------------------------------------------------------


def test_a_saved_folder_has_what_every_reader_wants(tiny_bert, tmp_path):
    encoder = load(tiny_bert, instructions=QA, default_task="qa", query_max_length=30, key_max_length=40)
    encoder.save(tmp_path / "encoder")
    folder = tmp_path / "encoder"
    weights, own = load_file(folder / "model.safetensors"), encoder.backbone.state_dict()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    assert any(name.startswith("pooler.") for name in weights)  # no reader complains of missing weights
    config = read_json(folder / "config.json")
    assert (config["model_type"], config["architectures"], config["hidden_size"]) == ("bert", ["BertModel"], 32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((folder / name).read_text("utf-8"))
    assert (folder / "vocab.txt").read_bytes() == (tiny_bert / "vocab.txt").read_bytes()
    assert read_json(folder / "special_tokens_map.json")["cls_token"] == "[CLS]"
    assert read_json(folder / "sentence_bert_config.json")["max_seq_length"] == 40
    assert read_json(folder / "config_sentence_transformers.json")["prompts"] == {
        "qa": QA["qa"][0],
        "qa.key": QA["qa"][1],
        "tool": QA["tool"][0],
        "tool.key": "",
        "query": QA["qa"][0],
        "document": QA["qa"][1],
    }
    assert read_json(folder / "zh_embedder.json") == {
        "format": 1,
        "pooling": "mean",
        "dense": False,
        "normalize": True,
        "metric": "cos",
        "query_max_length": 30,
        "key_max_length": 40,
        "default_task": "qa",
        "instructions": {task: list(sides) for task, sides in QA.items()},
    }


def test_plain_transformers_loads_a_saved_folder(tiny_bert, tmp_path):
    encoder = load(tiny_bert, pooling="cls")
    encoder.save(tmp_path / "encoder")
    model = AutoModel.from_pretrained(tmp_path / "encoder").eval()
    encoded = AutoTokenizer.from_pretrained(tmp_path / "encoder")(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        vector = F.normalize(model(**encoded).last_hidden_state[0, 0], dim=-1)
    np.testing.assert_allclose(encoder.encode(TEXTS[0]), vector.numpy(), **CLOSE)


def test_the_side_that_is_cut_is_saved(tiny_bert, tmp_path):
    encoder = load_encoder(str(tiny_bert), truncation_side="left", changes={"query_max_length": 8}).eval()
    encoder.save(tmp_path / "encoder")
    again = from_pretrained(tmp_path / "encoder")
    np.testing.assert_array_equal(again.encode_queries(TEXTS), encoder.encode_queries(TEXTS))
    np.testing.assert_allclose(again.encode_queries(TEXTS[0]), again.encode(TEXTS[0][-6:]), **CLOSE)


def test_of_a_task_that_keeps_the_end_the_instruction_stays(tiny_bert):
    sides = {"tool": ("left", "left"), "qa": (None, "right")}
    encoder = load(tiny_bert, instructions=QA, truncation_sides=sides, query_max_length=20, key_max_length=14)
    own, texts = QA["tool"][0], TEXTS[:5]  # a token a character
    expected = encoder.encode([own + text[-(18 - len(own)) :] for text in texts])
    np.testing.assert_allclose(encoder.encode_queries(texts, task="tool"), expected, **CLOSE)
    np.testing.assert_allclose(
        encoder.encode_keys(texts, task="tool"), encoder.encode([text[-12:] for text in texts]), **CLOSE
    )
    front = [(QA["qa"][1] + text)[:12] for text in texts]
    np.testing.assert_allclose(encoder.encode_keys(texts, task="qa"), encoder.encode(front), **CLOSE)
    prompts = [own, "", own, own, own]
    mixed = encoder.encode(texts, prompt=prompts, max_length=20, truncation_side="left")
    np.testing.assert_allclose(mixed[[0, 2, 3, 4]], expected[[0, 2, 3, 4]], **CLOSE)
    np.testing.assert_allclose(mixed[1], encoder.encode(texts[1]), **CLOSE)
    pooled = load(tiny_bert, pooling="mean", include_prompt=False)
    ends = pooled.encode([text[-(18 - len(own)) :] for text in texts], prompt=own)
    np.testing.assert_allclose(pooled.encode(texts, prompt=own, max_length=20, truncation_side="left"), ends, **CLOSE)


def test_weights_given_are_written_in_place_of_ours_and_in_full_precision(tiny_bert, tmp_path):
    encoder = load(tiny_bert, dense=True)
    state = {name: (value * 2).bfloat16() for name, value in encoder.state_dict().items()}
    encoder.save(tmp_path / "encoder", state=state)
    saved = load_file(tmp_path / "encoder" / "model.safetensors")
    saved = {f"backbone.{name}": value for name, value in saved.items()}
    saved["dense.weight"] = load_file(tmp_path / "encoder" / "2_Dense" / "model.safetensors")["linear.weight"]
    assert saved.keys() == state.keys()
    for name, value in saved.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].float()), name


@pytest.mark.parametrize("where", ["backbone.save_pretrained", "save_dense"])
def test_a_crash_while_saving_leaves_the_old_folder_and_no_other(tiny_bert, tmp_path, monkeypatch, where):
    target = tmp_path / "run" / "encoder"
    load(tiny_bert, dense=True).save(target)
    shutil.copytree(target, tmp_path / "before")
    encoder = load(tiny_bert, dense=True, pooling="cls")
    owner = encoder.backbone if where.startswith("backbone") else encoder

    def crash(folder, *_args, **_options):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "config.json").write_text("{", "utf-8")
        raise OSError("no space left on device")

    monkeypatch.setattr(owner, where.split(".")[-1], crash)
    for _ in range(2):
        with pytest.raises(UserError, match="encoder: no space left"):
            encoder.save(target)
        assert same_files(target, tmp_path / "before")
        assert [p.name for p in target.parent.iterdir()] == ["encoder"]
    monkeypatch.undo()
    encoder.save(target)
    assert from_pretrained(target).spec.pooling == "cls"


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_every_weight_but_the_pooler_learns(tiny_bert, pooling, dense):
    encoder = load(tiny_bert, pooling=pooling, dense=dense).train()
    vectors = encoder(concatenate(tokenize(encoder.tokenizer, TEXTS, 512))).dense
    (vectors * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in encoder.named_parameters():
        if "pooler" in name:
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            # A bias of all keys alike moves every score of a softmax alike: its gradient is 0 but for rounding.
            assert parameter.grad.abs().max() > (0 if "key.bias" in name else 1e-6), name


def test_a_hub_name_is_read_from_the_cache_without_network(tmp_path):
    """A cache as `hf download` leaves it: refs, a snapshot, and the pooling files beside the weights."""
    from zh_embedder.bases.tiny import build

    cached = tmp_path / "models--BAAI--bge-large-zh-v1.5"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = build(cached / "snapshots" / commit, hidden=32, heads=2, pooling="last_token")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit, "utf-8")
    by_name = load_encoder("BAAI/bge-large-zh-v1.5", cache_dir=str(tmp_path))
    by_folder = load_encoder(str(snapshot))
    assert by_name.spec.pooling == "last_token"
    text = "从缓存里读出来的模型"
    np.testing.assert_array_equal(by_name.eval().encode(text), by_folder.eval().encode(text))


# ---- instructions in the mean or not --------------------------------------------------------------------------------


def test_whether_instructions_are_pooled_is_the_folders_unless_a_flag_says_otherwise(tiny_bert, tmp_path, caplog):
    encoder = load(tiny_bert)
    assert encoder.spec.include_prompt is True
    encoder.save(tmp_path / "with")
    assert "include_prompt" not in read_json(tmp_path / "with" / "zh_embedder.json")  # older releases read it
    load_encoder(str(tiny_bert), include_prompt=False).save(tmp_path / "own")
    shutil.copytree(tmp_path / "own", tmp_path / "theirs")
    (tmp_path / "theirs" / "zh_embedder.json").unlink()  # sentence-transformers' files alone
    for folder in (tmp_path / "own", tmp_path / "theirs"):
        assert from_pretrained(folder).spec.include_prompt is False
        assert from_pretrained(folder, include_prompt=True).spec.include_prompt is True
        with pytest.raises(
            UserError, match=r"^--include_prompt: got False, expected True with pooling cls, which takes"
        ):
            from_pretrained(folder, include_prompt=False, pooling="cls")
    assert not caplog.records
    assert from_pretrained(tmp_path / "own", pooling="cls").spec.include_prompt is True
    assert "leaves the prompt's tokens out of the mean: with pooling cls, none are" in caplog.text


@pytest.mark.parametrize("name", ["zh_embedder.json", "1_Pooling/config.json"])
def test_a_folder_that_leaves_the_prompt_out_of_one_token_is_refused(tiny_bert, tmp_path, name):
    load(tiny_bert, pooling="cls").save(tmp_path / "saved")
    if name != "zh_embedder.json":
        (tmp_path / "saved" / "zh_embedder.json").unlink()
    folder = with_settings(tmp_path / "saved", tmp_path / "model", name, include_prompt=False)
    with pytest.raises(
        UserError, match=rf"{name}: include_prompt: got False, expected [Tt]rue with (the )?pooling cls"
    ):
        from_pretrained(folder)
