"""The benchmark's own arithmetic by hand, its material, and one whole run with our own contender."""

import json
import subprocess
import sys

import pytest

from benchmarks.contenders import contenders
from benchmarks.material import PRESETS, SHAPES, Cutter, Preset, build_base, real_groups, spread, texts_of
from benchmarks.report import MIB, Run, Setting, Work, cells, compare, make_row, table
from benchmarks.running import read_results
from benchmarks.stopwatch import Job, Stopwatch, per_unit
from tests.processes import ROOT

SECONDS = 40
TRAIN = Setting("train", "long", 1)
WORK = Work(texts=72, tokens=720, flops=7.2e9)


def job(tmp_path, **changes) -> Job:
    values = {
        **{"kind": "train", "base": "", "data": "", "out": str(tmp_path), "device": "cpu", "ranks": 1, "batch": 8},
        **{"group": 8, "max_length": 512, "temperature": 0.02, "warmup": 2, "steps": 3, "seconds": 100.0},
        **{"threads": None, "flags": {}},
    }
    return Job(**{**values, **changes})


# ---- rows and ratios ------------------------------------------------------------------------------------------------


def test_a_row_is_the_median_over_the_steps_of_all_rounds():
    runs = [Run(seconds=(1.0, 9.0), peak_bytes=5), Run(seconds=(2.0, 4.0, 3.0), peak_bytes=7, input_share=0.25)]
    row = make_row(TRAIN, "ours", runs, WORK)
    assert (row.median, row.fastest, row.slowest, row.units) == (3.0, 1.0, 9.0, 5)
    assert (row.texts_per_second, row.tokens_per_second, row.flops) == (24.0, 240.0, 2.4e9)
    assert (row.peak_bytes, row.input_share, row.note) == (7, 0.25, "")


def test_texts_that_are_computed_twice_count_twice():
    """72 texts and 36 of them once more in 2 s are 54 texts a second."""
    row = make_row(Setting("encode", "long", 1), "flagembedding default", [Run(seconds=(2.0,), probed=36)], WORK)
    assert row.texts_per_second == 54.0
    assert row.tokens_per_second == 540.0


def test_what_did_not_run_says_why_and_has_no_figures():
    row = make_row(TRAIN, "flagembedding best", [Run(error="not installed")], WORK)
    assert row.median is None
    assert cells(row, 1e12) == ("flagembedding best", "not measured: not installed")


def test_a_failed_round_and_a_disturbed_one_are_said():
    row = make_row(TRAIN, "ours", [Run(seconds=(1.0,), others=0.3), Run(error="failed: x")], WORK)
    assert row.note == "1 of 2 runs failed; other programs took 30% of the machine"
    assert make_row(TRAIN, "ours", [Run(seconds=(1.0,), others=0.01)], WORK).note == ""


def test_ratios_are_times_for_the_same_work_ours_being_one():
    other = Setting("train", "short", 1)
    rows = [
        make_row(TRAIN, "ours", [Run(seconds=(2.0,))], WORK),
        make_row(TRAIN, "peer", [Run(seconds=(5.0,))], WORK),
        make_row(TRAIN, "absent", [Run(error="not installed")], WORK),
        make_row(other, "peer", [Run(seconds=(5.0,))], WORK),  # ours was not measured there
    ]
    assert [row.ratio for row in compare(rows)] == [1.0, 2.5, None, None]


def test_vectors_that_differ_are_said():
    setting = Setting("encode", "long", 1)
    ours = make_row(setting, "ours", [Run(seconds=(1.0,), sample=((1.0, 0.0), (0.0, 2.0)))], WORK)
    same = make_row(setting, "same", [Run(seconds=(1.0,), sample=((3.0, 0.1), (0.0, 1.0)))], WORK)
    turned = make_row(setting, "turned", [Run(seconds=(1.0,), sample=((1.0, 0.0), (1.0, 1.0)))], WORK)
    notes = [row.note for row in compare([ours, same, turned])]
    assert notes == ["", "", "vectors differ from ours: cosine 0.707"]


