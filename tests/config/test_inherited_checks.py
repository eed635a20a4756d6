"""Values of transformers' flags that it would find out about late: refused with the flag, before anything is loaded."""

import json

import pytest
from transformers.integrations import integration_utils
from transformers.training_args import OptimizerNames

from zh_embedder.config.inherited_checks import ALWAYS_THERE, LOOKED_FOR, check_reporters
from zh_embedder.config.train import parse
from zh_embedder.core.errors import UserError

BASE = ["--output_dir", "out", "--train_data", "train.jsonl", "--use_cpu"]


def refused(*words) -> str:
    with pytest.raises(UserError) as error:
        parse([*BASE, *words])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--report_to nix", "--report_to: unknown name 'nix'"),
        ("--report_to tensorbord", "--report_to: unknown name 'tensorbord'; did you mean 'tensorboard'?"),
        ("--optim nix", "--optim: unknown name 'nix'"),
        ("--optim_args nix", "--optim_args: got 'nix', expected NAME=VALUE"),
        ("--optim sgd --optim_args momentum=x", "--optim_args momentum=x: sgd: could not convert"),
        ("--lr_scheduler_kwargs nix", "--lr_scheduler_kwargs: not valid JSON"),
        ('--lr_scheduler_kwargs {"nix":1}', "--lr_scheduler_kwargs: linear: "),
        ("--lr_scheduler_type cosine_with_min_lr", "--lr_scheduler_kwargs: cosine_with_min_lr: One of min_lr"),
        ("--debug nix", "--debug: "),
        ("--deepspeed nope.json", "--deepspeed: no such file: nope.json"),
        ("--fsdp_config nope.json", "--fsdp_config: no such file: nope.json"),
        ("--accelerator_config nope.json", "--accelerator_config: no such file: nope.json"),
        ('--accelerator_config {"nix":1}', "--accelerator_config: AcceleratorConfig"),
        ("--dataloader_multiprocessing_context nix", "--dataloader_multiprocessing_context: unknown name 'nix'"),
        ("--log_level nix", "--log_level: unknown name 'nix'"),
    ],
)
def test_what_transformers_would_find_out_late_is_refused_at_once(words, message):
    assert refused(*words.split()).startswith(message)


@pytest.mark.parametrize("name", sorted(integration_utils.INTEGRATION_TO_CALLBACK))
def test_a_reporter_without_its_package_is_refused(name, monkeypatch):
    looks = f"is_{LOOKED_FOR.get(name, name)}_available"
    assert hasattr(integration_utils, looks)
    monkeypatch.setattr(integration_utils, looks, lambda: False)
    with pytest.raises(UserError, match=rf"^--report_to: {name} is not installed, expected `pip install \S+`"):
        check_reporters([name])
    monkeypatch.setattr(integration_utils, looks, lambda: True)
    check_reporters([name])


@pytest.mark.parametrize("name", [name.value for name in OptimizerNames if name.value not in ALWAYS_THERE])
def test_an_optimiser_is_made_or_refused_in_one_line(name):
    """Which packages are installed is not known here; nothing but a message may come of one that is missing."""
    try:
        parse([*BASE, "--optim", name])
    except UserError as error:
        assert str(error).startswith(f"--optim: {name}: ")
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "got list, expected a JSON object"),
        ('{"a":', "not valid JSON"),
        ("[" * 5000, "not valid JSON"),
        ('{"zero_optimization": {"stage": 9}}', "zero_optimization: "),
        ('{"zero_optimization": 3}', "zero_optimization: got int, expected a JSON object"),
    ],
)
def test_a_file_of_deepspeed_that_cannot_be_meant_is_refused(tmp_path, content, message):
    pytest.importorskip("deepspeed")
    path = tmp_path / "stage.json"
    path.write_text(content, "utf-8")
    assert refused("--deepspeed", str(path)).startswith(f"--deepspeed: {path}: {message}")


def test_right_settings_pass():
    for words in (
        ["--optim", "sgd", "--optim_args", "momentum=0.9"],
        ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", json.dumps({"min_lr": 1e-6})],
        ["--max_steps", "-1", "--save_steps", "0.5", "--logging_steps", "0.1", "--warmup_steps", "0.1"],
        ["--max_grad_norm", "0", "--save_total_limit", "-1", "--report_to", "none"],
    ):
        parse([*BASE, *words])
