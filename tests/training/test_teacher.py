"""A teacher's vectors: made once, with its own prompts, found by text, and what runs learn from them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.jsonl import read, write
from tests.processes import ROOT, forked, losses, run, weights
from zh_embedder.bases.tiny import build
from zh_embedder.commands.train import main
from zh_embedder.core.errors import UserError
from zh_embedder.data import teacher_vectors
from zh_embedder.data.groups import SelectionRule
from zh_embedder.data.records import load_datasets
from zh_embedder.data.train_rows import RowRequest, TrainRows, TrainSet
from zh_embedder.losses.table import LossTerm
from zh_embedder.models.encoder import Encoder, load_encoder
from zh_embedder.search.encode_files import EncodeOptions, encode_files
from zh_embedder.training import teacher as making
from zh_embedder.training.teacher import Teacher, with_teacher

SECONDS = 60
DEMO = ROOT / "examples" / "demo" / "train"
CPU = torch.device("cpu")
PROMPTS = {"qa": ("问：", "答："), "default": ("查：", "")}
TERMS = (LossTerm(name="vector_cosine"),)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small teacher with prompts of its own; 16 dimensions."""
    folder = tmp_path_factory.mktemp("teacher")
    base = build(folder / "base", hidden=16, heads=2, pooling="mean")
    encoder = load_encoder(str(base), changes={"instructions": PROMPTS, "default_task": "default"})
    encoder.save(folder / "teacher")
    return folder / "teacher"


@pytest.fixture
def small(monkeypatch):
    """Shards and blocks so small that a few texts fill several."""
    monkeypatch.setattr(making, "SHARD", 4)
    monkeypatch.setattr(teacher_vectors, "BLOCK", 3)


def set_of(path, cache, *, task="qa", group=2) -> TrainSet:
    (records,) = load_datasets([path], cache_dir=str(cache))
    rule = SelectionRule(group_size=1 if records.kind in ("text", "query_text") else group)
    prefixes = {"query_prefix": "q", "key_prefix": "k", "as_keys": records.kind == "text"}
    return TrainSet(records=records, task=task, rule=rule, terms=TERMS, **prefixes)


def teacher_of(folder, *paths, **options) -> Teacher:
    return Teacher([str(path) for path in paths], cache=folder / "cache" / "teacher", device=CPU, **options)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-3)  # of 16 bits


@pytest.fixture
def encoded(monkeypatch):
    """Texts that a model has encoded, in order."""
    seen, real = [], making.TeacherModel.encode

    def encode(self, texts, way, bar):
        seen.extend(texts)
        return real(self, texts, way, bar)

    monkeypatch.setattr(making.TeacherModel, "encode", encode)
    return seen


def groups_file(folder, first=0, last=6):
    return write(folder / "qa.jsonl", read(DEMO / "qa.jsonl")[first:last])


# ---- vectors --------------------------------------------------------------------------------------------------------


def test_each_side_has_the_vectors_that_the_teacher_makes_with_its_own_prompt(model, workdir, small):
    one = set_of(groups_file(workdir), workdir)
    (found,), dimension = with_teacher([one], teacher_of(workdir, model))
    assert dimension == 16
    encoder = Encoder.from_pretrained(str(model))
    example = TrainRows([found], seed=1)[RowRequest(0, 2, True, 0, (2,), 1)]
    record = one.records[2]
    close(example.vectors[0], encoder.encode_queries(record.query, task="qa"))
    negative = next(text for text in record.neg if teacher_vectors.text_identity(text) == example.key_texts[1])
    close(example.vectors[1:], encoder.encode_keys([record.pos[0], negative], task="qa"))


def test_a_task_that_the_teacher_does_not_know_has_its_default_prompt(model, workdir):
    texts = write(workdir / "t.jsonl", [{"text": "龙井", "task": "law", "side": "query"}])
    (found,), _ = with_teacher([set_of(texts, workdir, task="law")], teacher_of(workdir, model))
    close(found.teacher.of_row(0, ())[0], Encoder.from_pretrained(str(model)).encode("龙井", prompt="查："))


