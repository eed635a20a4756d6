"""Weights of a checkpoint: loaded into an encoder, or copied into the run as its result."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from filecmp import cmp
from pathlib import Path

from zh_embedder.bases.folder_format import DENSE
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import beside, renamed
from zh_embedder.models.encoder import DENSE_WEIGHTS, Encoder
from zh_embedder.models.lora import LORA_FILE, has_lora
from zh_embedder.models.parts import dense_weight


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


def holds_copies(run: Path, checkpoint: Path, names: Iterable[str]) -> bool:
    """Whether a run holds these folders and files of a checkpoint with the same content."""
    paths = [path for name in names for path in [checkpoint / name, *(checkpoint / name).rglob("*")] if path.is_file()]
    pairs = [(path, run / path.relative_to(checkpoint)) for path in paths]
    return all(copy.is_file() and cmp(path, copy, shallow=False) for path, copy in pairs)
