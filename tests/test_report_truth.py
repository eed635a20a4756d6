"""The page against the files: verdict, bars and queries of real runs are those of summary.json and of the outcomes."""

import io
import json
import re
from contextlib import redirect_stderr

import pytest

from tests.browser import browser, missing
from tests.processes import ROOT
from zh_embedder.cli import main as command
from zh_embedder.commands.train import main

DEMO = ROOT / "examples" / "demo"
METRIC = "ndcg@10"
BM25 = "BM25 (jieba)"
pytestmark = pytest.mark.slow


def train(out, base, *more, steps) -> str:
    """Train on two tasks and measure both; returns what the terminal showed."""
    flags = [
        "--output_dir", out, "--query_encoder", base,
        "--train_data", DEMO / "train" / "qa.jsonl", DEMO / "train" / "chat.jsonl",
        "--eval_data", DEMO / "test" / "qa", DEMO / "test" / "chat", "--metrics", "ndcg", "--cutoffs", 10,
        "--max_steps", steps, "--eval_steps", steps, "--save_steps", steps, "--per_device_train_batch_size", 8,
        "--train_group_size", 3, "--cos_temperature", 0.05, "--inbatch_same_dataset", "epoch", "--dtype", "fp32",
        "--report_to", "none", "--logging_steps", 1, *more,
    ]  # fmt: skip
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(shown):
        patch.setenv("ZH_EMBEDDER_CACHE", str(out.parent / "cache"))
        assert main([str(flag) for flag in flags]) == 0
    return shown.getvalue()


@pytest.fixture(scope="module")
def better(tmp_path_factory, tiny_bert):
    """A run that was measured beside BM25, better than the next one's."""
    out = tmp_path_factory.mktemp("better") / "run"
    return out, train(out, tiny_bert, "--learning_rate", 1e-3, "--bm25", steps=10)


@pytest.fixture(scope="module")
def worse(tmp_path_factory, tiny_bert):
    """A run of an absurd learning rate, beside a BM25 that is better than its base: the page called it a gain."""
    out = tmp_path_factory.mktemp("worse") / "run"
    flags = ("--learning_rate", 3, "--max_grad_norm", 0, "--lr_scheduler_type", "constant", "--bm25")
    return out, train(out, tiny_bert, *flags, steps=8)


def printed(before: float, after: float) -> str:
    """A difference as a reader finds it who subtracts what is printed."""
    return f"{round(float(f'{after:.3f}') - float(f'{before:.3f}'), 3):+.3f}"


def minus(text: str) -> str:
    """A text as the page prints it: numbers below zero with a minus sign, not a hyphen."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def page_of(path) -> dict:
    """The data that a page carries."""
    (found,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', path.read_text("utf-8"))
    return json.loads(found)


def read(path):
    return json.loads(path.read_text("utf-8"))


def means(summary: dict, name: str, *, canary="canary/") -> float:
    values = [row["value"] for row in summary[name] if row["metric"] == METRIC and not row["data"].startswith(canary)]
    return sum(values) / len(values)


def hold(page: dict, found: dict[str, list[dict]], names: dict[str, str]) -> None:
    """Hold bars, changes, thresholds and queries of a page against outcomes: role -> one of each set."""
    for one in page["sets"]:
        own = {role: next((o for o in outcomes if o["data"] == one["name"]), None) for role, outcomes in found.items()}
        bars = [(names[role], role, pytest.approx(o["values"][METRIC])) for role, o in own.items() if o]
        assert [(bar["model"], bar["role"], bar["value"]) for bar in one["bars"]] == bars
        before, after = own["base"]["values"][METRIC], own["trained"]["values"][METRIC]
        change = one["change"]
        assert (change["before"], change["after"]) == (pytest.approx(before), pytest.approx(after))
        assert change["difference"]["value"] == pytest.approx(after - before, abs=1e-6)
    compared = [names["base"], names["trained"]]
    assert [page["compared"]["before"], page["compared"]["after"]] == compared
    for one in page["scores"]:
        assert [panel["model"] for panel in one["panels"]] == compared
    assert {one["name"] for one in page["errors"]} == {one["name"] for one in page["sets"]}
    for one in page["errors"]:
        pair = [next(o for o in found[role] if o["data"] == one["name"]) for role in ("base", "trained")]
        hold_queries(one, compared, pair)


def hold_queries(one: dict, compared: list[str], pair: list[dict]) -> None:
    """Hold the query browser of a set against the outcomes of both models."""
    assert one["models"] == compared
    before, after = (outcome["items"][METRIC] for outcome in pair)
    expected = {
        "won": {q for q in after if after[q] > before[q]},
        "lost": {q for q in after if after[q] < before[q]},
        "failing": {q for q in after if after[q] == before[q] == 0},
    }
    assert {name: {query["id"] for query in shown} for name, shown in one["classes"].items()} == expected
    assert one["totals"] == {name: len(queries) for name, queries in expected.items()}
    for query in (query for shown in one["classes"].values() for query in shown):
        assert query["values"] == pytest.approx([before[query["id"]], after[query["id"]]])
        for top, outcome in zip(query["top"], pair, strict=True):
            assert [key["key"] for key in top] == list(outcome["run"][query["id"]])[:5]


def outcomes_of(run) -> dict[str, list[dict]]:
    """The outcomes that a run left: role -> one of each set; by the names of their files."""
    folder, saved = run / "evaluation", read(run / "evaluation" / "summary.json")["step"]
    found = {"base": read(folder / "step-0.json"), "trained": read(folder / f"step-{saved}.json")}
    return found | ({"baseline": read(folder / "bm25.json")} if (folder / "bm25.json").is_file() else {})


def hold_run(run) -> dict:
    """Hold the page of a run against what it left; returns the page's data."""
    page, summary = page_of(run / "report.html"), read(run / "evaluation" / "summary.json")
    before, after = means(summary, "base"), means(summary, "saved")
    assert before != after
    verdict = page["verdict"]
    assert (verdict["before"], verdict["after"]) == (pytest.approx(before), pytest.approx(after))
    assert f"the mean went from {before:.3f} to {after:.3f} ({printed(before, after)})" in verdict["english"]
    hold(page, outcomes_of(run), {"base": "step 0", "trained": f"step {summary['step']}", "baseline": BM25})
    return page