def test_a_text_alone_is_a_key_with_its_title_in_front_unless_it_says_query(model, workdir):
    rows = [{"text": "采于清明前。", "title": "龙井"}, {"text": "什么时候采？", "side": "query"}]
    for number, row in enumerate(rows):
        write(workdir / f"{number}.jsonl", [row])
    sets = [set_of(workdir / f"{number}.jsonl", workdir) for number in range(2)]
    found, _ = with_teacher(sets, teacher_of(workdir, model))
    encoder = Encoder.from_pretrained(str(model))
    close(found[0].teacher.of_row(0, ())[0], encoder.encode_keys("龙井 采于清明前。", task="qa"))
    close(found[1].teacher.of_row(0, ())[0], encoder.encode_queries("什么时候采？", task="qa"))
    examples = [TrainRows(found, seed=1)[RowRequest(0, row, True, row, (row,), 1)] for row in range(2)]
    assert [(e.query, e.as_key) for e in examples] == [("k龙井 采于清明前。", True), ("q什么时候采？", False)]


def test_vectors_are_made_once_and_only_those_that_are_not_there(model, workdir, small, encoded, monkeypatch):
    one = set_of(groups_file(workdir), workdir)
    (first,), _ = with_teacher([one], teacher_of(workdir, model))
    records = [one.records[row] for row in range(len(one))]
    assert (
        len(encoded)
        == len(set(encoded))
        == len({(0, r.query) for r in records} | {(1, t) for r in records for t in r.candidates})
    )

    again = teacher_of(workdir, model)
    monkeypatch.setattr(again.model, "load", lambda name: pytest.fail("loaded, though nothing is missing"))
    (second,), _ = with_teacher([one], again)
    keys = [teacher_vectors.text_identity(text) for text in records[3].candidates]
    assert np.array_equal(first.teacher.of_row(3, keys), second.teacher.of_row(3, keys))

    before = len(encoded)
    more = set_of(write(workdir / "more.jsonl", [{"text": records[0].pos[0]}, {"text": "新的一句"}]), workdir)
    with_teacher([more], teacher_of(workdir, model))
    assert encoded[before:] == ["新的一句"]

    other = load_encoder(str(model))
    next(other.parameters()).data.add_(0.5)
    other.save(workdir / "other")
    with_teacher([more], teacher_of(workdir, workdir / "other"))  # another teacher, other vectors
    assert encoded[before + 1 :] == [records[0].pos[0], "新的一句"]


