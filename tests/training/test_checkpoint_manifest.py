"""Damage to a checkpoint: found in any file, with a manifest and without, and named."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import save_file

from zh_embedder.training.checkpoint_manifest import MANIFEST_FILE, checkpoints_of, find_damage, seal

FILES = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "plan.json",
    "encoder/model.safetensors",
)
ENGINE = ("global_step4/rank0_optim.pt", "rng_state_0.pth", "rng_state_1.pth", *FILES[3:])


def write(folder, names):
    """Write a checkpoint as torch, safetensors and the trainer do."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps({"global_step": 4, "name": name}), "utf-8")
        elif path.suffix == ".safetensors":
            save_file({"weight": torch.arange(64.0)}, path)
        else:
            torch.save({"state": torch.arange(64.0), "name": name}, path)
    return folder


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    """One bit in the middle, where no header is."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {"empty": lambda _: b"", "half": cut, "garbage": lambda content: random.Random(0).randbytes(len(content))}


@pytest.mark.parametrize("names", [FILES, ENGINE], ids=["plain", "engine"])
def test_damage_to_any_file_is_named(names, tmp_path):
    whole = write(tmp_path / "checkpoint-4", names)
    seal(whole)
    assert find_damage(whole) is None
    assert set(json.loads((whole / MANIFEST_FILE).read_text())["files"]) == set(names)
    for name in (*names, MANIFEST_FILE):
        for damage in (*DAMAGES.values(), None) if name == MANIFEST_FILE else (*DAMAGES.values(), flipped, None):
            torn = shutil.copytree(whole, tmp_path / "torn")
            if damage is not None:
                (torn / name).write_bytes(damage((whole / name).read_bytes()))
            else:
                (torn / name).unlink()
            found = find_damage(torn)
            if name == MANIFEST_FILE and damage is None:
                assert found is None  # as of an earlier version: every file is whole by its own rules
            else:
                assert found is not None, (name, damage)
                assert name in found or (name.startswith("global_step") and "optimizer.pt" in found)
                assert str(tmp_path) not in found
            shutil.rmtree(torn)


@pytest.mark.parametrize("names", [FILES, ENGINE], ids=["plain", "engine"])
def test_damage_is_named_without_a_manifest_too(names, tmp_path):
    whole = write(tmp_path / "checkpoint-4", names)
    assert find_damage(whole) is None
    for name in names:
        for damage in DAMAGES.values():
            torn = shutil.copytree(whole, tmp_path / "torn")
            (torn / name).write_bytes(damage((whole / name).read_bytes()))
            assert (find_damage(torn) or "").startswith(name)
            shutil.rmtree(torn)


def test_a_manifest_of_another_kind_is_damage(tmp_path):
    whole = write(tmp_path / "checkpoint-4", FILES)
    for text in ("[]", "{}", '{"files": {"plan.json": 3}}', '{"files": []}'):
        (whole / MANIFEST_FILE).write_text(text, "utf-8")
        assert find_damage(whole) == f"{MANIFEST_FILE}: lists no files"


def test_an_old_pickle_is_not_opened(tmp_path):
    """Without a manifest, files are judged by their checksums: what a pickle would run is never run."""
    import pickle

    whole, ran = write(tmp_path / "checkpoint-4", FILES), tmp_path / "ran"
    (whole / "scheduler.pt").write_bytes(pickle.dumps(Bomb(str(ran))))
    assert (find_damage(whole) or "").startswith("scheduler.pt")
    assert not ran.exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_checkpoints_come_newest_first_by_their_number(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "checkpoint-", "checkpoint-²"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").touch()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-10", "checkpoint-9"]
