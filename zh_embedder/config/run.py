"""Flags of every training run: those of transformers, precision, device, workers; and their parser."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from transformers import HfArgumentParser, TrainingArguments

from zh_embedder.config.inherited_checks import FILES, check_inherited, check_optimizer, one_line
from zh_embedder.config.inherited_flags import INHERITED, MAY_BE_EMPTY
from zh_embedder.config.published import split_flags, translate
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.extension_locks import clear_locks
from zh_embedder.core.machine import DTYPES, accelerator, best_dtype
from zh_embedder.core.numbers import COUNT, NOT_NEGATIVE, POSITIVE, Number, steps, whole
from zh_embedder.core.options import AUTO, HelpFormatter, Parser, any_text, as_typed, check_numbers, choose, option
from zh_embedder.core.parallel import cores
from zh_embedder.core.ranks import local_ranks
from zh_embedder.core.spellings import SPELLINGS

MOST_WORKERS = 4  # per rank, unless the flag says more
MOST_PROCESSES = 1024  # or threads, of one rank: more than any machine has cores
NO_CHECKPOINT = ("none", "false", "")  # values of --resume_from_checkpoint, in lower case
NO_FOLDER = (None, "trainer_output")  # transformers' value where --output_dir is not given


@dataclass(kw_only=True, repr=False)  # transformers' own repr hides tokens
class RunArguments(TrainingArguments):
    """Training run: these flags and all of transformers' TrainingArguments."""

    per_device_train_batch_size: int = option(16, "Queries per step on each device.", number=COUNT)
    learning_rate: float = option(5e-6, "Peak learning rate.", number=POSITIVE)
    warmup_steps: float = option(0.1, "Warm-up steps; below 1, a share of all steps.", number=steps(0))
    weight_decay: float = option(0.01, "Weight decay.", number=NOT_NEGATIVE)
    save_steps: float = option(2000, "Steps between checkpoints; below 1, a share of all steps.", number=steps(above=0))
    logging_steps: float = option(100, "Steps between log lines; below 1, a share of all steps.", number=steps(above=0))
    logging_nan_inf_filter: bool = option(False, "No effect: steps with a non-finite loss are skipped anyway.")
    report_to: list[str] | None = option(["tensorboard"], "Where to report metrics: tensorboard, wandb, ..., or none.")
    dtype: str = option(
        AUTO, f"Precision: {', '.join((AUTO, *DTYPES))}; auto is bf16 where the hardware is faster with it, else fp32."
    )
    dataloader_num_workers: int | None = option(
        None,
        f"Processes that prepare batches. Default: 0 on a CPU, else 1 to {MOST_WORKERS} by the cores per rank.",
        number=whole(0, MOST_PROCESSES),
    )
    dataloader_persistent_workers: bool = option(True, "Keep these processes alive between epochs.")
    cpu_threads: int | None = option(
        None, "CPU threads per rank. Default: its share of the cores.", number=whole(1, MOST_PROCESSES)
    )
    early_exit_steps: int | None = option(
        None, "Stop after this many steps, without changing the schedule.", number=COUNT
    )
    early_stopping_patience: int | None = option(
        None,
        "Stop after this many evaluations in a row without a better --metric_for_best_model.",
        number=COUNT,
    )
    early_stopping_threshold: float = option(
        0.0, "Minimum improvement that counts for --early_stopping_patience.", number=NOT_NEGATIVE
    )
    overwrite: bool = option(False, "Replace the run in --output_dir.")
    tensorboard_dir: str | None = option(None, "Folder for TensorBoard files. Default: a new one in OUTPUT_DIR/runs.")

    def __post_init__(self) -> None:
        """Choose device and precision, then let transformers check its own."""
        self.notes: list[str] = []
        check_numbers(self, INHERITED)
        choose("dtype", self.dtype, (AUTO, *DTYPES))
        refuse_unused(self)
        if self.overwrite and str(self.resume_from_checkpoint).lower() not in NO_CHECKPOINT:
            raise UserError(
                "--overwrite: cannot be used with --resume_from_checkpoint, expected one of them: resuming continues "
                "the run that --overwrite would replace"
            )
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
        if self.deepspeed:
            clear_locks()  # it may compile as soon as ranks meet
        self.finish()
        if self._n_gpu > 1:
            self.notes.append(
                f"{self._n_gpu} GPUs found, using one: start with `torchrun --nproc_per_node={self._n_gpu}` to use all"
            )
            self._n_gpu = 1

    def finish(self) -> None:
        """Let transformers complete and check its flags, and make what it makes of them."""
        check_inherited(self)
        try:
            super().__post_init__()
        except UserError:
            raise
        except Exception as error:  # every complaint at this point is about a flag
            flag = next((f"--{name}" for name in FILES if getattr(self, name)), "command line")
            raise UserError(f"{flag}: {one_line(error)}") from None
        check_optimizer(self)

    @property
    def folder(self) -> Path | None:
        """The run's folder, if --output_dir was given."""
        return None if self.output_dir in NO_FOLDER else Path(str(self.output_dir))

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
            raise UserError("--bf16: cannot be used with --fp16, expected one of them")
        asked = "bf16" if self.bf16 else "fp16" if self.fp16 else self.dtype
        if self.dtype == AUTO:
            self.dtype = asked
        elif self.dtype != asked:
            self.notes.append(f"--{asked} is overridden by --dtype {self.dtype}")
        if self.dtype == "fp16" and on_cpu:
            self.notes.append("fp16 needs a GPU; using the best precision for this CPU instead")
            self.dtype = AUTO
        if self.dtype == AUTO:
            self.dtype = "bf16" if best_dtype("cpu" if on_cpu else "cuda") is torch.bfloat16 else "fp32"
        self.bf16, self.fp16 = self.dtype == "bf16", self.dtype == "fp16"


