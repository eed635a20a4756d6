"""A training run killed at its file operations, one after the other: run again, it ends in the same bytes."""

import shutil
import signal

import pytest

from tests.faults.strace import Command, obstacle, operations, strike
from tests.processes import ROOT, SCRIPT, finish, forked, start
from zh_embedder.bases.tiny import build
from zh_embedder.core.outputs import lock_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))]
SECONDS = 15
SAMPLE = 2
ALL = pytest.mark.full


def command(folder, ranks, *more):
    demo = ROOT / "examples" / "demo" / "train" / "qa.jsonl"
    flags = (
        "--output_dir", "out", "--query_encoder", "base", "--train_data", demo, "--max_sample_num", 24,
        "--max_steps", 4, "--save_steps", 2, "--save_total_limit", 1, "--per_device_train_batch_size", 4,
        "--train_group_size", 2, "--cos_temperature", 0.05, "--learning_rate", 1e-3, "--dtype", "fp32",
        "--report_to", "none", "--logging_steps", 1, *more,
    )  # fmt: skip
    return Command((SCRIPT, *flags), folder, ranks)


def again(folder, ranks):
    """Run once more as a user does: from the newest whole checkpoint, or from the start where there is none."""
    whole = any((folder / "out").glob("checkpoint-*"))  # a checkpoint is there whole or not at all
    more = ("--resume_from_checkpoint", "True") if whole else ("--overwrite",)
    finish(start([*forked(ranks), *command(folder, ranks, *more).words], folder))
    return whole


def result(run):
    return {path.relative_to(run): path.read_bytes() for path in sorted((run / "encoder").rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("ranks", "share"),
    [(0, SAMPLE), pytest.param(0, None, marks=ALL), pytest.param(2, None, marks=ALL)],
    ids=["one process, a sample", "one process, all", "two ranks, all"],
)
def test_killed_at_an_operation_and_run_again_gives_the_same_bytes(ranks, share, tmp_path, record_property):
    build(tmp_path / "base", hidden=16, layers=1, heads=2)
    work, out = command(tmp_path, ranks), tmp_path / "out"
    found = operations(work, [out, lock_of(out)])
    expected = result(out)
    assert len(expected) > 8
    found = [one for one in found if one.at.call != "fsync"]  # a kill there leaves what one behind it leaves
    # Syncing changes nothing that can be read: a kill there leaves what a kill at the next operation does.
    found = [one for one in found if one.at.call not in ("fsync", "fdatasync")]
    chosen = found if share is None else found[len(found) // (2 * share) :: -(-len(found) // share)]
    resumed = 0
    for number, operation in enumerate(chosen):
        shutil.rmtree(out, ignore_errors=True)
        struck = strike(work, operation)
        raced = ranks and operation.at.call == "mkdir"  # ranks make folders that the other has not made yet
        assert struck.reached or raced, f"{number}: {operation}"
        assert struck.code == ((1 if ranks else -signal.SIGKILL) if struck.reached else 0)
        resumed += again(tmp_path, ranks)
        assert result(out) == expected, f"{number}: {operation}"
        left = [path.name for path in out.rglob(".*")]
        assert left == [], f"{number}: {operation}"
        checkpoints = [path.name for path in out.glob("checkpoint-*")]
        assert checkpoints == ["checkpoint-4"], f"{number}: {operation}"
    assert resumed > 0
    record_property("points", len(chosen))
    record_property("resumed", resumed)