def test_the_page_of_a_run_with_a_baseline_compares_step_0_with_what_was_saved(better):
    run, shown = better
    page = hold_run(run)
    assert [(model["name"], model["role"]) for model in page["models"]] == [
        ("step 0", "base"),
        ("step 10", "trained"),
        (BM25, "baseline"),
    ]
    assert f"verdict: {page['verdict']['english']}\n" in shown
    assert "got worse" not in shown


def test_a_run_that_got_worse_says_so_on_the_page_and_in_the_terminal(worse):
    run, shown = worse
    summary = read(run / "evaluation" / "summary.json")
    assert means(summary, "saved") < means(summary, "base") < means(summary, "bm25")
    page = hold_run(run)
    verdict, fell = page["verdict"], [one for one in page["sets"] if one["change"]["verdict"] == "fell"]
    assert (verdict["tone"], bool(fell)) == ("down", True)
    assert "rose" not in verdict["english"]
    assert verdict["english"].startswith("It got worse: ")
    assert f"verdict: {verdict['english']}\n" in shown
    for one in fell:
        change = one["change"]
        before, after = change["before"], change["after"]
        by = f"{one['label']} fell: {before:.3f} → {after:.3f}, {printed(before, after)}"
        assert [words["english"].startswith(by) for words in verdict["falls"]].count(True) == 1
        assert f"\n  {by}" in shown
    assert len(verdict["falls"]) == len(fell)
    causes = [words["english"] for words in verdict["checks"]]
    assert any("--learning_rate 3" in cause for cause in causes)
    assert any("few records to learn from" in cause for cause in causes)
    assert all(f"\n  check: {cause}\n" in shown for cause in causes)


@pytest.mark.parametrize(("rate", "named"), [(3, True), (50, True), (3e-3, False)])
def test_a_learning_rate_is_named_of_a_base_without_layers_however_rarely_the_log_is_written(tmp_path, rate, named):
    shown = train(tmp_path / "run", "nano-zh-static", "--learning_rate", rate, "--logging_steps", 500, steps=40)
    causes = [words["english"] for words in page_of(tmp_path / "run" / "report.html")["verdict"]["checks"]]
    assert [f"--learning_rate {rate}" in cause for cause in causes[:1]] == [True] * named
    assert any("few records" in cause for cause in causes[1:]) == named
    assert ("It got worse: " in shown) == named


def test_a_run_without_a_baseline_keeps_its_canary_out_of_the_mean(tmp_path, tiny_bert):
    shown = train(tmp_path / "run", tiny_bert, "--learning_rate", 1e-3, "--canary", DEMO / "test" / "title", steps=2)
    page = hold_run(tmp_path / "run")
    assert [one["name"] for one in page["sets"] if one["canary"]] == ["canary/title"]
    assert [model["role"] for model in page["models"]] == ["base", "trained"]
    assert "general Chinese (title)" in page["verdict"]["english"]
    assert page["verdict"]["english"] in shown


