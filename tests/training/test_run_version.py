"""The version of a run, end to end: the base's own, kept by checkpoints; and none, which is no prompt anywhere."""

import json
import shutil

import pytest

from tests.processes import ROOT
from zh_embedder.bases.catalogue import RECORD
from zh_embedder.bases.folder_format import Layout, write_layout
from zh_embedder.commands.train import main

DEMO = ROOT / "examples" / "demo" / "train"
pytestmark = pytest.mark.slow


@pytest.fixture
def base(tiny_bert, workdir):
    """A folder that was made of e5-small-zh, as far as it says."""
    shutil.copytree(tiny_bert, workdir / "base")
    prompts = {"query": "query: ", "passage": "passage: "}
    write_layout(workdir / "base", Layout(pooling="mean", dimension=32, metric="cos", max_length=128, prompts=prompts))
    (workdir / "base" / "zh_embedder.json").unlink(missing_ok=True)
    (workdir / "base" / RECORD).write_text(json.dumps({"name": "e5-small-zh"}), "utf-8")
    return workdir / "base"


def train(capfd, base, *more, steps=2) -> str:
    """Train in this process; returns the log."""
    flags = [
        "--output_dir", "out", "--query_encoder", base, "--train_data", DEMO / "qa.jsonl", "--max_sample_num", 8,
        "--max_steps", steps, "--per_device_train_batch_size", 2, "--train_group_size", 2, "--cos_temperature", 0.05,
        "--dtype", "fp32", "--report_to", "none", "--save_steps", 2, *more,
    ]  # fmt: skip
    assert main([str(flag) for flag in flags]) == 0
    return capfd.readouterr().err


def prompts(folder):
    return json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))["prompts"]


def test_a_base_has_its_own_version_and_a_resumed_run_that_of_its_checkpoint(base, workdir, capfd):
    log = train(capfd, base)
    assert "instructions: e5 (the base's own; --version chooses another)" in log
    assert "contradicts" not in log
    assert json.loads((workdir / "out" / "checkpoint-2" / "args.json").read_text("utf-8"))["version"] == "e5"
    found = prompts(workdir / "out" / "encoder")
    assert (found["qa"], found["qa.key"], found["sts.key"]) == ("query: ", "passage: ", "query: ")
    assert (found["query"], found["document"]) == ("query: ", "passage: ")
    (base / RECORD).unlink()  # now it is any base: only the checkpoint knows
    log = train(capfd, base, "--resume_from_checkpoint", "True", steps=4)
    assert "instructions: e5 (as in out/checkpoint-2; --version chooses another)" in log
    assert (
        "out/checkpoint-2 was trained with other settings, so the result is that of neither:\n  --max_steps: 2, now 4\n"
        in log
    )
    assert prompts(workdir / "out" / "encoder") == found


@pytest.mark.full
def test_none_is_no_prompt_in_training_evaluation_and_export(base, workdir, capfd):
    from zh_embedder.cli import main as command

    test = DEMO.parent / "test" / "qa"
    log = train(capfd, base, "--version", "none", "--eval_data", test)
    assert "--version none contradicts the prompts of" in log
    assert "--version e5 has its own" in log
    for step in (0, 2):
        outcomes = json.loads((workdir / "out" / "evaluation" / f"step-{step}.json").read_text("utf-8"))
        assert [outcome["prompts"] for outcome in outcomes] == [["", ""]]
    assert command(["export", "out", "exported"]) == 0
    for folder in ("out/encoder", "exported"):
        assert set(prompts(workdir / folder).values()) == {""}
