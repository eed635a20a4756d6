"""The report: what it decides, what it shows, and the page itself in a real browser."""

import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.browser import browser, missing
from zh_embedder.evaluation.intervals import Interval
from zh_embedder.evaluation.left_out import LeftOut
from zh_embedder.evaluation.measure import measure_bm25
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.sets import LabelSet, PairSet, RetrievalSet
from zh_embedder.report.conditions import unlike
from zh_embedder.report.figures import difference, figure
from zh_embedder.report.page import json_for_html, page, write_report
from zh_embedder.report.page_data import (
    Report,
    SetReport,
    compared_with,
    gained,
    opponents,
    page_data,
    plain,
    short_labels,
    thin,
)
from zh_embedder.report.query_errors import Bounds, classify, read_errors
from zh_embedder.report.thresholds import Spread, best_threshold, hardest_negatives, spread_of
from zh_embedder.report.verdict import Change, Words, alone, judge, judge_against
from zh_embedder.text.words import letters

HOSTILE = '</script><img src=x onerror="window.broken=1"><!-- <script> & $$x^2$$ \'\u2028'


def outcome(data, model, *, items, run=None, positives=None, metric="ndcg@10", role=Role.BASE, **more):
    values = {metric: sum(items.values()) / len(items)} if items else {}
    return Outcome(
        model, data.name, data.task, data.kind, values, {metric: items}, run or {}, positives or {}, role=role, **more
    )


def small_set(name="demo/qa", task="qa", text="答案"):
    """Four queries; q0 is won, q1 lost, q2 fails still, q3 does not change. k9 repeats k2's text."""
    keys = {f"k{n}": f"{text}{n}" for n in range(6)} | {"k9": f" {text}２。"}
    return RetrievalSet(name, task, {f"q{n}": f"问题{n} {text}" for n in range(4)}, keys, {
        f"q{n}": {f"k{n}": 1, "k5": 0} for n in range(4)
    })  # fmt: skip


def small_outcomes(data):
    runs = {
        "old": {
            "q0": {"k4": 0.9, "k5": 0.8},
            "q1": {"k1": 0.9, "k0": 0.2},
            "q2": {"k9": 0.7, "k4": 0.6},
            "q3": {"k3": 0.5, "k0": 0.4},
        },
        "new": {
            "q0": {"k0": 0.9, "k4": 0.3},
            "q1": {"k0": 0.8, "k1": 0.1},
            "q2": {"k4": 0.9, "k9": 0.8, "k2": 0.2},
            "q3": {"k3": 0.7, "k0": 0.1},
        },
    }
    items = {"old": [0.0, 1.0, 0.0, 1.0], "new": [1.0, 0.63, 0.0, 1.0]}
    positives = {"old": [0.1, 0.9, 0.3, 0.5], "new": [0.9, 0.1, 0.2, 0.7]}
    return [
        outcome(
            data,
            model,
            items={f"q{n}": value for n, value in enumerate(items[model])},
            run=runs[model],
            positives={f"q{n}": value for n, value in enumerate(positives[model])},
            truncated=(0.01, 0.25),
            role=role,
        )
        for model, role in (("old", Role.BASE), ("new", Role.TRAINED))
    ]


def small_report(title="run", *, text="答案", task="qa", extra=()):
    data = small_set(text=text, task=task)
    outcomes = small_outcomes(data)
    return Report(
        title=title,
        sets=[SetReport(data, [*outcomes, measure_bm25(data)]), *extra],
        curves={"demo/qa": [(0, 0.5), (10, 0.66)], "mean": [(0, 0.5), (10, 0.66)]},
        losses={"qa": [(n, 1 / (1 + n)) for n in range(20)]},
        settings={"seed": 1, "train_data": [text, "b.jsonl"]},
        manifest={"machine": {"cores": 2}, "command": text},
    )


# ---- verdict --------------------------------------------------------------------------------------------------------


def change(label, before, after, low=None, high=None, *, canary=False):
    found = None if low is None else Interval(after - before, low, high)
    return Change(label, before, after, found, canary)


