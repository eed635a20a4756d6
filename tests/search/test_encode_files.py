"""Files of texts become the vectors that the library makes; killed, split over ranks, gone on with: the same bytes."""

import json
import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.test_text_files import write
from tests.processes import finish, forked, kill_with_children, start
from tests.search.test_vector_store import MANIFEST
from tests.test_cli import run
from zh_embedder.bases.tiny import build
from zh_embedder.core import machine
from zh_embedder.core.errors import UserError
from zh_embedder.core.hashing import weights_hash
from zh_embedder.core.ranks import own_rank
from zh_embedder.data.text_files import InputFile, Reader
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.search import encode_files as encoding
from zh_embedder.search.encode_files import EncodeOptions, ahead, blocks, encode_files
from zh_embedder.search.vector_store import only_writer, open_vectors
from zh_embedder.text.tokens import tokenizer_hash

SECONDS = 20
WORDS = "今天天气很好我们去公园看花吃饭学习工作音乐电影"
TEXTS = [WORDS[i % 7 : i % 7 + 1 + (i * 5) % 16] * (1 + i % 3) for i in range(43)]  # 1 to 48 characters
FP32 = ("--dtype", "fp32", "--shard_size", 10)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An own folder and no ranks, whatever started the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def inputs():
    """Rows 0 to 24 as objects, 25 to 42 as plain text."""
    write(Path("a.jsonl"), *({"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS[:25])))
    write(Path("b.txt"), *TEXTS[25:])
    return ("a.jsonl", "b.txt")


@pytest.fixture(scope="session")
def trained(tiny_bert, tmp_path_factory) -> Path:
    """An encoder with instructions of two tasks, whose sides have their own lengths."""
    tasks = {"qa": ("为问题检索：", "资料："), "tool": ("为需求检索工具：", "")}
    lengths = {"query_max_length": 12, "key_max_length": 20}
    folder = tmp_path_factory.mktemp("run") / "encoder"
    load_encoder(str(tiny_bert), pooling="mean", changes={"instructions": tasks, **lengths}).save(folder)
    return folder


def encode(capsys, model, *words, out="out", expect=0) -> str:
    code, printed, err = run(capsys, "encode", model, *words, "--output_dir", out)
    assert (code, printed) == (expect, ""), err
    assert "Traceback" not in err
    return err


def files(folder="out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def library(model, **options) -> np.ndarray:
    encoder = Encoder.from_pretrained(str(model), device="cpu")
    return encoder.encode(TEXTS, **{"dtype": "fp32", "show_progress": False, **options})


def test_texts_of_a_task_that_keeps_the_end_do_so_in_files_too(capsys, tiny_bert, inputs):
    tasks, sides = {"chat": ("问：", ""), "qa": ("问：", "")}, {"chat": ("left", None)}
    changes = {"instructions": tasks, "truncation_sides": sides, "query_max_length": 12}
    load_encoder(str(tiny_bert), changes=changes).save("kept")
    for task in tasks:
        encode(capsys, "kept", *inputs, *FP32, "--task", task, "--side", "query", out=task)
    ends = [text if len(text) <= 8 else text[-8:] for text in TEXTS]
    own = Encoder.from_pretrained("kept", device="cpu", dtype="fp32")
    found = {task: open_vectors(task) for task in tasks}
    np.testing.assert_allclose(found["chat"].numpy(), own.encode([f"问：{end}" for end in ends]), atol=1e-6)
    np.testing.assert_allclose(found["qa"].numpy(), own.encode_queries(TEXTS, task="qa"), atol=1e-6)
    assert [found[task].manifest.truncation_side for task in tasks] == ["left", None]


def test_a_task_that_is_served_by_the_default_is_said(capsys, tiny_bert, inputs):
    instructions = {"qa": ("问：", ""), "default": ("", "")}
    load_encoder(str(tiny_bert), changes={"instructions": instructions}).save("broad")
    said = encode(capsys, "broad", *inputs, *FP32, "--task", "qaa", "--side", "query", out="a")
    assert "--task qaa: no instruction of that name, the default is used; did you mean 'qa'?" in said
    assert "--task" not in encode(capsys, "broad", *inputs, *FP32, "--task", "qa", "--side", "query", out="b")


# ---- the same vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["npy", "safetensors"])
def test_the_vectors_are_those_of_the_library_in_input_order(capsys, tiny_bert, inputs, file_format, monkeypatch):
    monkeypatch.setattr(encoding, "BLOCK", 4)
    said = encode(capsys, tiny_bert, *inputs, *FP32, "--format", file_format)
    vectors = open_vectors("out")
    assert [len(ids) for ids, _ in vectors] == [10, 10, 10, 10, 3]
    assert vectors.ids() == [f"d{i}" for i in range(25)] + [f"b.txt:{i}" for i in range(1, 19)]
    assert vectors.numpy().dtype == np.float32
    np.testing.assert_allclose(vectors.numpy(), library(tiny_bert), atol=1e-6)
    assert "43 texts, 5 shards, prompt '', at most 512 tokens, fp32 on cpu" in said


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (("--task", "qa", "--side", "query"), {"prompt": "为问题检索：", "max_length": 12}),
        (("--task", "qa", "--side", "key"), {"prompt": "资料：", "max_length": 20}),
        (("--task", "tool", "--side", "key", "--max_length", 9), {"prompt": "", "max_length": 9}),
        (("--prompt", "问："), {"prompt": "问：", "max_length": 20}),
        (("--prompt", "", "--side", "query"), {"prompt": "", "max_length": 12}),
    ],
    ids=str,
)
def test_instructions_and_lengths_are_those_of_task_and_side(capsys, trained, inputs, flags, options):
    encode(capsys, trained, *inputs, *FP32, *flags)
    manifest = open_vectors("out").manifest
    assert {"prompt": manifest.prompt, "max_length": manifest.max_length} == options
    np.testing.assert_allclose(open_vectors("out").numpy(), library(trained, **options), atol=1e-6)


def test_vectors_can_be_kept_in_half_the_space(capsys, tiny_bert, inputs):
    encode(capsys, tiny_bert, *inputs, *FP32, "--vector_dtype", "float16")
    assert open_vectors("out").numpy().dtype == np.float16
    assert np.array_equal(open_vectors("out").numpy(), library(tiny_bert).astype(np.float16))


def test_bf16_is_computed_in_bf16_and_close(capsys, tiny_bert, inputs):
    encode(capsys, tiny_bert, *inputs, "--dtype", "bf16")
    exact, found = library(tiny_bert), open_vectors("out").numpy()
    assert 1e-5 < np.abs(found - exact).max() < 0.05
    assert open_vectors("out").manifest.dtype == "bf16"


@pytest.mark.parametrize(("gains", "dtype"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_cpu_gains_from_it(capsys, tiny_bert, inputs, gains, dtype, monkeypatch):
    monkeypatch.setattr(machine, "cpu_gains_from_bf16", lambda: gains)
    encode(capsys, tiny_bert, *inputs)
    assert open_vectors("out").manifest.dtype == dtype


def test_the_library_writes_the_files_of_the_command_from_a_name_and_from_an_encoder(capsys, trained, inputs):
    encode(capsys, trained, *inputs, *FP32, "--task", "qa", "--side", "query", out="typed")
    options = EncodeOptions(task="qa", side="query", dtype="fp32", shard_size=10)
    encode_files(str(trained), inputs, "named", options=options)
    assert files("named") == files("typed")
    encode_files(Encoder.from_pretrained(str(trained), device="cpu"), inputs, "loaded", options=options, name="mine")
    assert open_vectors("loaded").manifest == replace(open_vectors("typed").manifest, model="mine")
    assert np.array_equal(open_vectors("loaded").numpy(), open_vectors("typed").numpy())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"side": "keys"}, "--side: unknown name 'keys'; did you mean 'key'?"),
        ({"dtype": "float32"}, "--dtype: unknown name 'float32'"),
        ({"file_format": "np"}, "--format: unknown name 'np'"),
        ({"vector_dtype": "int8"}, "--vector_dtype: unknown name 'int8'"),
        ({"shard_size": 0}, "--shard_size: got 0, expected a whole number of 1 or more"),
        ({"max_length": 0}, "--max_length: got 0, expected a whole number of 1 or more"),
    ],
    ids=str,
)
def test_options_that_no_flag_could_say_are_refused_as_the_flags_are(wrong, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        EncodeOptions(**wrong)


# ---- a stream -------------------------------------------------------------------------------------------------------


def test_a_shard_is_written_before_the_next_one_is_read(capsys, tiny_bert, inputs, monkeypatch):
    """So memory is bounded by a shard: when the first text of shard n is parsed, shard n - 1 is on the disk."""
    monkeypatch.setattr(encoding, "BLOCK", 3)
    seen = []
    original = Reader.texts

    def watched(self, inputs, shards, **options):
        for row, one in enumerate(original(self, inputs, shards, **options)):
            seen.append((row // 10, len(list(Path("out").glob("vectors-*.npy")))))
            yield one

    monkeypatch.setattr(Reader, "texts", watched)
    encode(capsys, tiny_bert, *inputs, *FP32)
    assert seen == [(row // 10, row // 10) for row in range(43)]


def test_blocks_never_cross_the_end_of_a_shard(tiny_bert, monkeypatch):
    monkeypatch.setattr(encoding, "BLOCK", 4)
    tokenizer = Encoder.from_pretrained(str(tiny_bert), device="cpu").tokenizer
    rows = [(f"id{row}", "文" * (row + 1)) for row in range(14)]
    manifest = replace(MANIFEST, inputs=(InputFile("a.txt", 14, ""),), shard_size=6, prompt="问", max_length=9)
    made = list(blocks(iter(rows), tokenizer, manifest, manifest.shards))
    assert [(block.shard, len(block.ids)) for block in made] == [(0, 4), (0, 2), (1, 4), (1, 2), (2, 2)]
    assert [name for block in made for name in block.ids] == [name for name, _ in rows]
    lengths = [len(tokens) for block in made for tokens in block.tokens]
    assert lengths == [min(9, row + 1 + 1 + 2) for row in range(14)]  # the text, the prompt, [CLS] and [SEP]


def test_ahead_is_one_ahead_in_order_and_passes_errors_on():
    made = []

    def items():
        for number in range(4):
            made.append(number)
            yield number + 1
        raise UserError("a.jsonl:5: broken")

    stream, got = ahead(items()), []
    with pytest.raises(UserError, match=r"^a.jsonl:5: broken$"):
        for item in stream:
            deadline = time.time() + 10
            while len(made) < min(item + 1, 4) and time.time() < deadline:
                time.sleep(0.001)
            got.append((item, len(made)))
    assert got == [(1, 2), (2, 3), (3, 4), (4, 4)]
    assert list(ahead(iter([]))) == []


def test_reading_ahead_changes_no_vector(capsys, tiny_bert, inputs, monkeypatch):
    """As it is done on an accelerator."""
    monkeypatch.setattr(encoding, "BLOCK", 4)
    encode(capsys, tiny_bert, *inputs, *FP32)
    original = encoding.blocks
    monkeypatch.setattr(encoding, "blocks", lambda *args, **options: ahead(original(*args, **options)))
    encode(capsys, tiny_bert, *inputs, *FP32, out="ahead")
    assert files("ahead") == files()


def test_progress_counts_every_text_and_token(tiny_bert):
    encoder = Encoder.from_pretrained(str(tiny_bert), device="cpu")
    tokens = [encoder.tokenizer(text)["input_ids"] for text in TEXTS]
    told = []
    out = np.zeros((len(TEXTS), encoder.dimension), np.float32)
    with encoder.encoding("fp32"):
        encoder.encode_tokens(tokens, out, tokens_per_batch=64, done=lambda *counts: told.append(counts))
    assert len(told) > 5
    assert tuple(map(sum, zip(*told, strict=True))) == (len(TEXTS), sum(map(len, tokens)))


def test_the_log_says_how_fast_it_went(capsys, tiny_bert, inputs):
    tokens = sum(len(text) + 2 for text in TEXTS)
    said = encode(capsys, tiny_bert, *inputs)
    assert f"encode: 43 texts, {tokens} tokens in " in said
    assert " texts/s, " in said
    assert said.rstrip().endswith("encode: out")


# ---- going on -------------------------------------------------------------------------------------------------------


def test_a_second_run_keeps_what_is_there_and_makes_what_is_not(capsys, tiny_bert, inputs, monkeypatch):
    encode(capsys, tiny_bert, *inputs, *FP32)
    whole = files()
    (Path("out") / "ids-00001.json").unlink()
    (Path("out") / "vectors-00003.npy").write_bytes(whole["vectors-00003.npy"][:200])
    (Path("out") / ".vectors-00004.npy.partial").write_bytes(b"torn")
    encoded = []
    original = Encoder.encode_tokens
    monkeypatch.setattr(
        Encoder, "encode_tokens", lambda self, ids, *a, **k: encoded.append(len(ids)) or original(self, ids, *a, **k)
    )
    said = encode(capsys, tiny_bert, *inputs, *FP32)
    assert "kept from an earlier run: 3 of 5 shards" in said
    assert encoded == [10, 10]
    assert files() == whole
    said = encode(capsys, tiny_bert, *inputs, *FP32)
    assert "kept from an earlier run: 5 of 5 shards" in said
    assert encoded == [10, 10]
    assert files() == whole


def test_other_flags_are_refused_and_overwrite_starts_anew(capsys, tiny_bert, inputs):
    encode(capsys, tiny_bert, *inputs, *FP32)
    before = files()
    said = encode(capsys, tiny_bert, *inputs, *FP32, "--prompt", "问", expect=2)
    assert "error: out: holds vectors that were made in another way; --overwrite starts anew:\n  - prompt: ''" in said
    assert files() == before
    encode(capsys, tiny_bert, *inputs, *FP32, "--prompt", "问", "--overwrite")
    np.testing.assert_allclose(open_vectors("out").numpy(), library(tiny_bert, prompt="问"), atol=1e-6)


def test_other_weights_other_words_and_changed_inputs_are_refused(capsys, tiny_bert, inputs, tmp_path):
    encode(capsys, tiny_bert, *inputs, *FP32)
    other = shutil.copytree(tiny_bert, tmp_path / "other")
    encode(capsys, other, *inputs, *FP32)  # the same model in another place
    encoder = load_encoder(str(tiny_bert))
    with torch.no_grad():
        encoder.backbone.encoder.layer[1].output.dense.bias[3] += 1e-3
    encoder.save(tmp_path / "changed")
    assert "\n  - weights: " in encode(capsys, "changed", *inputs, *FP32, expect=2)
    write(Path("b.txt"), *TEXTS[25:-1], "改")
    said = encode(capsys, tiny_bert, *inputs, *FP32, expect=2)
    assert said.count("\n  - ") == 1
    assert "\n  - input 2: 'b.txt (18 texts, sha256 " in said


def test_hashes_tell_weights_and_tokenizers_apart(tiny_bert, tmp_path):
    one = load_encoder(str(tiny_bert))
    assert weights_hash(one.state_dict()) == weights_hash(load_encoder(str(tiny_bert)).state_dict())
    assert tokenizer_hash(one.tokenizer) == tokenizer_hash(load_encoder(str(tiny_bert)).tokenizer)
    for name, tensor in one.state_dict().items():
        before = weights_hash(one.state_dict())
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        assert weights_hash(one.state_dict()) != before, name
    cut = load_encoder(str(tiny_bert), truncation_side="left").tokenizer
    assert tokenizer_hash(cut) != tokenizer_hash(one.tokenizer)
    other = build(tmp_path / "other", hidden=32, heads=2)
    settings = json.loads((other / "tokenizer.json").read_text("utf-8"))
    settings["model"]["vocab"]["新"] = settings["model"]["vocab"].pop("影")
    (other / "tokenizer.json").write_text(json.dumps(settings, ensure_ascii=False), "utf-8")
    assert tokenizer_hash(load_encoder(str(other)).tokenizer) != tokenizer_hash(one.tokenizer)


def test_an_input_that_changes_meanwhile_stops_the_run_and_keeps_whole_shards(capsys, tiny_bert, inputs, monkeypatch):
    original = encoding.start_folder

    def start_then_change(*args, **options):
        write(Path("a.jsonl"), *({"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS[:20])), {"text": 5})
        return original(*args, **options)

    monkeypatch.setattr(encoding, "start_folder", start_then_change)
    assert "error: a.jsonl:21: text: got 5, expected a string" in encode(capsys, tiny_bert, *inputs, *FP32, expect=2)
    with pytest.raises(UserError, match=r"3 of 5 shards are missing \(2, 3, 4\)"):
        open_vectors("out")


def test_vectors_that_are_not_finite_are_refused(capsys, tiny_bert, inputs, monkeypatch):
    encoder = load_encoder(str(tiny_bert))
    with torch.no_grad():
        row = encoder.tokenizer.convert_tokens_to_ids("影")
        encoder.backbone.embeddings.word_embeddings.weight[row] = float("nan")
    encoder.save("broken")
    write(Path("c.txt"), "今天", "电影", "天气")
    monkeypatch.setattr("zh_embedder.models.parts.check_weights", lambda *_, **__: None)  # which refuses such a base
    said = encode(capsys, "broken", "c.txt", "--dtype", "fp32", expect=2)
    assert "error: c.txt:2: its vector is not finite (--dtype fp32, --vector_dtype float32)" in said


# ---- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1), (0, 1, 2, 3, 4, 5, 6)], ids=str)
def test_ranks_in_any_order_write_the_files_of_one(capsys, tiny_bert, inputs, order, monkeypatch):
    encode(capsys, tiny_bert, *inputs, *FP32, out="alone")
    monkeypatch.setenv("WORLD_SIZE", str(len(order)))
    for number, rank in enumerate(order):
        monkeypatch.setenv("RANK", str(rank))
        said = encode(capsys, tiny_bert, *inputs, *FP32, "--overwrite")
        if rank == 0 and number < len(order) - 1:
            assert "; still to come from other ranks: " in said
        if number < len(order) - 1 and len(order) < 6:
            with pytest.raises(UserError, match="missing"):
                open_vectors("out")
    assert files() == files("alone")


def test_a_run_can_go_on_with_other_ranks(capsys, tiny_bert, inputs, monkeypatch):
    encode(capsys, tiny_bert, *inputs, *FP32, out="alone")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    encode(capsys, tiny_bert, *inputs, *FP32)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert "kept from an earlier run: 2 of 5 shards" in encode(capsys, tiny_bert, *inputs, *FP32)
    assert files() == files("alone")


@pytest.mark.parametrize(("rank", "ranks"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "0"), ("0", "")])
def test_a_rank_that_cannot_be_is_refused(rank, ranks, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", ranks)
    with pytest.raises(UserError, match="RANK and WORLD_SIZE: got "):
        own_rank()


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "error: task: is missing, expected one of qa, tool"),
        (("--task", "qaa"), "error: task: unknown name 'qaa'; did you mean 'qa'?"),
        (
            ("--task", "qa"),
            "--side: is missing; this model tells query ('为问题检索：', 12 tokens) and key ('资料：', 20 tokens)",
        ),
        (("--task", "qa", "--prompt", "问"), "error: --task: cannot be used with --prompt, expected one of them"),
        (("--prompt", "", "--max_length", 513), "error: --max_length: got 513, expected at most 512"),
        (("--prompt", "", "--max_length", 2), "error: --max_length: got 2, expected 3 or more: special tokens count"),
        (
            ("--prompt", "", "--dtype", "fp16"),
            "error: --dtype: got 'fp16', expected auto, fp32 or bf16: fp16 needs a GPU",
        ),
        (("--prompt", "", "--field", "body"), "error: a.jsonl:1: body: is missing; found 'id', 'text'"),
        (("--shard_size", "0"), "--shard_size: got 0, expected a whole number of 1 or more"),
        (("--max_length", "many"), "error: --max_length: got 'many', expected a whole number of 1 or more"),
        (("--side", "passage"), "error: --side: unknown name 'passage'"),
        (("--format", "pt"), "error: --format: unknown name 'pt'"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message_and_leaves_nothing(capsys, trained, inputs, flags, message):
    said = encode(capsys, trained, *inputs, *flags, expect=2)
    assert message in said
    assert not Path("out").exists()


def test_a_wrong_line_far_behind_is_found_before_anything_is_encoded(capsys, tiny_bert, inputs, monkeypatch):
    monkeypatch.setattr(Encoder, "encode_tokens", lambda *_args, **_options: pytest.fail("encoded"))
    write(Path("c.jsonl"), {"text": "好"}, {"text": 7})
    said = encode(capsys, tiny_bert, *inputs, "c.jsonl", expect=2)
    assert "error: c.jsonl:2: text: got 7, expected a string" in said
    assert not Path("out").exists()


def test_sides_need_not_be_told_where_they_are_alike(capsys, tiny_bert, inputs):
    encode(capsys, tiny_bert, *inputs, *FP32)
    encode(capsys, tiny_bert, *inputs, *FP32, "--side", "query")  # the same vectors, so the same folder


def test_two_processes_that_both_think_they_are_alone_are_told(capsys, tiny_bert, inputs):
    """As a cluster starts them that sets no RANK."""
    with only_writer(Path("out"), 0):
        said = encode(capsys, tiny_bert, *inputs, *FP32, expect=2)
    assert "error: out: another process is writing here as rank 0" in said
    assert list(Path("out").iterdir()) == []


# ---- real processes -------------------------------------------------------------------------------------------------

CLI = ("-m", "zh_embedder.cli", "encode")


@pytest.fixture
def many(tmp_path):
    """Enough short shards for a kill to come in the middle."""
    write(tmp_path / "many.txt", *(TEXTS[i % 43] + str(i) for i in range(12_000)))
    return ("many.txt", "--shard_size", 100, "--dtype", "fp32", "--output_dir")


@pytest.mark.slow
def test_killed_in_the_middle_and_gone_on_with_two_ranks_equals_uninterrupted(capsys, tiny_bert, many, tmp_path):
    """kill -9 of one process, kill -9 of two ranks, then two ranks to the end: the bytes of one that nobody stopped."""
    encode(capsys, tiny_bert, *many[:-1], out="whole")
    counts = []
    for launcher, limit in ((forked(), 30), (forked(2), 60)):
        process = start([*launcher, *CLI, tiny_bert, *many, "killed"], tmp_path)
        deadline = time.time() + 120
        while len(list((tmp_path / "killed").glob("ids-*.json"))) < limit and time.time() < deadline:
            assert process.poll() is None, process.communicate()[0][-3000:]
            time.sleep(0.002)
        kill_with_children(process)
        counts.append(len(list((tmp_path / "killed").glob("ids-*.json"))))
    assert 30 <= counts[0] < 60 <= counts[1] < 120
    with pytest.raises(UserError, match="of 120 shards are missing"):
        open_vectors(tmp_path / "killed")
    torn = tmp_path / "killed" / ".vectors-00119.npy.partial"
    torn.write_bytes(b"torn")
    finish(start([*forked(2), *CLI, tiny_bert, *many, "killed"], tmp_path))
    whole, gone_on = files(tmp_path / "whole"), files(tmp_path / "killed")
    locks = {".rank-0.lock", ".rank-1.lock"}  # a killed process leaves its own; the next one takes it over
    assert gone_on.keys() - locks == whole.keys()
    assert all(gone_on[name] == content for name, content in whole.items())
    assert len(open_vectors(tmp_path / "killed")) == 12_000
    assert Counter(name.split("-")[0] for name in whole) == {"vectors": 120, "ids": 120, "manifest.json": 1}


def test_each_side_of_a_run_with_two_encoders_is_encoded_by_its_own(tiny_bert, inputs, capsys):
    key = load_encoder(str(tiny_bert))
    load_encoder(str(tiny_bert)).save("run/encoder")
    torch.manual_seed(3)
    for parameter in key.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    key.save("run/key_encoder")
    said = encode(capsys, "run", *inputs, expect=2)
    assert "--side: is missing; this run has two encoders, expected one of query and key" in said
    for side, folder in (("query", "run/encoder"), ("key", "run/key_encoder")):
        encode(capsys, "run", *inputs, "--side", side, *FP32, out=side)
        found = np.concatenate([np.asarray(rows) for _, rows in open_vectors(side)])
        np.testing.assert_allclose(found, library(folder), atol=1e-6)


@pytest.mark.parametrize("include", [True, False])
def test_files_and_texts_are_pooled_alike(tiny_bert, inputs, include):
    """The instruction in the mean or not, as the encoder says; its own prompt for each text, as mining wants it."""
    tasks = {"qa": ("为问题检索：", "资料：")}
    encoder = load_encoder(str(tiny_bert), include_prompt=include, changes={"instructions": tasks}).eval()
    encode_files(encoder, inputs, "vectors", options=EncodeOptions(task="qa", side="key", dtype="fp32"))
    found = np.concatenate([rows for _, rows in open_vectors("vectors")])
    expected = encoder.encode_keys(TEXTS, task="qa")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert open_vectors("vectors").manifest.include_prompt is include
    prompts = ["资料：" if row % 2 else "" for row in range(len(TEXTS))]
    both = encoder.encode(TEXTS, prompt=prompts)
    np.testing.assert_allclose(both[1::2], expected[1::2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(both[::2], encoder.encode(TEXTS[::2]), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="prompt: got '2 prompts', expected one, or 43: one for each text"):
        encoder.encode(TEXTS, prompt=["资料：", ""])
