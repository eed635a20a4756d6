"""Published commands parse to exactly what they ask for; what cannot be meant is refused with what would be right."""

import dataclasses
import enum
import functools
import json
import os
import shlex
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from zh_embedder.config.model import ModelArguments
from zh_embedder.config.published import NEEDLESS, NOT_YET, translate
from zh_embedder.config.train import CLASSES, DataArguments, TrainArguments, parse, parser
from zh_embedder.core.errors import UserError
from zh_embedder.core.machine import DTYPES, accelerator, cpu_gains_from_bf16
from zh_embedder.core.spellings import TRAINING

LEAST = ["--output_dir", "out", "--train_data", "train.jsonl"]
ON_CPU = [*LEAST, "--use_cpu"]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """Nothing is written to the working folder."""
    monkeypatch.chdir(tmp_path)


def setting(args, name: str):
    """A setting of whichever of the groups has it, enums as their words."""
    (group,) = [g for g in (args.data, args.model, args.train, args.eval) if name in {f.name for f in fields(g)}]
    value = getattr(group, name)
    return value.value if isinstance(value, enum.Enum) else value


def check(args, expected: dict) -> None:
    assert {name: setting(args, name) for name in expected} == expected


def refused(argv: list[str]) -> str:
    with pytest.raises(UserError) as error:
        parse(argv)
    return str(error.value)


@functools.cache
def options() -> frozenset[str]:
    """Every spelling that the parser knows."""
    return frozenset(option for action in parser()._actions for option in action.option_strings)


@functools.cache
def defaults() -> dict:
    """The default of every flag of ours and of transformers'."""
    every = [f for cls in CLASSES for f in fields(cls) if f.init]
    return {f.name: f.default_factory() if f.default is dataclasses.MISSING else f.default for f in every}


# ---- published commands ---------------------------------------------------------------------------------------------


def test_the_published_command_of_llm_embedder_parses_to_what_it_says():
    args = parse(
        shlex.split("""
        --output_dir data/outputs/icl --train_data llm-embedder:train.jsonl --save_steps 6000
        --query_encoder BAAI/bge-large-zh-v1.5 --version zh_llm_embedder
        --inbatch_same_dataset epoch --learning_rate 2e-5 --num_train_epochs 2 --train_group_size 15
        --per_device_train_batch_size 16 --cos_temperature 0.02 --dtype fp32 --report_to tensorboard --data_root data
        """)
    )
    given = {
        "output_dir": "data/outputs/icl",
        "train_data": ["llm-embedder:train.jsonl"],
        "save_steps": 6000,
        "query_encoder": "BAAI/bge-large-zh-v1.5",
        "version": "zh_llm_embedder",
        "inbatch_same_dataset": "epoch",
        "learning_rate": 2e-5,
        "num_train_epochs": 2,
        "train_group_size": 15,
        "per_device_train_batch_size": 16,
        "cos_temperature": 0.02,
        "dtype": "fp32",
        "report_to": ["tensorboard"],
        "data_root": "data",
    }
    check(args, given)
    check(args, {"bf16": False, "fp16": False})
    ours = {f.name for cls in (DataArguments, ModelArguments) for f in fields(cls)} - set(given)
    check(args, {name: default for name, default in defaults().items() if name in ours})  # and nothing else
    assert args.notes == ()


FLAG_EMBEDDING = r"""
    --model_name_or_path BAAI/bge-large-zh-v1.5 --cache_dir ./cache/model --train_data training.json
    --cache_path ./cache/data --train_group_size 8 --query_max_len 512 --passage_max_len 512 --pad_to_multiple_of 8
    --query_instruction_for_retrieval '为这个句子生成表示以用于检索相关文章：' --query_instruction_format '{}{}'
    --knowledge_distillation False --output_dir ./out --overwrite_output_dir --learning_rate 1e-5 --fp16
    --num_train_epochs 2 --per_device_train_batch_size 2 --dataloader_drop_last True --warmup_ratio 0.1
    --gradient_checkpointing --logging_steps 1 --save_steps 1000 --negatives_cross_device --temperature 0.02
    --sentence_pooling_method cls --normalize_embeddings True --kd_loss_type kl_div --report_to none
"""


