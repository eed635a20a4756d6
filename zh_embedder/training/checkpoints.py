"""Checkpoint folders of a run: which are whole, and their weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from zh_embedder.bases.folder_format import DENSE
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import beside, renamed
from zh_embedder.models.encoder import DENSE_WEIGHTS, Encoder
from zh_embedder.models.folders import QUERY_FOLDER
from zh_embedder.models.lora import LORA_FILE, has_lora
from zh_embedder.models.parts import dense_weight

PLAN_FILE = "plan.json"


def load_weights(encoder: Encoder, folder: Path) -> None:
    """Load the weights of an encoder folder into an encoder of the same shape."""
    from safetensors.torch import load_file

    if has_lora(encoder.backbone):
        if not (folder / LORA_FILE).is_file():
            raise UserError(f"--resume_from_checkpoint: {folder} was trained without --lora_rank")
        encoder.backbone.load_state_dict(load_file(folder / LORA_FILE), strict=False)
    else:
        encoder.backbone.load_state_dict(load_file(folder / "model.safetensors"))
    if encoder.dense is not None:
        encoder.dense.load_state_dict({"weight": dense_weight(folder / DENSE / DENSE_WEIGHTS)})


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint folder has everything that resuming needs."""
    weights = checkpoint / QUERY_FOLDER / "model.safetensors"
    engine = (checkpoint / "optimizer.pt").is_file() or any(checkpoint.glob("global_step*"))
    random_states = any(checkpoint.glob("rng_state*.pth"))
    named = (checkpoint / "trainer_state.json", checkpoint / PLAN_FILE, weights)
    return engine and random_states and all(path.is_file() for path in named)


def checkpoints(run: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if p.name.split("-")[-1].isdigit()]
    return [p for p in sorted(found, key=lambda p: int(p.name.split("-")[-1])) if is_whole(p)]


def copy_encoders(checkpoint: Path, run: Path, names: Iterable[str]) -> None:
    """Copy folders and files of a checkpoint into the run, each written next to its place and renamed."""
    for name in names:
        source = checkpoint / name
        if source.is_dir():
            with beside(run / name) as partial:
                shutil.copytree(source, partial, dirs_exist_ok=True)
        elif source.is_file():
            with renamed(run / name) as partial:
                shutil.copyfile(source, partial)
