"""`zh-embedder evaluate`: sets of every kind, models and BM25 side by side, differences with their intervals."""

import json
import re
from itertools import pairwise

import pytest

from tests.jsonl import write
from tests.processes import ROOT
from zh_embedder.cli import main
from zh_embedder.commands.evaluate import check_hits, show, shown, table, without_repeats
from zh_embedder.core.errors import UserError
from zh_embedder.core.files import read_json
from zh_embedder.evaluation.intervals import paired
from zh_embedder.evaluation.outcome import Outcome, Role

DEMO = ROOT / "examples" / "demo" / "test"
METRICS = ("ndcg@10", "mrr@10")


def outcome(model, data, first, second, items=None) -> Outcome:
    found, role = {"ndcg@10": items} if items else {}, Role.BASE if model == "base" else Role.TRAINED
    return Outcome(model, data, "qa", "retrieval", {"ndcg@10": first, "mrr@10": second}, items=found, role=role)


def test_the_table_has_a_line_for_each_model_and_set_and_its_mean():
    found = table(
        METRICS,
        [
            outcome("base", "qa", 0.25, 0.5),
            outcome("base", "tool", 0.75, 0.0),
            outcome("mine", "qa", 1.0, 1.0),
            outcome("mine", "tool", 0.5, 0.12345),
        ],
    )
    assert [line.split() for line in found.splitlines()] == [
        ["model", "data", "ndcg@10", "mrr@10", "ndcg@10", "against", "base"],
        ["base", "qa", "0.2500", "0.5000"],
        ["base", "tool", "0.7500", "0.0000"],
        ["base", "mean", "0.5000", "0.2500"],
        ["mine", "qa", "1.0000", "1.0000"],
        ["mine", "tool", "0.5000", "0.1235"],
        ["mine", "mean", "0.7500", "0.5617"],
    ]


def test_thresholds_of_sets_have_no_mean():
    own = [
        Outcome("base", data, "sts", "pairs", {"ap": ap, "threshold": threshold, "f1": 0.5}, role=Role.BASE)
        for data, ap, threshold in (("a", 0.25, 0.9), ("b", 0.75, 0.1))
    ]
    lines = table(("ap", "threshold", "f1"), own).splitlines()
    assert lines[-1].split() == ["base", "mean", "0.5000", "0.5000"]
    assert lines[-1].rindex("0.5000") == lines[-2].rindex("0.5000")  # the columns behind stay in their place


def test_a_single_set_has_no_mean_and_a_single_model_nothing_to_be_compared_with():
    assert [line.split() for line in table(METRICS, [outcome("base", "qa", 0.5, 0.25)]).splitlines()] == [
        ["model", "data", "ndcg@10", "mrr@10"],
        ["base", "qa", "0.5000", "0.2500"],
    ]


def test_a_difference_is_shown_with_its_interval_and_called_one_only_where_it_is():
    before = {f"q{i}": 0.0 for i in range(40)}
    risen, mixed = dict.fromkeys(before, 0.5), {f"q{i}": float(i % 2) - 0.5 for i in range(40)}
    lines = table(
        METRICS,
        [
            outcome("base", "qa", 0.0, 0, before),
            outcome("better", "qa", 0.5, 0, risen),
            outcome("noise", "qa", 0.0, 0, mixed),
        ],
    ).splitlines()
    assert lines[2].endswith("+0.5000 [+0.5000, +0.5000] rises")
    expected = paired(list(before.values()), list(mixed.values()))
    assert expected.low < 0 < expected.high
    assert lines[3].endswith(f"{expected.value:+.4f} [{expected.low:+.4f}, {expected.high:+.4f}] =")
    assert shown(outcome("base", "qa", 0.0, 0), outcome("b", "qa", 0.5, 0), "ndcg@10") == ""


