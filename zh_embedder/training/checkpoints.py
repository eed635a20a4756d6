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
from zh_embedder.training.checkpoint_manifest import checkpoints_of, number_of


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


def rotate(run: Path, *, limit: int | None, newest: Path, best: Path | None, aside: Path) -> None:
    """Remove the oldest checkpoints beyond a limit, but neither the newest nor the best.

    Each is renamed first, so that a kill never leaves half of one under its name.

    Args:
        run: the folder of the run.
        limit: of checkpoints that stay; none by default.
        newest: the one that was just written.
        best: the one with the best figures.
        aside: the folder where they are removed.
    """
    kept = {newest.name} | ({best.name} if best is not None else set())
    others = [path for path in checkpoints_of(run) if path.name not in kept]
    surplus = len(others) - max(0, limit - len(kept)) if limit is not None and limit > 0 else 0
    # By the time they were written: after a resumption from an older one, higher numbers may be the older ones.
    for path in sorted(others, key=lambda path: (int(path.stat().st_mtime), number_of(path)))[: max(0, surplus)]:
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
        shutil.rmtree(aside, ignore_errors=True)
