"""Rule 3: two ranks equal one, through real runs; and the engines that HF Trainer brings."""

import json
import re
from types import SimpleNamespace

import pytest
import torch

from tests.jsonl import read, write
from tests.processes import BIN, ROOT, forked, run, torchrun, weights
from zh_embedder.bases.tiny import build
from zh_embedder.core.errors import UserError
from zh_embedder.training.launch import check_world

pytestmark = pytest.mark.slow
FULL = pytest.mark.full
SECONDS = 90
STEPS = 10
TOLERANCE = 1e-5  # after weights have moved by 0.2: sums over ranks add up in another order


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A base without dropout, a dataset of 24 records and one of 5, which fills no step of 8; pairs, labelled texts."""
    folder = tmp_path_factory.mktemp("ranks")
    build(folder / "base", hidden=32, heads=2, dropout=0.0)
    for task, count in (("qa", 24), ("chat", 5)):
        records = records_of(task)[:count]
        for number, record in enumerate(records):
            record["teacher_scores"] = [2.0, *[(number + i) % 3 / 2 for i in range(len(record["neg"]))]]
            record["answers"] = [str(number % 5)]  # labels: see --label_tasks below
        write(folder / f"{task}.jsonl", records)
    words = [record["query"] for record in records_of("qa")]
    pairs = [{"text1": words[i], "text2": words[i + 16], "score": i % 5, "task": "sts"} for i in range(16)]
    labels = [{"text": words[i], "label": i % 3, "task": "icl"} for i in range(11)]  # the last rank repeats rows
    for name, rows in (("pairs", pairs), ("labels", labels)):
        write(folder / f"{name}.jsonl", rows)
    write_eval_set(folder / "eval" / "qa", queries=5, keys=7)
    return folder


def write_eval_set(folder, *, queries, keys):
    """A BEIR folder of demo records; with 7 keys, a rank has one more than the other."""
    chosen = records_of("qa")[30 : 30 + keys]
    rows = {
        "queries.jsonl": [{"id": f"q{i}", "text": r["query"], "task": "qa"} for i, r in enumerate(chosen[:queries])],
        "corpus.jsonl": [{"id": f"k{i}", "text": r["pos"][0]} for i, r in enumerate(chosen)],
    }
    for name, lines in rows.items():
        write(folder / name, lines)
    (folder / "qrels.tsv").write_text("".join(f"q{i}\tk{i}\t1\n" for i in range(queries)), "utf-8")


def records_of(task):
    return read(ROOT / "examples" / "demo" / "train" / f"{task}.jsonl")


def flags(out, batch, *more):
    return (
        "--output_dir", out, "--query_encoder", "base", "--train_data", "qa.jsonl", "chat.jsonl",
        "pairs.jsonl", "labels.jsonl", "--label_tasks", "qa",
        "--inbatch_same_dataset", "epoch", "--max_steps", STEPS, "--train_group_size", 4, "--cos_temperature", 0.1,
        "--dtype", "fp32", "--report_to", "none", "--logging_steps", 5, "--per_device_train_batch_size", batch, *more,
    )  # fmt: skip


SGD = ("--optim", "sgd", "--learning_rate", 0.5, "--max_grad_norm", 0, "--weight_decay", 0, "--warmup_steps", 0)
ADAM = ("--max_steps", 3, "--learning_rate", 1e-3)
EVAL = ("--eval_data", "eval/qa", "--hits", 6, "--cutoffs", 1, 5, "--metrics", "ndcg", "mrr")


def same_outcomes(one, other, steps):
    """Tell whether two runs measured the same at these steps: values, hits in their order, scores."""
    from zh_embedder.training.evaluate import load_outcomes

    for step in steps:
        (mine,), (theirs,) = load_outcomes(one, step), load_outcomes(other, step)
        assert len(mine.run) == 5
        assert mine.values == pytest.approx(theirs.values, abs=1e-9)
        for query, hits in mine.run.items():
            assert list(hits) == list(theirs.run[query])
            assert len(hits) == 6
            assert hits == pytest.approx(theirs.run[query], abs=1e-5)
        assert mine.positives == pytest.approx(theirs.positives, abs=1e-5)
        assert mine.positives.keys() == theirs.positives.keys() == mine.run.keys()


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture(scope="module")
def alone(ground):
    """What one process printed; its run is `one`."""
    return run(*flags("one", 8, *SGD, *EVAL), cwd=ground)


def test_two_ranks_with_half_the_batch_give_the_weights_of_one(ground, alone):
    """SGD without clipping, no dropout, losses of every kind of records, repeated rows in every fourth step or so."""
    together = run(*flags("two", 4, *SGD, *EVAL), cwd=ground, launcher=torchrun(2))
    assert "engine: BiEncoder, 1 rank" in alone
    assert "engine: DistributedDataParallel, 2 ranks" in together
    assert "chat:chat.jsonl: 5 records for a step of 8: cycled, repeats masked" in together
    assert "each one dataset, the same on all 2 ranks (checked)" in together
    start, one, two = (weights(ground / name) for name in ("base", "one/encoder", "two/encoder"))
    assert largest_difference(start, one) > 0.1  # they have moved
    assert largest_difference(one, two) < TOLERANCE
    same_outcomes(ground / "one", ground / "two", steps=(0, STEPS))


def test_two_ranks_measure_what_one_measures(ground):
    """`run_dense.py` without --train_data; the first rank alone shows and writes."""
    words = ("--query_encoder", "base", "--dtype", "fp32", *EVAL)
    alone = run("--output_dir", "seen", *words, "--save_result", cwd=ground)
    together = run("--output_dir", "seen2", *words, "--save_result", cwd=ground, launcher=forked(2))
    tables = [re.findall("^model .*ndcg@5", printed, re.MULTILINE) for printed in (alone, together)]
    assert [len(found) for found in tables] == [1, 1]
    one, two = (json.loads((ground / name / "metrics.json").read_text()) for name in ("seen", "seen2"))
    assert one[0]["metrics"] == pytest.approx(two[0]["metrics"], abs=1e-9)
    one, two = (json.loads((ground / name / "eval_qa" / "result.json").read_text()) for name in ("seen", "seen2"))
    assert [list(hits) for hits in one.values()] == [list(hits) for hits in two.values()]


def test_two_ranks_in_sub_batches_give_the_weights_of_one(ground, alone):
    """GradCache under DDP: one backward, however many sub-batches."""
    cached = (*SGD, "--sub_batch_size", 3, "--gradient_checkpointing")
    together = run(*flags("cached", 4, *cached), cwd=ground, launcher=forked(2))
    assert "engine: DistributedDataParallel, 2 ranks" in together
    assert largest_difference(weights(ground / "one/encoder"), weights(ground / "cached/encoder")) < TOLERANCE


def test_without_cross_device_negatives_the_ranks_differ_from_one(ground, alone):
    """The other direction of the test above: local negatives are fewer, so the weights must differ."""
    run(*flags("local", 4, *SGD, "--negative_cross_device", "False"), cwd=ground, launcher=forked(2))
    assert largest_difference(weights(ground / "one/encoder"), weights(ground / "local/encoder")) > 1e-4


@pytest.fixture(scope="module")
def plain(ground):
    """A run on two ranks without an engine."""
    run(*flags("plain", 4, *ADAM, *EVAL), cwd=ground, launcher=forked(2))


@pytest.mark.parametrize(
    ("stage", "cached"),
    [(0, False), pytest.param(1, True, marks=FULL), pytest.param(2, False, marks=FULL), (3, True)],
)
def test_deepspeed_stages_train_the_weights_of_plain_ranks(stage, cached, ground, plain):
    """AdamW as the configurations say; stage 0 through DeepSpeed's own launcher, which passes --local_rank."""
    config = ROOT / "configs" / "deepspeed" / f"stage{stage}.json"
    launcher = forked(2) if stage else (BIN / "deepspeed", "--num_accelerators", "2")
    more = ("--sub_batch_size", 7) if cached else ()
    printed = run(*flags(f"zero{stage}", 4, *ADAM, *EVAL, "--deepspeed", config, *more), cwd=ground, launcher=launcher)
    assert "engine: DeepSpeedEngine, 2 ranks" in printed
    trained = weights(ground / f"zero{stage}" / "encoder")
    # Adam divides by the size of a gradient: where that is near 0, the order of sums shows.
    assert largest_difference(weights(ground / "plain/encoder"), trained) < 5e-5
    assert largest_difference(weights(ground / "base"), trained) > 1e-3
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())
    same_outcomes(ground / "plain", ground / f"zero{stage}", steps=(0, 3))  # weights that stage 3 holds in parts too


def test_a_world_without_ranks_is_refused(ground, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as a cluster that sets this and starts no ranks leaves it
    message = run(*flags("apart", 4), cwd=ground, expect=2)
    assert "MASTER_ADDR" in message
    assert "Traceback" not in message
    assert not (ground / "apart").exists()


def test_ranks_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2 but transformers sees 1 ranks"):
        check_world(SimpleNamespace(train=SimpleNamespace(world_size=1)))