def test_the_verdict_names_what_rose_and_fell_beyond_noise_and_where_the_mean_went():
    verdict = judge(
        [
            change("qa", 0.5, 0.7, 0.1, 0.3),
            change("icl", 0.5, 0.8, 0.2, 0.4),
            change("tool", 0.6, 0.5, -0.2, -0.05),
            change("chat", 0.4, 0.41, -0.02, 0.04),
            change("sts", 0.5, 0.6),
        ]
    )
    assert verdict.english == (
        "It got worse in part: "
        "2 of 5 tasks rose beyond noise (icl, qa), 1 fell beyond noise (tool), 1 within noise, 1 without an interval; "
        "the mean went from 0.500 to 0.602 (+0.102)."
    )
    assert verdict.chinese == (
        "部分变差："
        "5 个任务中，2 个的提升超出噪声（icl、qa），1 个的下降超出噪声（tool），1 个在噪声范围内，1 个没有置信区间；"
        "均值从 0.500 升至 0.602（+0.102）。"
    )
    assert verdict.tone == "mixed"


def test_a_drop_of_the_canary_is_said_aloud_and_stays_out_of_the_mean():
    verdict = judge([change("qa", 0.5, 0.7, 0.1, 0.3), change("news", 0.9, 0.6, -0.4, -0.2, canary=True)])
    assert verdict.english == (
        "It got worse in part: qa rose beyond noise; its main metric went from 0.500 to 0.700 (+0.200); "
        "general Chinese (news) FELL beyond noise: 0.900 → 0.600."
    )
    assert "通用中文（news）的下降超出噪声，请注意：0.900 → 0.600。" in verdict.chinese
    assert (verdict.before, verdict.after, verdict.tone) == (0.5, 0.7, "mixed")


def test_what_is_printed_adds_up():
    """0.87818 and 0.91364 are 0.03546 apart: a reader who subtracts 0.878 from 0.914 gets 0.036."""
    assert difference(0.87818, 0.91364) == "+0.036"
    assert difference(0.91364, 0.87818) == "-0.036"
    assert difference(0.5, 0.50001) == "+0.000"
    assert (figure(0.0625), figure(0.8785), figure(2 / 3, 4)) == ("0.063", "0.878", "0.6667")  # as in JavaScript
    change_ = change("qa", 0.87818, 0.91364, 0.01, 0.06)
    for words in (judge([change_]), judge_against([change_], "a", "b")):
        assert "(+0.036)" in words.english
        assert "（+0.036）" in words.chinese
    assert [gained(0.87818, 0.91364), gained(0.9, 0.8), gained(0.5, 0.50001), gained(None, 1.0)] == [
        "+0.036",
        "−0.100",
        "±0.000",
        None,
    ]


@pytest.mark.parametrize(
    ("changes", "tone"),
    [
        ([change("a", 0.1, 0.2, 0.01, 0.2)], "up"),
        ([change("a", 0.2, 0.1, -0.2, -0.01)], "down"),
        ([change("a", 0.2, 0.2, -0.1, 0.1)], "flat"),
        ([change("a", 0.2, 0.9)], "flat"),
        ([], "flat"),
    ],
)
def test_the_tone_follows_what_is_beyond_noise(changes, tone):
    assert judge(changes).tone == tone


def test_a_model_without_opponent_is_described_and_not_compared():
    assert alone("m", [0.5, 0.7]).english == "m reaches 0.600 on average over 2 tasks; nothing to compare it with."


# ---- threshold ------------------------------------------------------------------------------------------------------


def f1_at(threshold, positives, negatives):
    taken = (positives >= threshold).sum() + (negatives >= threshold).sum()
    return 2 * (positives >= threshold).sum() / (taken + len(positives))


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_one_that_brute_force_finds(seed):
    random = np.random.default_rng(seed)
    # Rounded: equal scores on both sides must be taken together.
    positives = random.normal(0.6, 0.2, random.integers(1, 40)).round(1)
    negatives = random.normal(0.4, 0.2, random.integers(1, 40)).round(1)
    found = best_threshold(Spread(positives, negatives))
    best = max(f1_at(t, positives, negatives) for t in np.concatenate([positives, negatives]))
    assert found.f1 == pytest.approx(best)
    assert f1_at(found.value, positives, negatives) == pytest.approx(best)
    taken = (positives >= found.value).sum() + (negatives >= found.value).sum()
    assert found.precision == pytest.approx((positives >= found.value).sum() / taken)
    assert found.recall == pytest.approx((positives >= found.value).mean())


