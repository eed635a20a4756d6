"""A faiss index finds what exact search finds where it keeps everything, and says what it cannot do."""

import sys

import numpy as np
import pytest

from tests.search.test_exact import vectors, write_folder
from zh_embedder.core.errors import UserError
from zh_embedder.search.exact import search
from zh_embedder.search.faiss_index import build, drawn, load_index, retrieve, save_index
from zh_embedder.search.vector_store import open_vectors

faiss = pytest.importorskip("faiss")
QUERIES, KEYS = vectors(20, width=16, seed=1), vectors(600, width=16, seed=2)
EVERYTHING = {"Flat": {}, "HNSW16": {"ef": 600}, "IVF8,Flat": {"probes": 8}, "RR16,IVF4,Flat": {"probes": 4}}


def recall(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, right, strict=True)]))


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
@pytest.mark.parametrize("factory", EVERYTHING)
def test_an_index_that_looks_everywhere_is_exact(factory, metric):
    scores, found = build(KEYS, factory=factory, metric=metric).search(QUERIES, 10, **EVERYTHING[factory])
    right, expected = search(QUERIES, KEYS, hits=10, metric=metric, device="cpu")
    assert recall(found, expected) >= 0.995  # HNSW's graph is random
    same = found == expected
    assert same.mean() > 0.99
    np.testing.assert_allclose(scores[same], right[same], rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores.dtype, found.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
def test_an_index_that_shortens_vectors_comes_near(metric):
    scores, found = build(KEYS, factory="PQ8", metric=metric).search(QUERIES, 10)
    right, expected = search(QUERIES, KEYS, hits=10, metric=metric, device="cpu")
    assert recall(found, expected) > 0.5
    assert np.abs(scores[:, 0] - right[:, 0]).max() < 0.3 * np.abs(right).max()


def test_looking_further_finds_more():
    index = build(KEYS, factory="IVF64,Flat", metric="ip")
    expected = search(QUERIES, KEYS, hits=10, metric="ip", device="cpu")[1]
    found = [recall(index.search(QUERIES, 10, probes=probes)[1], expected) for probes in (1, 8, 64)]
    assert found[0] < found[1] < found[2] == 1
    by_default = index.search(QUERIES, 10)[1]
    assert by_default.tolist() == index.search(QUERIES, 10, probes=16)[1].tolist()


def test_rows_are_filled_up_where_an_index_finds_too_few():
    scores, found = build(KEYS, factory="IVF64,Flat", metric="l2").search(QUERIES, 400, probes=1)
    assert found.shape == (20, 400)
    for row, columns in zip(scores, found, strict=True):
        count = int((columns >= 0).sum())
        assert 0 < count < 400
        assert (columns[count:] == -1).all()
        assert np.isneginf(row[count:]).all()
        assert np.isfinite(row[:count]).all()


@pytest.mark.parametrize("factory", ["Flat", "HNSW16"])
def test_equal_scores_go_by_index(factory):
    keys = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    found = build(keys, factory=factory, metric="ip").search(np.eye(4, dtype=np.float32), 3)[1]
    assert found.tolist() == np.arange(12).reshape(4, 3).tolist()


def test_few_or_none_are_no_trouble():
    index = build(KEYS[:3])
    assert len(index) == 3
    assert index.search(QUERIES, 10)[1].shape == (20, 3)
    assert index.search(QUERIES[:0], 10)[1].shape == (0, 3)
    assert build(KEYS[:0]).search(QUERIES, 10)[1].shape == (20, 0)


# ---- folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "PQ8"])
def test_a_folder_gives_the_index_of_its_vectors(tmp_path, factory, monkeypatch):
    monkeypatch.setattr("zh_embedder.search.faiss_index.ADDED", 50)
    vectors_ = open_vectors(write_folder(tmp_path / "keys", KEYS, shard_size=70))
    one, other = (build(keys, factory=factory, seed=3).search(QUERIES, 10) for keys in (KEYS, vectors_))
    assert np.array_equal(one[1], other[1])
    assert np.array_equal(one[0], other[0])


def test_a_sample_is_drawn_by_seed_once_each_and_from_everywhere(tmp_path):
    vectors_ = open_vectors(write_folder(tmp_path / "keys", KEYS, shard_size=70))
    sample = drawn(vectors_, 300, seed=1)
    assert np.array_equal(sample, drawn(KEYS, 300, seed=1))
    assert not np.array_equal(sample, drawn(KEYS, 300, seed=2))
    rows = [int(np.flatnonzero((row == KEYS).all(axis=1))[0]) for row in sample]
    assert rows == sorted(set(rows))
    assert {row // 70 for row in rows} == set(range(9))
    assert np.array_equal(drawn(KEYS, 600, seed=1), KEYS)


# ---- the way by a factory string ------------------------------------------------------------------------------------


def test_flat_needs_no_faiss_and_takes_folders(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    vectors_ = open_vectors(write_folder(tmp_path / "keys", KEYS, shard_size=70))
    expected = search(QUERIES, KEYS, hits=5, metric="ip", device="cpu")
    for keys in (KEYS, vectors_):
        for one, other in zip(expected, retrieve(QUERIES, keys, hits=5, metric="ip", device="cpu"), strict=True):
            assert np.array_equal(one, other)
    with pytest.raises(UserError, match=r"faiss is not installed: `pip install zh-embedder\[cpu\]`"):
        retrieve(QUERIES, KEYS, hits=5, factory="HNSW32")
    with pytest.raises(UserError, match="faiss is not installed"):
        load_index(tmp_path / "none", metric="cos")


def test_other_factories_go_by_faiss():
    one = retrieve(QUERIES, KEYS, hits=5, metric="l2", factory="IVF8,Flat", seed=1)
    other = build(KEYS, factory="IVF8,Flat", metric="l2", seed=1).search(QUERIES, 5)
    assert np.array_equal(one[1], other[1])


# ---- the GPU, as far as it can be told here -------------------------------------------------------------------------


@pytest.mark.parametrize("fits", [True, False])
def test_an_index_goes_to_the_gpu_where_faiss_can(monkeypatch, fits):
    moved = []

    def move(resources, device, inner):
        moved.append((resources, device))
        if not fits:
            raise RuntimeError("Error in x.cpp:1: This index type is not implemented on GPU.")
        return inner

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", move, raising=False)
    found = build(KEYS, factory="IVF8,Flat").search(QUERIES, 5, probes=8)[1]
    assert moved == [("resources", 0)]
    assert found.tolist() == search(QUERIES, KEYS, hits=5, device="cpu")[1].tolist()


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16", "PQ8"])
def test_an_index_is_written_whole_and_read_back(tmp_path, factory, metric):
    index = build(KEYS, factory=factory, metric=metric)
    save_index(index, tmp_path / "sub" / "keys.faiss")
    loaded = load_index(tmp_path / "sub" / "keys.faiss", metric=metric)
    for one, other in zip(index.search(QUERIES, 7), loaded.search(QUERIES, 7), strict=True):
        assert np.array_equal(one, other)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["keys.faiss"]
    other = "ip" if metric == "l2" else "l2"
    with pytest.raises(UserError, match=f"metric: got '{other}', expected .* which the index was built for"):
        load_index(tmp_path / "sub" / "keys.faiss", metric=other)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "keys.faiss"
    with pytest.raises(UserError, match="is missing, expected a file"):
        load_index(path, metric="cos")
    save_index(build(KEYS), path)
    whole = path.read_bytes()
    for content in (b"hello world", whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"keys\.faiss: is not a faiss index, or is torn: "):
            load_index(path, metric="cos")


# ---- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF4096Flat", "got 'IVF4096Flat', expected what faiss understands; did you mean 'IVF4096,Flat'?"),
        ("hnsw32", "did you mean 'HNSW32'?"),
        ("", "such as Flat, IVF4096,Flat"),
        ("PQ5", "The dimension of the vector (d) should be a multiple"),
        ("PCA8,Flat", "PCA moves the origin, after which cos is another"),
        ("LSH", "the distances of LSH are not those of a metric"),
        ("IVF700,Flat", "got '600 vectors to train with', expected 700 vectors at least, 27300 to be good"),
    ],
)
def test_a_factory_that_cannot_be_is_refused(factory, message):
    with pytest.raises(UserError) as error:
        build(KEYS, factory=factory)
    assert str(error.value).startswith("faiss_index_factory: ")
    assert message in str(error.value)
    assert ".cpp" not in str(error.value)


def test_too_few_vectors_for_short_codes_are_said():
    with pytest.raises(UserError, match=r"faiss_index_factory: PQ8: got '100 vectors to train with', expected more"):
        build(KEYS[:100], factory="PQ8")


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("HNSW16", {"probes": 3}, "nprobe: got 3, expected none: an index of type IndexHNSWFlat has no nprobe"),
        ("Flat", {"ef": 3}, "efSearch: got 3, expected none"),
        ("IVF8,Flat", {"probes": 0}, "nprobe: got 0, expected at least 1"),
    ],
)
def test_settings_that_an_index_has_not_are_refused(factory, options, message):
    with pytest.raises(UserError) as error:
        build(KEYS, factory=factory).search(QUERIES, 5, **options)
    assert message in str(error.value)


def test_queries_of_another_width_are_refused():
    with pytest.raises(UserError, match=r"\(20, 9\)"):
        build(KEYS).search(QUERIES[:, :9], 5)
    with pytest.raises(UserError, match="did you mean 'cos'"):
        build(KEYS, metric="coss")


def test_codes_are_not_ordered_for_a_search_that_nobody_makes():
    assert build(KEYS, factory="PQ8").inner.do_polysemous_training is False  # 20 s for 600 vectors, else