def test_the_table_has_a_block_for_each_setting_and_all_columns():
    rows = compare(
        [
            make_row(TRAIN, "ours", [Run(seconds=(2.0,), peak_bytes=3 * MIB, user=3.0, system=1.0)], WORK),
            make_row(TRAIN, "sentence-transformers best", [Run(seconds=(5.0,), user=1.0)], WORK),
            make_row(TRAIN, "flagembedding best", [Run(error="not installed")], WORK),
            make_row(Setting("encode", "short", 2), "ours", [Run(seconds=(1.0,))], WORK),
        ]
    )
    lines = table(rows, peak_flops=36e9).splitlines()
    assert [lines[1], lines[7]] == ["train long, 1 rank", "encode short, 2 ranks"]
    assert lines[3].split() == ["ours", "2.000", "2.00-2.00", "4.00", "25%", "36.0", "360", "4", "10%", "3", "1.00"]
    assert lines[4].split()[-1] == "2.50"
    assert lines[5].split("  ")[-1] == "not measured: not installed"
    assert len({line.index("texts/s") for line in lines if "texts/s" in line}) == 1


# ---- the clock ------------------------------------------------------------------------------------------------------


class Control:
    should_training_stop = False


def test_steps_are_timed_from_end_to_end_and_the_loader_is_seen(tmp_path, monkeypatch):
    """Two warm-up steps, then three; each waits 1 s for its batch and works for 2, 3 and 4 s."""
    now = 0.0
    monkeypatch.setattr("benchmarks.stopwatch.time.perf_counter", lambda: now)
    watch, control = Stopwatch(job(tmp_path)), Control()
    stops = []
    for work in (50.0, 7.0, 2.0, 3.0, 4.0):
        now += 1.0
        watch.on_step_begin(None, None, control)
        now += work
        watch.on_step_end(None, None, control)
        stops.append(control.should_training_stop)
    assert watch.step_seconds() == [3.0, 4.0, 5.0]
    assert watch.input_share() == pytest.approx(3 / 12)
    assert stops == [False, False, False, False, True]