def test_a_threshold_stands_halfway_between_the_two_sides():
    found = best_threshold(Spread(np.array([0.9, 0.8]), np.array([0.4, 0.2])))
    assert (found.value, found.f1) == (pytest.approx(0.6), 1.0)
    assert best_threshold(Spread(np.array([0.9]), np.array([]))) is None


def test_the_hardest_negative_is_the_best_key_that_is_not_relevant():
    data = small_set()
    old, _ = small_outcomes(data)
    assert hardest_negatives(data, old) == [0.9, 0.2, 0.7, 0.4]


def test_scores_of_searches_that_found_too_little_do_not_count():
    data = small_set()
    found = outcome(data, "m", items={"q0": 0.0}, run={"q0": {"k4": -np.inf}}, positives={"q0": -np.inf, "q1": 0.3})
    spread = spread_of(data, found)
    assert spread.positives.tolist() == [0.3]
    assert spread.negatives.tolist() == []


def test_graded_pairs_are_divided_in_the_middle_of_their_scale():
    data = PairSet("sts", None, ["a"] * 4, ["b"] * 4, [0.0, 2.0, 3.0, 5.0])
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    found = Outcome(
        "m", "sts", None, data.kind, {"spearman": 1.0}, gold=np.array(data.scores), predicted=scores, role=Role.BASE
    )
    spread = spread_of(data, found)
    assert (spread.positives.tolist(), spread.negatives.tolist()) == ([0.3, 0.4], [0.1, 0.2])


# ---- queries --------------------------------------------------------------------------------------------------------


def test_queries_are_won_lost_or_failing_those_first_that_moved_most():
    before = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 0.5, "e": 0.2}
    after = {"a": 0.3, "b": 0.9, "c": 0.0, "d": 0.5, "e": 1.0}
    assert classify(before, after) == {"won": ["e", "a"], "lost": ["b"], "failing": ["c"], "unchanged": ["d"]}
    assert classify(None, after)["failing"] == ["c"]


def test_a_query_shows_its_positives_and_the_best_keys_of_both_models():
    data = small_set()
    errors = read_errors(data, small_outcomes(data), "ndcg@10")
    assert {name: [q.query for q in found] for name, found in errors.shown.items()} == {
        "won": ["q0"],
        "lost": ["q1"],
        "failing": ["q2"],
    }
    assert errors.unchanged == 1
    (lost,) = errors.shown["lost"]
    assert lost.values == [1.0, 0.63]
    assert lost.positives[0].key == "k1"
    assert lost.positives[0].places == [(0.9, 1), (0.1, 2)]
    assert [[(k.key, k.score, k.relevant) for k in top] for top in lost.top] == [
        [("k1", 0.9, True), ("k0", 0.2, False)],
        [("k0", 0.8, False), ("k1", 0.1, True)],
    ]
    (won,) = errors.shown["won"]
    assert won.positives[0].places == [None, (0.9, 1)]


def test_suspected_false_negatives_say_by_which_rule():
    data = small_set()
    (failing,) = read_errors(data, small_outcomes(data), "ndcg@10").shown["failing"]
    assert {key.key: key.suspect for key in failing.top[1]} == {"k4": "above", "k9": "same", "k2": None}
    (lost,) = read_errors(data, small_outcomes(data), "ndcg@10").shown["lost"]
    assert [key.suspect for key in lost.top[1]] == [None, None]  # above the positive in one model only


def test_width_case_spaces_and_punctuation_make_no_other_text():
    assert letters(" Ａbc，１２。") == letters("abc 12") == "abc12"


def test_what_is_left_out_is_bounded_and_counted():
    count, text = 30, "长" * 400
    data = RetrievalSet(
        "many",
        "qa",
        {f"q{n}": text for n in range(count)},
        {f"k{n}": text for n in range(20)},
        {f"q{n}": {f"k{m}": 1 for m in range(8)} for n in range(count)},
    )
    runs = {f"q{n}": {f"k{m}": 1.0 / (m + 1) for m in range(20)} for n in range(count)}
    before, after = (
        outcome(data, model, items=dict.fromkeys(data.queries, value), run=runs)
        for model, value in (("a", 0.2), ("b", 0.4))
    )
    errors = read_errors(data, [before, after], "ndcg@10", Bounds(queries=7, keys=3, positives=4, characters=50))
    assert errors.totals == {"won": 30, "lost": 0, "failing": 0}
    assert len(errors.shown["won"]) == 7
    query = errors.shown["won"][0]
    assert ([len(top) for top in query.top], len(query.positives), query.more_positives) == ([3, 3], 4, 4)
    assert query.text == "长" * 50 + "…"
    assert set(errors.texts.values()) == {"长" * 50 + "…"}
    assert errors.cut == 7 + len(errors.texts)


