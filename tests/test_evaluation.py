"""Retrieval sets are read or refused by line; what is measured is what a plain search scores."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
import torch

from zh_embedder.cli import main
from zh_embedder.encoder import load_encoder
from zh_embedder.errors import UserError
from zh_embedder.evaluation import RetrievalSet, evaluate_at, evaluate_retrieval, read_retrieval_set, show

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo" / "test"
TASKS = ("chat", "convsearch", "icl", "qa", "title", "tool")
QUERIES = [{"id": "q0", "text": "问零", "task": "qa"}, {"id": "q1", "text": "问一", "task": "qa"}]
KEYS = [
    {"id": "d0", "text": "答零"},
    {"id": "d1", "text": "答一", "title": "题目"},
    {"id": "d2", "text": "", "title": ""},
]
QRELS = "query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\t2\nq1\td1\t0\n"


def lines(objects) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)


def write_set(folder: Path, *, queries=QUERIES, keys=KEYS, qrels=QRELS, compress=None) -> Path:
    """A BEIR folder; texts are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("queries.jsonl", queries), ("corpus.jsonl", keys), ("qrels.tsv", qrels)):
        raw = (content if isinstance(content, str) else lines(content)).encode()
        if compress == ".gz":
            raw = gzip.compress(raw)
        if compress == ".zst":
            raw = pa.compress(raw, codec="zstd", asbytes=True)
        (folder / f"{name}{compress or ''}").write_bytes(raw)
    return folder


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "test"])
@pytest.mark.parametrize("compress", [None, ".gz", ".zst"])
def test_a_beir_folder_is_read(tmp_path, compress, inside):
    write_set(tmp_path / "data" / "mine" / inside, compress=compress)
    assert read_retrieval_set(tmp_path / "data" / "mine") == RetrievalSet(
        name="data/mine",
        task="qa",
        queries={"q0": "问零", "q1": "问一"},
        keys={"d0": "答零", "d1": "题目 答一", "d2": ""},
        qrels={"q0": {"d0": 1, "d1": 2}, "q1": {"d1": 0}},
    )


def test_queries_that_nobody_judged_are_left_out_and_judged_ones_stay(tmp_path):
    found = read_retrieval_set(write_set(tmp_path, qrels="q1\td1\t1\nq7\td0\t1\n"))
    assert found.queries == {"q1": "问一"}
    assert found.qrels == {"q1": {"d1": 1}, "q7": {"d0": 1}}  # q7 counts, as a query without results


def test_blank_lines_and_a_mark_at_the_start_do_no_harm(tmp_path):
    folder = write_set(tmp_path, queries="\ufeff" + lines(QUERIES) + "\n\n", qrels=QRELS + "\n")
    assert read_retrieval_set(folder).queries == {"q0": "问零", "q1": "问一"}


@pytest.mark.parametrize(
    ("tasks", "asked", "expected"),
    [
        (("qa", "qa"), None, "qa"),
        (("qa", "qa"), "law", "law"),
        (("qa", "tool"), "law", "law"),
        ((None, None), None, None),
        ((None, None), "law", "law"),
    ],
)
def test_the_task_is_the_queries_unless_it_is_said(tmp_path, tasks, asked, expected):
    queries = [{**query, "task": task} for query, task in zip(QUERIES, tasks, strict=True)]
    assert read_retrieval_set(write_set(tmp_path, queries=queries), task=asked).task == expected


def test_queries_of_several_tasks_are_refused(tmp_path):
    queries = [QUERIES[0], {**QUERIES[1], "task": "tool"}]
    with pytest.raises(UserError, match=r"queries of several tasks \((qa, tool|tool, qa)\), expected one"):
        read_retrieval_set(write_set(tmp_path, queries=queries))


