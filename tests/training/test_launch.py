"""Launch of a run: what it resumes from, when it is finished, and what it refuses before anything is written."""

import json
import shutil
from types import SimpleNamespace

import pytest

from tests.processes import ROOT, losses
from zh_embedder.commands.train import main
from zh_embedder.core.errors import UserError
from zh_embedder.training.base_trainer import BaseTrainer
from zh_embedder.training.launch import train_and_save

DEMO = ROOT / "examples" / "demo" / "train"
SECONDS = 15
pytestmark = pytest.mark.slow


def train(base, out, *more, steps=4) -> int:
    """Train a few steps in this process, with checkpoints at every other; returns the exit code."""
    flags = [
        "--output_dir", out, "--query_encoder", base, "--train_data", DEMO / "qa.jsonl", "--max_sample_num", 24,
        "--max_steps", steps, "--per_device_train_batch_size", 4, "--train_group_size", 2, "--cos_temperature", 0.05,
        "--learning_rate", 1e-3, "--lr_scheduler_type", "constant", "--dtype", "fp32", "--report_to", "none",
        "--logging_steps", 1, "--save_steps", 2, *more,
    ]  # fmt: skip
    return main([str(flag) for flag in flags])


RESUME = ("--resume_from_checkpoint", "True")


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tiny_bert, tmp_path_factory):
    """A run of 4 steps, and one of 6."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZH_EMBEDDER_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert train(tiny_bert, "four") == 0
        assert train(tiny_bert, "six", steps=6) == 0
    return folder


@pytest.fixture
def here(finished, workdir, monkeypatch):
    """The finished run's copy, in a working folder of its own."""
    shutil.copytree(finished / "four", workdir / "out")
    monkeypatch.setenv("ZH_EMBEDDER_CACHE", str(finished / "cache"))
    return workdir


@pytest.mark.parametrize("resume", ["True", "out/checkpoint-4"])
def test_a_finished_run_stays_as_it_is(resume, here, tiny_bert, capfd):
    before = content(here / "out")
    assert train(tiny_bert, "out", "--resume_from_checkpoint", resume) == 0
    said = capfd.readouterr().err
    assert "finished: out/checkpoint-4: 4 steps are trained, this run has 4: nothing is trained" in said
    assert "out/encoder is its result already" in said
    assert content(here / "out") == before


def test_a_finished_run_without_its_result_gets_it(here, tiny_bert, capfd):
    before = content(here / "out")
    shutil.rmtree(here / "out" / "encoder")
    (here / "out" / "plan.json").unlink()
    (here / "out" / ".partial" / "checkpoint-4").mkdir(parents=True)  # as a killed run leaves it
    assert train(tiny_bert, "out", *RESUME) == 0
    assert "nothing is trained; out/encoder is written from out/checkpoint-4" in capfd.readouterr().err
    assert content(here / "out") == before
    assert not (here / "out" / ".partial").exists()


def test_the_result_of_a_run_that_was_replaced_is_not_taken_for_this_ones(here, finished, tiny_bert):
    shutil.rmtree(here / "out" / "encoder")
    shutil.copytree(finished / "six" / "encoder", here / "out" / "encoder")
    assert train(tiny_bert, "out", *RESUME) == 0
    assert content(here / "out") == content(finished / "four")


def test_a_limit_that_a_kill_kept_from_taking_effect_does(here, tiny_bert):
    assert train(tiny_bert, "out", *RESUME, "--save_total_limit", 1) == 0
    assert [path.name for path in (here / "out").glob("checkpoint-*")] == ["checkpoint-4"]


@pytest.mark.full
def test_raising_the_steps_continues(here, finished, tiny_bert):
    assert train(tiny_bert, "out", *RESUME, steps=6) == 0
    assert content(here / "out" / "encoder") == content(finished / "six" / "encoder")
    assert losses(here / "out", 6) == losses(finished / "six", 6)


