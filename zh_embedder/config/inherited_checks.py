"""Values of transformers' own flags, checked before anything is loaded: reporters, optimisers, JSON, schedulers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.debug_utils import DebugOption

from zh_embedder.core.errors import UserError, reading, reject
from zh_embedder.core.options import choose

# Reporters whose package, or the function of transformers that looks for it, has another name.
PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "flyte": "flytekit"}
LOOKED_FOR = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}
ALWAYS_THERE = ("adamw_torch", "adamw_torch_fused")  # the Trainer, which makes the others, loads pyarrow
START_METHODS = ("fork", "spawn", "forkserver")
FILES = ("deepspeed", "fsdp_config", "accelerator_config")  # JSON objects, or the files that hold them
OBJECTS = ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", *FILES)


def check_inherited(args: TrainingArguments) -> None:
    """Refuse values that transformers would find out about while it sets up, or in the first step.

    Raises:
        UserError: with the flag.
    """
    choose("dataloader_multiprocessing_context", args.dataloader_multiprocessing_context, START_METHODS)
    for option in args.debug if isinstance(args.debug, list) else str(args.debug or "").split():
        choose("debug", getattr(option, "value", option), [known.value for known in DebugOption])
    check_reporters(args.report_to)
    for flag in OBJECTS:
        if (value := getattr(args, flag, None)) and isinstance(value, str):
            read_object(flag, value)
    for pair in (args.optim_args or "").replace(" ", "").split(",") if args.optim_args else ():
        if pair.count("=") != 1:
            raise reject("--optim_args", pair, "NAME=VALUE, several separated by commas")


def check_reporters(asked: str | list[str] | None) -> None:
    """Refuse reporters that are unknown, or whose package is not installed."""
    from transformers.integrations import integration_utils

    for name in [asked] if isinstance(asked, str) else asked or ():
        if name in ("none", "all"):
            continue
        choose("report_to", name, (*integration_utils.INTEGRATION_TO_CALLBACK, "all", "none"))
        there = getattr(integration_utils, f"is_{LOOKED_FOR.get(name, name)}_available", None)
        if there is not None and not there():
            package = PACKAGES.get(name, name)
            raise UserError(f"--report_to: {name} is not installed, expected `pip install {package}`, or another name")


def read_object(flag: str, value: str) -> Mapping[str, Any]:
    """Read a flag that is a JSON object, or for some flags the file of one.

    Raises:
        UserError: it is none.
    """
    text, where = value, f"--{flag}"
    if flag in FILES and not value.lstrip().startswith("{"):
        path = Path(value).expanduser()
        if not path.is_file():
            raise UserError(f"--{flag}: no such file: {path}")
        where = f"--{flag}: {path}"
        with reading(where):
            text = path.read_text("utf-8")
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: got {type(found).__name__}, expected a JSON object")
    if flag == "deepspeed":
        check_deepspeed(where, found)
    return found


def check_deepspeed(where: str, config: Mapping[str, Any]) -> None:
    """Let DeepSpeed read its own settings of ZeRO, which it does after the model is loaded."""
    if find_spec("deepspeed") is None:
        raise UserError("--deepspeed: deepspeed is not installed, expected `pip install deepspeed`")
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise UserError(f"{where}: zero_optimization: got {type(zero).__name__}, expected a JSON object")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    try:
        DeepSpeedZeroConfig(**{name: value for name, value in zero.items() if value != "auto"})
    except Exception as error:
        raise UserError(f"{where}: zero_optimization: {one_line(error)}") from None


def check_optimizer(args: TrainingArguments) -> None:
    """Make the optimiser and the scheduler of a run once, of one weight, so that what they lack is known at once.

    Raises:
        UserError: a package is missing, or their arguments do not fit.
    """
    from transformers import get_scheduler

    weight = torch.nn.Linear(1, 1)
    name = getattr(args.optim, "value", args.optim)
    if name not in ALWAYS_THERE or args.optim_args:
        from transformers import Trainer

        try:
            Trainer.get_optimizer_cls_and_kwargs(args, weight)
        except Exception as error:
            flag = f"--optim_args {args.optim_args}" if isinstance(error, ValueError) and args.optim_args else "--optim"
            raise UserError(f"{flag}: {name}: {one_line(error)}") from None
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer=torch.optim.SGD(weight.parameters(), lr=1.0),
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
    except Exception as error:
        scheduler = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise UserError(f"--lr_scheduler_kwargs: {scheduler}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """The words of a library's error in one line."""
    text = str(error).partition("For further information")[0]  # pydantic's address of a page
    return " ".join(text.split())[:300] or type(error).__name__
