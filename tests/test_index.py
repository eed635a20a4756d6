"""Search by tiles finds what sorting the whole score matrix finds."""

import numpy as np
import pytest

from zh_embedder import index
from zh_embedder.index import search


def vectors(count: int, *, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scores_of(queries: np.ndarray, keys: np.ndarray, metric: str) -> np.ndarray:
    """Every score, in double precision, by definition."""
    queries, keys = queries.astype(np.float64), keys.astype(np.float64)
    if metric == "l2":
        return -((queries[:, None] - keys[None]) ** 2).sum(axis=2)
    return unit(queries) @ unit(keys).T if metric == "cos" else queries @ keys.T


@pytest.fixture(params=[None, (4, 3), (1, 1), (50, 2), (7, 100)], ids=str)
def tiles(request, monkeypatch):
    """Keys and queries of a tile; None leaves the library's."""
    if request.param:
        monkeypatch.setattr(index, "TILE", request.param[0])
        monkeypatch.setattr(index, "QUERIES", request.param[1])


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("hits", [1, 5, 49, 50, 51, 1000])
@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
def test_search_is_sorting_all_scores(metric, hits):
    queries, keys = vectors(9, seed=1), vectors(50, seed=2)
    expected = scores_of(queries, keys, metric)
    scores, found = search(queries, keys, hits=hits, metric=metric, device="cpu")
    order = np.argsort(-expected, axis=1, kind="stable")[:, :hits]
    assert found.shape == scores.shape == (9, min(hits, 50))
    assert found.tolist() == order.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, axis=1), rtol=1e-5, atol=1e-5)
    assert (scores.dtype, found.dtype) == (np.float32, np.int64)


@pytest.mark.usefixtures("tiles")
def test_equal_keys_are_all_found_once():
    queries, keys = vectors(3, seed=1), np.repeat(vectors(5, seed=2), 4, axis=0)  # each key four times
    scores, found = search(queries, keys, hits=20, device="cpu")
    for row, columns in zip(scores, found, strict=True):
        assert sorted(columns) == list(range(20))
        assert (np.diff(row) <= 0).all()
        groups = (columns // 4).reshape(5, 4)
        assert (groups == groups[:, :1]).all()  # copies stand together: none is between those of another key
    few, first = search(queries, keys, hits=6, device="cpu")
    assert [len(set(columns)) for columns in first] == [6, 6, 6]
    np.testing.assert_array_equal(few, scores[:, :6])


@pytest.mark.usefixtures("tiles")
def test_tiles_without_a_winner_lose_nothing():
    keys = np.concatenate([vectors(30, seed=2) * 0.01, np.eye(6, dtype=np.float32)])
    scores, found = search(np.eye(6, dtype=np.float32), keys, hits=1, metric="ip", device="cpu")
    assert found[:, 0].tolist() == list(range(30, 36))
    assert scores[:, 0].tolist() == [1.0] * 6


def test_cosine_does_not_depend_on_lengths():
    queries, keys = vectors(4, seed=1), vectors(20, seed=2)
    longer = keys * np.linspace(0.1, 9, 20, dtype=np.float32)[:, None]
    scores, found = search(unit(queries), unit(keys), hits=20, device="cpu")
    again, same = search(queries * 3, longer, hits=20, device="cpu")
    assert same.tolist() == found.tolist()
    np.testing.assert_allclose(again, scores, atol=1e-6)


def test_arrays_of_any_layout_are_read():
    queries, keys = vectors(4, seed=1), vectors(40, seed=2)
    for view in (keys[::2], keys[::-1], np.asfortranarray(keys)):
        _, expected = search(queries, view.copy(order="C"), hits=5, device="cpu")
        _, strided = search(np.asfortranarray(queries), view, hits=5, device="cpu")
        assert strided.tolist() == expected.tolist()


@pytest.mark.parametrize(("queries", "keys", "shape"), [(0, 5, (0, 3)), (2, 0, (2, 0)), (0, 0, (0, 0)), (2, 2, (2, 2))])
def test_few_or_none_are_no_trouble(queries, keys, shape):
    scores, found = search(vectors(queries), vectors(keys), hits=3, device="cpu")
    assert scores.shape == found.shape == shape
