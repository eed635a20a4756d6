"""The official mteb package gives an encoder of ours the figures that we give it, each task with its instructions."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

from zh_embedder.cli import main
from zh_embedder.commands.mteb import show
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.measure import evaluate
from zh_embedder.evaluation.mteb import MtebEncoder, Score, find_tasks, our_task, read_prompts, run_tasks
from zh_embedder.evaluation.probes import measure_pairs
from zh_embedder.evaluation.read_retrieval import read_retrieval_set
from zh_embedder.evaluation.sets import PairSet
from zh_embedder.models.encoder import load_encoder
from zh_embedder.models.spec import EncoderSpec

pytest.importorskip("mteb")

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo" / "test"
INSTRUCTIONS = {"qa": ("为问题检索：", "资料："), "tool": ("为请求检索：", "工具："), "sts": ("句子：", "另一句：")}
SENTENCES = ["今天天气很好", "今天天气不错", "我想吃饭", "他在北京上学", "股票跌了", "他在上海读书", "晴天", "今天下雨"]
GRADES = [4.5, 0.5, 1.0, 3.0, 0.0, 2.0, 2.5, 1.5]


def load(folder, **changes):
    return load_encoder(str(folder), changes=changes).eval()


def metadata(name, kind, main_score):
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        type=kind,
        main_score=main_score,
        description="local",
        reference=None,
        dataset={"path": "local", "revision": "1"},
        category="t2t",
        eval_splits=["test"],
        eval_langs=["cmn-Hans"],
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        modalities=["text"],
        sample_creation=None,
        bibtex_citation=None,
    )


def retrieval_task(data, *, name="LocalRetrieval"):
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    def rows(texts):
        return Dataset.from_list([{"id": key, "text": text} for key, text in texts.items()])

    class Local(AbsTaskRetrieval):
        def load_data(self, *_args, **_options):
            relevant = {query: dict(judged) for query, judged in data.qrels.items()}
            split = {"queries": rows(data.queries), "corpus": rows(data.keys), "relevant_docs": relevant}
            self.dataset = {"default": {"test": {**split, "top_ranked": None}}}
            self.data_loaded = True

    Local.metadata = metadata(name, "Retrieval", "ndcg_at_10")
    return Local()


def sts_task():
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS

    class Local(AbsTaskSTS):
        def load_data(self, *_args, **_options):
            columns = {"sentence1": SENTENCES, "sentence2": SENTENCES[1:] + SENTENCES[:1], "score": GRADES}
            self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
            self.data_loaded = True

    Local.metadata = metadata("LocalSTS", "STS", "cosine_spearman")
    return Local()


@pytest.fixture
def exact_scores(monkeypatch):
    """Mteb rounds its retrieval scores to five places: these are the means before."""
    from mteb._evaluators import retrieval_metrics

    seen = []
    plain = retrieval_metrics.calculate_retrieval_scores

    def listened(results, qrels, *args, **options):
        seen.append((results, qrels))
        return plain(results, qrels, *args, **options)

    monkeypatch.setattr("mteb._evaluators.retrieval_evaluator.calculate_retrieval_scores", listened)
    return seen


@pytest.mark.parametrize(("folder", "metric"), [("qa", "cos"), ("tool", "ip"), ("qa", "l2")])
def test_a_retrieval_task_scores_what_we_score(tiny_bert, tmp_path, exact_scores, folder, metric):
    data = read_retrieval_set(DEMO / folder)
    changes = {"instructions": INSTRUCTIONS, "metric": metric, "normalize": False}  # as many published bases
    encoder = load_encoder(str(tiny_bert), dense=True, changes=changes).eval()
    encoder.dense.weight.data = torch.diag(torch.linspace(0.1, 3.0, 32))
    ours = evaluate(encoder, data)["ndcg@10"]
    model = MtebEncoder(encoder, prompts={"Retrieval": data.task})
    scores, missing = run_tasks(model, [retrieval_task(data)], tmp_path)
    assert not missing
    assert [(s.task, s.kind, s.metric) for s in scores] == [("LocalRetrieval", "Retrieval", "ndcg_at_10")]
    assert scores[0].value == pytest.approx(ours, abs=6e-6)  # five places
    import pytrec_eval

    [(results, qrels)] = exact_scores
    exact = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(results)
    assert np.mean([value["ndcg_cut_10"] for value in exact.values()]) == pytest.approx(ours, abs=1e-6)
    assert 0.05 < ours < 0.95
    bare, _ = run_tasks(MtebEncoder(load(tiny_bert)), [retrieval_task(data)], tmp_path)
    assert bare != scores


@pytest.mark.parametrize("metric", ["cos", "l2"])
def test_an_sts_task_scores_what_scipy_and_our_probe_score(tiny_bert, tmp_path, metric):
    encoder = load(tiny_bert, instructions=INSTRUCTIONS, metric=metric, normalize=metric == "cos")
    scores, _ = run_tasks(MtebEncoder(encoder), [sts_task()], tmp_path)
    firsts = encoder.encode([f"句子：{text}" for text in SENTENCES])
    seconds = np.roll(firsts, -1, axis=0)
    unit = firsts / np.linalg.norm(firsts, axis=1, keepdims=True)
    theirs = scipy.stats.spearmanr(GRADES, (unit * np.roll(unit, -1, axis=0)).sum(axis=1)).statistic
    assert scores == [Score("LocalSTS", "STS", "cosine_spearman", pytest.approx(theirs, abs=1e-6))]
    data = PairSet("local", "sts", SENTENCES, SENTENCES, GRADES)
    [saved] = tmp_path.glob("results/*/*/LocalSTS.json")
    written = json.loads(saved.read_text("utf-8"))["scores"]["test"][0]
    ours = measure_pairs(data, firsts, seconds, metric=metric).values
    assert written["spearman"] == pytest.approx(ours["spearman"], abs=1e-6)  # of the encoder's own metric
    assert written["pearson"] == pytest.approx(ours["pearson"], abs=1e-5)


class Heard:
    """Stands for an encoder and tells what it was asked for."""

    def __init__(self, spec):
        self.spec, self.asked, self.dimension, self.precision = spec, [], 2, "fp32"

    def state_dict(self):
        return {}

    def encode(self, texts, *, prompt, max_length, truncation_side):
        assert truncation_side is None
        self.asked.append((texts, prompt, max_length))
        return np.zeros((len(texts), 2), np.float32)


def test_each_side_is_encoded_by_its_own_encoder_with_its_own_instruction_and_length():
    spec = EncoderSpec(instructions=INSTRUCTIONS, query_max_length=10, key_max_length=20)
    query, key = Heard(spec), Heard(spec)
    model = MtebEncoder(query, key)
    for kind in ("Retrieval", "STS"):
        task = SimpleNamespace(name="X", type=kind)
        for side in ("query", "document", None):
            model.encode([{"text": ["甲", "乙"]}, {"text": ["丙"]}], task_metadata=task, prompt_type=side)
    texts = ["甲", "乙", "丙"]
    assert key.asked == [(texts, "资料：", 20)]
    assert query.asked == [(texts, "为问题检索：", 10)] * 2 + [(texts, "句子：", 20)] * 3


@pytest.mark.parametrize(
    ("spec", "name", "kind", "chosen", "expected"),
    [
        ({}, "X", "Retrieval", {}, None),
        ({"instructions": INSTRUCTIONS}, "X", "Retrieval", {}, "qa"),
        ({"instructions": INSTRUCTIONS}, "X", "Reranking", {}, "qa"),
        ({"instructions": INSTRUCTIONS}, "X", "STS", {}, "sts"),
        ({"instructions": INSTRUCTIONS}, "X", "Clustering", {}, "sts"),
        ({"instructions": INSTRUCTIONS, "default_task": "tool"}, "X", "Retrieval", {}, "tool"),
        ({"instructions": INSTRUCTIONS, "default_task": "tool"}, "X", "STS", {}, "sts"),
        ({"instructions": {"default": ("通用：", "")}}, "X", "Retrieval", {}, "default"),
        ({"instructions": {"default": ("通用：", "")}}, "X", "STS", {}, None),  # an instruction for retrieval alone
        ({"instructions": INSTRUCTIONS}, "X", "Retrieval", {"Retrieval": "tool"}, "tool"),
        ({"instructions": INSTRUCTIONS}, "X", "Retrieval", {"Retrieval": "tool", "X": "sts"}, "sts"),
        ({"instructions": INSTRUCTIONS}, "X", "STS", {"X": ""}, None),
        ({"instructions": {"law": ("", ""), "tool": ("", "")}}, "X", "Retrieval", {}, "--prompts: nothing is said of"),
    ],
)
def test_a_task_is_measured_with_the_instructions_that_fit_it(spec, name, kind, chosen, expected):
    if expected and expected.startswith("--"):
        with pytest.raises(UserError, match=expected):
            our_task(EncoderSpec(**spec), name, kind, chosen)
    else:
        assert our_task(EncoderSpec(**spec), name, kind, chosen) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Retrieval=tool", "LCQMC="], {"Retrieval": "tool", "LCQMC": ""}),
        (["Retrieval"], "--prompts: got 'Retrieval', expected NAME=TASK"),
        (["Retreival=qa"], "--prompts: unknown name 'Retreival'; did you mean 'Retrieval'"),
        (["Retrieval=toll"], "task: unknown name 'toll'; did you mean 'tool'"),
    ],
)
def test_prompts_are_read_or_refused(given, expected):
    spec = EncoderSpec(instructions=INSTRUCTIONS)
    if isinstance(expected, dict):
        assert read_prompts(given, spec, ["LCQMC", "Retrieval"]) == expected
    else:
        with pytest.raises(UserError, match=expected):
            read_prompts(given, spec, iter(["LCQMC", "Retrieval"]))


@pytest.mark.slow
def test_the_default_is_c_mteb():
    tasks = find_tasks(None, benchmark="MTEB(cmn, v1)", languages=None)
    assert len(tasks) == 31
    kinds = {"Retrieval", "Reranking", "PairClassification", "Clustering", "STS", "Classification"}
    assert {task.metadata.type for task in tasks} == kinds
    named = find_tasks(["STSB", "T2Retrieval"], benchmark="MTEB(cmn, v1)", languages=["cmn"])
    assert [task.metadata.name for task in named] == ["STSB", "T2Retrieval"]
    assert list(named[0].eval_splits) == ["test"]  # the benchmark's, where the task itself has more


@pytest.mark.parametrize(
    ("names", "benchmark", "languages", "message"),
    [
        (["T2Retrieva"], "MTEB(cmn, v1)", None, "--tasks: 'T2Retrieva' not found. Did you mean: 'T2Retrieval'"),
        (None, "C-MTEB(cmn, v1)", None, "--benchmark: 'C-MTEB.cmn, v1.' not found. Did you mean: MTEB.cmn, v1."),
        (
            ["STSB"],
            "MTEB(cmn, v1)",
            ["deu"],
            "--languages: got deu, expected codes of these tasks, such as cmn: No subsets",
        ),
    ],
)
def test_names_that_mteb_does_not_know_are_refused(names, benchmark, languages, message):
    with pytest.raises(UserError, match=message):
        find_tasks(names, benchmark=benchmark, languages=languages)


def test_results_are_taken_up_again_for_the_same_weights_and_settings_alone(tiny_bert):
    encoder = load(tiny_bert)
    first = MtebEncoder(encoder).fingerprint()
    assert MtebEncoder(load(tiny_bert)).fingerprint() == first
    assert MtebEncoder(encoder, prompts={"STS": "sts"}).fingerprint() != first
    assert MtebEncoder(load(tiny_bert, instructions=INSTRUCTIONS)).fingerprint() != first
    assert MtebEncoder(encoder, load(tiny_bert)).fingerprint() != first
    next(iter(encoder.parameters())).data[0, 0] += 0.01
    assert MtebEncoder(encoder).fingerprint() != first


def test_what_is_there_is_not_measured_twice(tiny_bert, tmp_path, monkeypatch):
    encoder = load(tiny_bert)
    scores, _ = run_tasks(MtebEncoder(encoder), [sts_task()], tmp_path)
    monkeypatch.setattr(encoder, "encode", None)
    again, missing = run_tasks(MtebEncoder(encoder), [sts_task()], tmp_path)
    assert again == [replace(scores[0], value=pytest.approx(scores[0].value, abs=1e-6))]  # rounded in the file
    assert not missing


def test_data_that_cannot_be_had_leave_the_other_tasks_and_say_what_to_do(tiny_bert, tmp_path, capsys, monkeypatch):
    from mteb import get_task

    tasks = [get_task("EcomRetrieval"), sts_task()]
    monkeypatch.setattr("zh_embedder.evaluation.mteb.find_tasks", lambda *_args, **_options: tasks)
    words = ["mteb", str(tiny_bert), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "scores.json")]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "LocalSTS" in out
    assert "1 tasks could not be measured: their data could not be had\n  EcomRetrieval: Couldn't reach" in err
    assert 'mteb.get_task("EcomRetrieval").load_data()' in err.replace("'", '"')
    [row] = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert (row["data"], row["metric"], row["model"]) == ("LocalSTS", "cosine_spearman", str(tiny_bert))
    assert len([*tmp_path.glob("out/results/*/*/LocalSTS.json")]) == 1


def test_without_instructions_a_model_has_none(tiny_bert, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "model"
    load(tiny_bert, instructions=INSTRUCTIONS).save(folder)
    monkeypatch.setattr("zh_embedder.evaluation.mteb.find_tasks", lambda *_args, **_options: [sts_task()])
    scores, seen = [], set()
    for flags in ([], ["--no-instruction"], ["--prompts", "STS="]):
        assert main(["mteb", str(folder), "--dtype", "fp32", "--output", str(tmp_path / "out"), *flags]) == 0
        [saved] = set(tmp_path.glob("out/results/*/*/LocalSTS.json")) - seen
        seen.add(saved)
        scores.append(json.loads(saved.read_text("utf-8"))["scores"]["test"][0]["pearson"])
    assert scores[1] == scores[2] != scores[0]
    assert "LocalSTS" in capsys.readouterr().out


def test_the_table_has_means_of_types_and_of_all():
    scores = [Score("A", "STS", "cosine_spearman", 0.5), Score("B", "Retrieval", "ndcg_at_10", 0.25)]
    rows = [line.split() for line in show([*scores, replace(scores[0], task="C", value=1.0)]).splitlines()]
    assert rows == [
        ["task", "type", "metric", "score"],
        ["A", "STS", "cosine_spearman", "0.5000"],
        ["B", "Retrieval", "ndcg_at_10", "0.2500"],
        ["C", "STS", "cosine_spearman", "1.0000"],
        ["mean", "STS", "0.7500"],
        ["mean", "Retrieval", "0.2500"],
        ["mean", "of", "tasks", "0.5833"],
    ]


def test_without_mteb_the_message_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert main(["mteb", "nowhere"]) == 2
    assert "mteb cannot be imported" in (err := capsys.readouterr().err)
    assert "pip install 'zh-embedder[mteb]'" in err
