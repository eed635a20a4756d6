"""A resumed run is told what it changes."""

import json
from dataclasses import fields

from zh_embedder.config.model import ModelArguments
from zh_embedder.config.resumed import AROUND, COMPARED, changes
from zh_embedder.config.train import DataArguments, TrainArguments, parse


def settings(*flags):
    return json.loads(
        parse(["--output_dir", "out", "--train_data", "a.jsonl", "--query_encoder", "base", *flags]).to_json()
    )


def test_the_same_flags_change_nothing():
    assert list(changes(settings(), settings("--resume_from_checkpoint", "True", "--save_steps", "7"))) == []


def test_what_differs_is_said_as_it_was_typed():
    before = settings("--learning_rate", "1e-5", "--teacher_encoder", "a", "b")
    now = settings("--learning_rate", "2e-5", "--teacher_encoder", "c", "--query_max_length", "96")
    assert list(changes(before, now)) == [
        "--learning_rate: 1e-05, now 2e-05",
        f"--query_max_length: {before['query_max_length']}, now 96",
        "--teacher_encoder: a b, now c",
    ]
    assert "--teacher_encoder: not given, now c" in list(changes(settings(), now))


def test_a_setting_that_the_checkpoint_did_not_know_is_no_change():
    before = settings()
    del before["label_tasks"]
    assert list(changes(before, settings("--label_tasks", "none"))) == []


def test_every_name_is_that_of_a_flag():
    names = {one.name for group in (DataArguments, ModelArguments, TrainArguments) for one in fields(group)}
    assert names >= COMPARED
    assert names >= AROUND
