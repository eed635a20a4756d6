"""What is measured is what a plain search scores."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch

from zh_embedder.cli import main
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.measure import evaluate, measure_bm25, measure_model
from zh_embedder.evaluation.model import Model
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.evaluation.sets import RetrievalSet
from zh_embedder.models.encoder import load_encoder

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "test"
TASKS = ("chat", "convsearch", "icl", "qa", "title", "tool")

INSTRUCTIONS = {task: (f"为{task}检索：", "资料：") for task in TASKS}


def load(folder, **changes):
    return load_encoder(str(folder), changes=changes).eval()


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return load(tiny_bert, instructions=INSTRUCTIONS)


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
def test_queries_that_equal_their_keys_score_one(tiny_bert, metric):
    keys = read_retrieval_set(DEMO / "title").keys
    data = RetrievalSet("same", "qa", dict(keys), dict(keys), {name: {name: 1} for name in keys})
    # Without normalisation a longer vector may win an inner product: equal lengths make it fair.
    encoder = load(tiny_bert, metric=metric, normalize=metric != "l2", instructions={"qa": ("", "")})
    metrics = ("ndcg@10", "mrr@10", "recall@1", "map")
    assert evaluate(encoder, data, metrics=metrics) == pytest.approx(dict.fromkeys(metrics, 1.0))
    other = replace(data, qrels={name: {other: 1} for name, other in zip(keys, [*keys][1:] + [*keys][:1], strict=True)})
    assert evaluate(encoder, other, metrics=["recall@1"]) == {"recall@1": 0.0}


@pytest.mark.parametrize(("task", "metric"), [*((task, "cos") for task in TASKS), ("title", "ip"), ("title", "l2")])
def test_the_score_is_that_of_sorting_everything(tiny_bert, task, metric):
    data = read_retrieval_set(DEMO / task)
    # Without a linear layer of uneven stretch all vectors of this base are of about one length.
    changes = {"instructions": INSTRUCTIONS, "metric": metric, "normalize": metric == "cos"}
    encoder = load_encoder(str(tiny_bert), dense=True, changes=changes).eval()
    encoder.dense.weight.data = torch.diag(torch.linspace(0.1, 3.0, 32))
    queries = encoder.encode_queries(list(data.queries.values()), task=task)
    keys = encoder.encode_keys(list(data.keys.values()), task=task)
    scores = queries @ keys.T if metric != "l2" else -((queries[:, None] - keys[None]) ** 2).sum(axis=2)
    names = list(data.keys)
    run = {q: dict(zip(names, row.tolist(), strict=True)) for q, row in zip(data.queries, scores, strict=True)}
    theirs = pytrec_eval.RelevanceEvaluator(data.qrels, {"ndcg_cut.10", "recall.10"}).evaluate(run)
    found = evaluate(encoder, data)
    assert list(found) == ["ndcg@10", "mrr@10", "recall@10"]
    assert found["ndcg@10"] == pytest.approx(np.mean([v["ndcg_cut_10"] for v in theirs.values()]))
    assert found["recall@10"] == pytest.approx(np.mean([v["recall_10"] for v in theirs.values()]))


def test_vectors_that_are_not_normalised_are_compared_by_their_angle(tiny_bert):
    """Many published bases have no normalisation: their inner products would favour long keys."""
    data = read_retrieval_set(DEMO / "qa")
    plain, unit = load(tiny_bert, normalize=False), load(tiny_bert)
    assert np.ptp(np.linalg.norm(plain.encode(list(data.keys.values())), axis=1)) > 0.01
    assert evaluate(plain, data) == pytest.approx(evaluate(unit, data))


def test_queries_without_text_and_hits_count_as_zero(encoder):
    data = read_retrieval_set(DEMO / "qa")
    whole = evaluate(encoder, data)
    more = {f"nowhere {i}": {"d00": 1} for i in range(len(data.queries))}  # as many again, none of them with a text
    half = evaluate(encoder, replace(data, qrels={**data.qrels, **more}))
    assert half == pytest.approx({name: value / 2 for name, value in whole.items()})
    assert whole["ndcg@10"] > 0


def test_only_so_many_hits_are_looked_at(encoder):
    data = read_retrieval_set(DEMO / "icl")
    few, all_ = (evaluate(encoder, data, metrics=["recall@30"], hits=hits)["recall@30"] for hits in (3, 100))
    assert few == evaluate(encoder, data, metrics=["recall@3"])["recall@3"]
    assert few < all_


def test_the_public_function_reads_a_set_where_it_is_given_a_path(encoder):
    import zh_embedder

    assert zh_embedder.evaluate is evaluate
    assert evaluate(encoder, DEMO / "qa") == evaluate(encoder, read_retrieval_set(DEMO / "qa"))
    assert evaluate(encoder, str(DEMO / "qa"), metrics=["map"]).keys() == {"map"}
    with pytest.raises(UserError, match="metrics: got 'ndgc@10'"):
        evaluate(encoder, DEMO / "nowhere", metrics=["ndgc@10"])


class Heard:
    """Which instructions an encoder was asked for."""

    def __init__(self, encoder, monkeypatch) -> None:
        self.prompts: list[str] = []
        encode = encoder.encode
        monkeypatch.setattr(
            encoder,
            "encode",
            lambda texts, **options: (self.prompts.append(options["prompt"]), encode(texts, **options))[1],
        )


EVERY = {"default": ("通用：", "通用资料："), "qa": ("问：", "答：")}


@pytest.mark.parametrize(
    ("known", "default", "task", "expected"),
    [
        ({}, None, "qa", ["", ""]),
        ({}, None, None, ["", ""]),
        ({"qa": ("问：", "答：")}, None, "qa", ["问：", "答："]),
        ({"qa": ("问：", "答：")}, None, None, ["问：", "答："]),
        (INSTRUCTIONS, None, "tool", ["为tool检索：", "资料："]),
        (INSTRUCTIONS, "qa", "tool", ["为tool检索：", "资料："]),
        (INSTRUCTIONS, "qa", None, ["为qa检索：", "资料："]),
        (EVERY, "default", "qa", ["问：", "答："]),
        (EVERY, "default", "law", ["通用：", "通用资料："]),  # it serves every other task
        (EVERY, "qa", "law", ["通用：", "通用资料："]),
        (EVERY, "qa", None, ["问：", "答："]),
        (INSTRUCTIONS, None, "law", "unknown name 'law'"),
        (INSTRUCTIONS, "qa", "law", "unknown name 'law'"),  # never silently measured as another task
        (INSTRUCTIONS, None, None, "task: is missing, expected one of chat, convsearch"),
    ],
)
def test_a_set_is_measured_with_the_instructions_of_its_task(tiny_bert, monkeypatch, known, default, task, expected):
    encoder = load(tiny_bert, instructions=known, default_task=default)
    heard, data = Heard(encoder, monkeypatch), replace(read_retrieval_set(DEMO / "qa"), task=task)
    if isinstance(expected, list):
        evaluate(encoder, data)
        assert heard.prompts == expected
    else:
        with pytest.raises(UserError, match=expected):
            evaluate(encoder, data)


# ---- two encoders, fewer dimensions ---------------------------------------------------------------------------------


def values_at(encoder, data, dimensions, **options):
    found = measure_model(Model("tiny", encoder, encoder), data, dimensions=dimensions, **options)
    return {size: outcome.values for size, outcome in found.items()}


def test_fewer_dimensions_are_those_of_vectors_cut_by_hand(encoder):
    data = read_retrieval_set(DEMO / "qa")
    found = values_at(encoder, data, [None, 8, 1])
    assert found[None] == evaluate(encoder, data)
    queries = encoder.encode_queries(list(data.queries.values()), task="qa")[:, :8]
    keys = encoder.encode_keys(list(data.keys.values()), task="qa")[:, :8]
    queries, keys = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, keys))
    names, best = list(data.keys), (queries @ keys.T).argmax(axis=1)
    hits = [names[i] in data.qrels[q] for q, i in zip(data.queries, best, strict=True)]
    assert values_at(encoder, data, [8], metrics=["recall@1"])[8]["recall@1"] == pytest.approx(np.mean(hits))
    assert found[1] != found[8] != found[None]
    with pytest.raises(UserError, match="--dims: got 33, expected 1 to 32, the dimensions of tiny"):
        values_at(encoder, data, [33])


def test_keys_are_encoded_by_the_key_encoder_of_a_run(tiny_bert, tmp_path, capsys):
    query, key = (load(tiny_bert, instructions=INSTRUCTIONS) for _ in range(2))
    torch.manual_seed(5)
    for parameter in key.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    query.save(tmp_path / "run" / "encoder")
    key.save(tmp_path / "run" / "key_encoder")
    data = read_retrieval_set(DEMO / "qa")
    expected = evaluate(query, data, key_encoder=key, metrics=["ndcg@10"])["ndcg@10"]
    assert expected != evaluate(query, data, metrics=["ndcg@10"])["ndcg@10"]
    out = tmp_path / "scores.json"
    words = ["evaluate", str(tmp_path / "run"), "--data", str(DEMO / "qa"), "--metrics", "ndcg@10", "--dtype", "fp32"]
    assert main([*words, "--json", str(out), "--dims", "32", "4"]) == 0
    values = {row["model"]: row["value"] for row in json.loads(out.read_text())}
    assert list(values) == [f"{tmp_path / 'run'} [32]", f"{tmp_path / 'run'} [4]"]
    assert values[f"{tmp_path / 'run'} [32]"] == pytest.approx(expected)


# ---- scores of relevant keys, and of a query's own -----------------------------------------------------------------


def outcome_of(encoder, data, **options):
    return measure_model(Model("tiny", encoder, encoder, dtype="fp32"), data, **options)[None]


@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
def test_scores_of_relevant_keys_and_of_own_candidates_are_those_of_the_search(tiny_bert, metric):
    """Vectors of uneven length, so that a cosine that forgets to normalise is noticed."""
    encoder = load_encoder(str(tiny_bert), dense=True, changes={"normalize": False, "metric": metric}).eval()
    encoder.dense.weight.data = torch.diag(torch.linspace(0.1, 3.0, 32))
    data = read_retrieval_set(DEMO / "qa")
    whole = outcome_of(encoder, data, hits=len(data.keys))
    own = {query: [*data.keys][i : i + 7] for i, query in enumerate(data.queries)}
    ranked = outcome_of(encoder, replace(data, candidates=own))
    for query, hits in ranked.run.items():
        assert hits == pytest.approx({key: whole.run[query][key] for key in own[query]}, abs=1e-4)
        assert list(hits.values()) == sorted(hits.values(), reverse=True)
        best = max(whole.run[query][key] for key in data.qrels[query])
        assert whole.positives[query] == pytest.approx(best, abs=1e-4)


def test_a_key_that_was_judged_irrelevant_is_no_positive(encoder):
    data = read_retrieval_set(DEMO / "qa")
    query, other = next(iter(data.queries)), [*data.keys][-1]
    (right,) = data.qrels[query]
    judged = {**data.qrels, query: {right: 1, other: 0}}
    assert outcome_of(encoder, replace(data, qrels=judged)).positives == outcome_of(encoder, data).positives
    without = {**data.qrels, query: {other: 0}}
    assert query not in outcome_of(encoder, replace(data, qrels=without)).positives


def test_bm25_ranks_a_querys_own_keys_those_without_a_common_word_too():
    data = RetrievalSet(
        "own", "qa", {"q": "苹果价格"}, {"a": "香蕉", "b": "苹果", "c": "今天的苹果价格"}, {"q": {"a": 1}},
        candidates={"q": ["a", "b"]},
    )  # fmt: skip
    found = measure_bm25(data, metrics=["mrr@10"])
    assert list(found.run["q"]) == ["a", "b"]
    assert found.run["q"]["b"] > found.run["q"]["a"] == 0.0
    assert found.values["mrr@10"] == 0.5
    everything = measure_bm25(replace(data, candidates=None), metrics=["mrr@10"])
    assert list(everything.run["q"]) == ["c", "b"]  # no word in common: no result
    assert everything.values["mrr@10"] == 0.0