# ---- data -----------------------------------------------------------------------------------------------------------


ROLES = {"a": Role.BASE, "b": Role.TRAINED, "c": Role.TRAINED, "w": Role.BASELINE, "r": Role.BASELINE}
ROLES |= {"A": Role.VARIANT, "B": Role.VARIANT, "C": Role.VARIANT}


@pytest.mark.parametrize(
    ("shown", "before", "after"),
    [
        ("abw", "a", "b"),
        ("wabc", "a", "c"),
        ("aw", "w", "a"),
        ("a", None, "a"),
        ("w", None, "w"),
        ("bw", "w", "b"),
        ("awr", "w", "a"),
        ("b", None, "b"),
        ("aAbBcCw", "a", "c"),
        ("aAbB", "a", "b"),
        ("aA", "a", "A"),
        ("aABw", "a", "B"),
    ],
)
def test_the_base_and_the_last_model_are_compared_and_a_single_one_with_its_baseline(shown, before, after):
    """Every one bears the same name: it must not matter."""
    data = small_set()
    given = {role: outcome(data, "BM25", items={"q0": 0.5}, role=ROLES[role]) for role in shown}
    against = compared_with(Report("t", [SetReport(data, list(given.values()))], {}, {}, {}, {}))
    first, last = opponents(list(given.values()), against)
    assert (first, last) == (None if before is None else given[before], given[after])


def test_a_set_without_base_is_not_compared_with_a_baseline_where_others_are_with_the_base():
    """Else one sentence would hold differences from two things."""
    whole, late = small_set("s/a", "a"), small_set("s/b", "b")
    sets = [
        SetReport(whole, [*small_outcomes(whole), measure_bm25(whole)]),
        SetReport(late, [small_outcomes(late)[1], measure_bm25(late)]),
    ]
    found = page_data(Report("t", sets, {}, {}, {}, {}))
    assert [one["change"] is None for one in found["sets"]] == [False, True]
    assert found["compared"] == {"before": "old", "after": "new", "against": "base"}


def test_a_single_model_is_above_or_below_its_baseline_and_has_not_risen():
    data = small_set()
    old, bm25 = small_outcomes(data)[0], measure_bm25(data)
    found = page_data(Report("t", [SetReport(data, [old, bm25])], {}, {}, {}, {}))
    assert found["compared"] == {"before": bm25.model, "after": "old", "against": "baseline"}
    english = found["verdict"]["english"]
    assert english.startswith("old compared with BM25 (jieba) on 1 task: 1 ")
    was, now = bm25.values["ndcg@10"], old.values["ndcg@10"]
    assert f"its main metric is {now:.3f}, that of BM25 (jieba) {was:.3f} ({now - was:+.3f})" in english
    assert not re.search("rose|fell|went|base", english)
    assert (found["verdict"]["falls"], found["verdict"]["checks"]) == ([], [])


def test_sets_go_by_their_task_where_it_tells_them_apart():
    sets = [small_set("x/a", "qa"), small_set("x/b", "qa"), small_set("x/c", "icl"), small_set("x/d", None)]
    assert short_labels(sets) == {"x/a": "x/a", "x/b": "x/b", "x/c": "icl", "x/d": "x/d"}


def test_the_data_of_a_page_holds_bars_with_intervals_changes_and_truncated_shares():
    found = page_data(small_report())
    (one,) = found["sets"]
    assert [(bar["model"], bar["role"]) for bar in one["bars"]] == [
        ("old", "base"),
        ("new", "trained"),
        ("BM25 (jieba)", "baseline"),
    ]
    assert one["bars"][0]["low"] < one["bars"][0]["value"] == 0.5 < one["bars"][0]["high"]
    assert (one["change"]["before"], one["change"]["after"], one["change"]["verdict"]) == (0.5, 0.6575, "noise")
    assert one["truncated"] == {"old": [0.01, 0.25], "new": [0.01, 0.25]}
    assert list(found["curves"]) == ["mean", "qa"]
    assert [panel["model"] for panel in found["scores"][0]["panels"]] == ["old", "new"]
    assert found["errors"][0]["totals"] == {"won": 1, "lost": 1, "failing": 1}