def test_sets_with_other_metrics_have_a_table_of_their_own():
    pairs = Outcome("base", "sts", "sts", "similarity", {"spearman": 0.5, "pearson": 0.25}, role=Role.BASE)
    first, second = show([outcome("base", "qa", 0.5, 0.25), pairs]).split("\n\n")
    assert first.split()[:4] == ["model", "data", "ndcg@10", "mrr@10"]
    assert second.split()[:4] == ["model", "data", "spearman", "pearson"]


@pytest.fixture
def sets(tmp_path):
    """A small set of every kind, of demo texts."""
    texts = [json.loads(line)["text"] for line in (DEMO / "qa" / "corpus.jsonl").open(encoding="utf-8")][:12]

    labelled = [{"text": text, "label": "甲" if i % 2 else "乙", "task": "qa"} for i, text in enumerate(texts)]
    write(tmp_path / "label/train.jsonl", labelled[:8])
    return {
        "reranking": write(
            tmp_path / "rank.jsonl", [{"query": texts[0][:9], "pos": [texts[0]], "neg": texts[1:5], "task": "qa"}]
        ),
        "similarity": write(
            tmp_path / "sts.jsonl",
            [{"text1": a, "text2": b, "score": i / 5, "task": "qa"} for i, (a, b) in enumerate(pairwise(texts))],
        ),
        "pair_classification": write(
            tmp_path / "pair.jsonl",
            [
                {"text1": a, "text2": a if i % 2 else texts[0], "score": i % 2, "task": "qa"}
                for i, a in enumerate(texts)
            ],
        ),
        "classification": write(tmp_path / "label/test.jsonl", labelled[8:]).parent,
        "clustering": write(tmp_path / "cluster.jsonl", labelled),
        "retrieval": DEMO / "qa",
    }


def test_sets_of_every_kind_are_measured_in_one_call(sets, tiny_bert, tmp_path, capsys):
    out = tmp_path / "scores.json"
    words = ["evaluate", tiny_bert, "--data", *sets.values(), "--dtype", "fp32", "--json", out, "--bm25"]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    found = {}
    for row in json.loads(out.read_text()):
        found.setdefault((row["model"], row["data"].split("/")[-1]), set()).add(row["metric"])
    model = str(tiny_bert)
    assert found[model, "sts.jsonl"] == {"spearman", "pearson"}
    assert found[model, "pair.jsonl"] >= {"ap", "f1", "accuracy", "threshold"}
    assert found[model, "label"] >= {"accuracy", "macro_f1", "knn_accuracy"}
    assert found[model, "cluster.jsonl"] == {"v_measure"}
    assert found[model, "rank.jsonl"] == found[model, "qa"] == {"ndcg@10", "mrr@10", "recall@10"}
    assert {data for name, data in found if name.startswith("BM25")} == {"qa", "rank.jsonl"}  # it compares no pairs
    assert shown.count("\n\n") == 4  # five tables


def test_what_the_instruction_is_worth_is_shown(tmp_path, tiny_bert, capsys):
    from zh_embedder.models.encoder import load_encoder

    told = load_encoder(str(tiny_bert), changes={"instructions": {"qa": ("为问题检索相关的文字：", "")}})
    told.save(tmp_path / "told")
    out = tmp_path / "scores.json"
    words = ["evaluate", tmp_path / "told", tiny_bert, "--data", DEMO / "qa", "--dtype", "fp32", "--no-instruction"]
    assert main([str(word) for word in [*words, "--json", out, "--metrics", "ndcg@10"]]) == 0
    values = {row["model"]: row["value"] for row in json.loads(out.read_text())}
    name = str(tmp_path / "told")
    assert list(values) == [name, f"{name} (no instruction)", str(tiny_bert)]  # a model without any has no second line
    assert values[f"{name} (no instruction)"] == pytest.approx(values[str(tiny_bert)])
    assert values[name] != values[f"{name} (no instruction)"]
    assert "ndcg@10 against" in capsys.readouterr().out


