"""Weights in six bits: blocks of 32 with a scale each, a third of their size in fp16 and a bit.

A weight w of a block is stored as round(w / scale) + 32 with scale = max |w| / 31, so it comes back off by at most half
a scale. Four of these numbers of six bits lie in three bytes, the first in the lowest bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.bases.catalogue import PACKED
from zh_embedder.core.errors import UserError

BLOCK, MIDDLE, MOST = 32, 32, 31
CODES, SCALES, SHAPE = ".codes", ".scales", ".shape"  # of a matrix in the file; whatever has none of them is as it is
SHIFTS = np.arange(0, 24, 6, dtype=np.uint32)


def packed(matrix: NDArray[np.floating[Any]]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Store a matrix, whose elements are a multiple of 32, as codes (elements * 3 / 4,) and scales (elements / 32,).

    Raises:
        ValueError: its elements are no multiple of 32.
    """
    blocks = matrix.astype(np.float32).reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(axis=1) / MOST).astype(np.float16)
    steps = np.where(scales == 0, 1, scales).astype(np.float32)[:, None]
    numbers = (np.clip(np.rint(blocks / steps), -MOST, MOST) + MIDDLE).astype(np.uint32)
    words = (numbers.reshape(-1, 4) << SHIFTS).sum(axis=1, dtype=np.uint32)
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].reshape(-1), scales


def unpacked(codes: NDArray[np.uint8], scales: NDArray[np.float16], shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Return the matrix that was stored.

    Raises:
        ValueError: the sizes do not belong together.
    """
    whole = np.zeros((len(codes) // 3, 4), np.uint8)
    whole[:, :3] = codes.reshape(-1, 3)
    numbers = (whole.view("<u4") >> SHIFTS) & 63
    values = (numbers.astype(np.float32) - MIDDLE).reshape(len(scales), BLOCK) * scales.astype(np.float32)[:, None]
    return values.astype(np.float16).reshape(shape)


def pack_file(weights: Path, target: Path) -> None:
    """Store a file of weights in six bits: its matrices; vectors and what is no multiple of a block stay fp16."""
    from safetensors.numpy import load_file, save_file

    found: dict[str, NDArray[Any]] = {}
    for name, value in load_file(weights).items():
        if value.ndim == 2 and value.size % BLOCK == 0:
            found[name + CODES], found[name + SCALES] = packed(value)
            found[name + SHAPE] = np.array(value.shape, np.int64)
        else:
            found[name] = value.astype(np.float16)
    save_file(found, target)


def pack_folder(folder: Path) -> None:
    """Put packed weights in the place of a folder's own."""
    weights = folder / "model.safetensors"
    pack_file(weights, folder / PACKED)
    weights.unlink()


def unpack_file(source: Path) -> Mapping[str, NDArray[np.float16]]:
    """Return the weights of a file that `pack_file` wrote.

    Raises:
        UserError: it is cut, damaged or another.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(source)
        matrices = {name.removesuffix(CODES) for name in stored if name.endswith(CODES)}
        found = {name: value for name, value in stored.items() if not name.endswith((CODES, SCALES, SHAPE))}
        for name in matrices:
            shape = tuple(map(int, stored[name + SHAPE]))
            found[name] = unpacked(stored[name + CODES], stored[name + SCALES], shape)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{source}: is cut, damaged or no file of six bits: {error}") from error
    return found