def test_every_metric_of_a_set_has_its_difference_with_an_interval_and_thresholds_none():
    data = small_set()
    rows = {"old": ([0.0, 0.5, 0.0, 0.5], 0.3), "new": ([0.5, 1.0, 0.5, 1.0], 0.9)}
    outcomes = [
        replace(
            first,
            values={**first.values, "recall@10": sum(rows[first.model][0]) / 4, "threshold": rows[first.model][1]},
            items={**first.items, "recall@10": {f"q{n}": value for n, value in enumerate(rows[first.model][0])}},
        )
        for first in small_outcomes(data)
    ]
    (one,) = page_data(Report("t", [SetReport(data, outcomes)], {}, {}, {}, {}))["sets"]
    assert list(one["gains"]) == ["ndcg@10", "recall@10"]
    assert one["gains"]["ndcg@10"] == one["change"]
    gain = one["gains"]["recall@10"]
    assert (gain["shown"], gain["verdict"]) == ("+0.500", "rose")
    assert gain["difference"] == {"value": 0.5, "low": 0.5, "high": 0.5}  # each query gained as much


def test_what_a_set_leaves_out_is_there_in_both_languages():
    left = LeftOut("unknown_queries", 3, "x0")
    data = replace(small_set(), left_out=(left,))
    (one,) = page_data(Report("t", [SetReport(data, small_outcomes(data))], {}, {}, {}, {}))["sets"]
    (found,) = one["left_out"]
    assert found == {
        "kind": "unknown_queries", "count": 3, "example": "x0",
        "english": "3 judged queries are missing from the queries: they are left out of the mean (such as 'x0')",
        "chinese": "3 个有评判的查询不在查询文件中，不计入均值（例如“x0”）",
    }  # fmt: skip


def test_texts_that_are_cut_are_told_in_both_languages():
    data, lost = small_set(), ("</script><b>前半句", "")
    outcomes = [
        replace(one, truncated=(0.37, 0.1), lengths=(96, 512), limits=(512, 512), lost=lost)
        for one in small_outcomes(data)[:2]
    ]
    training = Words("of the data", "数据")
    report = Report("t", [SetReport(data, outcomes)], {}, {}, {}, {}, cut_in_training=[training])
    first, second = page_data(report)["cut"]
    assert first == {"english": "of the data", "chinese": "数据"}
    assert second["english"] == (
        "demo/qa: 37 % of the queries are cut to 96 tokens, which loses for example “</script><b>前半句”: "
        "--query_max_length N reads more, up to 512 in this base"
    )
    assert "37 % 的查询被截断至 96 个 token，例如丢失“</script><b>前半句”" in second["chinese"]
    assert "<b>前半句" not in page(report)
    full = [replace(one, lengths=(512, 512)) for one in outcomes]
    (only,) = page_data(replace(report, sets=[SetReport(data, full)], cut_in_training=()))["cut"]
    assert only["english"].endswith("512 is all that this base reads: split them into shorter passages")
    assert page_data(small_report())["cut"] == []


def test_sets_of_pairs_and_labels_have_bars_and_no_query_browser():
    gold, scores = np.array([0.0, 1.0] * 5), np.linspace(0, 1, 10)
    pairs = PairSet("pairs", "dup", ["a"] * 10, ["b"] * 10, list(gold))
    labels = LabelSet("labels", "intent", ["a"] * 4, ["x", "y"] * 2)
    extra = [
        SetReport(
            pairs, [Outcome("m", "pairs", "dup", pairs.kind, {"ap": 0.7}, gold=gold, predicted=scores, role=Role.BASE)]
        ),
        SetReport(labels, [Outcome("m", "labels", "intent", labels.kind, {"v_measure": 0.4}, role=Role.BASE)]),
    ]
    found = page_data(Report("t", extra, {}, {}, {}, {}))
    assert [one["bars"][0]["low"] for one in found["sets"]] == [None, None]
    assert [one["label"] for one in found["scores"]] == ["dup"]
    assert found["scores"][0]["panels"][0]["threshold"]["f1"] > 0.6
    assert found["errors"] == []
    assert found["verdict"]["english"].startswith("m reaches 0.550")