def saved(tmp_path, base, name, **changes):
    from zh_embedder.models.encoder import load_encoder

    load_encoder(str(base), changes=changes).save(tmp_path / name)
    return tmp_path / name


def evaluate(capsys, *words):
    code = main([str(word) for word in ["evaluate", *words, "--data", DEMO / "qa", "--dtype", "fp32"]])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_what_differs_in_how_models_were_measured_is_said_and_a_flag_makes_it_equal(tmp_path, tiny_bert, capsys):
    short = saved(tmp_path, tiny_bert, "short", key_max_length=16, instructions={"qa": ("问：", "")})
    code, shown, _ = evaluate(capsys, tiny_bert, short)
    assert code == 0
    assert f"note: {tiny_bert} reads up to 512 tokens of keys, {short} up to 16 (cut: " in shown
    assert "--key_max_length 16 makes them equal\n" in shown
    assert f"note: {short} uses instructions for qa, {tiny_bert} uses none" in shown
    assert shown.index("note: ") < shown.index("ndcg@10 against")
    code, shown, _ = evaluate(capsys, tiny_bert, short, "--key_max_length", 16)
    assert (code, "tokens of keys" in shown) == (0, False)
    code, _, said = evaluate(capsys, tiny_bert, "--key_max_length", 5000)
    assert (code, "--key_max_length: got 5000, expected 512 at most" in said) == (2, True)


def test_texts_that_are_cut_are_said_before_the_figures_and_on_the_page(tmp_path, tiny_bert, capsys):
    words = (tiny_bert, "--key_max_length", 24, "--query_max_length", 300, "--report", tmp_path / "page.html")
    code, shown, _ = evaluate(capsys, *words)
    (line,) = [line for line in shown.split("\n") if " are cut to " in line]
    assert (code, line.count("queries")) == (0, 0)
    assert re.fullmatch(
        r"note: .*qa: \d+ % of the keys are cut to 24 tokens, which loses for example “.{1,30}”: "
        "--key_max_length N reads more, up to 512 in this base",
        line,
    )
    assert shown.index(line) < shown.index("ndcg@10")
    assert line.removeprefix("note: ") in (tmp_path / "page.html").read_text("utf-8")
    short = saved(tmp_path, tiny_bert, "short", key_max_length=24)
    _, shown, _ = evaluate(capsys, tiny_bert, short)
    assert f"of the keys are cut to 24 tokens by {short}, which loses" in shown  # the other cuts nothing


def test_a_task_that_a_model_does_not_know_is_refused_or_said_to_change_nothing(tmp_path, tiny_bert, capsys):
    told = saved(tmp_path, tiny_bert, "told", instructions={"qa": ("问：", ""), "tool": ("", "")})
    code, _, said = evaluate(capsys, told, "--task", "qaa")
    assert code == 2
    assert "--task: unknown name 'qaa'; did you mean 'qa'?" in said
    code, _, said = evaluate(capsys, tiny_bert, "--task", "qaa")
    assert code == 0
    assert f"--task qaa: {tiny_bert}: no instructions, so the task changes nothing" in said
    broad = saved(tmp_path, tiny_bert, "broad", instructions={"qa": ("问：", ""), "default": ("问：", "")})
    said = evaluate(capsys, broad, "--task", "qaa")[2]
    assert "no instruction of that name, the default is used; did you mean 'qa'?" in said


