"""What a run logs: true numbers of negatives, cut texts with the flag that helps, which step was saved."""

import re
from types import SimpleNamespace

import pytest

from tests.jsonl import write
from tests.processes import ROOT
from zh_embedder.commands.train import main
from zh_embedder.training.callbacks import LEAST_MFU
from zh_embedder.training.summary import which_step

DEMO = ROOT / "examples" / "demo"


def train(capfd, base, data, *more) -> str:
    flags = [
        "--output_dir", "out", "--query_encoder", base, "--train_data", data, "--max_steps", 2, "--dtype", "fp32",
        "--report_to", "none", "--logging_steps", 1, "--overwrite", *more,
    ]  # fmt: skip
    assert main([str(flag) for flag in flags]) == 0
    return capfd.readouterr().err


def negatives(said) -> int:
    (line,) = re.findall(r"dataset +task.*\n(.*)\n", said)
    return int(line.split()[4])


@pytest.mark.parametrize("mode", [(), ("--inbatch_same_dataset", "epoch")])
def test_the_negatives_of_a_small_dataset_are_those_that_are_there(workdir, capfd, mode):
    pairs = [{"query": f"问题{n}", "pos": [f"答案{n}"], "task": "qa"} for n in range(3)]
    said = train(
        capfd, "nano-zh-static", write(workdir / "few.jsonl", pairs), "--per_device_train_batch_size", 16, *mode
    )
    assert negatives(said) == 2
    assert (" mixed " in said) == (not mode)
    own = [{**pair, "neg": [f"错{n}甲", f"错{n}乙"]} for n, pair in enumerate(pairs)]
    more = ("--per_device_train_batch_size", 16, "--train_group_size", 3, *mode)
    assert negatives(train(capfd, "nano-zh-static", write(workdir / "few.jsonl", own), *more)) == 8
    more = ("--per_device_train_batch_size", 2, "--train_group_size", 3, *mode)
    assert negatives(train(capfd, "nano-zh-static", write(workdir / "few.jsonl", own), *more)) == 5


@pytest.mark.parametrize("mode", [(), ("--inbatch_same_dataset", "epoch")])
def test_negatives_that_are_repeated_to_fill_a_group_count_once_and_are_said(workdir, capfd, mode):
    one = [{"query": f"问题{n}", "pos": [f"答案{n}"], "neg": [f"错{n}"], "task": "qa"} for n in range(16)]
    data = write(workdir / "one.jsonl", one)
    more = ("--per_device_train_batch_size", 8, *mode)
    said = train(capfd, "nano-zh-static", data, *more, "--train_group_size", 8)
    assert negatives(said) == 8 * 2 - 1
    assert said.count("1.0 negatives of its own a record, --train_group_size 8 takes 7: they are repeated") == 1
    said = train(capfd, "nano-zh-static", data, *more, "--train_group_size", 8, "--random_negatives", 6)
    assert (negatives(said), "are repeated" in said) == (8 * 8 - 1, False)
    said = train(capfd, "nano-zh-static", data, *more, "--train_group_size", 2)
    assert (negatives(said), "are repeated" in said) == (8 * 2 - 1, False)


@pytest.mark.parametrize(("more", "said"), [((), False), (("--max_steps", 1), True), (("--warmup_steps", 2), True)])
def test_a_run_that_is_all_warm_up_is_said(workdir, capfd, more, said):
    data = write(workdir / "a.jsonl", [{"query": f"问{n}", "pos": [f"{n}号"], "task": "qa"} for n in range(8)])
    found = train(capfd, "nano-zh-static", data, *more)
    assert ("warm up from a learning rate of 0: --warmup_steps 0" in found) == said


def test_a_task_that_had_nothing_to_learn_is_said(workdir, capfd):
    """The README's three records: the base tells them apart before training."""
    easy = [{"query": q, "pos": [q + "的回答"], "task": "qa"} for q in ("怎么退货", "发票丢了", "多久送到")]
    hard = [{"query": f"问{n}", "pos": [f"{n}号"], "neg": [f"问{n}"], "task": "tool"} for n in range(8)]
    write(workdir / "data" / "easy.jsonl", easy)
    write(workdir / "data" / "hard.jsonl", hard)
    said = train(capfd, "nano-zh-static", workdir / "data", "--inbatch_same_dataset", "epoch", "--version", "none")
    (line,) = re.findall(r"the loss of (.*) was below 0.001 at every step of the log", said)
    assert line == "qa"
    warm = train(capfd, "nano-zh-static", workdir / "data" / "easy.jsonl", "--cos_temperature", 0.5)
    assert "was below" not in warm