def evaluate(tmp_path, *models) -> tuple[dict, dict]:
    """Compare models with `zh-embedder evaluate`; returns the page's data, and (model, set) -> value."""
    words = ["evaluate", *models, "--data", DEMO / "test" / "qa", DEMO / "test" / "chat", "--metrics", METRIC, "--bm25"]
    words += ["--dtype", "fp32", "--json", tmp_path / "scores.json", "--report", tmp_path / "report.html"]
    assert command([str(word) for word in words]) == 0
    values = {(row["model"], row["data"]): row["value"] for row in read(tmp_path / "scores.json")}
    return page_of(tmp_path / "report.html"), values


def test_evaluate_compares_its_first_model_with_its_last_beside_bm25(better, worse, tmp_path):
    (first, _), (last, _) = better, worse
    page, values = evaluate(tmp_path, first, last)
    before, after = (sum(values[name, f"demo/{t}"] for t in ("qa", "chat")) / 2 for name in (str(first), str(last)))
    assert f"the mean went from {before:.3f} to {after:.3f}" in page["verdict"]["english"]
    names = {"base": str(first), "trained": str(last), "baseline": BM25}
    assert [(model["role"], model["name"]) for model in page["models"]] == list(names.items())
    # the models that the two runs saved, on the sets that they were measured on
    found = outcomes_of(first) | {"base": outcomes_of(first)["trained"], "trained": outcomes_of(last)["trained"]}
    hold(page, found, names)
    for role, outcomes in found.items():
        for one in outcomes:
            assert values[names[role], one["data"]] == pytest.approx(one["values"][METRIC])


def test_evaluate_says_of_a_single_model_that_it_is_compared_with_bm25(tiny_bert, tmp_path):
    page, values = evaluate(tmp_path, tiny_bert)
    assert page["compared"] == {"before": BM25, "after": str(tiny_bert), "against": "baseline"}
    before, after = (sum(values[name, f"demo/{t}"] for t in ("qa", "chat")) / 2 for name in (BM25, str(tiny_bert)))
    assert page["verdict"]["english"].startswith(f"{tiny_bert} compared with {BM25} on 2 tasks: ")
    assert (
        f"its mean is {after:.3f}, that of {BM25} {before:.3f} ({printed(before, after)})" in page["verdict"]["english"]
    )
    assert not re.search("rose|fell|went", page["verdict"]["english"].replace(str(tiny_bert), ""))


@pytest.mark.parametrize(("method", "role"), [("dense", "base"), ("bm25", "baseline"), ("random", "baseline")])
def test_llm_embedders_flags_say_what_was_measured(tmp_path, tiny_bert, method, role):
    out = tmp_path / "out"
    words = ["--eval_data", DEMO / "test" / "qa", "--query_encoder", tiny_bert, "--retrieval_method", method]
    words += ["--metrics", "ndcg", "--cutoffs", 10, "--dtype", "fp32", "--output_dir", out]
    assert main([str(word) for word in words]) == 0
    page, (row,) = page_of(out / "report.html"), read(out / "metrics.json")
    (one,), value = page["sets"], row["metrics"][METRIC]
    assert page["models"] == [{"name": row["model"], "role": role}]
    assert [(bar["role"], bar["value"]) for bar in one["bars"]] == [(role, pytest.approx(value))]
    assert page["compared"] is None
    assert page["verdict"]["english"].startswith(f"{row['model']} reaches {value:.3f} on average over 1 task;")
    (errors,) = page["errors"]
    assert errors["models"] == [row["model"]]
    assert errors["totals"]["won"] == errors["totals"]["lost"] == 0


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_person_reads_on_the_page_what_the_summary_holds(better, worse):
    with browser() as driver:
        for run, _ in (better, worse):
            summary = read(run / "evaluation" / "summary.json")
            before, after = means(summary, "base"), means(summary, "saved")
            driver.get((run / "report.html").as_uri())
            text = lambda selector: driver.find_element("css selector", selector).text  # noqa: E731
            assert (
                f"the mean went from {before:.3f} to {after:.3f} ({printed(before, after).replace('-', '−')})"
                in text("h1")
            )
            sign = "+" if after > before else "−"
            gained = f"{before:.3f}→{after:.3f}{sign}{printed(before, after)[1:]}"
            assert re.sub(r"\s", "", text(".fact.wide")) == f"mean{gained}"
            assert f"what step {summary['step']} gained over step 0" in text("#tasks .note")
            colours = "return DATA.models.map((one) => [one.role, modelColour(one.name)])"
            named = "return [['base', ink().before], ['trained', hues()[0]], ['baseline', ink().baseline]]"
            assert driver.execute_script(colours) == driver.execute_script(named)
            assert f"step {summary['step']} compared with step 0" in text("#errors .note")
        shown = [item.text for item in driver.find_elements("css selector", ".falls li, .checks li")]
        verdict = page_of(worse[0] / "report.html")["verdict"]
        assert shown == [minus(words["english"]) for words in (*verdict["falls"], *verdict["checks"])]
