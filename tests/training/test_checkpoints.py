"""Checkpoints beyond the limit: which go, in the order of their writing."""

import os

import pytest

from zh_embedder.training.checkpoints import holds_copies, rotate


def write(run, *steps):
    """Write checkpoints one after the other, seconds apart."""
    for place, step in enumerate(steps):
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        os.utime(folder, (place * 10, place * 10))


@pytest.mark.parametrize(
    ("written", "limit", "best", "left"),
    [
        ((2, 4, 6, 8), None, None, {2, 4, 6, 8}),
        ((2, 4, 6, 8), 2, None, {6, 8}),
        ((2, 4, 6, 8), 2, 2, {2, 8}),
        ((2, 4, 6, 8), 1, 2, {2, 8}),
        ((2, 4, 6, 8), 3, 8, {4, 6, 8}),
        ((6, 8, 2, 4), 2, None, {2, 4}),  # resumed from an older one: the higher numbers are the older ones
        ((2,), 1, None, {2}),
    ],
)
def test_the_oldest_go_but_neither_the_newest_nor_the_best(written, limit, best, left, tmp_path):
    write(tmp_path, *written)
    (tmp_path / "checkpoint-notes").mkdir()
    newest, kept = tmp_path / f"checkpoint-{written[-1]}", tmp_path / f"checkpoint-{best}" if best else None
    rotate(tmp_path, limit=limit, newest=newest, best=kept, aside=tmp_path / ".partial")
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in left} | {"checkpoint-notes"}


def test_copies_are_compared_by_content(tmp_path):
    for folder in ("checkpoint-2", "run"):
        (tmp_path / folder / "encoder" / "1_Pooling").mkdir(parents=True)
        (tmp_path / folder / "encoder" / "1_Pooling" / "config.json").write_text("{}")
        (tmp_path / folder / "args.json").write_text("{}")
    run, checkpoint = tmp_path / "run", tmp_path / "checkpoint-2"
    assert holds_copies(run, checkpoint, ["encoder", "args.json"])
    (run / "encoder" / "1_Pooling" / "config.json").write_text("[]")
    assert not holds_copies(run, checkpoint, ["encoder", "args.json"])
    (run / "args.json").unlink()
    assert not holds_copies(run, checkpoint, ["args.json"])