def test_the_newest_whole_checkpoint_is_taken_and_the_torn_one_named(here, finished, tiny_bert, capfd):
    torn = here / "out" / "checkpoint-4" / "optimizer.pt"
    torn.write_bytes(torn.read_bytes()[:-1] + b"x")
    assert train(tiny_bert, "out", "--resume_from_checkpoint", "out/checkpoint-4", steps=6) == 2
    said = capfd.readouterr().err
    assert "out/checkpoint-4 is not a complete checkpoint: optimizer.pt is not what was written" in said
    assert train(tiny_bert, "out", *RESUME, steps=6) == 0
    said = capfd.readouterr().err
    assert "out/checkpoint-4 is torn: optimizer.pt is not what was written" in said
    assert "resuming from out/checkpoint-2" in said
    assert content(here / "out" / "encoder") == content(finished / "six" / "encoder")


def test_no_whole_checkpoint_names_what_is_wrong_with_each(here, tiny_bert, capfd):
    (here / "out" / "checkpoint-4" / "plan.json").unlink()
    (here / "out" / "checkpoint-2" / "scheduler.pt").write_bytes(b"")
    before = content(here / "out")
    assert train(tiny_bert, "out", *RESUME) == 2
    said = capfd.readouterr().err
    assert "no complete checkpoint in out\nout/checkpoint-4 is torn: plan.json is missing" in said
    assert "out/checkpoint-2 is torn: scheduler.pt has 0 bytes, expected 1,465" in said
    assert content(here / "out") == before


@pytest.mark.full
def test_a_checkpoint_of_an_earlier_version_is_resumed(here, finished, tiny_bert):
    for checkpoint in (here / "out").glob("checkpoint-*"):
        (checkpoint / "manifest.json").unlink()
    assert train(tiny_bert, "out", *RESUME, steps=6) == 0
    assert content(here / "out" / "encoder") == content(finished / "six" / "encoder")


def test_early_exit_is_an_end(here, tiny_bert, capfd):
    assert train(tiny_bert, "out", *RESUME, "--early_exit_steps", 4, steps=6) == 0
    assert "4 steps are trained, --early_exit_steps is 4: nothing is trained" in capfd.readouterr().err


@pytest.mark.parametrize(("waited", "patience", "ended"), [(2, 2, True), (3, 2, True), (1, 2, False), (2, None, False)])
def test_early_stopping_is_an_end(waited, patience, ended, tmp_path):
    stopping = {"EarlyStoppingCallback": {"attributes": {"early_stopping_patience_counter": waited}}}
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 4, "stateful_callbacks": stopping}))
    args = SimpleNamespace(early_exit_steps=None, early_stopping_patience=patience)
    why = BaseTrainer.why_finished(SimpleNamespace(args=args, planned_steps=lambda: 6), tmp_path)
    assert why == ("--early_stopping_patience 2 ended it at step 4" if ended else None)


@pytest.mark.parametrize("flags", [("--num_train_epochs", 0), ("--num_train_epochs", -1)])
def test_a_run_of_no_steps_saves_nothing(flags, workdir, tiny_bert, capfd):
    assert train(tiny_bert, "out", *flags, steps=-1) == 2
    assert "--num_train_epochs" in capfd.readouterr().err
    assert not (workdir / "out").exists()


@pytest.mark.parametrize(("steps", "named"), [(0, "--max_steps: got 0"), (-1, "--num_train_epochs: got 0.0")])
def test_a_trainer_without_steps_is_refused_before_anything_is_removed(steps, named):
    """Whatever flags let it come to that."""
    args = SimpleNamespace(train=SimpleNamespace(max_steps=steps, num_train_epochs=0.0))
    trainer = SimpleNamespace(planned_steps=lambda: 0)
    with pytest.raises(UserError, match=f"^{named}, expected at least one step"):
        train_and_save(args, trainer, None, describe=lambda: pytest.fail("described"))
