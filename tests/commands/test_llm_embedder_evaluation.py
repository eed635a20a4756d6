"""`run_dense.py` without --train_data: LLM-Embedder's evaluation, its files written and read back."""

import json

import numpy as np
import pytest

from tests.jsonl import read, write
from tests.processes import ROOT, run, torchrun
from zh_embedder.commands.train import main
from zh_embedder.config.evaluation import EvalArguments
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.evaluation.retrieval_metrics import per_query
from zh_embedder.models.encoder import load_encoder

DEMO = ROOT / "examples" / "demo"
LIGHT = ("--query_encoder", "base", "--dtype", "fp32", "--metrics", "mrr", "ndcg", "--cutoffs", 1, 10)


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_bert):
    """A base, 30 keys of the demo as a corpus file, and 20 queries that name theirs by row."""
    monkeypatch.chdir(tmp_path)
    load_encoder(str(tiny_bert)).save(tmp_path / "base")
    rows = [json.loads(line) for line in (DEMO / "train" / "qa.jsonl").open(encoding="utf-8")][:30]
    write(tmp_path / "corpus.jsonl", [{"title": "", "text": row["pos"][0]} for row in rows])
    write(
        tmp_path / "eval.jsonl",
        [
            {"query": row["query"], "pos_index": [i], "task": "qa", "answers": [rows[i - 1]["pos"][0][:6]]}
            for i, row in enumerate(rows[:20])
        ],
    )
    return tmp_path


def evaluate(*more, expect=0):
    words = ["--eval_data", "eval.jsonl", "--corpus", "corpus.jsonl", "--version", "zh_llm_embedder", *more]
    assert main([str(word) for word in words]) == expect


def figures(capsys) -> list[float]:
    """The numbers of the one line of the table."""
    (_, line) = capsys.readouterr().out.strip().splitlines()[-2:]
    return [float(cell) for cell in line.split()[2:]]


def test_dense_retrieval_is_that_of_sorting_every_score(folder, capsys):
    evaluate(*LIGHT, "--output_dir", "out", "--save_result")
    found = figures(capsys)
    from zh_embedder.config.instructions import read_version

    spec = read_version("zh_llm_embedder").tasks["qa"]
    encoder = load_encoder("base").eval()
    queries = [row["query"] for row in read(folder / "eval.jsonl")]
    keys = [row["text"] for row in read(folder / "corpus.jsonl")]
    vectors = [encoder.encode(texts, prompt=p, dtype="fp32") for texts, p in ((queries, spec.query), (keys, spec.key))]
    scores = vectors[0] @ vectors[1].T
    run = {str(i): {str(j): float(s) for j, s in enumerate(row)} for i, row in enumerate(scores)}
    expected = over_queries(
        per_query(["ndcg@10", "mrr@1", "mrr@10", "ndcg@1"], {str(i): {str(i): 1} for i in range(20)}, run)
    )
    assert found == pytest.approx(list(expected.values()), abs=5e-5)
    kept = json.loads((folder / "out" / "eval.jsonl" / "result.json").read_text("utf-8"))
    assert [next(iter(hits)) for hits in kept.values()] == [str(i) for i in scores.argmax(axis=1)]
    (row,) = json.loads((folder / "out" / "metrics.json").read_text("utf-8"))
    assert row["metrics"] == pytest.approx(expected)
    assert "eval.jsonl" in (folder / "out" / "report.html").read_text("utf-8")


def test_what_was_kept_gives_the_same_figures_without_encoding(folder, capsys, monkeypatch):
    evaluate(*LIGHT, "--output_dir", "out", "--save_result", "--save_encode", "--save_index")
    expected = figures(capsys)
    encoded = []
    encode = type(load_encoder("base")).encode
    monkeypatch.setattr(
        "zh_embedder.models.encoder.Encoder.encode",
        lambda self, texts, **o: (encoded.append(len(texts)), encode(self, texts, **o))[1],
    )
    for flag, sizes in (("--load_encode", [20]), ("--load_index", [20]), ("--load_result", [])):
        encoded.clear()
        evaluate(*LIGHT, "--output_dir", "out", flag)
        assert figures(capsys) == expected
        assert encoded == sizes  # queries at most


