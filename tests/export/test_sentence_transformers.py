"""What is exported makes our vectors in sentence-transformers, or is not exported at all."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.processes import environment, forked, start
from zh_embedder.cli import call
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json
from zh_embedder.export.parity import SAMPLES, within
from zh_embedder.export.sentence_transformers import check_finite, export, lengths_text
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.models.spec import EncoderSpec
from zh_embedder.text.tokens import tokenize

TASKS = {
    "qa": ("为这个问题生成表示，以用于检索能够回答它的段落：", "为这个段落生成表示，以用于检索："),
    "tool": ("为这个用户请求生成表示：", ""),
    "chat": ("多行\n“提示”|：", "答：\n"),
}
TEXTS = [
    "土星的光环是由什么组成的",
    "",
    "揉好的面团里，面筋网络绷得很紧，一擀就往回缩。静置二三十分钟后，面筋逐渐松弛，水分也渗得更匀，面皮便听话多了。",
    "A:去西安玩，最想看兵马俑。\nB:一共几个坑来着？\nA:三个，那里头最大的是几号？",
    "  前后有空格  ",
    "PDF 2026-11-21 😀",
]


@pytest.fixture
def trained(tiny_bert, tmp_path):
    """The folder of a run whose encoder has these settings."""

    def make(*, pooling=None, dense=False, **changes) -> Path:
        torch.manual_seed(0)
        changes = {"instructions": TASKS, "query_max_length": 128, "key_max_length": 128, **changes}
        load_encoder(str(tiny_bert), pooling=pooling, dense=dense, changes=changes).save(tmp_path / "run" / "encoder")
        return tmp_path / "run"

    return make


def theirs(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def ours(folder: Path) -> Encoder:
    return Encoder.from_pretrained(str(folder), device="cpu", dtype="fp32")


def assert_equal(one, other) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- equal vectors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "metric", "dense"),
    [
        *((pooling, "cos", False) for pooling in sorted(POOLINGS)),
        ("cls", "cos", True),
        ("mean", "ip", False),
        ("last_token", "ip", True),
        ("mean", "l2", False),
    ],
)
def test_the_vectors_of_every_task_and_side_are_ours(trained, tmp_path, pooling, metric, dense):
    run = trained(pooling=pooling, dense=dense, metric=metric, normalize=metric == "cos")
    found = export(str(run), tmp_path / "out", default_task="tool")
    names = {task + suffix for task in TASKS for suffix in ("", ".key")} | {"encode_query", "encode_document"}
    assert found.by_prompt.keys() == names
    assert found.largest == max(found.by_prompt.values()) <= 1e-5
    encoder, model = ours(run), theirs(tmp_path / "out")
    for task in TASKS:
        assert_equal(model.encode(TEXTS, prompt_name=task), encoder.encode_queries(TEXTS, task=task))
        assert_equal(model.encode(TEXTS, prompt_name=f"{task}.key"), encoder.encode_keys(TEXTS, task=task))
    assert_equal(model.encode(TEXTS), encoder.encode(TEXTS))
    assert_equal(model.encode_query(TEXTS), encoder.encode_queries(TEXTS, task="tool"))
    assert_equal(model.encode_document(TEXTS), encoder.encode_keys(TEXTS, task="tool"))
    queries, keys = encoder.encode_queries(TEXTS, task="qa"), encoder.encode_keys(TEXTS, task="qa")
    expected = -np.linalg.norm(queries[:, None] - keys[None], axis=2) if metric == "l2" else queries @ keys.T
    np.testing.assert_allclose(model.similarity(queries, keys), expected, atol=1e-4)
    assert model.similarity_fn_name == {"cos": "cosine", "ip": "dot", "l2": "euclidean"}[metric]


def test_what_is_exported_loads_as_it_was_and_exports_again(trained, tmp_path):
    run = trained(dense=True, query_max_length=100, key_max_length=120)
    one, two = tmp_path / "one" / "mine", tmp_path / "two" / "mine"
    export(str(run), one, default_task="qa")
    encoder = ours(one)
    assert encoder.spec.default_task == "qa"
    assert encoder.spec.instructions == TASKS
    np.testing.assert_array_equal(encoder.encode_queries(TEXTS), ours(run).encode_queries(TEXTS, task="qa"))
    export(str(one), two)
    assert everything(one) == everything(two)


@pytest.mark.parametrize("source", ["run", "run/encoder", "run/checkpoint-7"])
def test_runs_checkpoints_and_encoders_are_exported_alike(trained, tmp_path, source):
    run = trained()
    shutil.copytree(run / "encoder", run / "checkpoint-7" / "encoder")
    export(str(tmp_path / source), tmp_path / "out")
    expected = everything(run / "encoder")
    assert {name: raw for name, raw in everything(tmp_path / "out").items() if name != "README.md"} == expected


def test_a_base_without_tasks_is_exported_too(tiny_bert, tmp_path):
    found = export(str(tiny_bert), tmp_path / "out")
    assert found.by_prompt.keys() == {"no prompt"}
    assert_equal(theirs(tmp_path / "out").encode(TEXTS), ours(tiny_bert).encode(TEXTS))


def test_a_single_task_is_the_default(trained, tmp_path):
    run = trained(instructions={"law": ("问：", "答：")})
    found = export(str(run), tmp_path / "out")
    assert found.by_prompt.keys() == {"law", "law.key", "encode_query", "encode_document"}
    assert_equal(theirs(tmp_path / "out").encode_document(TEXTS), ours(run).encode_keys(TEXTS, task="law"))


def test_the_cut_side_goes_along(tiny_bert, tmp_path):
    encoder = load_encoder(
        str(tiny_bert), truncation_side="left", changes={"query_max_length": 12, "key_max_length": 12}
    )
    encoder.save(tmp_path / "run" / "encoder")
    export(str(tmp_path / "run"), tmp_path / "out")
    assert_equal(theirs(tmp_path / "out").encode(TEXTS), encoder.encode(TEXTS))  # texts of more than 12 tokens too


# ---- instructions left out of the mean ------------------------------------------------------------------------------

MERGED = ("▁问", "：土", "星的", "query", "queryabc", "▁query")  # pieces across the end of a prompt
PROMPTS = {"qa": ("为这个问题生成表示：", ""), "long": ("很长的指令，" * 8, "答：\n"), "word": ("query", " ")}


@pytest.fixture
def base_of(tiny_bert, tmp_path):
    """A base with a tokenizer of a kind."""

    def make(kind: str) -> Path:
        folder = tmp_path / "base"
        shutil.copytree(tiny_bert, folder)
        if kind == "wordpiece":
            return folder
        pieces = [
            "<pad>",
            "<unk>",
            "<s>",
            "</s>",
            "▁",
            *sorted({*"".join(TEXTS)}),
            *"".join(map("".join, PROMPTS.values())),
            *MERGED,
        ]
        backend = Tokenizer(Unigram([(piece, -(len(piece) ** 0.5)) for piece in dict.fromkeys(pieces)], unk_id=1))
        backend.pre_tokenizer = Metaspace()
        if kind == "unigram":
            backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
        for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
            (folder / file).unlink(missing_ok=True)
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
        return folder

    return make


def without_prompt(encoder: Encoder, text: str, prompt: str, limit: int) -> np.ndarray:
    """By definition: the states of one text alone, those of its prompt skipped, their mean, normalised."""
    alone, whole = (
        encoder.tokenizer(t, truncation=True, max_length=limit)["input_ids"] for t in (prompt, prompt + text)
    )
    skipped = len(alone) - (alone[-1] in encoder.tokenizer.all_special_ids) if prompt else 0
    with torch.inference_mode():
        states = encoder.backbone(input_ids=torch.tensor([whole])).last_hidden_state[0][skipped:]
    vector = states.mean(dim=0) if len(states) else torch.zeros(encoder.dimension)
    vector = vector if encoder.dense is None else encoder.dense.weight.detach() @ vector
    return (vector / max(vector.norm().item(), 1e-12)).numpy()


@pytest.mark.parametrize(
    ("kind", "side", "dense"),
    [
        ("wordpiece", "right", True),
        pytest.param("wordpiece", "left", False, marks=pytest.mark.full),
        pytest.param("unigram", "right", False, marks=pytest.mark.full),
        ("unigram", "left", False),
        ("no special tokens", "right", False),
    ],
)
def test_instructions_are_left_out_of_the_mean_as_sentence_transformers_does(base_of, tmp_path, kind, side, dense):
    changes = {"instructions": PROMPTS, "query_max_length": 48, "key_max_length": 48}
    torch.manual_seed(0)
    encoder = load_encoder(
        str(base_of(kind)), include_prompt=False, truncation_side=side, dense=dense, changes=changes
    ).eval()
    encoder.save(tmp_path / "run" / "encoder")
    assert export(str(tmp_path / "run"), tmp_path / "out", default_task="qa").largest <= 1e-6
    again, model = ours(tmp_path / "out"), theirs(tmp_path / "out")
    assert again.spec.include_prompt is False
    # Of texts that are cut on the left, sentence-transformers cuts the prompt, and we do not.
    texts = [*TEXTS, "abc", "土星" * 60] if side == "right" else ["猫", "", "abc"]
    for task, (query, key) in PROMPTS.items():
        vectors = again.encode_queries(texts, task=task)
        assert_close(model.encode(texts, prompt_name=task), vectors)
        assert_close(vectors, [without_prompt(encoder, text, query, 48) for text in texts])
        # Without special tokens, nothing at all is no token to sentence-transformers and one to us.
        full = [text for text in texts if kind != "no special tokens" or f"{key}{text}".strip()]
        keys = again.encode_keys(full, task=task)
        assert_close(model.encode(full, prompt_name=f"{task}.key"), keys)
        assert_close(keys, [without_prompt(encoder, text, key, 48) for text in full])
    assert_close(model.encode(TEXTS[2:]), again.encode(TEXTS[2:]))
    assert np.abs(again.encode_queries(texts[:1]) - again.encode(texts[:1], prompt="别的指令：")).max() > 1e-4
    if kind == "no special tokens":
        assert not again.encode_queries([""], task="qa").any()  # nothing is left to pool


def assert_close(one, other) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_an_export_says_that_other_readers_pool_the_instruction_too(tiny_bert, tmp_path, capsys):
    for include in (True, False):
        encoder = load_encoder(str(tiny_bert), include_prompt=include, changes={"instructions": TASKS})
        encoder.save(tmp_path / f"{include}")
        assert call("export", [str(tmp_path / f"{include}"), str(tmp_path / f"out-{include}")]) == 0
        said, shown = capsys.readouterr().out, (tmp_path / f"out-{include}" / "README.md").read_text("utf-8")
        assert ("include_prompt: false" in said, "include_prompt: false" in shown) == (not include,) * 2
        assert read_json(tmp_path / f"out-{include}" / "1_Pooling" / "config.json")["include_prompt"] is include


# ---- two maximum lengths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("query", "key"), [(48, 96), (96, 48)])
def test_of_two_lengths_the_larger_is_written(trained, tmp_path, query, key):
    run = trained(query_max_length=query, key_max_length=key)
    assert export(str(run), tmp_path / "out", default_task="qa").largest <= 1e-5
    encoder, model = ours(run), theirs(tmp_path / "out")
    assert model.max_seq_length == 96
    short, long = TEXTS[0], TEXTS[2] * 3
    assert_equal(model.encode_query(short), encoder.encode_queries(short, task="qa"))
    same = [
        np.abs(model.encode_query(long) - encoder.encode_queries(long, task="qa")).max() < 1e-5,
        np.abs(model.encode_document(long) - encoder.encode_keys(long, task="qa")).max() < 1e-5,
    ]
    assert same == [query == 96, key == 96]  # the shorter side reads on in sentence-transformers: the card says so
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"In use at most {query} tokens of a query and {key} of a key are read" in card
    assert "Trained with" not in card


def test_the_card_tells_both_lengths_and_what_other_readers_cut_otherwise(trained, tmp_path, caplog):
    run = trained(training_lengths=(48, 96), truncation_sides={"qa": ("left", None)})
    with caplog.at_level("INFO"):
        export(str(run), tmp_path / "out", default_task="qa")
    assert ours(tmp_path / "out").spec == replace(ours(run).spec, default_task="qa")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert (
        "Trained with at most 48 tokens of a query and 96 of a key. In use at most 128 tokens of a query and 128 of a "
        "key are read. sentence-transformers cuts"
    ) in card
    said = "cuts longer texts on one side for all (right), prompts included. zh_embedder keeps the prompt, and of the "
    assert f"{said}queries of qa the end: cut such texts yourself" in card
    assert f"{tmp_path / 'out'}: sentence-transformers {said}queries of qa" in caplog.text
    assert "cuts longer texts" not in lengths_text(ours(trained()))


def byte_tokenizer():
    """Three tokens a Chinese character, as tokenizers of bytes may have."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[CLS]", "[SEP]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


