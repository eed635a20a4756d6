"""Evaluation in training: measured at step 0 and on, the best kept, nothing of training changed by it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.processes import ROOT, losses, weights
from zh_embedder.cli import main as main_of_words
from zh_embedder.commands.train import main
from zh_embedder.config.evaluation import EvalArguments, evaluation_defaults
from zh_embedder.core.errors import UserError
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.sets import PairSet, RetrievalSet
from zh_embedder.models.spec import EncoderSpec, read_spec
from zh_embedder.training.evaluate import (
    Watched,
    against_base,
    check_watched,
    curves,
    load_outcomes,
    read_watched,
    save_outcomes,
)

SECONDS = 15
DEMO = ROOT / "examples" / "demo"
SAME = ("--inbatch_same_dataset", "epoch")


def outcome(data, task, value, model="step 0", role=Role.TRAINED) -> Outcome:
    return Outcome(model, data, task, "retrieval", {"ndcg@10": value, "mrr@10": 0.5}, role=role)


def retrieval_set(name, task="qa") -> RetrievalSet:
    return RetrievalSet(name, task, {"q": "问"}, {"k": "答"}, {"q": {"k": 1}})


# ---- what is said ---------------------------------------------------------------------------------------------------

WATCHED = Watched((), ("ndcg@10",), 10)


def test_the_mean_is_over_tasks_not_over_sets():
    outcomes = [outcome("a", "qa", 0.2), outcome("b", "qa", 0.4), outcome("c", "tool", 0.9)]
    assert WATCHED.mean(outcomes) == pytest.approx((0.3 + 0.9) / 2)
    assert WATCHED.entries(outcomes)["mean"] == pytest.approx(0.6)
    assert WATCHED.entries(outcomes)["b_mrr@10"] == 0.5
    assert WATCHED.curves(outcomes) == pytest.approx(
        {"mean": 0.6, "a_ndcg@10": 0.2, "b_ndcg@10": 0.4, "c_ndcg@10": 0.9}
    )


def test_the_canary_is_no_part_of_the_mean_and_its_drop_is_said():
    watched = replace(WATCHED, canary=retrieval_set("canary/general"))
    before = [outcome("a", "qa", 0.2), outcome("canary/general", None, 0.5)]
    after = [outcome("a", "qa", 0.6), outcome("canary/general", None, 0.4)]
    assert watched.mean(after) == pytest.approx(0.6)
    assert "canary: canary/general fell from 0.5000 at step 0 to 0.4000" in watched.drop(after, before)
    assert watched.drop(before, before) is None
    assert watched.drop([outcome("canary/general", None, 0.495)], before) is None  # noise
    assert WATCHED.drop(after, before) is None  # nobody named a canary


def test_the_table_shows_how_far_each_set_is_from_step_0():
    base, now = [outcome("qa/cmrc", "qa", 0.25)], [outcome("qa/cmrc", "qa", 0.5)]
    assert [line.split() for line in WATCHED.table(now, base).splitlines()] == [
        ["mean", "over", "tasks", "0.5000", "+0.2500"],
        ["qa/cmrc", "0.5000", "+0.2500", "ndcg@10"],
    ]
    assert "+" not in WATCHED.table(base, [])


def test_a_run_that_never_beats_its_base_says_so():
    assert "no step is better than the base: 0.4000 at best, 0.5000 at step 0" in against_base(0.4, 0.5)
    assert "no step is better" in against_base(0.5, 0.5)
    assert against_base(0.6, 0.5) is None
    assert against_base(None, 0.5) is None
    assert against_base(0.5, None) is None


def test_outcomes_of_step_0_the_best_and_the_last_step_stay(tmp_path):
    hits = {"q": {f"k{i}": 1 / (i + 1) for i in range(20)}}
    for step in (0, 10, 20, 30):
        found = replace(outcome("a", "qa", step / 100), run=hits, truncated=(0.1, 0.2), positives={"q": 0.5})
        save_outcomes(tmp_path, step, [found], best=10)
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir()) == [
        "step-0.json",
        "step-10.json",
        "step-30.json",
    ]
    assert load_outcomes(tmp_path, 30) == [replace(found, run={"q": dict(list(hits["q"].items())[:10])})]
    assert load_outcomes(tmp_path, 20) == []


def test_files_without_roles_of_an_earlier_version_say_by_which_file_they_are_whose_they_are(tmp_path):
    """A run that is resumed after an update compares base and model as before."""
    for step, role in ((0, Role.BASE), (7, Role.TRAINED), ("bm25", Role.BASELINE)):
        save_outcomes(tmp_path, step, [outcome("a", "qa", 0.5, role=role)])
        (path,) = (tmp_path / "evaluation").glob("bm25.json" if step == "bm25" else f"step-{step}.json")
        (raw,) = json.loads(path.read_text())
        assert raw.pop("role") == role.value
        path.write_text(json.dumps([raw]))
        assert load_outcomes(tmp_path, step)[0].role is role


def test_curves_come_from_the_log():
    history = [{"step": 0, "eval_mean": 0.1, "eval_a_ndcg@10": 0.1}, {"step": 5, "loss": 1.0}]
    history += [{"step": 10, "eval_mean": 0.3, "eval_a_ndcg@10": 0.2}]
    assert curves(history, [outcome("a", "qa", 0.0)]) == {"a": [(0, 0.1), (10, 0.2)], "mean": [(0, 0.1), (10, 0.3)]}


# ---- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"save_steps": "10"}, {}),
        (
            {"eval_data": "x", "save_steps": "10"},
            {"eval_strategy": "steps", "eval_steps": "10", "eval_on_start": "True", "metric_for_best_model": "mean"},
        ),
        (
            {"validation_share": "0.1", "save_strategy": "epoch", "eval_on_start": "False"},
            {"eval_strategy": "epoch", "metric_for_best_model": "mean"},
        ),
        (
            {"canary": "x", "save_strategy": "best", "metric_for_best_model": "qa/x_mrr@10"},
            {"eval_strategy": "steps", "eval_steps": "0.1", "eval_on_start": "True"},
        ),
        ({"eval_data": "x", "eval_strategy": "epoch"}, {"eval_on_start": "True", "metric_for_best_model": "mean"}),
    ],
)
def test_sets_to_measure_switch_evaluation_on(given, expected):
    assert evaluation_defaults(given) == expected


def test_metrics_and_cutoffs_are_llm_embedders():
    assert EvalArguments().metric_names[:3] == ("ndcg@10", "mrr@1", "mrr@5")
    assert EvalArguments(metrics=["map@3", "collate_neg", "hit@3"]).metric_names == ("map@3", "hit@3")
    assert EvalArguments(hits=10).metric_names[-1] == "ndcg@5"  # nobody looks at 100 of 10
    with pytest.raises(UserError, match=r"--metrics: unknown name 'ndgc'; did you mean 'ndcg'"):
        EvalArguments(metrics=["ndgc"])
    for cutoff in ("", "@", "@0", "@all"):
        with pytest.raises(UserError, match=f"--metrics: got 'ndcg{cutoff}', expected a cutoff of 1 or more"):
            EvalArguments(metrics=[f"ndcg{cutoff}"])


def test_a_set_without_instruction_and_a_metric_that_nobody_measures_are_refused():
    spec = EncoderSpec(instructions={"qa": ("", ""), "tool": ("", "")})
    watched = Watched((retrieval_set("a"),), ("ndcg@10",), 10)
    check_watched(watched, spec, "mean")
    check_watched(watched, spec, "eval_a_ndcg@10")
    with pytest.raises(UserError, match="--metric_for_best_model: unknown name 'a_ndcg@1'; did you mean 'a_ndcg@10'"):
        check_watched(watched, spec, "a_ndcg@1")
    with pytest.raises(UserError, match=r"--eval_data: b: .*'toool'.*did you mean 'tool'.*--eval_task names it"):
        check_watched(Watched((retrieval_set("b", "toool"),), ("ndcg@10",), 10), spec, None)
    pairs = PairSet("p", "qa", ["a"], ["b"], [1.0])
    check_watched(Watched((pairs,), ("ndcg@10",), 10), spec, "p_ap")


def test_sets_of_one_name_are_refused():
    args = EvalArguments(eval_data=[str(DEMO / "test" / "qa"), str(DEMO / "test" / "qa")])
    with pytest.raises(UserError, match="--eval_data: demo/qa: several sets have this name"):
        read_watched(args, [], data_root=None)


def test_a_canary_that_shares_its_name_with_another_set_is_refused(tmp_path):
    """Else both would be left out of the mean."""
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "qa").symlink_to(DEMO / "test" / "qa")
    args = EvalArguments(eval_data=[str(tmp_path / "canary" / "qa")], canary=str(DEMO / "test" / "qa"))
    with pytest.raises(UserError, match="canary/qa: several sets have this name"):
        read_watched(args, [], data_root=None)


def test_a_canary_is_one_set():
    with pytest.raises(UserError, match=r"--canary: got .*test', expected one set, not a folder of 6"):
        read_watched(EvalArguments(canary=str(DEMO / "test")), [], data_root=None)


def test_a_canary_that_was_not_measured_at_step_0_has_not_dropped():
    watched = replace(WATCHED, canary=retrieval_set("canary/general"))
    assert watched.drop([outcome("canary/general", None, -0.4)], []) is None  # Spearman may be below zero


def test_a_folder_of_sets_is_all_of_them():
    found = read_watched(EvalArguments(eval_data=["llm-embedder:test"]), [], data_root=str(DEMO))
    assert [data.name for data in found.sets] == [
        f"demo/{t}" for t in ("chat", "convsearch", "icl", "qa", "title", "tool")
    ]


# ---- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(workdir):
    return workdir


def train(base, *more, out="out", steps=6, data=("qa", "chat")) -> int:
    flags = [
        "--output_dir", out, "--query_encoder", base, "--train_data", *[DEMO / "train" / f"{t}.jsonl" for t in data],
        "--max_steps", steps, "--per_device_train_batch_size", 8, "--train_group_size", 3, "--cos_temperature", 0.05,
        "--learning_rate", 1e-3, "--dtype", "fp32", "--report_to", "none", "--logging_steps", 1, *SAME, *more,
    ]  # fmt: skip
    return main([str(flag) for flag in flags])


def log_of(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text())


EVAL = ("--eval_data", DEMO / "test" / "qa", DEMO / "test" / "chat", "--metrics", "ndcg", "--cutoffs", 10)


@pytest.mark.slow
def test_evaluation_changes_nothing_of_training_and_finds_the_best_step(tiny_bert, folder, capfd):
    assert train(tiny_bert, "--save_steps", 6) == 0
    plain = losses(folder / "out", 6)
    more = ("--eval_steps", 2, "--save_steps", 2, "--load_best_model_at_end", "--save_total_limit", 2)
    assert train(tiny_bert, *EVAL, *more, out="watched") == 0
    said = capfd.readouterr().err
    run = folder / "watched"
    last = log_of(run / "checkpoint-6")
    assert losses(run, 6) == plain  # dropout and data as without evaluation
    seen = {e["step"]: e["eval_mean"] for e in last["log_history"] if "eval_mean" in e}
    assert list(seen) == [0, 2, 4, 6]
    best = max((step for step in seen if step), key=seen.get)
    assert (last["best_global_step"], last["best_metric"]) == (best, seen[best])
    assert f"best: step {best}, mean {seen[best]:.4f}" in said
    # what was saved at the end is the best checkpoint, byte for byte, and it scores what the log says
    assert (run / f"checkpoint-{best}").is_dir()
    files = [(run / name / "model.safetensors").read_bytes() for name in ("encoder", f"checkpoint-{best}/encoder")]
    assert files[0] == files[1]
    scored = [o.values["ndcg@10"] for o in load_outcomes(run, best)]
    assert sum(scored) / 2 == pytest.approx(seen[best])
    from zh_embedder.evaluation.measure import measure_model
    from zh_embedder.evaluation.model import Model
    from zh_embedder.evaluation.read_retrieval import read_retrieval_set

    model = Model.load(str(run), dtype="fp32")
    for data, value in zip(("qa", "chat"), scored, strict=True):
        found = measure_model(model, read_retrieval_set(DEMO / "test" / data), metrics=["ndcg@10"], hits=200)[None]
        assert found.values["ndcg@10"] == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_training_stops_early_and_says_that_the_base_was_better(tiny_bert, folder, capfd):
    more = ("--learning_rate", 1e-12, "--eval_steps", 1, "--save_steps", 1, "--early_stopping_patience", 2)
    assert train(tiny_bert, *EVAL, *more, "--save_total_limit", 1) == 0
    said = capfd.readouterr().err
    # The first step sets the mark; nothing changes, so the next two are not better, and that is the end.
    assert "step 3: evaluated" in said
    assert "step 4: evaluated" not in said
    assert "no step is better than the base" in said


@pytest.mark.slow
def test_a_resumed_run_does_not_measure_its_start_again(tiny_bert, folder, capfd):
    more = (*EVAL, "--eval_steps", 2, "--save_steps", 2, "--load_best_model_at_end")
    assert train(tiny_bert, *more, "--early_exit_steps", 3) == 0
    assert "step 3: evaluated" in capfd.readouterr().err  # what is last is measured, wherever that is
    assert train(tiny_bert, *more, "--resume_from_checkpoint", "True") == 0
    said = capfd.readouterr().err
    assert not any(f"step {step}: evaluated" in said for step in (0, 2))  # it goes on from step 2
    assert "step 6: evaluated, and since step 0" in said
    steps = [e["step"] for e in log_of(folder / "out" / "checkpoint-6")["log_history"] if "eval_mean" in e]
    assert steps == [0, 2, 4, 6]


@pytest.mark.slow
def test_held_out_records_and_a_canary_are_measured(tiny_bert, folder, capfd):
    assert train(tiny_bert, "--validation_share", 0.2, "--canary", DEMO / "test" / "title", steps=2) == 0
    said = capfd.readouterr().err
    assert "data: qa:qa.jsonl: 22 of 112 records held out for evaluation" in said
    names = [o.data for o in load_outcomes(folder / "out", 2)]
    assert names == ["held_out/qa/qa.jsonl", "held_out/chat/chat.jsonl", "canary/title"]
    assert train(tiny_bert, out="other", steps=2) == 0
    one, other = weights(folder / "out" / "encoder"), weights(folder / "other" / "encoder")
    assert any((one[name] - other[name]).abs().max() > 1e-6 for name in one)  # it trained on fewer records


@pytest.mark.slow
def test_a_measured_run_writes_its_report_and_a_summary_of_what_was_saved(tiny_bert, folder):
    """The last step is made the worst: the learning rate explodes, and the best step is an earlier one."""
    more = ("--eval_steps", 2, "--save_steps", 2, "--load_best_model_at_end", "--bm25", "--max_grad_norm", 0)
    explode = ("--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", 6, "--learning_rate", 0.3)
    assert train(tiny_bert, *EVAL, *more, *explode, "--optim", "sgd") == 0
    run = folder / "out"
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    seen = {e["step"]: e["eval_mean"] for e in log_of(run / "checkpoint-6")["log_history"] if "eval_mean" in e}
    best = max((step for step in seen if step), key=seen.get)
    assert best != 6  # or this test would show nothing
    assert summary["step"] == best
    for name, step in (("base", 0), ("saved", best)):
        assert sum(row["value"] for row in summary[name]) / 2 == pytest.approx(seen[step])
    assert [row["data"] for row in summary["bm25"]] == ["demo/qa", "demo/chat"]
    same = [(run / name / "model.safetensors").read_bytes() for name in ("encoder", f"checkpoint-{best}/encoder")]
    assert same[0] == same[1]
    page = (run / "report.html").read_text("utf-8")
    assert all(text in page for text in ("BM25 (jieba)", f"step {best}", "demo/qa"))


def test_figures_of_a_run_that_is_replaced_do_not_pass_for_those_of_the_new_one(tiny_bert, folder):
    save_outcomes(folder / "out", "bm25", [outcome("demo/qa", "qa", 0.9, "BM25", Role.BASELINE)])
    assert train(tiny_bert, *EVAL, steps=1) == 0
    assert json.loads((folder / "out" / "evaluation" / "summary.json").read_text())["bm25"] == []
    assert '"role":"baseline"' not in (folder / "out" / "report.html").read_text("utf-8")


def test_a_run_that_measures_nothing_writes_no_report(tiny_bert, folder):
    assert train(tiny_bert, steps=1) == 0
    assert not (folder / "out" / "report.html").exists()
    assert not (folder / "out" / "evaluation").exists()


def test_a_folder_of_the_users_own_that_is_called_evaluation_keeps_its_files(tmp_path):
    from types import SimpleNamespace

    from zh_embedder.training.launch import clear_output

    folder = tmp_path / "evaluation"
    folder.mkdir()
    for name in ("thesis.csv", "step-0.json", "bm25.json", "summary.json"):
        (folder / name).write_text("{}", "utf-8")
    clear_output(SimpleNamespace(train=SimpleNamespace(should_save=True, output_dir=str(tmp_path))))
    assert [path.name for path in folder.iterdir()] == ["thesis.csv"]


# ---- lengths --------------------------------------------------------------------------------------------------------

CUT = ("--query_max_length", 40, "--key_max_length", 48)


def trained(base, out, *more) -> dict[str, float]:
    """The figures of a short run's last evaluation."""
    flags = [
        "--output_dir", out, "--query_encoder", base, "--train_data", DEMO / "train" / "chat.jsonl", "--max_steps", 2,
        "--per_device_train_batch_size", 4, "--learning_rate", 1e-3, "--dtype", "fp32", "--report_to", "none",
        "--eval_data", *SETS, "--metrics", "ndcg@10", "--save_steps", 2, "--eval_steps", 2, *CUT, *more,
    ]  # fmt: skip
    assert main([str(flag) for flag in flags]) == 0
    return {one.data: one.values["ndcg@10"] for one in load_outcomes(Path(out), 2)}


