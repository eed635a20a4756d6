"""The flags of any training run: transformers' own, precision, device, workers; and how flags are parsed."""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from transformers import HfArgumentParser, TrainingArguments

from zh_embedder.config.published import split_flags, translate
from zh_embedder.core.errors import UserError, nearest, reject
from zh_embedder.core.machine import accelerator, best_dtype
from zh_embedder.core.options import above_zero, at_least, choose, option
from zh_embedder.core.parallel import cores
from zh_embedder.core.ranks import local_ranks

DTYPES = ("auto", "fp32", "bf16", "fp16")
MOST_WORKERS = 4  # of a rank that chooses for itself


@dataclass(kw_only=True, repr=False)  # transformers' own repr hides tokens
class RunArguments(TrainingArguments):
    """How a run goes: every flag of transformers' TrainingArguments, and these."""

    per_device_train_batch_size: int = option(16, "Queries of a step on each device.")
    learning_rate: float = option(5e-6, "Peak learning rate.")
    warmup_steps: float = option(0.1, "Steps of warm-up; below 1, a share of all steps.")
    weight_decay: float = option(0.01, "Weight decay.")
    save_steps: float = option(2000, "A checkpoint every so many steps; below 1, a share of all steps.")
    logging_steps: float = option(100, "Log every so many steps; below 1, a share of all steps.")
    logging_nan_inf_filter: bool = option(False, "Never needed: no update is made from a non-finite loss.")
    report_to: list[str] | None = option(["tensorboard"], "Where metrics go: tensorboard, wandb, ..., none.")
    dtype: str = option("auto", f"Precision: {', '.join(DTYPES)}; auto is bf16 where the hardware gains, else fp32.")
    dataloader_num_workers: int | None = option(
        None,
        f"Processes that prepare batches. Default: 0 on the CPU, else 1 to {MOST_WORKERS}, by the cores of a rank.",
    )
    dataloader_persistent_workers: bool = option(True, "Keep these processes from epoch to epoch.")
    cpu_threads: int | None = option(None, "Threads of a rank on the CPU. Default: its share of the cores.")
    early_exit_steps: int | None = option(None, "Stop after so many steps, the schedule unchanged.")
    early_stopping_patience: int | None = option(
        None, "Stop when so many evaluations in a row brought no better --metric_for_best_model."
    )
    early_stopping_threshold: float = option(0.0, "How much better is better, for --early_stopping_patience.")
    overwrite_output_dir: bool = option(False, "Replace the run that output_dir holds.")
    tensorboard_dir: str | None = option(
        None, "Folder of the TensorBoard files. Default: a new one in output_dir/runs."
    )

    def __post_init__(self) -> None:
        """Choose device and precision, then let transformers check its own."""
        self.notes: list[str] = []
        above_zero("learning_rate", self.learning_rate)
        at_least("seed", self.seed, 0)
        at_least("cpu_threads", self.cpu_threads, 1)
        at_least("early_stopping_patience", self.early_stopping_patience, 1)
        at_least("early_stopping_threshold", self.early_stopping_threshold, 0)
        choose("dtype", self.dtype, DTYPES)
        refuse_unused(self)
        if accelerator() is None:
            # Without this, transformers under torchrun trains unconnected models (docs/log/2026-11.md).
            self.use_cpu = True
        self.choose_precision()
        self.choose_workers()
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # unused parameters of the base are frozen
        if self.fsdp and self.use_cpu:
            raise UserError("--fsdp: needs an accelerator; on the CPU transformers would silently run DDP instead")
        if self.tensorboard_dir:
            os.environ["TENSORBOARD_LOGGING_DIR"] = self.tensorboard_dir
        super().__post_init__()
        if self._n_gpu > 1:
            self.notes.append(
                f"{self._n_gpu} GPUs seen, one used: start with `torchrun --nproc_per_node={self._n_gpu}`"
            )
            self._n_gpu = 1

    @property
    def order_seed(self) -> int:
        """Seed of everything that is drawn from the data."""
        return self.data_seed if self.data_seed is not None else self.seed

    def choose_workers(self) -> None:
        """Choose how many processes prepare batches: on the CPU they would only take cores from the model."""
        if self.dataloader_num_workers is None:
            forks = not self.use_cpu and accelerator() not in (None, "mps")
            self.dataloader_num_workers = max(1, min(MOST_WORKERS, cores() // local_ranks() - 1)) if forks else 0

    def choose_precision(self) -> None:
        """Set transformers' bf16 and fp16 from --dtype, from its own flags, or from what the hardware does well."""
        on_cpu = self.use_cpu
        if self.bf16 and self.fp16:
            raise UserError("--bf16: stands beside --fp16, expected one of them")
        asked = "bf16" if self.bf16 else "fp16" if self.fp16 else self.dtype
        if self.dtype == "auto":
            self.dtype = asked
        elif self.dtype != asked:
            self.notes.append(f"--{asked} gives way to --dtype {self.dtype}")
        if self.dtype == "fp16" and on_cpu:
            self.notes.append("fp16 needs a GPU; precision is chosen for this CPU instead")
            self.dtype = "auto"
        if self.dtype == "auto":
            self.dtype = "bf16" if best_dtype("cpu" if on_cpu else "cuda") is torch.bfloat16 else "fp32"
        self.bf16, self.fp16 = self.dtype == "bf16", self.dtype == "fp16"


class Run(Protocol):
    """Everything that some command was asked for; this of it is the same for all."""

    @property
    def train(self) -> RunArguments:
        """How the run goes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What became of flags, to be said."""


def refuse_unused(args: RunArguments) -> None:
    """Refuse flags of transformers that would change nothing here, rather than swallow them."""
    if args.label_smoothing_factor:
        raise reject("--label_smoothing_factor", args.label_smoothing_factor, "0: these losses have no class labels")
    if args.train_sampling_strategy != "random":
        raise reject("--train_sampling_strategy", args.train_sampling_strategy, "random; see --inbatch_same_dataset")


def settings_json(train: RunArguments, *groups: Any) -> str:
    """Settings of a run as JSON, secrets left out."""
    values = train.to_dict()
    for group in groups:
        values |= asdict(group)
    for name, value in values.items():
        if (name == "token" or name.endswith("_token")) and value is not None:
            values[name] = f"<{name.upper()}>"
    return json.dumps(values, ensure_ascii=False, indent=2, default=str)


# ---- parsing --------------------------------------------------------------------------------------------------------


class _Help(RawDescriptionHelpFormatter, ArgumentDefaultsHelpFormatter):
    """Defaults shown, and the example kept as it is typed."""


class _Parser(HfArgumentParser):
    """transformers' parser, with our one kind of message."""

    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message))