def test_a_static_base_is_said_to_take_instructions_for_text(workdir, capfd, tiny_bert):
    pairs = [{"query": f"问题{n}", "pos": [f"答案{n}"], "task": "qa"} for n in range(4)]
    data, said = write(workdir / "few.jsonl", pairs), "--include_prompt False leaves instructions out of the mean"
    assert said in train(capfd, "nano-zh-static", data, "--version", "zh_llm_embedder")
    for base, more in (
        ("nano-zh-static", ()),  # none, its own version
        ("nano-zh-static", ("--version", "zh_llm_embedder", "--include_prompt", "False")),
        ("nano-zh-static", ("--version", "zh_llm_embedder", "--include_prompt", "True")),
        (tiny_bert, ("--version", "zh_llm_embedder")),
    ):
        assert said not in train(capfd, base, data, *more)


def test_a_share_of_the_machines_peak_that_means_nothing_is_left_out_of_the_log(workdir, capfd):
    said = train(capfd, "nano-zh-static", DEMO / "train" / "qa.jsonl", "--per_device_train_batch_size", 4)
    shown = [float(value) for value in re.findall(r"mfu ([\d.e-]+)", said)]
    assert "texts_per_second" in said
    assert all(value >= LEAST_MFU for value in shown)
    assert shown == []  # no layers, no matrix products


def test_cut_texts_are_named_with_the_flag_that_helps(workdir, capfd, tiny_bert):
    records = [{"query": f"问题{n}", "pos": ["很长的答案" * 30 + str(n)], "task": "qa"} for n in range(8)]
    data = write(workdir / "long.jsonl", records)
    few = ("--per_device_train_batch_size", 4, "--key_max_length", 32)
    said = train(capfd, "nano-zh-static", data, *few)
    lost = ("很长的答案" * 30)[-29:]
    assert re.search(
        rf"qa:long.jsonl: 100 % of the keys are cut to 32 tokens in training, which loses for example “{lost}\d”: "
        "--key_max_length N reads more, up to 512 in this base\n",
        said,
    )
    assert "of the queries are cut" not in said
    lengths = "tokens of a query and of a key: 256 and 32 in training; 512 and 512 in use"
    assert lengths in said
    said = train(capfd, tiny_bert, data, *few, "--saved_max_length", 256, 32)
    assert "--key_max_length N reads more, up to 512 in this base" in said
    assert "in use" not in said
    assert "are cut" not in train(capfd, tiny_bert, data, *few[:2], "--key_max_length", 256)


def test_a_tenth_of_the_texts_is_the_bound_and_queries_that_keep_their_end_lose_their_front(workdir, capfd):
    records = [{"query": f"问题{n}", "pos": ["答"], "task": "chat"} for n in range(9)]
    records.append({"query": "从前的话，" * 60 + "现在的问题", "pos": ["答"], "task": "chat"})
    few = ("--per_device_train_batch_size", 4, "--query_max_length", 60)
    assert "are cut" not in train(capfd, "nano-zh-static", write(workdir / "tenth.jsonl", records), *few)
    said = train(capfd, "nano-zh-static", write(workdir / "more.jsonl", records[1:]), *few)
    (lost,) = re.findall(
        r"chat:more.jsonl: 11 % of the queries are cut to 60 tokens in training, .* “(.*)”: --query", said
    )
    assert len(lost) == 30
    assert set(lost) == set("从前的话，")


@pytest.mark.parametrize(
    ("wanted", "best", "said"),
    [
        (True, 240, "step 240, the best of those measured"),
        (False, 240, "step 420, the last one; --load_best_model_at_end would have saved the best, step 240"),
        (False, 420, "step 420"),
        (False, None, "step 420"),
    ],
)
def test_the_log_tells_which_step_was_saved(wanted, best, said):
    state = SimpleNamespace(best_global_step=best, global_step=420)
    assert which_step(SimpleNamespace(load_best_model_at_end=wanted), state) == said