def test_the_published_command_of_flag_embedding_parses_to_what_it_says():
    args = parse([*shlex.split(FLAG_EMBEDDING), "--use_cpu"])
    check(
        args,
        {
            "query_encoder": "BAAI/bge-large-zh-v1.5",
            "model_cache_dir": "./cache/model",
            "train_data": ["training.json"],
            "dataset_cache_dir": "./cache/data",
            "train_group_size": 8,
            "query_max_length": 512,
            "key_max_length": 512,
            "pad_to_multiple_of": 8,
            "query_instruction": "为这个句子生成表示以用于检索相关文章：",
            "key_instruction": None,
            "knowledge_distillation": False,
            "contrastive_weight": 0.2,  # of no meaning without distillation
            "output_dir": "./out",
            "overwrite": True,
            "learning_rate": 1e-5,
            "fp16": False,  # on a CPU
            "num_train_epochs": 2,
            "per_device_train_batch_size": 2,
            "dataloader_drop_last": True,
            "warmup_steps": 0.1,
            "gradient_checkpointing": True,
            "logging_steps": 1,
            "save_steps": 1000,
            "negative_cross_device": True,
            "cos_temperature": 0.02,
            "pooling_method": ["cls"],
            "dense_metric": "cos",
            "kd_loss_type": "kl_div",
            "report_to": [],
        },
    )
    assert args.train.get_warmup_steps(1000) == 100
    assert list(args.notes) == [
        "--model_name_or_path is --query_encoder",
        "--cache_dir is --model_cache_dir",
        "--cache_path is --dataset_cache_dir",
        "--query_max_len is --query_max_length",
        "--passage_max_len is --key_max_length",
        "--overwrite_output_dir is --overwrite",
        "--warmup_ratio 0.1 is --warmup_steps 0.1 (below 1: a share of all steps)",
        "--negatives_cross_device is --negative_cross_device",
        "--temperature is --cos_temperature",
        "--sentence_pooling_method is --pooling_method cls",
        "--normalize_embeddings is --dense_metric cos",
        "--query_instruction_for_retrieval is --query_instruction '为这个句子生成表示以用于检索相关文章：'",
        "fp16 needs a GPU; using the best precision for this CPU instead",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("none", []), ("tensorboard", ["tensorboard"]), ("tensorboard tensorboard", ["tensorboard", "tensorboard"])],
)
def test_metrics_go_to_as_many_places_as_are_named(words, expected):
    assert parse([*LEAST, "--report_to", *words.split()]).train.report_to == expected


def test_an_old_flag_given_twice_is_noted_once_and_the_last_value_counts():
    args = parse([*LEAST, "--query_max_len", "64", "--query_max_len", "128"])
    twice = "is given 2 times, the last one counts"
    assert args.model.query_max_length == 128
    assert args.notes == ("--query_max_len is --query_max_length", f"--query_max_len: {twice}: --query_max_len 128")