def make_parser(classes: Sequence[Any], *, prog: str, description: str, example: str) -> HfArgumentParser:
    """Build the parser of a command whose flags are the fields of some dataclasses."""
    return _Parser(
        list(classes), prog=prog, description=description, epilog=example, allow_abbrev=False, formatter_class=_Help
    )


def asks_for_help(argv: Sequence[str]) -> bool:
    """Tell whether a command line asks how it is to be written."""
    return any(token in ("-h", "--help") for token in argv)


def check_names(given: Iterable[str], classes: Sequence[Any]) -> None:
    """Refuse flags that no field answers to, with the nearest one offered."""
    every = [f for cls in classes for f in fields(cls) if f.init]
    known = {f.name for f in every} | {f"no_{f.name}" for f in every if f.default is True}
    for name in sorted(set(given) - known):
        raise UserError(f"--{name}: unknown flag{nearest(name, known) or '; see --help'}")


class Flags(NamedTuple):
    """A command line, read."""

    groups: tuple[Any, ...]  # the parser's dataclasses
    given: dict[str, str | None]  # what was typed, by field
    notes: list[str]  # old spellings, and what became of them


def read_flags(
    argv: Sequence[str],
    parser: HfArgumentParser,
    classes: Sequence[Any],
    defaults: Callable[[Mapping[str, str | None]], Mapping[str, str]],
) -> Flags:
    """Read a command line, old spellings included; `--help` shows the flags and ends the process.

    Args:
        argv: the words.
        parser: of the classes.
        classes: whose fields are the flags.
        defaults: of flags that depend on what was typed.

    Raises:
        UserError: an unknown flag (with the nearest known one), or a wrong value.
    """
    if asks_for_help(argv):
        parser.parse_args(["--help"])
    translated = translate(argv)
    check_names(translated.given, classes)
    given = {name: next(iter(values), None) for name, values in split_flags(translated.argv)}
    for name, value in defaults(given).items():
        translated.add(name, value)
    return Flags(parse_groups(parser, translated.argv), given, list(translated.notes))


def check_measured(train: RunArguments, *, measured: bool, expected: str) -> None:
    """Refuse flags that need something measured where nothing is.

    Args:
        train: the flags.
        measured: whether something is.
        expected: which flags would measure.
    """
    needs = {
        "--eval_strategy": str(getattr(train.eval_strategy, "value", train.eval_strategy)) != "no",
        "--eval_on_start": train.eval_on_start,
        "--load_best_model_at_end": train.load_best_model_at_end,
        "--early_stopping_patience": train.early_stopping_patience is not None,
        "--save_strategy best": str(getattr(train.save_strategy, "value", train.save_strategy)) == "best",
    }
    for flag, used in needs.items():
        if used and not measured:
            raise UserError(f"{flag}: nothing is measured, expected {expected}")


def parse_groups(parser: HfArgumentParser, argv: Sequence[str]) -> tuple[Any, ...]:
    """Parse flags into the parser's dataclasses.

    Raises:
        UserError: a value does not fit.
    """
    try:
        groups: tuple[Any, ...] = parser.parse_args_into_dataclasses(list(argv), look_for_args_file=False)
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"command line: {error}") from None
    return groups