@pytest.mark.parametrize(
    ("more", "change", "message"),
    [
        (["--load_encode"], "keys", "--load_encode: out/eval.jsonl/embeddings.json: keys: got "),
        (
            ["--load_index"],
            "keys",
            "--load_index: out/eval.jsonl/index.faiss: got '30 keys', expected the 31 of eval.jsonl",
        ),
        (["--load_result"], "gone", "--load_result: out/eval.jsonl/result.json is not there"),
        (
            ["--load_result", "--save_result"],
            None,
            "--save_result: cannot be used with --load_result, expected one of them",
        ),
        (["--eval_method", "rerank"], None, "--eval_method rerank: eval.jsonl: queries bring no keys of their own"),
        (["--save_to_output", "--output_dir", "trainer_output"], None, "--save_to_output: needs --output_dir"),
        (["--retrieval_method", "dens"], None, "--retrieval_method: unknown name 'dens'; did you mean 'dense'?"),
    ],
)
def test_what_does_not_belong_to_this_run_is_refused(folder, capsys, more, change, message):
    evaluate(*LIGHT, "--output_dir", "out", "--save_encode", "--save_index")
    if change == "keys":
        keys = read(folder / "corpus.jsonl")
        write(folder / "corpus.jsonl", [*keys, {"title": "", "text": "多一条"}])
    evaluate(*LIGHT, "--output_dir", "out", *more, expect=2)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_find_the_keys_of_one(folder):
    words = ["--eval_data", "eval.jsonl", "--corpus", "corpus.jsonl", "--version", "zh_llm_embedder", *LIGHT]
    more = ("--hits", 7, "--save_result", "--save_encode", "--output_dir")
    assert main([str(word) for word in (*words, *more, "one")]) == 0
    run(*words, *more, "two", cwd=folder, launcher=torchrun(2))
    one, two = (
        json.loads((folder / name / "eval.jsonl" / "result.json").read_text("utf-8")) for name in ("one", "two")
    )
    assert {query: [*hits] for query, hits in two.items()} == {query: [*hits] for query, hits in one.items()}
    for query, hits in one.items():
        assert two[query] == pytest.approx(hits, abs=1e-6)
    vectors = [np.load(folder / name / "eval.jsonl" / "embeddings.npy") for name in ("one", "two")]
    np.testing.assert_allclose(*vectors, atol=1e-6)


def test_bm25_random_and_no_retrieval_need_no_model(folder, capsys):
    evaluate("--retrieval_method", "bm25", "--metrics", "mrr", "--cutoffs", 10)
    words = figures(capsys)
    evaluate("--retrieval_method", "random", "--metrics", "mrr", "--cutoffs", 10)
    drawn = figures(capsys)
    evaluate("--retrieval_method", "no", "--metrics", "mrr", "--cutoffs", 10)
    assert words[0] > 0.6 > drawn[0] > figures(capsys)[0] == 0.0


def test_collate_neg_makes_training_records_without_positives_and_answers(folder, capsys):
    more = ("--metrics", "collate_neg", "collate_score", "--max_neg_num", 5, "--filter_answers", "--save_name", "mine")
    evaluate("--query_encoder", "base", "--dtype", "fp32", *more)
    said = {line.partition(": ")[0]: line for line in capsys.readouterr().err.splitlines() if "20 queries" in line}
    assert [("likely false negatives" in line) for line in said.values()] == [True, False]  # said of the miner alone
    rows, scored = read(folder / "eval.neg.mine.jsonl"), read(folder / "eval.scored.mine.jsonl")
    keys = [row["text"] for row in read(folder / "corpus.jsonl")]
    answers = [row["answers"][0] for row in read(folder / "eval.jsonl")]
    assert len(rows) == 20
    for number, (row, found) in enumerate(zip(rows, scored, strict=True)):
        assert row["pos"] == [keys[number]]
        allowed = [key for key in found["key"] if key != keys[number] and answers[number] not in key]
        assert row["neg"] == allowed[:5]
        assert np.all(np.diff(found["key_score"]) <= 0)
    unfiltered = [key for row in scored for key in row["key"] if key not in row["pos"]][:5]
    assert unfiltered  # there was something to choose from
    from zh_embedder.data.records import load_datasets

    (dataset,) = load_datasets([folder / "eval.neg.mine.jsonl"], cache_dir=str(folder / "cache"))
    assert len(dataset) == 20  # they train