def test_models_that_lack_a_set_s_task_are_named_before_anything_is_measured(tmp_path, tiny_bert, capsys, monkeypatch):
    told = saved(tmp_path, tiny_bert, "told", instructions={"qa": ("问：", ""), "tool": ("", "")})
    other = saved(tmp_path, tiny_bert, "other", instructions={"law": ("问：", ""), "icl": ("", "")})
    labels = tmp_path / "labels.jsonl"
    lines = [f'{{"text": "{text}", "label": "{text}", "task": "classification"}}\n' for text in ("今天", "昨天")]
    labels.write_text("".join(lines * 4), "utf-8")
    started = []
    monkeypatch.setattr("zh_embedder.commands.evaluate.measure_model", lambda *args, **_: started.append(args))
    for which in ([tiny_bert, told, other], [tiny_bert, other]):
        code = main([str(word) for word in ["evaluate", *which, "--data", DEMO / "qa", labels]])
        shown, said = capsys.readouterr()
        assert (code, shown, started) == (2, "", [])
        remedy = "--version NAME gives all models instructions that have this task or a default\n"
        for model in which[1:]:
            assert re.search(rf"MODEL {model}: --data \S*labels\S*: task: unknown name 'classification'. Known: ", said)
        assert re.search(rf"MODEL {other}: --data \S*qa: task: unknown name 'qa'. Known: icl, law; {remedy}", said)
        assert said.count(remedy) == len(which)


@pytest.mark.parametrize("flags", [("--no_instruction",), ("--dims", 32, 16), ("--no_instruction", "--dims", 32, 16)])
def test_the_page_compares_models_and_not_the_variants_that_flags_add(tmp_path, tiny_bert, capsys, flags):
    """The last row is the last model without instructions or cut short: no figure on top may be that one's."""
    base = saved(tmp_path, tiny_bert, "base", instructions={"qa": ("为这个问题生成表示：", "")})
    after = saved(tmp_path, tiny_bert, "after", instructions={"qa": ("猫", "狗")}, pooling="mean")
    page, rows = tmp_path / "page.html", tmp_path / "rows.json"
    code, shown, _ = evaluate(capsys, base, after, *flags, "--report", page, "--json", rows)
    values = {row["model"]: row["value"] for row in read_json(rows) if row["metric"] == "ndcg@10"}
    size = " [32]" if "--dims" in flags else ""
    one, two = values[f"{base}{size}"], values[f"{after}{size}"]
    assert code == 0
    assert len(values) == 2 ** len([flag for flag in flags if str(flag).startswith("--")]) * 2
    assert len({f"{value:.3f}" for value in values.values()}) > 2  # the variants have other figures
    found = json.loads(re.search(r'<script[^>]*id="report-data"[^>]*>(.*?)</script>', page.read_text("utf-8"), re.S)[1])
    assert found["compared"] == {"before": f"{base}{size}", "after": f"{after}{size}", "against": "base"}
    assert (found["verdict"]["before"], found["verdict"]["after"]) == (pytest.approx(one), pytest.approx(two))
    (only,) = found["sets"]
    assert (only["change"]["before"], only["change"]["after"]) == (pytest.approx(one), pytest.approx(two))
    assert found["errors"][0]["models"] == [f"{base}{size}", f"{after}{size}"]
    assert ("--no_instruction also measures them" in shown) == ("--no_instruction" not in flags)
    assert shown.count("the rows (no instruction) are without") == ("--no_instruction" in flags)


def test_a_model_without_instructions_has_no_second_row_and_says_so_once(tmp_path, tiny_bert, capsys):
    none = saved(tmp_path, tiny_bert, "none", instructions={"qa": ("", "")})  # as --version none leaves it
    code, shown, said = evaluate(capsys, none, "--no_instruction")
    assert code == 0
    assert "(no instruction)" not in shown
    assert said.count("has no instructions for these sets") == 1


def test_what_is_named_twice_is_measured_once_and_heard(caplog):
    assert without_repeats(["a", "b", "a"], key=str, flag="MODEL") == ["a", "b"]
    assert "MODEL: a is named more than once" in caplog.text


def test_a_cutoff_beyond_the_keys_retrieved_is_refused():
    check_hits(["ndcg@10", "map"], 10)
    with pytest.raises(UserError, match=r"--hits: got 5, expected 100 or more, which ndcg@100 needs"):
        check_hits(["ndcg@100"], 5)