def test_the_clock_stops_when_the_time_is_over(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("benchmarks.stopwatch.time.perf_counter", lambda: now)
    watch, control = Stopwatch(job(tmp_path, warmup=1, seconds=5.0)), Control()
    for expected in (False, False, True):  # the warm-up step does not count
        now += 4.0
        watch.on_step_end(None, None, control)
        assert control.should_training_stop is expected


def test_processor_seconds_are_means_over_the_measured_units():
    assert per_unit([(10.0, 1.0), (99.0, 99.0), (16.0, 5.0)]) == [3.0, 2.0]


# ---- what ranks leave behind ----------------------------------------------------------------------------------------


def leave(folder, rank, **changes):
    values = {
        "seconds": [1.0 + rank],
        "peak_bytes": 10 * (rank + 1),
        "world_size": 2,
        "checksum": 0.5,
        "processor": [2, 1],
    }
    (folder / f"result-{rank}.json").write_text(json.dumps({**values, **changes}))


def test_results_of_ranks_are_one_run(tmp_path):
    for rank in (0, 1):
        leave(tmp_path, rank)
    found = read_results(tmp_path, job(tmp_path, ranks=2), 0)
    assert (found.seconds, found.peak_bytes, found.user, found.system) == ((1.0,), 20, 4, 2)


@pytest.mark.parametrize("changes", [{"checksum": 0.6}, {"world_size": 1}])
def test_ranks_that_trained_apart_are_no_result(tmp_path, changes):
    leave(tmp_path, 0)
    leave(tmp_path, 1, **changes)
    assert "trained apart" in read_results(tmp_path, job(tmp_path, ranks=2), 0).error


def test_a_worker_that_fails_is_quoted(tmp_path):
    (tmp_path / "log.txt").write_text("start\nValueError: this is why\nend\n")
    assert read_results(tmp_path, job(tmp_path), 1).error == "failed: ValueError: this is why"


# ---- what they work on ----------------------------------------------------------------------------------------------


def test_every_group_has_the_same_tokens_and_exactly_the_asked_lengths(tiny_bert):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    records = [
        {"query": "今天天气好。", "pos": ["我们去ABC公园 12 次"], "neg": ["不去，因为下雨了。" * 3], "task": "x"}
    ]
    cutter, lengths = Cutter(tokenizer, records), spread(16, 64, 5)
    assert lengths == [16, 28, 40, 52, 64]
    for _ in range(8):
        texts = texts_of(cutter.group(lengths))
        assert sorted(map(len, tokenizer(texts)["input_ids"])) == lengths


def test_long_texts_have_430_tokens_on_average():
    lengths = spread(*SHAPES["long"], 9)
    assert sum(lengths) / len(lengths) == 430


def test_real_groups_are_whole_and_have_one_positive():
    records = [{"query": f"q{n}", "pos": ["p", "p2"], "neg": ["n"] * n} for n in range(5)]
    groups = real_groups(records, count=6, keys=4)
    assert {g["query"] for g in groups} <= {"q3", "q4"}
    assert all(g["pos"] == ["p"] and len(g["neg"]) == 3 for g in groups)


def test_operations_of_a_forward_by_hand_and_by_torch(tmp_path):
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    # 1 layer of 2, feed-forward 3, a text of 5 tokens: 2*5*(4*4 + 2*2*3) + 4*2*25
    assert Preset(1, 2, 1, 3).forward_flops([5]) == 2 * 5 * 28 + 200
    base = build_base(tmp_path / "base", "tiny")
    model = AutoModel.from_pretrained(base, attn_implementation="eager", add_pooling_layer=False)
    assert model.config.vocab_size == 21128
    assert model.config.intermediate_size == PRESETS["tiny"].intermediate
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(3, 40, dtype=torch.int64))
    assert counter.get_total_flops() == PRESETS["tiny"].forward_flops([40] * 3)


def test_small_is_the_shape_of_bge_small(tmp_path):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(build_base(tmp_path / "base", "small"))
    assert 23e6 < sum(p.numel() for p in model.parameters()) < 25e6


def test_every_peer_is_measured_at_its_defaults_and_at_its_best():
    names = [c.name for c in contenders("cpu", bf16=True)]
    assert names[0] == "ours"
    for program in ("flagembedding", "sentence-transformers"):
        assert {f"{program} default", f"{program} best"} <= set(names)
    for device in ("cpu", "cuda"):
        for c in contenders(device, bf16=True):
            own = [c.flags(kind, shape) for kind in ("train", "encode") for shape in SHAPES]
            assert any(own) != (c.name == "ours" or c.name.endswith("default"))


@pytest.mark.slow
@pytest.mark.full
def test_a_run_measures_us_and_says_who_is_not_installed(tmp_path):
    words = ["--preset", "tiny", "--shapes", "short", "--quick", "--json", tmp_path / "bench.json"]
    words += ["--contenders", "ours", "flagembedding default", "--peers-python", sys.executable]
    words += ["--queries", "2", "--keys", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "not measured: not installed" in done.stdout
    report = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    rows = {(row["setting"]["kind"], row["contender"]): row for row in report["rows"]}
    assert set(rows) == {(kind, name) for kind in ("train", "encode") for name in ("ours", "flagembedding default")}
    for kind in ("train", "encode"):
        ours = rows[kind, "ours"]
        assert ours["units"] >= 1, ours["note"]
        assert ours["ratio"] == 1.0
        assert ours["peak_bytes"] > 50 * MIB
    # 2 queries x 3 keys of 16 to 24 tokens, evenly spread
    assert rows["train", "ours"]["texts_per_second"] == pytest.approx(8 / rows["train", "ours"]["median"])
    assert rows["train", "ours"]["tokens_per_second"] == pytest.approx(8 * 20 / rows["train", "ours"]["median"])
    assert report["machine"]["bf16_flops"] > 0
    assert report["versions"]["ours"]["torch"]
