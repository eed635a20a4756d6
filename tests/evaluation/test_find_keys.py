"""Whoever finds the keys, the ranking is that of the search it goes by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zh_embedder.evaluation.find_keys import at_random, find_keys, run_of
from zh_embedder.evaluation.measure import measure_bm25, measure_model
from zh_embedder.evaluation.model import Model
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.models.encoder import load_encoder
from zh_embedder.search.bm25 import BM25Options, build_bm25

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "test"


@pytest.fixture(scope="module")
def model(tiny_bert):
    encoder = load_encoder(str(tiny_bert)).eval()
    return Model("tiny", encoder, encoder, dtype="fp32")


@pytest.fixture(params=[False, True], ids=["retrieval", "reranking"])
def data(request):
    found = read_retrieval_set(DEMO / "qa")
    names = [*found.keys]
    own = {query: names[place : place + 7] for place, query in enumerate(found.queries)}
    return replace(found, candidates=own if request.param else None)


def in_order(run):
    return {query: list(hits.items()) for query, hits in run.items()}


def test_what_is_found_is_what_is_measured(model, data):
    assert in_order(find_keys(data, model, hits=5)) == in_order(measure_model(model, data, hits=5)[None].run)
    options = BM25Options(k1=1.5, b=0.2)
    assert in_order(find_keys(data, options, hits=5)) == in_order(measure_bm25(data, hits=5, k1=1.5, b=0.2).run)
    assert find_keys(data, options, hits=5) != find_keys(data, BM25Options(), hits=5)


def test_words_find_what_their_index_finds(data):
    texts, names = list(data.keys.values()), list(data.keys)
    scores, indices = build_bm25(texts, k1=1.5).search(list(data.queries.values()), len(texts))
    run = find_keys(data, BM25Options(k1=1.5), hits=len(texts))
    for place, query in enumerate(data.queries):
        whole = {names[i]: s for s, i in zip(scores[place].tolist(), indices[place].tolist(), strict=True) if i >= 0}
        own = whole if data.candidates is None else {key: whole.get(key, 0.0) for key in data.candidates[query]}
        assert run[query] == own


def test_random_keys_are_each_querys_own_and_the_same_for_the_same_seed(data):
    run = at_random(data, hits=4, seed=1)
    assert run == at_random(data, hits=4, seed=1) != at_random(data, hits=4, seed=2)
    for query, hits in run.items():
        own = data.keys if data.candidates is None else data.candidates[query]
        assert len(hits) == min(4, len(own))
        assert hits.keys() <= set(own)


def test_a_hit_that_is_not_there_is_left_out(data):
    queries = len(data.queries)
    scores, indices = np.zeros((queries, 3)), np.tile([0, -1, len(data.keys)], (queries, 1))
    first = next(iter(data.keys))
    assert run_of(data, scores, indices) == {query: {first: 0.0} for query in data.queries}