# Every flag of LLM-Embedder's run_dense.py with its default.
LLM_EMBEDDER = {
    "train_data": None,
    "eval_data": None,
    "corpus": None,
    "key_template": "{title} {text}",
    "data_root": None,
    "model_cache_dir": None,
    "dataset_cache_dir": None,
    "metrics": [f"{name}@{cutoff}" for name in ("mrr", "recall", "ndcg") for cutoff in (1, 5, 10, 100)],
    "filter_answers": False,
    "max_neg_num": 100,
    "load_result": False,
    "save_result": False,
    "save_name": None,
    "save_to_output": False,
    "query_encoder": "BAAI/bge-large-zh-v1.5",
    "key_encoder": None,
    "add_instruction": True,
    "version": "zh_llm_embedder",
    "query_max_length": 256,
    "key_max_length": 256,
    "truncation_side": "right",
    "pooling_method": None,  # there [cls]; here the base's own first
    "tie_encoders": True,
    "dense_metric": "cos",
    "faiss_index_factory": "Flat",
    "hits": 200,
    "batch_size": 1000,
    "load_encode": False,
    "save_encode": False,
    "load_index": False,
    "save_index": False,
    "embedding_name": "embeddings",
    "dtype": "auto",  # there fp16; here what the hardware does well
    "cpu": False,
    "eval_method": "retrieval",
    "use_train_config": False,
    "inbatch_same_dataset": None,
    "negative_cross_device": True,
    "cos_temperature": 0.01,
    "teacher_temperature": 1,
    "student_temperature": 1,
    "contrastive_weight": 0.2,
    "distill_weight": 1.0,
    "stable_distill": False,
    "max_sample_num": None,
    "train_group_size": 8,
    "select_positive": "first",
    "select_negative": "random",
    "teacher_scores_margin": None,
    "teacher_scores_min": None,
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-6,
    "weight_decay": 0.01,
    "save_steps": 2000,
    "logging_steps": 100,
    "early_exit_steps": None,
    "log_path": None,
    "retrieval_method": "dense",
    "k1": 0.82,
    "b": 0.68,
    "ranker": None,
    "ranker_method": None,
}


@pytest.mark.parametrize("name", LLM_EMBEDDER)
def test_a_flag_of_llm_embedder_is_ours_with_its_default_or_refused_by_name(name):
    if name in NOT_YET:
        assert name not in defaults()
        assert refused([*LEAST, f"--{name}", "x"]).startswith(f"--{name}: ")
    elif name in {*NEEDLESS, *TRAINING}:
        assert parse([*LEAST, f"--{name}={LLM_EMBEDDER[name]}"]).notes[0].startswith(f"--{name} ")
    elif name == "version":  # the base's own, else LLM-Embedder's: test_run_version
        assert defaults()[name] is None
    else:
        assert defaults()[name] == LLM_EMBEDDER[name]
        if name not in ("train_data", "dtype"):  # given, and chosen by the machine
            assert setting(parse(LEAST), name) == LLM_EMBEDDER[name]


def test_a_flag_of_evaluation_alone_is_said_to_change_nothing_beside_training():
    args = parse([*LEAST, "--save_encode", "--eval_method", "rerank"])
    idle = "has no effect with --train_data: it is for evaluation only"
    assert args.notes[-2:] == (f"--eval_method {idle}", f"--save_encode {idle}")
    assert not parse(["--eval_data", "x", "--save_encode"]).notes


def test_a_flag_of_training_is_said_to_change_nothing_in_an_evaluation():
    read = ["--version", "none", "--dtype", "fp32", "--key_max_length", "64", "--seed", "1", "--report_to", "none"]
    assert not parse(["--eval_data", "x", "--output_dir", "out", *read]).notes
    args = parse(["--eval_data", "x", "--train_group_size", "4", "--learning_rate", "1e-3", "--loss", "info_nce"])
    idle = "--learning_rate, --loss, --train_group_size"
    assert args.notes == (f"no effect without --train_data, as nothing is trained: {idle}",)


def test_a_flag_given_twice_is_noted_with_the_value_that_counts():
    args = parse([*LEAST, "--seed", "1", "--metrics", "mrr", "--seed=2", "--metrics", "ndcg"])
    last = "is given 2 times, the last one counts"
    assert args.train.seed == 2
    assert {f"--seed: {last}: --seed=2", f"--metrics: {last}: --metrics ndcg"} <= set(args.notes)


@pytest.mark.parametrize(
    "argv",
    [["--embedding_name", "../x"], ["--save_name", "../../x"], ["--save_name", "a/b"], ["--embedding_name", ".x"]],
)
def test_names_of_files_stay_in_their_folder(argv):
    assert refused(["--eval_data", "x", *argv]).startswith(f"{argv[0]}: got '{argv[1]}', expected a ")


def test_a_run_is_replaced_or_resumed():
    said = refused([*LEAST, "--overwrite_output_dir", "--resume_from_checkpoint", "True"])
    assert said.startswith("--overwrite_output_dir: cannot be used with --resume_from_checkpoint")
    assert parse([*LEAST, "--overwrite", "--resume_from_checkpoint", "False"]).train.overwrite


