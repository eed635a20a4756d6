"""Whole runs of `python -m zh_embedder.pretrain`: what they learn, say, refuse and leave behind."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from tests.processes import ROOT, finish, forked, losses, start, state, weights
from zh_embedder.bases.tiny import build
from zh_embedder.commands.pretrain import main

SECONDS = 50
SMALL = ("--from_scratch", "--hidden_size", 32, "--num_layers", 2, "--num_heads", 2, "--dropout", 0)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A corpus of the demo's texts in two files, and a base without dropout."""
    folder = tmp_path_factory.mktemp("pretrain")
    build(folder / "base", hidden=32, heads=2, dropout=0.0)
    for task, name in (("title", "a.jsonl"), ("qa", "b.txt")):
        rows = [
            json.loads(line) for line in (ROOT / f"examples/demo/train/{task}.jsonl").read_text("utf-8").splitlines()
        ]
        texts = [row["pos"][0].replace("\n", " ") for row in rows]
        lines = [json.dumps({"text": text}) if name.endswith("jsonl") else text for text in texts]
        (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture
def here(ground, monkeypatch):
    monkeypatch.chdir(ground)
    monkeypatch.setenv("ZH_EMBEDDER_CACHE", str(ground / "cache"))
    return ground


def flags(out, *more, base=("--query_encoder", "base")):
    return [
        str(flag) for flag in (
            "--output_dir", out, *base, "--corpus", "a.jsonl", "b.txt", "--max_steps", 12, "--max_seq_length", 64,
            "--tokens_per_device", 1024, "--learning_rate", 1e-3, "--dtype", "fp32", "--report_to", "none",
            "--logging_steps", 1, "--validation_share", 0.1, "--seed", 7, *more,
        )
    ]  # fmt: skip


def run(*words, cwd, ranks=0):
    return finish(start([*forked(ranks), "-m", "zh_embedder.pretrain", *words], cwd))


def apart(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def measured(run_folder, step):
    return [entry for entry in state(run_folder, step)["log_history"] if "eval_loss" in entry]


@pytest.mark.slow
def test_a_run_from_scratch_learns_and_its_result_goes_on(here, capfd):
    steps = ("--max_steps", 60, "--eval_steps", 30, "--learning_rate", 5e-3, "--warmup_steps", 5)
    assert main(flags("scratch", *steps, "--report_to", "tensorboard", base=SMALL)) == 0
    said = capfd.readouterr().err
    assert "output layer, tied to the word embeddings: fresh" in said
    assert "windows are packed: no padding is computed" in said
    assert re.search(r"corpus: a.jsonl: 112 documents, [\d,]+ characters, \d+ windows", said)
    entries = measured(here / "scratch", 60)
    assert [entry["step"] for entry in entries] == [0, 30, 60]
    assert entries[0]["eval_loss"] == pytest.approx(np.log(6860), abs=0.2)  # a uniform guess
    assert entries[2]["eval_loss"] < entries[1]["eval_loss"] < entries[0]["eval_loss"] - 1
    assert entries[2]["eval_perplexity"] == pytest.approx(np.exp(entries[2]["eval_loss"]))
    assert entries[2]["eval_accuracy"] > 0.03
    assert "held out: step 0: loss 8." in said
    assert "has not fallen" not in said
    logged = [entry for entry in state(here / "scratch", 60)["log_history"] if "loss" in entry]
    assert {"tokens_per_second", "accuracy/mlm", "loss/mlm", "grad_norm/mlm"} <= logged[-1].keys()
    assert list((here / "scratch" / "runs").rglob("events.*"))

    from sentence_transformers import SentenceTransformer

    from zh_embedder import Encoder
    from zh_embedder.commands.train import main as dense

    texts = ["北京大学的学生", "外面下着雨"]
    theirs = SentenceTransformer(str(here / "scratch" / "encoder"), device="cpu").encode(texts)
    ours = Encoder.from_pretrained(str(here / "scratch"), dtype="fp32", device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    tuned = ["--output_dir", "tuned", "--query_encoder", "scratch", "--max_steps", "2", "--query_max_length", "64"]
    records = ["--train_data", str(ROOT / "examples/demo/train/qa.jsonl"), "--key_max_length", "64"]
    assert dense([*tuned, *records, "--report_to", "none", "--default_task", "qa"]) == 0
    assert (here / "tuned" / "encoder" / "1_Pooling").is_dir()


@pytest.mark.slow
def test_a_base_goes_on_with_its_head_pooling_and_prompts(here, capfd):
    from transformers import BertConfig, BertForMaskedLM

    shutil.copytree(here / "base", here / "with_head")
    config = BertConfig.from_pretrained(here / "base")
    torch.manual_seed(0)
    model = BertForMaskedLM(config)
    for name in ("model.safetensors", "config.json"):
        (here / "with_head" / name).unlink()
    model.save_pretrained(here / "with_head")
    prompts = json.loads((here / "base" / "config_sentence_transformers.json").read_text())
    prompts["prompts"] = {"query": "为这个句子生成表示："}
    (here / "with_head" / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert main(flags("on", "--max_steps", 3, base=("--query_encoder", "with_head"))) == 0
    assert "that of the base (BertForMaskedLM)" in capfd.readouterr().err
    kept = json.loads((here / "on/encoder/config_sentence_transformers.json").read_text())["prompts"]
    assert kept["query"] == "为这个句子生成表示："
    pooling = json.loads((here / "on/encoder/1_Pooling/config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert main(flags("further", "--max_steps", 1, base=("--query_encoder", "on"))) == 0
    assert "read from pretraining.safetensors of the base" in capfd.readouterr().err
    first, last = measured(here / "further", 1)[0], measured(here / "on", 3)[-1]
    assert first["eval_loss"] == pytest.approx(last["eval_loss"], abs=1e-6)  # nothing was lost in between


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mlm", "retromae"])
def test_resumed_equals_uninterrupted(objective, here, capfd):
    """Dropout on, over the end of an epoch, workers or none; the torn run stops in the middle of epoch 2."""
    shape = (*SMALL[:-1], 0.1)
    common = ("--objective", objective, "--save_steps", 4, "--eval_steps", 6, "--tokens_per_device", 4096)
    assert main(flags("whole", *common, "--overwrite_output_dir", base=shape)) == 0
    torn = flags("torn", *common, "--overwrite_output_dir", "--early_exit_steps", 8, base=shape)
    assert main([*torn, "--dataloader_num_workers", "1"]) == 0
    shutil.rmtree(here / "torn" / "encoder")
    assert main(flags("torn", *common, "--resume_from_checkpoint", "True", base=shape)) == 0
    before, after = (losses(here / name, 12) for name in ("whole", "torn"))
    assert len(before) == 12
    assert state(here / "whole", 8)["epoch"] % 1 > 0.1  # neither at the start nor at the end of an epoch
    assert state(here / "whole", 8)["epoch"] > 1
    assert before == after
    for name in ("model.safetensors", "pretraining.safetensors"):
        one, other = ((here / run_ / "encoder" / name).read_bytes() for run_ in ("whole", "torn"))
        assert one == other
    ours, theirs = ([e["eval_loss"] for e in measured(here / name, 12)] for name in ("whole", "torn"))
    assert ours[-1] == theirs[-1]
    # Once more: it is finished.
    assert main(flags("torn", *common, "--resume_from_checkpoint", "True", base=shape)) == 0
    assert "finished: torn/checkpoint-12: 12 steps are trained, this run has 12: nothing" in capfd.readouterr().err
    assert (here / "torn" / "encoder" / "pretraining.safetensors").read_bytes() == one
    assert not (here / "torn" / "checkpoint-13").exists()


@pytest.mark.slow
def test_two_ranks_give_the_weights_of_one(ground):
    """SGD without clipping, no dropout; a rank's part has as many tokens as half of the other's, not as many labels.

    RetroMAE's loss is that of masked words and the decoder's, so this holds both.
    """
    objective = "retromae"
    sgd = ("--optim", "sgd", "--learning_rate", 0.5, "--max_grad_norm", 0, "--weight_decay", 0, "--warmup_steps", 0)
    more = ("--objective", objective, "--max_steps", 8, *map(str, sgd))
    alone = run(*flags(f"one_{objective}", *more), cwd=ground)
    half = flags(f"two_{objective}", *more, "--tokens_per_device", 512)
    together = run(*half, cwd=ground, ranks=2)
    assert "engine: MaskedLM, 1 rank" in alone
    assert "engine: DistributedDataParallel, 2 ranks" in together
    folders = [ground / f"{ranks}_{objective}" for ranks in ("one", "two")]
    start_, one, two = (weights(path) for path in (ground / "base", *(folder / "encoder" for folder in folders)))
    assert apart(start_, one) > 1e-2
    assert apart(one, two) < 1e-5
    np.testing.assert_allclose(*(losses(folder, 8) for folder in folders), rtol=1e-5)
    mine, theirs = (measured(folder, 8) for folder in folders)
    assert [e["eval_loss"] for e in mine] == pytest.approx([e["eval_loss"] for e in theirs], rel=1e-5)


def test_a_run_whose_loss_does_not_fall_says_so(here, capfd):
    assert main(flags("flat", "--max_steps", 2, "--learning_rate", 1e-12)) == 0
    assert "the loss on the documents held out has not fallen" in capfd.readouterr().err


def test_mistakes_are_said_without_a_traceback_and_nothing_is_written(here, capfd):
    (here / "bad.jsonl").write_text('{"text": "好"}\n{"body": "好"}\n', "utf-8")

    def refused(*more):
        assert main(flags("nowhere", *more)) == 2
        said = capfd.readouterr().err
        assert "Traceback" not in said
        assert not (here / "nowhere").exists()
        return said

    assert "bad.jsonl:2: text: is missing" in refused("--corpus", "bad.jsonl")
    assert "--max_seq_length: got 513, expected at most 512" in refused("--max_seq_length", 513)
    assert "--tokens_per_device: got 32, expected at least 64" in refused("--tokens_per_device", 32)
    assert "no such file" in refused("--corpus", "gone.jsonl")
    assert "cache: has no config.json, expected the folder of a base" in refused("--query_encoder", "cache")


@pytest.mark.slow
def test_a_plan_that_would_not_continue_is_refused(here, capfd):
    assert main(flags("plan", "--max_steps", 2, "--save_steps", 1)) == 0
    size = "tokens a step (--tokens_per_device x ranks) "
    for more, name in ((("--mlm_probability", 0.2), "masks"), (("--tokens_per_device", 2048), size)):
        assert main(flags("plan", *more, "--resume_from_checkpoint", "True")) == 2
        assert f"was trained with {name}" in capfd.readouterr().err