FIRST = lines(QUERIES[:1])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"queries": FIRST + "{'id': 1}\n"}, "queries.jsonl:2: not valid JSON: "),
        ({"queries": FIRST + '{"id": "q1"}\n'}, "queries.jsonl:2: text: got None, expected a string"),
        ({"queries": '{"text": "问"}\n'}, "queries.jsonl:1: id: got None, expected a string"),
        ({"queries": '{"id": 7, "text": "问"}\n'}, "queries.jsonl:1: id: got 7, expected a string"),
        ({"queries": FIRST + "[]\n"}, "queries.jsonl:2: id: got [], expected a string"),
        ({"queries": FIRST + "\n" + FIRST}, "queries.jsonl:3: id: got 'q0', expected one that no line before has"),
        ({"keys": [*KEYS, KEYS[1]]}, "corpus.jsonl:4: id: got 'd1', expected one that no line before has"),
        ({"keys": [{"id": "d0", "text": ["答"]}]}, "corpus.jsonl:1: text: got ['答'], expected a string"),
        ({"qrels": QRELS + "q1 d1 1\n"}, "qrels.tsv:5: got 'q1 d1 1', expected query-id, corpus-id and a whole score"),
        ({"qrels": QRELS + "q1\td1\n"}, "qrels.tsv:5: got 'q1\\td1', expected query-id"),
        ({"qrels": QRELS + "q1\td1\tscore\n"}, "qrels.tsv:5: got 'q1\\td1\\tscore', expected query-id"),
        ({"qrels": "q1\td1\t0.5\n"}, "qrels.tsv:1: got 'q1\\td1\\t0.5', expected query-id"),
        ({"qrels": "q1\t0\td1\t1\n"}, "qrels.tsv:1: got 'q1\\t0\\td1\\t1', expected query-id"),  # TREC's four columns
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, ": qrels.tsv: no judgements"),
        ({"qrels": ""}, ": qrels.tsv: no judgements"),
    ],
)
def test_a_wrong_line_is_refused_by_file_and_line(tmp_path, broken, message):
    with pytest.raises(UserError) as error:
        read_retrieval_set(write_set(tmp_path, **broken))
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_a_file_that_is_not_utf8_is_refused_by_line(tmp_path):
    folder = write_set(tmp_path)
    (folder / "corpus.jsonl").write_bytes(lines(KEYS).encode("gb18030"))
    with pytest.raises(UserError, match=r"corpus\.jsonl:1: not UTF-8 \(byte 23\), it looks like GB18030"):
        read_retrieval_set(folder)


def test_a_broken_archive_is_refused(tmp_path):
    folder = write_set(tmp_path, compress=".gz")
    (folder / "queries.jsonl.gz").write_bytes((folder / "queries.jsonl.gz").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"queries\.jsonl\.gz: cannot be read"):
        read_retrieval_set(folder)


@pytest.mark.parametrize("missing", ["queries.jsonl", "corpus.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named_with_what_belongs_there(tmp_path, missing):
    (write_set(tmp_path / "set") / missing).unlink()
    with pytest.raises(UserError) as error:
        read_retrieval_set(tmp_path / "set")
    expected = "expected a BEIR folder: queries.jsonl, corpus.jsonl, qrels.tsv"
    assert str(error.value) == f"{tmp_path / 'set'}: {missing}: is missing, {expected}"


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "task", "queries", "keys", "qrels"),
    [
        ("tool/acebench", "tool", 220, 936, 225),
        ("chat/smile", "chat", 400, 3948, 459),
        ("icl/ewect", "icl", 240, 587, 23480),
    ],
)
def test_real_sets_are_read_whole(real_data, name, task, queries, keys, qrels):
    found = read_retrieval_set(real_data / name)
    assert (found.name, found.task) == (name, task)
    assert (len(found.queries), len(found.keys), sum(map(len, found.qrels.values()))) == (queries, keys, qrels)
    assert found.queries.keys() == found.qrels.keys()
    assert {key for judged in found.qrels.values() for key in judged} <= found.keys.keys()


# ---- measuring ------------------------------------------------------------------------------------------------------

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
    assert evaluate_retrieval(encoder, data, metrics=metrics) == pytest.approx(dict.fromkeys(metrics, 1.0))
    other = replace(data, qrels={name: {other: 1} for name, other in zip(keys, [*keys][1:] + [*keys][:1], strict=True)})
    assert evaluate_retrieval(encoder, other, metrics=["recall@1"]) == {"recall@1": 0.0}


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
    found = evaluate_retrieval(encoder, data)
    assert list(found) == ["ndcg@10", "mrr@10", "recall@10"]
    assert found["ndcg@10"] == pytest.approx(np.mean([v["ndcg_cut_10"] for v in theirs.values()]))
    assert found["recall@10"] == pytest.approx(np.mean([v["recall_10"] for v in theirs.values()]))


def test_vectors_that_are_not_normalised_are_compared_by_their_angle(tiny_bert):
    """Many published bases have no normalisation: their inner products would favour long keys."""
    data = read_retrieval_set(DEMO / "qa")
    plain, unit = load(tiny_bert, normalize=False), load(tiny_bert)
    assert np.ptp(np.linalg.norm(plain.encode(list(data.keys.values())), axis=1)) > 0.01
    assert evaluate_retrieval(plain, data) == pytest.approx(evaluate_retrieval(unit, data))


def test_queries_without_text_and_hits_count_as_zero(encoder):
    data = read_retrieval_set(DEMO / "qa")
    whole = evaluate_retrieval(encoder, data)
    more = {f"nowhere {i}": {"d00": 1} for i in range(len(data.queries))}  # as many again, none of them with a text
    half = evaluate_retrieval(encoder, replace(data, qrels={**data.qrels, **more}))
    assert half == pytest.approx({name: value / 2 for name, value in whole.items()})
    assert whole["ndcg@10"] > 0