def test_the_default_warm_up_is_llm_embedders_ratio():
    assert parse(LEAST).train.get_warmup_steps(1000) == 100  # warmup_ratio 0.1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--model_name_or_path", "base"], {"query_encoder": "base"}),
        (["--query_max_len", "64"], {"query_max_length": 64}),
        (["--passage_max_len", "64"], {"key_max_length": 64}),
        (["--temperature", "0.05"], {"cos_temperature": 0.05}),
        (["--negatives_cross_device"], {"negative_cross_device": True}),
        (["--negatives_cross_device", "False"], {"negative_cross_device": False}),
        (["--sentence_pooling_method", "mean"], {"pooling_method": ["mean"]}),
        (["--normalize_embeddings", "False"], {"dense_metric": "ip"}),
        (["--query_instruction_for_retrieval", "查："], {"query_instruction": "查："}),
        (
            ["--query_instruction_for_retrieval", "查", "--query_instruction_format", r"任务：{}\n查询：{}"],
            {"query_instruction": "任务：查\n查询："},
        ),
        (["--passage_instruction_for_retrieval", "-文-"], {"key_instruction": "-文-"}),
        (
            ["--passage_instruction_format", "<{}>{}", "--passage_instruction_for_retrieval", "文"],
            {"key_instruction": "<文>"},
        ),
        (
            ["--knowledge_distillation", "True"],
            {"knowledge_distillation": True, "contrastive_weight": 1, "distill_weight": 1},
        ),
        (["--knowledge_distillation"], {"knowledge_distillation": True}),
        (["--same_dataset_within_batch", "True"], {"inbatch_same_dataset": "epoch"}),
        (["--same_dataset_within_batch", "False"], {"inbatch_same_dataset": None}),
        (["--max_example_num_per_dataset", "100"], {"max_sample_num": 100}),
        (["--cache_dir", "models"], {"model_cache_dir": "models"}),
        (["--cache_path", "tables"], {"dataset_cache_dir": "tables"}),
        (["--pad_to_multiple_of", "8"], {"pad_to_multiple_of": 8}),
        (["--shuffle_ratio", "0.002"], {"shuffle_ratio": 0.002}),
        (["--small_threshold", "100"], {"small_threshold": 100}),
        (["--drop_threshold", "10"], {"drop_threshold": 10}),
        (["--fix_position_embedding"], {"fix_position_embedding": True}),
        (["--kd_loss_type", "m3_kd_loss"], {"kd_loss_type": "m3_kd_loss"}),
        (["--sub_batch_size", "32"], {"sub_batch_size": 32}),
        (["--sub_batch_size", "-1"], {"sub_batch_size": None}),
        (["--trust_remote_code", "True"], {"trust_remote_code": True}),
        (["--token", "hf_x"], {"token": "hf_x"}),
        (["--config_name", "config"], {"config_name": "config"}),
        (["--tokenizer_name", "tokenizer"], {"tokenizer_name": "tokenizer"}),
    ],
)
def test_a_flag_of_flag_embedding_is_accepted_with_its_meaning(argv, expected):
    check(parse([*LEAST, *argv]), expected)


# ---- transformers' own flags ----------------------------------------------------------------------------------------

THEIRS = {f.name: f for f in fields(TrainingArguments)}
OTHER_DEFAULTS = {  # where ours differ from transformers'
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-6,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "save_steps": 2000,
    "logging_steps": 100,
    "logging_nan_inf_filter": False,
    "report_to": ["tensorboard"],
    "dataloader_num_workers": None,
    "dataloader_persistent_workers": True,
}


@pytest.mark.parametrize("name", THEIRS)
def test_every_field_of_transformers_is_a_flag_in_both_spellings_with_its_default(name):
    assert {f"--{name}", f"--{name.replace('_', '-')}"} <= options()
    assert translate([f"--{name}", "True"]).given == {name}
    if THEIRS[name].default is not dataclasses.MISSING:
        assert defaults()[name] == OTHER_DEFAULTS.get(name, THEIRS[name].default)