@pytest.fixture
def of_bytes(tiny_bert):
    encoder = load_encoder(str(tiny_bert), changes={"instructions": TASKS, "query_max_length": 100}).eval()
    encoder.tokenizer = byte_tokenizer()
    return encoder


def test_parity_is_proven_within_both_lengths_whatever_a_character_costs(of_bytes, tmp_path):
    of_bytes.save(tmp_path / "encoder")
    assert export(str(tmp_path), tmp_path / "out", default_task="qa").largest <= 1e-5


def test_samples_are_shortened_until_both_lengths_hold_them(of_bytes):
    found = within(of_bytes, SAMPLES)
    for text, sample in zip(found, SAMPLES, strict=True):
        assert sample.startswith(text)
        assert text
        lengths = [
            len(ids)
            for sides in TASKS.values()
            for ids in tokenize(of_bytes.tokenizer, [p + text for p in sides], 9999)
        ]
        assert max(lengths) <= 100
        assert text == sample or max(lengths) > 90  # and no more than needed
    assert len(set(found)) == len(SAMPLES)


# ---- nothing or everything ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "damage", "worst", "there"),
    [
        ("为这个问题", lambda v: v + 1e-3, "qa", False),
        ("为这个段落", lambda v: v * float("nan"), r"qa\.key", False),
        ("为这个用户", lambda v: v[::-1], "tool", True),
    ],
    ids=["moved", "nan", "other rows"],
)
def test_vectors_that_differ_are_not_exported(trained, tmp_path, monkeypatch, side, damage, worst, there):
    run = trained()
    if there:
        export(str(run), tmp_path / "out", default_task="chat")
    before = everything(tmp_path)
    encode = Encoder.encode

    def broken(self, texts, *, prompt="", **options):
        vectors = encode(self, texts, prompt=prompt, **options)
        return damage(vectors) if prompt.startswith(side) else vectors

    monkeypatch.setattr(Encoder, "encode", broken)
    with pytest.raises(
        UserError, match=rf"out: sentence-transformers differs by .* \({worst}\), more than 0\.0001: not"
    ):
        export(str(run), tmp_path / "out", overwrite=True)
    assert everything(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == (["out", "run"] if there else ["run"])


def test_a_wrong_prompt_in_the_folder_is_noticed(trained, tmp_path, monkeypatch):
    prompts = EncoderSpec.prompts
    monkeypatch.setattr(EncoderSpec, "prompts", lambda self: {**prompts(self), "document": "别的："})
    with pytest.raises(UserError, match=r"\(encode_document\), more than 0\.0001: not exported"):
        export(str(trained()), tmp_path / "out", default_task="qa")
    assert not (tmp_path / "out").exists()


def test_a_crash_leaves_nothing(trained, tmp_path, monkeypatch):
    run = trained()
    monkeypatch.setattr("zh_embedder.export.sentence_transformers.card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(str(run), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_there_is_replaced_only_if_asked(trained, tmp_path):
    run = trained()
    export(str(run), tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("旧", "utf-8")
    before = everything(tmp_path / "out")
    with pytest.raises(UserError, match=r"out: is there already, expected a new folder, or --overwrite$"):
        export(str(run), tmp_path / "out", default_task="qa")
    assert everything(tmp_path / "out") == before
    with pytest.raises(UserError, match=r"out holds notes.txt, expected an earlier export and nothing else$"):
        export(str(run), tmp_path / "out", default_task="qa", overwrite=True)
    assert everything(tmp_path / "out") == before
    (tmp_path / "out" / "notes.txt").unlink()
    export(str(run), tmp_path / "out", default_task="qa", overwrite=True)
    assert everything(tmp_path / "out").keys() == before.keys() - {"notes.txt"}
    assert ours(tmp_path / "out").spec.default_task == "qa"


def test_an_encoder_may_be_exported_onto_itself(trained):
    encoder = trained() / "encoder"
    expected = ours(encoder).encode_queries(TEXTS, task="qa")
    export(str(encoder), encoder, default_task="qa", overwrite=True)
    np.testing.assert_array_equal(ours(encoder).encode_queries(TEXTS), expected)


def test_a_run_or_any_other_folder_is_never_replaced(trained, tmp_path):
    run = trained()
    before = everything(run)
    with pytest.raises(UserError, match=r"--overwrite: .*run holds .*, expected an earlier export"):
        export(str(run), run, overwrite=True)
    assert everything(run) == before


def test_an_empty_folder_is_filled_and_a_missing_parent_made(trained, tmp_path):
    run = trained()
    (tmp_path / "empty").mkdir()
    export(str(run), tmp_path / "empty")
    export(str(run), tmp_path / "deep" / "er" / "out")
    assert everything(tmp_path / "empty").keys() == everything(tmp_path / "deep" / "er" / "out").keys()


def test_a_file_in_the_way_is_refused(trained, tmp_path):
    (tmp_path / "out").write_text("旧", "utf-8")
    with pytest.raises(UserError, match=r"out: is a file, expected a folder"):
        export(str(trained()), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_text("utf-8") == "旧"


def test_an_unknown_default_task_is_refused_with_the_nearest(trained, tmp_path):
    with pytest.raises(
        UserError, match=r"^--default_task: unknown name 'tol'; did you mean 'tool'\? Known: chat, qa, tool"
    ):
        export(str(trained()), tmp_path / "out", default_task="tol")
    assert not (tmp_path / "out").exists()


# ---- the card -------------------------------------------------------------------------------------------------------


def test_the_card_shows_the_prompts_and_how_equal_the_vectors_are(trained, tmp_path):
    found = export(
        str(trained(metric="ip", normalize=False, pooling="cls")), tmp_path / "my-embedder", default_task="qa"
    )
    card = (tmp_path / "my-embedder" / "README.md").read_text("utf-8")
    head, body = card.removeprefix("---\n").split("\n---\n")
    assert "library_name: sentence-transformers" in head.splitlines()
    assert body.startswith("\n# my-embedder\n")
    assert "32 dimensions, cls pooling, ip similarity, texts\nup to 128 tokens." in body
    assert "`encode_query` and `encode_document` use the instructions of task `qa`." in body
    table = [line for line in body.splitlines() if line.startswith("| ")]
    assert table == [
        "| task | prompt of queries | prompt of keys |",
        "| chat | `多行\\n“提示”\\|：` | `答：\\n` |",
        f"| qa | `{TASKS['qa'][0]}` | `{TASKS['qa'][1]}` |",
        "| tool | `为这个用户请求生成表示：` | `` |",
    ]
    assert f"fp32: {found.largest:.1e}." in body
    assert 'prompt_name="qa")' in body
    assert 'prompt_name="qa.key")' in body


@pytest.mark.parametrize(
    ("base", "line", "sentence"),
    [
        (None, None, None),
        ("nano-zh", "intfloat/multilingual-e5-small", "nano-zh, made of intfloat/multilingual-e5-small (licence: MIT)"),
        ("nano-zh-static", None, "nano-zh-static (licence: Apache-2.0)"),
        ("BAAI/bge-large-zh-v1.5", "BAAI/bge-large-zh-v1.5", "BAAI/bge-large-zh-v1.5 (licence: MIT)"),
        ('some/m"odel\nx: y', 'some/m"odel\nx: y', 'some/m"odel\nx: y'),
    ],
)
def test_the_card_says_what_the_model_began_as_and_under_which_licence(trained, tmp_path, base, line, sentence):
    export(str(trained(base=base)), tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text("utf-8")
    head, body = card.removeprefix("---\n").split("\n---\n")
    assert yaml.safe_load(head).get("base_model") == line
    assert "x" not in yaml.safe_load(head)
    assert ("It began as" in body) == (base is not None)
    assert sentence is None or f"tokens. It began as {sentence}.\n" in body
    assert load_encoder(str(tmp_path / "mine")).spec.base == base  # a training from there goes on saying it


def test_a_base_is_known_by_its_name_and_a_folder_by_none(tmp_path, tiny_bert):
    assert load_encoder("nano-zh-static").spec.base == "nano-zh-static"
    assert load_encoder(str(tiny_bert)).spec.base is None
    load_encoder("nano-zh-static").save(tmp_path / "saved")
    assert load_encoder(str(tmp_path / "saved")).spec.base == "nano-zh-static"


def test_the_card_says_when_no_default_was_chosen(trained, tmp_path):
    export(str(trained()), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "`encode_query` and `encode_document` have no instruction: no default task was chosen on export." in card
    prompts = read_json(tmp_path / "out" / "config_sentence_transformers.json")["prompts"]
    assert prompts.keys() == {task + suffix for task in TASKS for suffix in ("", ".key")}


def test_the_example_on_the_card_runs(trained, tmp_path, monkeypatch):
    export(str(trained()), tmp_path / "out", default_task="qa")
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "out" / "README.md").read_text("utf-8").split("```")[1].removeprefix("python\n")
    found: dict = {}
    exec(code, found)
    assert found["scores"].shape == (1, 1)
    assert_equal(found["queries"], ours(tmp_path / "out").encode_queries(["..."]))


# ---- commands -------------------------------------------------------------------------------------------------------


def test_a_users_mistake_is_said_without_a_traceback(tmp_path, capsys):
    assert call("export", [str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: ENCODER: got '{tmp_path / 'nowhere'}', expected a folder")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [[str(Path(sys.executable).parent / "zh-embedder"), "export"], ["-m", "zh_embedder.export"]],
    ids=["zh-embedder", "python -m"],
)
def test_both_commands_export(trained, tmp_path, command):
    run, out = trained(), tmp_path / "out"
    env = {**environment(tmp_path), "PYTHONWARNINGS": "error::RuntimeWarning"}
    process = start([*forked(), *command, run, out, "--default_task", "tool"], tmp_path, env=env, apart=True)
    printed, complaints = process.communicate(timeout=400)
    assert process.returncode == 0, complaints
    first, second = printed.splitlines()
    assert first == f"exported {out}"
    said = float(second.removeprefix("parity with sentence-transformers: max |diff| ").removesuffix(" over 8 prompts"))
    assert said <= 1e-5
    assert "Traceback" not in complaints
    assert_equal(theirs(out).encode_query(TEXTS), ours(run).encode_queries(TEXTS, task="tool"))


def test_both_encoders_of_a_run_are_exported(trained, tmp_path, capsys):
    run = trained()
    shutil.copytree(run / "encoder", run / "key_encoder")
    assert call("export", [str(run), str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for side in ("query", "key"):
        assert f"exported {tmp_path / 'out' / side}" in printed
        assert_equal(theirs(tmp_path / "out" / side).encode(["猫"]), ours(run / "encoder").encode(["猫"]))


def test_vectors_cut_by_sentence_transformers_are_ours_up_to_their_length(trained, tmp_path):
    """It cuts behind the normalisation, and its cosines divide by the length anyway."""
    export(str(trained()), tmp_path / "out")
    cut = SentenceTransformer(str(tmp_path / "out"), device="cpu", truncate_dim=8)
    found = cut.encode(TEXTS, prompt_name="qa", normalize_embeddings=True)
    encoder = ours(tmp_path / "out")
    assert_equal(found, encoder.encode(TEXTS, prompt=TASKS["qa"][0], truncate_dim=8))
    assert cut.similarity(found[:1], found).shape == (1, len(TEXTS))


def test_half_stores_fp16_and_loads_as_fp32(trained, tmp_path):
    export(str(trained()), tmp_path / "whole")
    found = export(str(trained()), tmp_path / "half", half=True)
    assert found.largest < 1e-5  # ours and theirs, both of the rounded weights in fp32
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.51 * sizes[1]
    encoder = ours(tmp_path / "half")
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in theirs(tmp_path / "half").parameters()} == {torch.float32}
    np.testing.assert_allclose(encoder.encode(TEXTS), ours(tmp_path / "whole").encode(TEXTS), atol=5e-3)


def test_half_refuses_what_fp16_cannot_hold(trained, tmp_path):
    folder = trained()
    encoder = ours(folder)
    with torch.no_grad():
        next(encoder.parameters())[0, 0] = 1e6
    encoder.save(folder / "encoder")
    with pytest.raises(UserError, match="fp16 cannot hold"):
        export(str(folder), tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()


def test_weights_that_are_not_finite_are_refused(trained, tmp_path):
    encoder = load_encoder(str(trained()))
    with torch.no_grad():
        next(encoder.parameters())[-1, -1] = float("nan")
    with pytest.raises(UserError, match=r"ENCODER: run: the weights .* hold NaN"):
        check_finite(encoder, "run")