def test_a_report_without_any_set_is_still_a_page(tmp_path):
    write_report(Report("empty", [], {}, {}, {}, {}), tmp_path / "report.html")
    assert "Nothing to compare." in (tmp_path / "report.html").read_text("utf-8")


def test_many_sets_share_the_room_of_the_page():
    sets = [SetReport(d, small_outcomes(d)) for d in (small_set(f"s/{n}", f"t{n}") for n in range(30))]
    assert page_data(Report("t", sets, {}, {}, {}, {}))["bounds"]["queries"] == 20


def test_long_curves_are_thinned_to_means_and_short_ones_kept():
    points = [(step, float(step % 2)) for step in range(4000)]
    thinned = thin(points)
    assert len(thinned) == 400
    assert thinned[0] == [9.0, 0.5]
    assert thin(points[:3]) == [[0, 0.0], [1, 1.0], [2, 0.0]]


def test_a_task_has_the_same_line_in_every_chart():
    sets = [small_set("x/icl", "icl"), small_set("x/law", "law"), small_set("x/law2", "law"), small_set("x/none", None)]
    curves = {one.name: [(0, 0.5)] for one in reversed(sets)} | {"mean": [(0, 0.5)]}
    losses = {"law": [(0, 1.0)], "chat": [(0, 1.0)], "icl": [(0, 1.0)]}
    shown = [SetReport(one, small_outcomes(one)) for one in sets]
    found = page_data(Report("t", shown, curves, losses, {}, {}))
    assert list(found["curves"]) == ["mean", "icl", "x/law", "x/law2", "x/none"]
    assert list(found["losses"]) == ["icl", "law", "chat"]
    lines = found["lines"]
    assert (lines["icl"], lines["law"], lines["chat"]) == ([0, 0], [1, 0], [3, 0])
    assert (lines["x/law"], lines["x/law2"], lines["x/none"]) == ([1, 0], [1, 1], [2, 0])


def under(data, *, cut=(0.0, 0.0), lengths=(256, 256), prompts=("", "")):
    return [
        replace(outcome, lengths=length, prompts=prompt, truncated=share)
        for outcome, length, prompt, share in zip(
            small_outcomes(data), ((512, 512), lengths), (("", ""), prompts), ((0.0, 0.25), cut), strict=True
        )
    ]


def test_models_that_were_measured_under_other_conditions_are_said_to_be():
    data = small_set()
    before, after = under(data, cut=(0.0, 0.92), prompts=("为问题：", ""))
    keys, told = unlike([(before, after)])
    assert keys.english == (
        "old reads up to 512 tokens of keys, new up to 256 (cut: 25 % and 92 % on demo/qa): "
        "--key_max_length 256 makes them equal"
    )
    assert told.english == "new uses instructions for qa, old uses none: --no_instruction also measures them without"
    assert unlike([(before, before)]) == []
    (split,) = unlike([(before, replace(before, model="new", truncated=(0.0, 0.5)))])
    assert "their tokenizers differ" in split.english
    (other,) = unlike([(replace(before, prompts=("问：", "")), replace(before, model="new", prompts=("答：", "")))])
    assert other.english.startswith("old and new use different instructions for qa")
    found = page_data(Report("t", [SetReport(data, [before, after])], {}, {}, {}, {}))["verdict"]
    assert [words["english"] for words in found["conditions"]] == [keys.english, told.english]
    assert all(words["chinese"] for words in found["conditions"])


def test_lengths_that_cut_nothing_make_no_difference():
    data = small_set()
    before, after = under(data)
    assert unlike([(replace(before, truncated=(0.0, 0.0)), after)]) == []


def test_what_json_does_not_know_is_null_or_text(tmp_path):
    found = plain(
        {"a": float("nan"), "b": np.float32(0.5), "c": tmp_path, "d": (1, None, True), 3: np.int64(4), "e": 1e-8}
    )
    assert found == {"a": None, "b": 0.5, "c": str(tmp_path), "d": [1, None, True], "3": 4, "e": 1e-8}


def test_no_text_can_end_the_script_that_carries_it():
    text = json_for_html({"text": HOSTILE})
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {"text": HOSTILE}


def test_titles_are_escaped():
    found = page(small_report(HOSTILE))
    assert f"<title>{HOSTILE[:2]}" not in found
    assert "&lt;/script&gt;&lt;img" in found