def test_every_field_of_transformers_can_be_given_its_default_on_one_command_line():
    # All but those whose default is nothing; an empty --debug is no value of transformers' own parser.
    given = {n: d for n, d in defaults().items() if n in THEIRS and d not in (None, "", [], ["tensorboard"])}
    given = {name: getattr(default, "value", default) for name, default in given.items()}
    assert len(given) > 60
    args = parse([*LEAST, *(f"--{name}={default}" for name, default in given.items())])
    by_the_machine = {"bf16", "use_cpu", "dataloader_pin_memory"}
    check(args, {name: default for name, default in given.items() if name not in by_the_machine})


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--eval_strategy", "steps"], "--eval_strategy: needs evaluation, expected --eval_data"),
        (["--evaluation_strategy", "epoch"], "--eval_strategy: needs evaluation, expected --eval_data"),
        (["--eval_on_start"], "--eval_on_start: needs evaluation, expected --eval_data"),
        (
            ["--load_best_model_at_end", "--save_strategy", "best"],
            "--load_best_model_at_end: needs evaluation, expected --eval_data",
        ),
        (["--early_stopping_patience", "2"], "--early_stopping_patience: needs evaluation"),
        (["--eval_data", "x", "--metrics", "collate_neg"], "--metrics: none of them is measured in training"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor: got 0.1, expected 0"),
        (["--train_sampling_strategy", "group_by_length"], "--train_sampling_strategy: got 'group_by_length'"),
        (["--group_by_length"], "--group_by_length: transformers 5 removed this option"),
        (["--fsdp", "full_shard"], "--fsdp: needs an accelerator"),
        (["--deepspeed", "nowhere.json"], "--deepspeed: no such file: nowhere.json"),
        (["--lr_scheduler_type", "lineal"], "--lr_scheduler_type: unknown name 'lineal'; did you mean 'linear'?"),
    ],
)
def test_what_would_change_nothing_or_cannot_run_is_refused(argv, expected):
    assert refused([*ON_CPU, *argv]).startswith(expected)


# ---- spellings ------------------------------------------------------------------------------------------------------