SETS = [DEMO / "test" / name for name in ("chat", "qa")]


@pytest.mark.slow
def test_the_last_evaluation_is_that_of_the_saved_folder_with_the_lengths_of_the_base(workdir, tiny_bert, capfd):
    def evaluated(*more) -> dict[str, float]:
        words = ["out/checkpoint-2", "--data", *SETS, "--dtype", "fp32", "--metrics", "ndcg@10", "--json", "found.json"]
        assert main_of_words([str(word) for word in ["evaluate", *words, *more]]) == 0
        return {row["data"]: row["value"] for row in json.loads(Path("found.json").read_text())}

    measured = trained(tiny_bert, "out")
    assert "tokens of a query and of a key: 40 and 48 in training; 512 and 512 in use" in capfd.readouterr().err
    assert load_outcomes(Path("out"), 2)[0].lengths == (512, 512)
    assert evaluated() == pytest.approx(measured)
    spec = read_spec(Path("out/checkpoint-2/encoder"))
    assert (spec.lengths, spec.training_lengths) == ((512, 512), (40, 48))
    assert (spec.truncation_side("chat", 0), spec.truncation_side("chat", 1)) == ("left", None)

    short = evaluated(*CUT)
    assert short != pytest.approx(measured)  # so these texts are cut
    assert trained(tiny_bert, "short", "--saved_max_length", 40, 48) == pytest.approx(short)  # the same training
    assert read_spec(Path("short/encoder")).lengths == (40, 48)