def test_the_page_asks_nobody_for_anything_and_stays_small(tmp_path):
    path = tmp_path / "report.html"
    write_report(small_report(), path)
    found = path.read_text("utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?(https?:)?//", found)
    assert "default-src 'none'" in found
    assert path.stat().st_size < 1_700_000
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_both_languages_have_the_same_words():
    script = page(small_report())
    english, chinese = (
        set(re.findall(r"\b(\w+): \"", script[script.index(f"\n  {name}: {{") :].split("\n  },")[0]))
        for name in ("en", "zh")
    )
    assert english == chinese
    assert len(english) > 60


# ---- in a browser ---------------------------------------------------------------------------------------------------

in_browser = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def driver():
    with browser() as found:
        yield found


def opened(driver, tmp_path, report):
    path = tmp_path / "report.html"
    write_report(report, path)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(path.as_uri())
    driver.execute_script("localStorage.clear()")
    drawn(driver, 1 + 2 + 2)  # bars, two kinds of lines, one task's distributions before and after
    return driver


def drawn(driver, count):
    """Wait until so many charts stand in the page: Bokeh draws in the frames that follow."""
    shapes = "return [...document.querySelectorAll('.chart')].filter(c => c.firstElementChild?.shadowRoot).length"
    deadline = time.monotonic() + 20
    while (found := driver.execute_script(shapes)) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == count


def one(driver, selector):
    return driver.find_element("css selector", selector)


def complaints(driver):
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(driver):
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "file:", "about:"))]