def test_only_so_many_hits_are_looked_at(encoder):
    data = read_retrieval_set(DEMO / "icl")
    few, all_ = (evaluate_retrieval(encoder, data, metrics=["recall@30"], hits=hits)["recall@30"] for hits in (3, 100))
    assert few == evaluate_retrieval(encoder, data, metrics=["recall@3"])["recall@3"]
    assert few < all_


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
        evaluate_retrieval(encoder, data)
        assert heard.prompts == expected
    else:
        with pytest.raises(UserError, match=expected):
            evaluate_retrieval(encoder, data)


# ---- two encoders, fewer dimensions ---------------------------------------------------------------------------------


def test_fewer_dimensions_are_those_of_vectors_cut_by_hand(encoder):
    data = read_retrieval_set(DEMO / "qa")
    found = evaluate_at(encoder, data, [None, 8, 1])
    assert found[None] == evaluate_retrieval(encoder, data)
    queries = encoder.encode_queries(list(data.queries.values()), task="qa")[:, :8]
    keys = encoder.encode_keys(list(data.keys.values()), task="qa")[:, :8]
    queries, keys = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, keys))
    names, best = list(data.keys), (queries @ keys.T).argmax(axis=1)
    hits = [names[i] in data.qrels[q] for q, i in zip(data.queries, best, strict=True)]
    assert evaluate_at(encoder, data, [8], metrics=["recall@1"])[8]["recall@1"] == pytest.approx(np.mean(hits))
    assert found[1] != found[8] != found[None]
    with pytest.raises(UserError, match="truncate_dim: got 33, expected 1 to 32"):
        evaluate_at(encoder, data, [33])


def test_keys_are_encoded_by_the_key_encoder_of_a_run(tiny_bert, tmp_path, capsys):
    query, key = (load(tiny_bert, instructions=INSTRUCTIONS) for _ in range(2))
    torch.manual_seed(5)
    for parameter in key.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    query.save(tmp_path / "run" / "encoder")
    key.save(tmp_path / "run" / "key_encoder")
    data = read_retrieval_set(DEMO / "qa")
    expected = evaluate_retrieval(query, data, key_encoder=key, metrics=["ndcg@10"])["ndcg@10"]
    assert expected != evaluate_retrieval(query, data, metrics=["ndcg@10"])["ndcg@10"]
    out = tmp_path / "scores.json"
    words = ["evaluate", str(tmp_path / "run"), "--data", str(DEMO / "qa"), "--metrics", "ndcg@10", "--dtype", "fp32"]
    assert main([*words, "--json", str(out), "--dims", "32", "4"]) == 0
    values = {row["model"]: row["value"] for row in json.loads(out.read_text())}
    assert list(values) == [f"{tmp_path / 'run'} [32]", f"{tmp_path / 'run'} [4]"]
    assert values[f"{tmp_path / 'run'} [32]"] == pytest.approx(expected)


# ---- the table ------------------------------------------------------------------------------------------------------


def rows(*entries: tuple) -> list[dict]:
    return [dict(zip(("model", "data", "metric", "value"), entry, strict=True)) for entry in entries]


def test_the_table_has_a_line_for_each_model_and_set_and_its_mean():
    table = show(
        rows(
            ("base", "qa", "ndcg@10", 0.25),
            ("base", "qa", "mrr@10", 0.5),
            ("base", "tool", "ndcg@10", 0.75),
            ("base", "tool", "mrr@10", 0.0),
            ("mine", "qa", "ndcg@10", 1.0),
            ("mine", "qa", "mrr@10", 1.0),
            ("mine", "tool", "ndcg@10", 0.5),
            ("mine", "tool", "mrr@10", 0.12345),
        ),
        ("ndcg@10", "mrr@10"),
    )
    assert [line.split() for line in table.splitlines()] == [
        ["model", "data", "ndcg@10", "mrr@10"],
        ["base", "qa", "0.2500", "0.5000"],
        ["base", "tool", "0.7500", "0.0000"],
        ["base", "mean", "0.5000", "0.2500"],
        ["mine", "qa", "1.0000", "1.0000"],
        ["mine", "tool", "0.5000", "0.1235"],
        ["mine", "mean", "0.7500", "0.5617"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1  # columns stand below each other


def test_a_single_set_has_no_mean():
    assert [line.split() for line in show(rows(("base", "qa", "map", 0.5)), ("map",)).splitlines()] == [
        ["model", "data", "map"],
        ["base", "qa", "0.5000"],
    ]


def test_a_published_beir_folder_is_read_as_it_comes(tmp_path):
    """`_id` for `id`, an empty title, and the judgements in `qrels/test.tsv`."""
    folder = tmp_path / "scifact"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "问", "metadata": {}}\n', "utf-8")
    (folder / "corpus.jsonl").write_text('{"_id": "7", "title": "", "text": "答"}\n', "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t7\t1\n", "utf-8")
    found = read_retrieval_set(folder)
    assert (found.queries, found.keys, found.qrels) == ({"1": "问"}, {"7": "答"}, {"1": {"7": 1}})
