"""One formula for each metric, whatever is compared with what."""

import numpy as np
import pytest
import torch

from zh_embedder.core.similarity import SIMILARITIES, matrix, one_with_many, pairs, placed, prepared, rows

A, B = [3.0, 4.0], [8.0, -6.0]
BY_HAND = {"cos": 0.0, "ip": 0.0, "l2": -125.0}  # A and B are at right angles: |A - B|^2 = 25 + 100
DRAWN = np.random.default_rng(5).standard_normal((6, 7)).astype(np.float32)
# What the formulas gave when there were five of them; other processors may add in another order.
ONE_WITH_MANY = {
    "cos": ["-0x1.fa92c60000000p-2", "0x1.10110c0000000p-2"],
    "ip": ["-0x1.85a4e00000000p+1", "0x1.49ec000000000p+0"],
    "l2": ["-0x1.3412be0000000p+4", "-0x1.cd79800000000p+2"],
}
PAIRS = {
    "cos": ["0x1.10110bd9f8cb9p-2", "-0x1.8b719970f1902p-3"],
    "ip": ["0x1.49ec0041212c1p+0", "-0x1.31740f77ccdecp+0"],
    "l2": ["-0x1.cd7981ad2e4ecp+2", "-0x1.f2d6f9e27270cp+3"],
}


@pytest.mark.parametrize("metric", SIMILARITIES)
def test_all_forms_give_what_is_worked_out_by_hand(metric):
    first, second = np.array([A, A], np.float32), np.array([B, A], np.float32)
    itself = {"cos": 1.0, "ip": 25.0, "l2": 0.0}[metric]
    left, right = placed(first, metric), placed(second, metric)
    expected = pytest.approx([BY_HAND[metric], itself], abs=1e-6)
    assert matrix(left, right, metric)[0].tolist() == expected
    assert rows(left, right, metric).tolist() == expected
    assert one_with_many(first[0], second, metric).tolist() == expected
    assert pairs(first, second, metric).tolist() == expected


@pytest.mark.parametrize("metric", SIMILARITIES)
def test_figures_do_not_move(metric):
    near = [float.fromhex(value) for value in ONE_WITH_MANY[metric]]
    assert one_with_many(DRAWN[0], DRAWN[1:3], metric).tolist() == pytest.approx(near, rel=3e-7)
    exact = [float.fromhex(value) for value in PAIRS[metric]]
    assert pairs(DRAWN[:2], DRAWN[2:4], metric).tolist() == pytest.approx(exact, rel=1e-15)


def test_scores_of_rows_have_the_gradient_of_the_formula():
    left, right = torch.tensor([A], requires_grad=True), torch.tensor([B])
    rows(left, right, "l2").sum().backward()
    assert left.grad.tolist() == [[10.0, -20.0]]  # -2 (A - B)
    assert rows(torch.ones(2, 1, 3), torch.ones(2, 5, 3), "ip").tolist() == [[3.0] * 5] * 2


def test_a_zero_vector_has_the_cosine_zero():
    zeros = np.zeros((1, 2), np.float32)
    assert pairs(zeros, np.array([A], np.float32), "cos").tolist() == [0.0]
    assert one_with_many(zeros[0], np.array([A], np.float32), "cos").tolist() == [0.0]


def test_pairs_are_summed_in_double_precision():
    big = np.array([[4096.0, 1.0, -4096.0]], np.float32)
    assert pairs(big, np.array([[4096.0, 1.0, 4096.0]], np.float32), "ip").tolist() == [1.0]


def test_no_keys_have_no_scores():
    assert one_with_many(DRAWN[0], DRAWN[:0], "cos").tolist() == []


def test_only_cosines_want_length_one():
    vectors = torch.tensor([A])
    assert prepared(vectors, "cos").tolist() == [pytest.approx([0.6, 0.8])]
    assert prepared(vectors, "ip") is vectors
    assert prepared(vectors, "l2") is vectors


def test_half_precision_and_memory_mapped_vectors_are_compared_in_fp32(tmp_path):
    np.save(tmp_path / "v.npy", DRAWN.astype(np.float16))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    found = placed(mapped, "ip")
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), DRAWN.astype(np.float16).astype(np.float32))