def test_equals_signs_hyphens_and_lists_are_understood():
    args = parse(
        shlex.split("""--output-dir=out --train_data a.jsonl b.jsonl --query-encoder base --learning-rate=1e-4
        --negatives-cross-device=False --pooling_method mean dense --no-add-instruction --max_steps -1
        --query-instruction=""")
    )
    check(
        args,
        {
            "output_dir": "out",
            "train_data": ["a.jsonl", "b.jsonl"],
            "query_encoder": "base",
            "learning_rate": 1e-4,
            "negative_cross_device": False,
            "pooling_method": ["mean", "dense"],
            "add_instruction": False,
            "max_steps": -1,
            "query_instruction": "",
        },
    )


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--learnin_rate", "--learnin_rate: unknown flag; did you mean '--learning_rate'?"),
        ("--query-max-lenght", "--query_max_lenght: unknown flag; did you mean '--query_max_length'?"),
        ("--train_datas=x", "--train_datas: unknown flag; did you mean '--train_data'?"),
        ("--select_positives", "--select_positives: unknown flag; did you mean '--select_positive'?"),
        ("--no_output_dir", "--no_output_dir: unknown flag; did you mean '--output_dir'?"),
        ("--learning", "--learning: unknown flag"),  # nothing is abbreviated
        ("--zzz", "--zzz: unknown flag; see --help"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest_one(flag, expected):
    assert refused([*LEAST, flag]).startswith(expected)


def test_help_shows_an_example_and_every_flag_and_leaves_with_success(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(["--train_data", "x", "--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert "example:\n  torchrun --nproc_per_node=2 run_dense.py --output_dir data/outputs/icl \\\n" in shown
    assert [name for name in defaults() if f"--{name}" not in shown] == []


def test_the_example_of_the_help_parses(capsys):
    with pytest.raises(SystemExit):
        parse(["-h"])
    example = capsys.readouterr().out.partition("example:\n")[2]
    words = shlex.split(example.replace("\\\n", " "))
    assert words[:3] == ["torchrun", "--nproc_per_node=2", "run_dense.py"]
    args = parse(words[3:])
    assert (args.data.train_group_size, args.train.cos_temperature, args.notes) == (15, 0.02, ())


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--inbatch_same_dataset epochs", "--inbatch_same_dataset: unknown name 'epochs'; did you mean 'epoch'?"),
        ("--select_positive teacher_pos", "--select_positive: unknown name 'teacher_pos'; did you mean 'teacher-pos'?"),
        ("--select_negative teacher", "--select_negative: unknown name 'teacher'; did you mean 'teacher"),
        ("--pooling_method avg", "--pooling_method: unknown name 'avg'"),
        ("--pooling_method cls mean", "--pooling_method: got 'cls mean', expected one method, optionally with `dense`"),
        ("--dense_metric cosine", "--dense_metric: unknown name 'cosine'; did you mean 'cos'?"),
        ("--truncation_side middle", "--truncation_side: unknown name 'middle'. Known: left, right"),
        ("--kd_loss_type kl", "--kd_loss_type: unknown name 'kl'"),
        ("--dtype half", "--dtype: unknown name 'half'. Known: auto, bf16, fp16, fp32"),
        ("--dtype fp61", "--dtype: unknown name 'fp61'; did you mean 'fp16'?"),
        ("--train_group_size 0", "--train_group_size: got 0, expected a whole number from 1 to 10000"),
        ("--train_group_size few", "--train_group_size: got 'few', expected a whole number"),
        ("--max_sample_num 0", "--max_sample_num: got 0, expected a whole number of 1 or more"),
        ("--small_threshold -1", "--small_threshold: got -1, expected a whole number of 0 or more"),
        ("--drop_threshold -1", "--drop_threshold: got -1, expected a whole number of 0 or more"),
        ("--shuffle_ratio 1.1", "--shuffle_ratio: got 1.1, expected a number from 0 to 1"),
        ("--random_negatives 8", "--random_negatives: got 8, expected 0 to 7: the group's negatives"),
        ("--random_negatives -1", "--random_negatives: got -1, expected a whole number of 0 or more"),
        ("--query_max_length 2", "--query_max_length: got 2, expected a whole number of 3 or more"),
        ("--key_max_length 0", "--key_max_length: got 0, expected a whole number of 3 or more"),
        ("--pad_to_multiple_of 0", "--pad_to_multiple_of: got 0, expected a whole number of 1 or more"),
        ("--cos_temperature 0", "--cos_temperature: got 0, expected a number above 0"),
        ("--teacher_temperature inf", "--teacher_temperature: got inf, expected a number above 0"),
        ("--student_temperature nan", "--student_temperature: got nan, expected a number above 0"),
        ("--learning_rate -1e-5", "--learning_rate: got -1e-5, expected a number above 0"),
        ("--contrastive_weight -1", "--contrastive_weight: got -1, expected a number of 0 or more"),
        ("--distill_weight nan", "--distill_weight: got nan, expected a number of 0 or more"),
        ("--teacher_scores_min nan", "--teacher_scores_min: got nan, expected a finite number"),
        ("--teacher_scores_margin inf", "--teacher_scores_margin: got inf, expected a finite number"),
        (
            "--per_device_train_batch_size 0",
            "--per_device_train_batch_size: got 0, expected a whole number of 1 or more",
        ),
        ("--seed -1", "--seed: got -1, expected a whole number from 0 to 4294967295"),
        ("--query_encoder=", "--query_encoder: got '', expected a text that is not empty"),
        ("--use_train_config", "--use_train_config: needs --inbatch_same_dataset"),
        ("--teacher_temperature auto", "--teacher_temperature auto: needs --inbatch_same_dataset"),
        (
            "--teacher_temperature 0",
            "--teacher_temperature: got 0, expected a number above 0, or auto (chosen per dataset)",
        ),
        ("--teacher_temperature warm", "--teacher_temperature: got 'warm', expected a number"),
        ("--teacher_entropy 1", "--teacher_entropy: got 1, expected a number above 0 and below 1"),
        ("--task_temperature 0.5", "--task_temperature: needs --inbatch_same_dataset"),
        ("--task_temperature 2", "--task_temperature: got 2, expected a number from 0 to 1"),
        ("--false_negative_margin much", "--false_negative_margin: got 'much', expected a number"),
        ("--false_negative_margin=-1%", "--false_negative_margin: got -1, expected a number of 0 or more"),
        ("--loss info_nce cossent", "--loss: unknown name 'cossent'; did you mean 'cosent'?"),
        ("--matryoshka_dims 64 64", "--matryoshka_dims: got [64, 64], expected numbers that differ"),
        (
            "--matryoshka_weights 1",
            "--matryoshka_weights: got [1.0], expected a number for each of 0 --matryoshka_dims",
        ),
        ("--matryoshka_dims 64 --matryoshka_weights 0", "--matryoshka_weights: got 0, expected a number above 0"),
        ("--lora_rank 0", "--lora_rank: got 0, expected a whole number of 1 or more"),
        ("--lora_alpha 0", "--lora_alpha: got 0, expected a number above 0"),
        ("--lora_dropout 1", "--lora_dropout: got 1, expected a number of 0 or more and below 1"),
        ("--train_data", "--train_data: got none, expected at least one value"),
        ("--fp16 --bf16", "--bf16: cannot be used with --fp16, expected one of them"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(argv, expected):
    assert refused([*ON_CPU, *argv.split()]).startswith(expected)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--train_data", "a"], "--output_dir: is missing, expected the folder of the run"),
        (["--output_dir", "out"], "--train_data: is missing, expected files of JSON Lines"),
        ([], "--output_dir: is missing"),
    ],
)
def test_a_run_needs_data_and_a_folder(argv, expected):
    assert refused(argv).startswith(expected)


@pytest.mark.parametrize("word", ["None", "none", ""])
def test_no_same_dataset_batches_can_be_asked_for(word):
    assert parse([*LEAST, "--inbatch_same_dataset", word]).data.inbatch_same_dataset is None


@pytest.mark.parametrize(
    ("argv", "tied"),
    [
        ([], True),
        (["--tie_encoders", "False"], False),
        (["--key_encoder", "other"], False),
        (["--key_encoder", "BAAI/bge-large-zh-v1.5"], True),
    ],
)
def test_one_encoder_serves_both_sides_unless_two_are_asked_for(argv, tied):
    assert parse([*LEAST, *argv]).model.tied is tied


def test_settings_cannot_change_after_parsing():
    args = parse(LEAST)
    for frozen, name in ((args, "notes"), (args.data, "version"), (args.model, "query_encoder")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, "other")


# ---- precision ------------------------------------------------------------------------------------------------------

FALLBACK = "fp16 needs a GPU; using the best precision for this CPU instead"
CHOSEN = "bf16" if cpu_gains_from_bf16() else "fp32"


@pytest.mark.parametrize(
    ("argv", "dtype", "notes"),
    [
        ([], CHOSEN, []),
        (["--dtype", "auto"], CHOSEN, []),
        (["--dtype", "fp32"], "fp32", []),
        (["--dtype", "bf16"], "bf16", []),
        (["--dtype", "fp16"], CHOSEN, [FALLBACK]),
        (["--fp16"], CHOSEN, [FALLBACK]),
        (["--fp16", "False"], CHOSEN, []),
        (["--bf16"], "bf16", []),
        (["--bf16", "--dtype", "bf16"], "bf16", []),
        (["--bf16", "--dtype", "fp32"], "fp32", ["--bf16 is overridden by --dtype fp32"]),
        (["--dtype", "bf16", "--fp16"], "bf16", ["--fp16 is overridden by --dtype bf16"]),
    ],
)
def test_precision_on_a_cpu_is_what_is_asked_for_or_what_it_does_well(argv, dtype, notes):
    args = parse([*ON_CPU, *argv])
    check(args, {"dtype": dtype, "bf16": dtype == "bf16", "fp16": False})
    assert list(args.notes) == notes


@pytest.mark.skipif(accelerator() != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("argv", [["--fp16"], ["--dtype", "fp16"]])
def test_fp16_on_a_gpu_is_fp16(argv):
    args = parse([*LEAST, *argv])
    check(args, {"dtype": "fp16", "fp16": True, "bf16": False, "use_cpu": False})
    assert args.train.device == torch.device("cuda", 0)


@pytest.mark.skipif(accelerator() is not None, reason="needs a machine without accelerator")
def test_a_machine_without_accelerator_uses_its_cpu_openly():
    assert parse(LEAST).train.use_cpu is True


@pytest.mark.parametrize(
    ("given", "accelerated", "use_cpu", "cores", "environment", "workers"),
    [
        (None, None, False, 64, {}, 0),  # on the CPU the model needs the cores
        (None, "cuda", True, 64, {}, 0),
        (None, "mps", False, 64, {}, 0),
        (None, "cuda", False, 64, {}, 4),
        (None, "cuda", False, 4, {}, 3),
        (None, "cuda", False, 1, {}, 1),
        (None, "cuda", False, 24, {"LOCAL_WORLD_SIZE": "8"}, 2),
        (None, "cuda", False, 24, {"LOCAL_SIZE": "6"}, 3),
        (0, "cuda", False, 64, {}, 0),
        (7, "cuda", False, 4, {}, 7),
        (2, None, True, 2, {}, 2),
    ],
)
def test_workers_are_those_asked_for_else_what_the_machine_can_serve(
    given, accelerated, use_cpu, cores, environment, workers, monkeypatch
):
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("zh_embedder.config.run.accelerator", lambda: accelerated)
    monkeypatch.setattr("zh_embedder.config.run.cores", lambda: cores)
    asked = SimpleNamespace(dataloader_num_workers=given, use_cpu=use_cpu)
    TrainArguments.choose_workers(asked)
    assert asked.dataloader_num_workers == workers


def test_no_workers_are_started_on_the_cpu_unless_asked_for():
    assert parse(ON_CPU).train.dataloader_num_workers == 0
    assert parse([*ON_CPU, "--dataloader_num_workers", "3"]).train.dataloader_num_workers == 3


def test_every_precision_has_a_name_in_the_help():
    (text,) = [f.metadata["help"] for f in fields(TrainArguments) if f.name == "dtype"]
    assert ", ".join(DTYPES) in text


# ---- what a run writes down -----------------------------------------------------------------------------------------


def test_settings_as_json_hold_every_setting_and_no_secret():
    args = parse([*LEAST, "--token", "hf_one", "--hub_token", "hf_two", "--version", "中文"])
    settings = json.loads(args.to_json())
    assert set(defaults()) <= set(settings)
    assert (settings["token"], settings["hub_token"], settings["version"]) == ("<TOKEN>", "<HUB_TOKEN>", "中文")
    assert "hf_" not in args.to_json()
    assert "hf_" not in repr(args)
    assert (args.model.token, args.train.hub_token) == ("hf_one", "hf_two")  # still there for those who need them


def test_an_old_spelling_of_a_secret_stays_out_of_the_notes():
    args = parse([*LEAST, "--push_to_hub_token", "hf_two"])
    assert "hf_" not in " ".join([args.to_json(), *args.notes])
    assert args.train.hub_token == "hf_two"


def test_the_tensorboard_folder_is_the_one_asked_for_else_each_runs_own():
    parse([*LEAST, "--report_to", "tensorboard"])
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ  # transformers then writes to output_dir/runs
    parse([*LEAST, "--logging_dir", "logs"])
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "logs"


def test_resuming_needs_no_value():
    assert parse([*LEAST, "--resume_from_checkpoint"]).train.resume_from_checkpoint == "True"
    assert parse([*LEAST, "--resume_from_checkpoint", "out/checkpoint-2"]).train.resume_from_checkpoint[:4] == "out/"
