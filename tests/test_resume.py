"""Rule 6: a run that was killed and resumed equals the one that never stopped, bit for bit."""

import json
import shutil
import subprocess
import time

import psutil
import pytest
import torch

from tests.processes import ROOT, SCRIPT, environment, finish, forked, kill_with_children, losses, run, start, weights
from zh_embedder.commands.train import main

pytestmark = pytest.mark.slow
SECONDS = 60
STEPS, EVERY, KILLED_AT = 36, 3, 15  # 12 steps an epoch: the kill comes in the middle of epoch 2


def flags(base, out, *more):
    demo = ROOT / "examples" / "demo" / "train"
    return (
        "--output_dir", out, "--query_encoder", base, "--train_data", demo / "qa.jsonl", demo / "chat.jsonl",
        "--max_sample_num", 48, "--inbatch_same_dataset", "epoch", "--num_train_epochs", 3, "--learning_rate", 1e-3,
        "--train_group_size", 3, "--cos_temperature", 0.05, "--dtype", "fp32", "--report_to", "none",
        "--logging_steps", 1, "--save_steps", EVERY, "--seed", 7, *more,
    )  # fmt: skip


def kill_when(process, folder):
    """SIGKILL the process and its ranks (in sessions of their own) when a checkpoint is there."""
    wait_for(folder.exists, process)
    kill_with_children(process)


def wait_for(done, process):
    """Wait until a running process has done something."""
    deadline = time.time() + 120
    while not done() and time.time() < deadline:
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.005)


@pytest.mark.parametrize(("ranks", "batch", "workers"), [(1, 8, 2), (2, 4, 0)])
def test_killed_in_epoch_2_and_resumed_equals_uninterrupted(
    ranks, batch, workers, tiny_bert, tmp_path, monkeypatch, capsys
):
    launcher = forked(0 if ranks == 1 else ranks)
    more = ("--per_device_train_batch_size", batch, "--dataloader_num_workers", workers)
    run(*flags(tiny_bert, "whole", *more), cwd=tmp_path, launcher=launcher)

    process = start([*launcher, SCRIPT, *flags(tiny_bert, "killed", *more)], tmp_path)
    kill_when(process, tmp_path / "killed" / f"checkpoint-{KILLED_AT}")
    assert not (tmp_path / "killed" / "encoder").exists()
    # What a crash while copying would leave: newer by its name, and not whole.
    torn = tmp_path / "killed" / f"checkpoint-{STEPS - 1}"
    shutil.copytree(tmp_path / "killed" / f"checkpoint-{KILLED_AT}", torn)
    (torn / "optimizer.pt").unlink()
    resumed = run(
        *flags(tiny_bert, "killed", *more, "--resume_from_checkpoint", "True"), cwd=tmp_path, launcher=launcher
    )

    assert "resuming from killed/checkpoint-" in resumed
    assert f"killed/checkpoint-{STEPS - 1} is torn: optimizer.pt is missing; an older one is taken" in resumed
    before, after = losses(tmp_path / "whole", STEPS), losses(tmp_path / "killed", STEPS)
    assert len(before) == STEPS
    assert before == after
    one, other = weights(tmp_path / "whole" / "encoder"), weights(tmp_path / "killed" / "encoder")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    plan = json.loads((tmp_path / "whole" / f"checkpoint-{STEPS}" / "plan.json").read_text())
    assert plan["seed"] == 7
    assert plan["datasets"] == {"qa:qa.jsonl": 48, "chat:chat.jsonl": 48}
    args = json.loads((tmp_path / "whole" / "args.json").read_text())
    assert (args["seed"], args["learning_rate"], args["inbatch_same_dataset"]) == (7, 1e-3, "epoch")

    # The order of the data would not go on with another batch: refused, and nothing is touched.
    changed = [*flags(tiny_bert, "killed", "--resume_from_checkpoint", "True"), "--per_device_train_batch_size"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZH_EMBEDDER_CACHE", str(tmp_path / "cache"))
    assert main([*map(str, changed), str(batch + 1)]) == 2
    message = capsys.readouterr().err
    assert f" {batch * ranks}, this run has {batch + 1}" in message
    assert "Traceback" not in message


def test_a_second_run_is_refused_and_ranks_end_with_their_launcher(tiny_bert, tmp_path):
    """Two ranks each: the one folder is the first run's until its launcher is killed, and the next run's at once."""
    launcher = forked(2)
    command = [SCRIPT, *flags(tiny_bert, "out", "--per_device_train_batch_size", 4, "--dataloader_num_workers", 1)]
    endless = [*command, "--num_train_epochs", 1000, "--save_steps", 20]
    process = start([*launcher, *endless], tmp_path)
    wait_for((tmp_path / "out" / "checkpoint-20").exists, process)

    refused = start([*launcher, *endless, "--resume_from_checkpoint", "True"], tmp_path)
    printed, _ = refused.communicate(timeout=60)
    assert refused.returncode == 1  # of the launcher, as torchrun: a rank's own was 2
    assert "error: --output_dir: out: another process is writing it" in printed
    assert "Traceback" not in printed

    own = psutil.Process(process.pid)
    ranks = own.children(recursive=True)
    assert len(ranks) == 4  # with a worker each
    own.kill()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
    assert "torchrun is gone, so this rank ends" in process.communicate()[0]

    last = max(int(path.name.split("-")[1]) for path in (tmp_path / "out").glob("checkpoint-*"))
    more = ("--resume_from_checkpoint", "True", "--max_steps", last + 1)
    assert f"resuming from out/checkpoint-{last}" in finish(start([*launcher, *command, *more], tmp_path))


def test_a_process_that_a_shell_started_outlives_it(tmp_path):
    """Without a launcher, a parent that ends is no reason to end, whatever RANK says."""
    watch = "from zh_embedder.core.ranks import end_with_launcher as f; import time; f(); time.sleep(1.2); print('on')"
    env = {**environment(tmp_path), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    for name in ("TORCHELASTIC_RESTART_COUNT", "CROSS_RANK"):
        env.pop(name, None)
    shell = 'nohup python -c "$0" > out.txt 2> err.txt & exit 0'
    subprocess.run(["sh", "-c", shell, watch], cwd=tmp_path, env=env, check=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "out.txt").is_file() or (
        (tmp_path / "out.txt").read_text() != "on\n" and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert (tmp_path / "out.txt").read_text() == "on\n", (tmp_path / "err.txt").read_text()