def test_collations_go_to_the_run_where_it_was_said_and_the_log_gets_a_line_each_time(folder):
    more = ("--output_dir", "out", "--save_to_output", "--log_path", "logs/all.jsonl", "--hits", 3)
    for _ in range(2):
        evaluate(
            "--query_encoder", "base", "--metrics", "ndcg", "collate_key", "--cutoffs", 1, "--dtype", "fp32", *more
        )
    rows = read(folder / "out" / "eval.jsonl" / "eval.key.jsonl")
    assert [len(row["key"]) for row in rows] == [3] * 20
    assert not (folder / "eval.key.jsonl").exists()
    logged = read(folder / "logs" / "all.jsonl")
    assert [line["results"][0]["metrics"] for line in logged] == [logged[0]["results"][0]["metrics"]] * 2


def test_each_query_can_rank_its_own_keys(folder, capsys):
    write(folder / "own.jsonl", read(DEMO / "train" / "qa.jsonl")[:10])
    words = ["--eval_data", "own.jsonl", *LIGHT, "--eval_method", "rerank", "--output_dir", "out", "--save_result"]
    assert main([str(word) for word in words]) == 0
    assert 0 < figures(capsys)[0] <= 1
    run = json.loads((folder / "out" / "own.jsonl" / "result.json").read_text("utf-8"))
    sizes = [len(set(row["pos"] + row["neg"])) for row in read(folder / "own.jsonl")]
    assert [len(hits) for hits in run.values()] == sizes


def test_a_faiss_index_finds_what_the_exact_search_finds(folder, capsys):
    evaluate(*LIGHT)
    exact = figures(capsys)
    evaluate(*LIGHT, "--faiss_index_factory", "HNSW16")
    assert figures(capsys) == exact
    evaluate(*LIGHT, "--faiss_index_factory", "HSNW16", expect=2)
    assert "HSNW16" in capsys.readouterr().err


def test_a_trained_folder_keeps_its_own_instructions_unless_a_version_is_typed(folder, capsys):
    load_encoder("base", changes={"instructions": {"qa": ("完全不同的指令：", "资料：")}}).save(folder / "told")
    data = ["--eval_data", str(DEMO / "test" / "qa"), "--query_encoder", "told", "--dtype", "fp32", "--metrics", "ndcg"]
    assert main([*data, "--cutoffs", "10"]) == 0
    own = figures(capsys)
    assert main([*data, "--cutoffs", "10", "--version", "zh_llm_embedder"]) == 0
    versions = figures(capsys)
    from zh_embedder.evaluation.measure import measure_model
    from zh_embedder.evaluation.model import Model

    model = Model.load("told", dtype="fp32")
    expected = measure_model(model, read_retrieval_set(DEMO / "test" / "qa"), metrics=["ndcg@10"])[None]
    assert own == [pytest.approx(expected.values["ndcg@10"], abs=5e-5)]
    assert own != versions


def test_the_defaults_of_bm25_are_those_of_its_module():
    from zh_embedder.search.bm25 import K1, B

    assert (EvalArguments().k1, EvalArguments().b) == (K1, B)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--log_path", "eval.jsonl"), "--log_path: eval.jsonl: is an input too"),
        (("--log_path", "corpus.jsonl/log"), "--log_path: corpus.jsonl/log: cannot be written"),
        (("--log_path", "base"), "--log_path: base: is a folder"),
        (("--log_path", "notes.txt"), "--log_path: notes.txt: is there already and not a log of measurements"),
        (("--output_dir", "base"), "--output_dir: base: is an input too"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_is_measured(folder, capsys, more, said):
    (folder / "notes.txt").write_text("mine", "utf-8")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    evaluate(*LIGHT, *([] if "--output_dir" in more else ["--output_dir", "out"]), *more, expect=2)
    shown = capsys.readouterr()
    assert f"error: {said}" in shown.err and not shown.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder / "out").exists()