def test_a_killed_run_leaves_whole_shards_and_the_next_makes_the_rest(model, workdir, small, encoded, monkeypatch):
    texts = write(workdir / "t.jsonl", [{"text": f"第{i}句话"} for i in range(11)])
    one, real = set_of(texts, workdir), making.write_shard
    (whole,), _ = with_teacher([one], Teacher([str(model)], cache=workdir / "elsewhere", device=CPU))

    def killed(folder, texts, rows):
        if len(list(folder.glob("*.texts.npy"))) == 1:
            (folder / f"{teacher_vectors.hash_of(texts.tobytes())}.npy").write_bytes(b"torn")  # as a kill leaves it
            raise KeyboardInterrupt
        real(folder, texts, rows)

    monkeypatch.setattr(making, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        with_teacher([one], teacher_of(workdir, model))
    monkeypatch.setattr(making, "write_shard", real)
    encoded.clear()
    (found,), _ = with_teacher([one], teacher_of(workdir, model))
    assert encoded == [f"第{i}句话" for i in range(4, 11)]  # a shard of 4 was whole
    for row in range(11):
        assert np.array_equal(found.teacher.of_row(row, ()), whole.teacher.of_row(row, ()))


def test_vectors_travel_to_a_worker_by_the_names_of_their_files(model, workdir):
    import pickle

    (found,), _ = with_teacher([set_of(groups_file(workdir), workdir)], teacher_of(workdir, model, dimension=8))
    packed = pickle.dumps(found.teacher)
    assert np.array_equal(pickle.loads(packed).of_row(1, ()), found.teacher.of_row(1, ()))
    assert found.teacher.of_row(1, ()).shape == (1, 8)


# ---- folders that `encode` wrote ------------------------------------------------------------------------------------


@pytest.fixture
def folder(model, workdir):
    """Vectors of a corpus of three keys."""
    corpus = write(workdir / "corpus.jsonl", [{"id": f"k{i}", "text": f"第{i}段", "title": "书"} for i in range(3)])
    encode_files(str(model), [corpus], workdir / "vectors", options=EncodeOptions(task="qa", side="key", dtype="fp32"))
    return workdir / "vectors"


def test_a_folder_serves_in_place_of_the_model(model, workdir, folder):
    (found,), _ = with_teacher([set_of(workdir / "corpus.jsonl", workdir)], teacher_of(workdir, folder))
    expected = Encoder.from_pretrained(str(model)).encode_keys([f"书 第{i}段" for i in range(3)], task="qa")
    close(np.concatenate([found.teacher.of_row(row, ()) for row in range(3)]), expected)


def test_texts_that_a_folder_lacks_are_refused_or_made_by_the_model(model, workdir, folder, encoded):
    rows = [{"text": "书 第1段"}, {"text": "没有的"}, {"text": "也没有"}]
    one = set_of(write(workdir / "t.jsonl", rows), workdir)
    with pytest.raises(UserError) as error:
        with_teacher([one], teacher_of(workdir, folder))
    assert f"--teacher_encoder: {folder}: 2 texts among the keys of no task:t.jsonl are not there" in str(error.value)
    assert "such as '没有的'; expected all, or the model as well" in str(error.value)
    with_teacher([one], teacher_of(workdir, folder, model))
    assert encoded == ["没有的", "也没有"]


def test_a_folder_of_another_prompt_serves_no_side_of_the_model(model, workdir, folder, encoded):
    one = set_of(write(workdir / "t.jsonl", [{"text": "书 第1段", "side": "query"}]), workdir)
    with_teacher([one], teacher_of(workdir, folder, model))
    assert encoded == ["书 第1段"]


@pytest.mark.parametrize(("task", "said"), [("qa", True), ("sts", False)])
def test_a_prompt_of_one_side_that_serves_both_is_said(model, workdir, caplog, task, said):
    """Vectors are found by their texts: nothing else tells a query's vector from a key's."""
    rows = [{"query": f"问{i}", "pos": [f"答{i}"], "task": task} for i in range(3)]
    texts = [{"text": text} for row in rows for text in (row["query"], *row["pos"])]
    corpus, records = write(workdir / "corpus.jsonl", texts), write(workdir / "t.jsonl", rows)
    for side in ("key", "query"):
        options = EncodeOptions(task="qa", side=side, dtype="fp32")
        encode_files(str(model), [corpus], workdir / side, options=options)
    one = replace(set_of(records, workdir), task=task)
    with_teacher([one], teacher_of(workdir, workdir / "key"))
    assert ("serves queries and keys of" in caplog.text) == said
    caplog.clear()
    with_teacher([one], teacher_of(workdir, workdir / "query", workdir / "key"))
    assert "serves queries and keys of" not in caplog.text


def test_too_many_dimensions_are_refused_before_anything_is_encoded(model, workdir, encoded):
    with pytest.raises(UserError, match="--teacher_dim: got 9999, expected at most 16, the dimensions of"):
        teacher_of(workdir, model, dimension=9999)
    assert encoded == []


def test_what_does_not_go_together_is_refused(model, workdir, folder, tmp_path_factory):
    other = build(tmp_path_factory.mktemp("other") / "base", hidden=16, heads=2, seed=5)
    for paths, options, message in [
        ((folder, other), {}, "whose weights differ, expected vectors of one model"),
        ((model, other), {}, f"got {model} and {other}, expected one model"),
        ((folder,), {"max_length": 9}, "--teacher_max_length: has no effect on vectors that are made already"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            teacher_of(workdir, *paths, **options)
    (workdir / "corpus.jsonl").write_text('{"id": "k0", "text": "另外的"}\n', "utf-8")
    with pytest.raises(UserError, match=r"corpus\.jsonl, has changed since; expected it to find texts"):
        teacher_of(workdir / "new", folder)


# ---- flags ----------------------------------------------------------------------------------------------------------


def train(base, *more, data, out="out", steps=4) -> int:
    """Train a few steps in this process; returns the exit code."""
    flags = [
        "--output_dir", out, "--query_encoder", base, "--train_data", *data, "--default_task", "qa",
        "--max_steps", steps, "--per_device_train_batch_size", 8, "--train_group_size", 2, "--cos_temperature", 0.1,
        "--learning_rate", 1e-2, "--dtype", "fp32", "--report_to", "none", "--logging_steps", 1, "--max_unknown", 1,
        "--inbatch_same_dataset", "epoch", *more,
    ]  # fmt: skip
    return main([str(flag) for flag in flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "t.jsonl:1: these are texts alone, which only a teacher's vectors give something to learn"),
        (("--loss", "vector_mse"), "loss vector_mse: needs --teacher_encoder"),
        (("--teacher_dim", 8), "--teacher_dim: needs --teacher_encoder"),
        (
            ("--teacher_encoder", "T", "--teacher_version", "e6"),
            "--teacher_version: unknown name 'e6'. Known: bge_zh",
        ),
        (("--teacher_encoder", "T", "--teacher_loss", "vector_cosin"), "--teacher_loss: unknown name 'vector_cosin'"),
        (("--teacher_encoder", "T", "--teacher_dim", 17), "--teacher_dim: got 17, expected at most 16"),
        (("--teacher_encoder", "T", "--teacher_max_length", 9999), "--teacher_max_length: got 9999, expected at most"),
        (("--teacher_encoder", "T", "--tie_encoders", "False"), "texts alone need one encoder for both sides"),
        (
            ("--teacher_encoder", "T", "--teacher_weight", -1),
            "--teacher_weight: got -1, expected a number of 0 or more",
        ),
        (("--teacher_encoder", "nothing/here"), "--teacher_encoder: nothing/here could not be loaded"),
        (
            ("--teacher_encoder", "T", "--loss", "info_nce", "--teacher_weight", 0),
            "loss info_nce cannot learn from them",
        ),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_made(flags, message, model, tiny_bert, workdir, capsys):
    write(workdir / "t.jsonl", [{"text": "龙井"}, {"text": "毛尖"}])
    assert train(tiny_bert, *(model if flag == "T" else flag for flag in flags), data=["t.jsonl"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not (workdir / "out").exists()


# ---- runs -----------------------------------------------------------------------------------------------------------

TEACHER = ("--teacher_loss", "vector_cosine", "vector_mse", "similarity_kl")


@pytest.fixture
def texts(workdir):
    """Keys and queries without positives."""
    records = read(DEMO / "qa.jsonl")[:40]
    keys = write(workdir / "keys.jsonl", [{"text": record["pos"][0]} for record in records])
    queries = write(workdir / "queries.jsonl", [{"text": r["query"], "side": "query"} for r in records[:20]])
    return [keys, queries]


@pytest.mark.slow
def test_a_run_of_texts_alone_comes_nearer_to_its_teacher_and_resumes_bit_for_bit(model, tiny_bert, texts, workdir):
    flags = ("--teacher_encoder", model, *TEACHER, "--save_steps", 4)
    assert train(tiny_bert, *flags, data=texts, out="whole", steps=16) == 0
    assert train(tiny_bert, *flags, "--early_exit_steps", 8, data=texts, out="parts", steps=16) == 0
    assert train(tiny_bert, *flags, "--resume_from_checkpoint", "True", data=texts, out="parts", steps=16) == 0
    found = losses(workdir / "whole", 16)
    assert found == losses(workdir / "parts", 16)
    assert sum(found[-4:]) < 0.7 * sum(found[:4])
    one, other = weights(workdir / "whole/encoder"), weights(workdir / "parts/encoder")
    assert all(torch.equal(one[name], other[name]) for name in one)
    # The projection from 32 to 16 dimensions is the checkpoint's alone, and the teacher is in neither.
    from safetensors.torch import load_file

    projections = [load_file(workdir / f"{run}/checkpoint-16/projection.safetensors") for run in ("whole", "parts")]
    assert torch.equal(projections[0]["weight"], projections[1]["weight"])
    assert projections[0]["weight"].shape == (16, 32)
    assert not list((workdir / "whole").glob("encoder/**/projection*"))
    assert not (workdir / "whole" / "projection.safetensors").exists()
    assert one.keys() == weights(tiny_bert).keys()
    assert Encoder.from_pretrained("whole").encode("龙井").shape == (32,)


@pytest.mark.slow
def test_packed_and_padded_learn_the_same(model, texts, workdir):
    base = build(workdir / "base", hidden=32, heads=2, dropout=0.0, pooling="mean")
    flags = ("--teacher_encoder", model, *TEACHER, "--matryoshka_dims", 32, 16, "--optim", "sgd")
    for out, choice in (("packed", "--packing"), ("padded", "--no_packing")):
        assert train(base, *flags, choice, data=texts, out=out, steps=8) == 0
    np.testing.assert_allclose(losses(workdir / "packed", 8), losses(workdir / "padded", 8), rtol=1e-5)


VERSION = {
    "tasks": {
        "qa": {
            "query": "问：",
            "key": "",
            "training": {"loss": ["info_nce", {"name": "vector_cosine", "weight": 2.0}]},
        },
        "chat": {"query": "", "key": "", "training": {"loss": "info_nce"}},
        "law": {"query": "", "key": "", "training": {"loss": ["similarity_kl", "vector_mse"]}},
    }
}


@pytest.mark.slow
def test_two_ranks_and_sub_batches_give_the_weights_of_one(model, tmp_path):
    """A task that learns from vectors beside one that does not, texts alone, repeated rows; plain SGD."""
    base = build(tmp_path / "base", hidden=32, heads=2, dropout=0.0, pooling="mean")
    (tmp_path / "v.yaml").write_text(json.dumps(VERSION, ensure_ascii=False), "utf-8")
    write(tmp_path / "qa.jsonl", read(DEMO / "qa.jsonl")[:24])
    write(tmp_path / "chat.jsonl", read(DEMO / "chat.jsonl")[:16])
    write(tmp_path / "law.jsonl", [{"text": r["pos"][0], "task": "law"} for r in read(DEMO / "qa.jsonl")[30:37]])

    def flags(out, batch, *more):
        return (
            "--output_dir", out, "--query_encoder", base, "--train_data", "qa.jsonl", "chat.jsonl", "law.jsonl",
            "--version", "v.yaml", "--use_train_config", "--inbatch_same_dataset", "epoch", "--max_steps", 8,
            "--train_group_size", 3, "--cos_temperature", 0.1, "--dtype", "fp32", "--report_to", "none",
            "--logging_steps", 4, "--max_unknown", 1, "--optim", "sgd", "--learning_rate", 0.3, "--max_grad_norm", 0,
            "--weight_decay", 0, "--warmup_steps", 0, "--teacher_encoder", model, "--save_steps", 8,
            "--per_device_train_batch_size", batch, *more,
        )  # fmt: skip

    run(*flags("one", 8), cwd=tmp_path)
    together = run(*flags("two", 4, "--sub_batch_size", 3), cwd=tmp_path, launcher=forked(2))
    assert "engine: DistributedDataParallel, 2 ranks" in together
    assert re.search(r"law:law.jsonl: 7 records for a step of 8: cycled, repeats masked", together)
    start, one, two = (weights(tmp_path / name) for name in ("base", "one/encoder", "two/encoder"))
    assert max((one[n] - start[n]).abs().max().item() for n in one) > 0.01
    assert max((one[n] - two[n]).abs().max().item() for n in one) < 1e-5
    from safetensors.torch import load_file

    projections = [
        load_file(tmp_path / f"{out}/checkpoint-8/projection.safetensors")["weight"] for out in ("one", "two")
    ]
    torch.testing.assert_close(*projections, rtol=0, atol=1e-5)