class Run(Protocol):
    """The settings that all training commands share."""

    @property
    def train(self) -> RunArguments:
        """How the run goes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Log lines about translated flags."""


def refuse_unused(args: RunArguments) -> None:
    """Reject transformers flags that would have no effect here."""
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


class RunParser(Parser, HfArgumentParser):
    """transformers' parser, with our one kind of message."""

    def __init__(self, classes: Sequence[Any], **options: Any) -> None:
        Parser.__init__(self, list(classes), **options)

    def add_argument(
        self, *names: Any, number: Number | None = None, may_be_empty: bool = False, **options: Any
    ) -> Any:
        """Add a flag; its numbers are those that its field declares, or the table has for transformers' own."""
        name = str(names[0]).removeprefix("--")
        if number := number or INHERITED.get(name):
            options["type"] = number
        elif may_be_empty or name in MAY_BE_EMPTY:
            options["type"] = any_text
        if name == "resume_from_checkpoint":  # alone, it means the newest checkpoint
            options |= {"nargs": "?", "const": "True"}
        return super().add_argument(*names, **options)


def make_parser(classes: Sequence[Any], *, prog: str, description: str, example: str) -> RunParser:
    """Build the parser of a command whose flags are the fields of some dataclasses."""
    return RunParser(
        classes,
        prog=prog,
        description=description,
        epilog=example,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return any(token in ("-h", "--help") for token in argv)


class Flags(NamedTuple):
    """A parsed command line."""

    groups: tuple[Any, ...]  # the parser's dataclasses
    given: dict[str, str | None]  # what was typed, by field
    notes: list[str]  # other spellings and what they became


def read_flags(
    command: str,
    argv: Sequence[str],
    parser: RunParser,
    defaults: Callable[[Mapping[str, str | None]], Mapping[str, str]],
) -> Flags:
    """Read a command line, other spellings included; `--help` shows the flags and ends the process.

    Args:
        command: whose other spellings are accepted.
        argv: the words that follow it.
        parser: of the command's flags.
        defaults: of flags that depend on what was typed.

    Raises:
        UserError: an unknown flag (with the nearest known one), or a wrong value.
    """
    if asks_for_help(argv):
        parser.parse_args(["--help"])
    translated = translate(argv, SPELLINGS[command])
    parser.check_flags(f"--{name}" for name in sorted(translated.given))
    translated.notes += parser.repeated(argv)
    given = {name: next(iter(values), None) for name, values in split_flags(translated.argv)}
    for name, value in defaults(given).items():
        translated.add(name, value)
    try:
        groups = parse_groups(parser, translated.argv)
    except UserError as error:
        raise as_typed(error, translated.typed) from None
    return Flags(groups, given, list(translated.notes))


def check_folder(train: RunArguments) -> None:
    """Reject a run without a folder."""
    if train.folder is None:
        raise UserError("--output_dir: is missing, expected the folder of the run")


def check_measured(train: RunArguments, *, measured: bool, expected: str) -> None:
    """Reject flags that need evaluation in a run without it.

    Args:
        train: the flags.
        measured: whether anything is evaluated.
        expected: the flags that turn evaluation on.
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
            raise UserError(f"{flag}: needs evaluation, expected {expected}")


def parse_groups(parser: RunParser, argv: Sequence[str]) -> tuple[Any, ...]:
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
