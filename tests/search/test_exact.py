"""Search by tiles finds what sorting the whole score matrix finds, in memory and from the disk."""

import numpy as np
import pytest
import torch

from zh_embedder.core.errors import UserError
from zh_embedder.data.text_files import InputFile
from zh_embedder.search import exact
from zh_embedder.search.exact import best_of, blocks_of, search, search_blocks, search_folder
from zh_embedder.search.vector_store import Manifest, open_vectors, start_folder, write_shard


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
        monkeypatch.setattr(exact, "TILE", request.param[0])
        monkeypatch.setattr(exact, "QUERIES", request.param[1])


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


# ---- ties -----------------------------------------------------------------------------------------------------------


def few_values(count: int, *, seed: int) -> np.ndarray:
    """Vectors of -1, 0 and 1: their scores are small whole numbers, computed without rounding, and mostly equal."""
    return np.random.default_rng(seed).integers(-1, 2, (count, 4)).astype(np.float32)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("hits", [1, 3, 20, 200])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_equal_scores_go_by_index_however_keys_are_cut(metric, hits):
    queries, keys = few_values(9, seed=1), few_values(200, seed=2)
    expected = scores_of(queries, keys, metric)
    scores, found = search(queries, keys, hits=hits, metric=metric, device="cpu")
    assert found.tolist() == np.argsort(-expected, axis=1, kind="stable")[:, :hits].tolist()
    assert np.array_equal(scores, np.take_along_axis(expected, found, axis=1))


@pytest.mark.parametrize("spread", [1, 2, 50, 1000, 10**6])
@pytest.mark.parametrize(("width", "hits"), [(640, 1), (640, 4), (4096, 7), (4096, 31), (4100, 7), (96, 100)])
def test_the_best_of_a_row_are_a_stable_sort(width, hits, spread):
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, spread, (20, width)).astype(np.float32))
    values, columns = best_of(scores, hits)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, expected.values[:, :hits])
    assert torch.equal(columns, expected.indices[:, :hits])


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
def test_the_score_of_a_pair_does_not_depend_on_its_tile(metric, monkeypatch):
    queries, keys = vectors(70, width=100, seed=1), np.repeat(vectors(200, width=100, seed=2), 3, axis=0)
    whole = search(queries, keys, hits=600, metric=metric, device="cpu")
    for tile, asked in ((1, 70), (7, 33), (64, 1), (599, 69)):
        monkeypatch.setattr(exact, "TILE", tile)
        monkeypatch.setattr(exact, "QUERIES", asked)
        for one, other in zip(whole, search(queries, keys, hits=600, metric=metric, device="cpu"), strict=True):
            assert np.array_equal(one, other)
    assert (np.diff(whole[1].reshape(70, 200, 3), axis=2) == 1).all()  # copies in their order


# ---- blocks ---------------------------------------------------------------------------------------------------------


def write_folder(folder, keys: np.ndarray, *, shard_size: int = 7, metric: str = "cos", dtype: str = "float32"):
    manifest = Manifest(
        model="m", weights="w", tokenizer="t", pooling="cls", normalize=True, metric=metric, dimension=keys.shape[1],
        prompt="", max_length=16, dtype="fp32", field=None, with_title=False, shard_size=shard_size, file_format="npy",
        vector_dtype=dtype, inputs=(InputFile("a", len(keys), ""),),
    )  # fmt: skip
    for shard in start_folder(folder, manifest, rank=0, ranks=1, overwrite=False):
        rows = keys[shard * shard_size :][:shard_size]
        write_shard(folder, manifest, shard, [f"k{shard}-{row}" for row in range(len(rows))], rows)
    return folder


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
@pytest.mark.parametrize("draw", [vectors, few_values])
def test_blocks_in_any_order_find_what_the_whole_finds(metric, draw):
    queries, keys = draw(9, seed=1), draw(50, seed=2)
    whole = search(queries, keys, hits=12, metric=metric, device="cpu")
    blocks = [(start, keys[start:end]) for start, end in ((31, 50), (0, 1), (1, 1), (8, 31), (1, 8))]
    for cut in (blocks, sorted(blocks, key=lambda block: block[0])):
        found = search_blocks(queries, iter(cut), hits=12, metric=metric, device="cpu")
        for one, other in zip(whole, found, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.filterwarnings("error")  # torch warns of what is mapped read only
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_is_searched_in_its_own_metric_from_the_disk(tmp_path, dtype):
    queries, keys = vectors(4, seed=1), vectors(40, seed=2).astype(dtype)
    folder = write_folder(tmp_path / "keys", keys, metric="l2", dtype=dtype)
    expected = search(queries, keys.astype(np.float32), hits=9, metric="l2", device="cpu")
    for source in (folder, str(folder), open_vectors(folder)):
        for one, other in zip(expected, search_folder(queries, source, hits=9, device="cpu"), strict=True):
            assert np.array_equal(one, other)
    cosines, _ = search_folder(queries, folder, hits=1, metric="cos", device="cpu")
    np.testing.assert_allclose(cosines[:, 0], scores_of(queries, keys, "cos").max(axis=1), rtol=1e-5)
    assert all(isinstance(block, np.memmap) for _, block in blocks_of(open_vectors(folder)))
    assert [first for first, _ in blocks_of(open_vectors(folder))] == [0, 7, 14, 21, 28, 35]


def test_wrong_arguments_are_refused():
    queries, keys = vectors(2), vectors(5)
    with pytest.raises(UserError, match=r"metric: unknown name 'cosine'; did you mean 'cos'\?"):
        search(queries, keys, hits=1, metric="cosine")
    with pytest.raises(UserError, match="hits: got 0, expected at least 1"):
        search(queries, keys, hits=0)
    with pytest.raises(UserError, match=r"keys: got vectors of shape \(5, 7\), expected \(keys, 6\)"):
        search(queries, vectors(5, width=7), hits=1)
    for spoilt in (0, 1):
        rows = [queries.copy(), keys.copy()]
        rows[spoilt][-1, 0] = np.nan
        with pytest.raises(UserError, match="expected finite numbers in queries and keys"):
            search(*rows, hits=2, metric="ip", device="cpu")