class TestInABrowser:
    pytestmark = in_browser

    def test_the_page_opens_without_errors_and_without_any_request(self, driver, tmp_path):
        opened(driver, tmp_path, small_report())
        assert one(driver, "h1").text.startswith("qa did not move beyond noise")
        assert complaints(driver) == []
        assert requests(driver) == []

    def test_a_lost_query_opens_and_shows_the_keys_of_both_models(self, driver, tmp_path):
        opened(driver, tmp_path, small_report())
        one(driver, "[data-class=lost]").click()
        button = one(driver, "[data-query=q1] button")
        button.click()
        assert button.get_attribute("aria-expanded") == "true"
        panel = one(driver, "[data-query=q1] .query-panel")
        assert panel.is_displayed()
        tops = [found.text for found in panel.find_elements("css selector", ".ranked")]
        assert [re.findall("答案.|0[.][0-9]{3}", text) for text in tops] == [
            ["0.900", "答案1", "0.200", "答案0"],
            ["0.800", "答案0", "0.100", "答案1"],
        ]
        assert "✓ relevant" in tops[0].split("0.200")[0]
        button.click()
        assert not panel.is_displayed()

    def test_queries_are_filtered_by_class_by_words_and_by_suspicion(self, driver, tmp_path):
        opened(driver, tmp_path, small_report())
        shown = lambda: [li.get_attribute("data-query") for li in driver.find_elements("css selector", ".queries > li")]  # noqa: E731
        one(driver, "[data-class=failing]").click()
        assert shown() == ["q2"]
        one(driver, "#search").send_keys("问题2 答案4")
        assert shown() == ["q2"]
        one(driver, "#search").send_keys(" 没有")
        assert shown() == [None]
        one(driver, "[data-class=won]").click()
        one(driver, "#search").send_keys("\ue009a", "\ue017")  # control + a, delete
        one(driver, "#suspects").click()
        assert shown() == [None]
        one(driver, "[data-class=failing]").click()
        assert shown() == ["q2"]
        one(driver, "[data-query=q2] button").click()
        text = one(driver, "[data-query=q2]").text
        assert "same text as a positive" in text
        assert "above every positive in both models" in text

    def test_language_and_theme_switch_and_the_open_query_stays_open(self, driver, tmp_path):
        opened(driver, tmp_path, small_report())
        one(driver, "[data-class=lost]").click()
        one(driver, "[data-query=q1] button").click()
        light = one(driver, "body").value_of_css_property("background-color")
        one(driver, "[data-value=zh]").click()
        assert one(driver, "h1").text.startswith("qa 的变化在噪声范围内")
        assert one(driver, "[data-query=q1] .query-panel").is_displayed()
        one(driver, "[data-value=dark]").click()
        drawn(driver, 5)
        assert one(driver, "body").value_of_css_property("background-color") != light
        driver.refresh()  # remembered
        assert one(driver, "h1").text.startswith("qa 的变化在噪声范围内")
        assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"
        assert complaints(driver) == []

    def test_hostile_texts_are_shown_as_text(self, driver, tmp_path):
        opened(driver, tmp_path, small_report(HOSTILE, text=HOSTILE, task="$$x^2$$"))
        one(driver, "[data-class=lost]").click()
        one(driver, "[data-query=q1] button").click()
        one(driver, "#details summary").click()
        for selector in (".eyebrow", "[data-query=q1] .query .text", "[data-query=q1] .positive", "#details"):
            assert '</script><img src=x onerror="window.broken=1">' in one(driver, selector).text
        assert driver.execute_script("return [window.broken, document.images.length]") == [None, 0]
        assert complaints(driver) == []
        assert requests(driver) == []

    def test_a_task_has_one_colour_and_unlike_conditions_are_said(self, driver, tmp_path):
        report = small_report()
        before, after, words = report.sets[0].outcomes
        before, after = (
            replace(outcome, lengths=lengths, prompts=("", ""))
            for outcome, lengths in ((before, (512, 512)), (after, (256, 256)))
        )
        sets = [SetReport(report.sets[0].data, [before, after, words])]
        losses = {"chat": [(0, 2.0), (1, 1.0)], **report.losses}
        opened(driver, tmp_path, replace(report, sets=sets, losses=losses))
        marks = "b => [b.textContent, b.querySelector('i').style.getPropertyValue('--mark')]"
        found = driver.execute_script(f"return [...document.querySelectorAll('.legend')].map({marks})")
        assert [name for name, _ in found] == ["mean", "qa", "qa", "chat"]
        assert found[1] == found[2]
        assert found[2][1] != found[3][1]
        assert "--key_max_length 256 makes them equal" in one(driver, ".conditions").text

    def test_what_sets_leave_out_is_seen_and_figures_below_zero_have_a_true_minus(self, driver, tmp_path):
        hostile = LeftOut("unknown_keys", 5, "<b>q0</b> -1")
        data = replace(small_set(), left_out=(LeftOut("unknown_queries", 3, "x0"), hostile))
        report = small_report()
        before, after, words = report.sets[0].outcomes
        cut = {"truncated": (0.5, 0.0), "lengths": (96, 96), "limits": (512, 512), "lost": ("<i>末尾</i>", "")}
        fallen = [replace(before, **cut), replace(after, values={"ndcg@10": -0.25}, **cut), words]
        opened(driver, tmp_path, replace(report, sets=[SetReport(data, fallen)]))
        lines = one(driver, ".left-out").text.split("\n")
        assert lines[0] == "What the sets lack"
        assert lines[1].startswith("qa: 3 judged queries are missing from the queries")
        assert lines[2].startswith("qa: 5 judgements name keys")
        assert "<b>q0</b>" in lines[2]
        heading, line = one(driver, ".cut-texts").text.split("\n")
        assert heading == "Texts that are cut"
        assert "50 % of the queries are cut to 96 tokens, which loses for example “<i>末尾</i>”" in line
        for language in ("en", "zh"):
            one(driver, f"[data-value={language}]").click()
            shown = one(driver, "#verdict").text + one(driver, "#metrics").text
            assert "0.500 " in shown
            assert "−0.250" in shown
            assert not re.search(r"(?<![\w-])-\d\.\d", shown)
        assert one(driver, ".left-out").text.startswith("评测集的缺漏")
        assert one(driver, ".cut-texts").text.startswith("被截断的文本")

    def test_lines_are_hidden_and_shown_by_their_names(self, driver, tmp_path):
        opened(driver, tmp_path, small_report())
        name = one(driver, ".legend")
        name.click()
        assert name.get_attribute("aria-pressed") == "false"
        name.send_keys(" ")  # by keyboard
        assert name.get_attribute("aria-pressed") == "true"

    def test_a_narrow_screen_needs_no_sideways_scrolling(self, driver, tmp_path):
        opened(driver, tmp_path, small_report(text="很长的文字" * 30))
        metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        time.sleep(0.3)
        try:
            assert driver.execute_script("return document.documentElement.scrollWidth") == 360
        finally:
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**metrics, "width": 1280, "height": 900})
