"""Weights in six bits: by hand, how far they come back off, and what a damaged file says."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zh_embedder.bases.catalogue import PACKED
from zh_embedder.bases.six_bits import pack_file, pack_folder, packed, unpack_file, unpacked
from zh_embedder.core.errors import UserError


def test_a_block_by_hand():
    row = np.zeros(32, np.float32)
    row[:4] = [31, -31, 1, 0]  # the scale is 1: stored are 63, 1, 33 and 32
    codes, scales = packed(row[None])
    word = 63 | 1 << 6 | 33 << 12 | 32 << 18
    zero = 32 | 32 << 6 | 32 << 12 | 32 << 18
    assert codes.tobytes() == word.to_bytes(3, "little") + 7 * zero.to_bytes(3, "little")
    assert scales.tolist() == [1.0]
    assert unpacked(codes, scales, (1, 32)).tolist() == row[None].tolist()


def test_each_weight_comes_back_off_by_half_a_step_at_most():
    matrix = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    codes, scales = packed(matrix)
    assert codes.nbytes + scales.nbytes == matrix.size * 6.5 / 8
    off = np.abs(unpacked(codes, scales, matrix.shape).astype(np.float32) - matrix).reshape(-1, 32)
    assert (off <= scales.astype(np.float32)[:, None] * 0.51 + 1e-3).all()  # and fp16's own rounding
    assert off.max() > 0


def test_zeros_stay_zeros():
    assert not unpacked(*packed(np.zeros((2, 32))), (2, 32)).any()


def test_a_file_keeps_names_shapes_and_vectors(tmp_path):
    rng = np.random.default_rng(1)
    weights = {
        "matrix": rng.normal(size=(6, 32)).astype(np.float32),
        "odd": rng.normal(size=(3, 5)).astype(np.float32),
        "bias": rng.normal(size=7).astype(np.float32),
    }
    save_file(weights, tmp_path / "model.safetensors")
    pack_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PACKED]
    found = unpack_file(tmp_path / PACKED)
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in weights.items()}
    for name in ("odd", "bias"):
        assert np.array_equal(found[name], weights[name].astype(np.float16))
    np.testing.assert_allclose(found["matrix"], weights["matrix"], atol=np.abs(weights["matrix"]).max() / 61)


def test_what_is_damaged_is_named(tmp_path):
    save_file({"matrix": np.ones((2, 32), np.float32)}, tmp_path / "whole")
    pack_file(tmp_path / "whole", tmp_path / "packed")
    stored = load_file(tmp_path / "packed")
    save_file({name: value for name, value in stored.items() if not name.endswith(".scales")}, tmp_path / "without")
    save_file({**stored, "matrix.codes": stored["matrix.codes"][:-1]}, tmp_path / "short")
    (tmp_path / "cut").write_bytes((tmp_path / "packed").read_bytes()[:-5])
    for name in ("without", "short", "cut", "missing"):
        with pytest.raises(UserError, match=f"{name}: is cut, damaged or no file of six bits"):
            unpack_file(tmp_path / name)
