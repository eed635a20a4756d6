"""The flags: data, model, training. Names and defaults are LLM-Embedder's; the rest is transformers' own.

Parsed once, refused early, never changed afterwards.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zh_embedder.config.evaluation import ALONE, EvalArguments, evaluation_defaults
from zh_embedder.config.model import ModelArguments
from zh_embedder.config.run import RunArguments, check_measured, make_parser, read_flags, settings_json
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.options import above_zero, as_number, at_least, choose, option
from zh_embedder.core.ranks import launched
from zh_embedder.data.groups import SELECT_NEGATIVE, SELECT_POSITIVE
from zh_embedder.data.plan import PLANS
from zh_embedder.losses.table import LOSSES
from zh_embedder.text.prefix import as_prefix

if TYPE_CHECKING:
    from transformers import HfArgumentParser

TOKEN_CACHE = ("auto", "always", "never")
AUTO = "auto"
KD_LOSSES = ("kl_div", "m3_kd_loss")
EXAMPLE = """example:
  torchrun --nproc_per_node=2 run_dense.py --output_dir data/outputs/icl \\
    --train_data llm-embedder:train.jsonl --data_root data \\
    --query_encoder BAAI/bge-large-zh-v1.5 --version zh_llm_embedder \\
    --inbatch_same_dataset epoch --learning_rate 2e-5 --num_train_epochs 2 \\
    --train_group_size 15 --per_device_train_batch_size 16 --cos_temperature 0.02
"""


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """What is learned from."""

    train_data: list[str] | None = option(
        None, "Files, folders or globs of JSON Lines, plain, .gz or .zst; 'llm-embedder:' means below --data_root."
    )
    data_root: str | None = option(None, "Folder that 'llm-embedder:' in front of a path points to.")
    dataset_cache_dir: str | None = option(None, "Where prepared tables are kept. Default: ~/.cache/zh_embedder.")
    token_cache: str = option(
        "auto",
        "Token ids of all records made before training and kept: always, never, or auto (where it takes some seconds).",
    )
    version: str = option("zh_llm_embedder", "Instructions: a name or a YAML file; `zh-embedder versions` lists names.")
    instructions_dir: str | None = option(None, "Folder that is searched for --version first.")
    add_instruction: bool = option(True, "Put the task's instructions in front of queries and keys.")
    default_task: str | None = option(None, "Task of records that name none; `query` and `document` of the export.")
    query_instruction: str | None = option(None, "Instruction of queries whose records name no task.")
    prompt_format: str = option("{}{}", "How a record's own `prompt` and its query are joined; the query comes last.")
    key_instruction: str | None = option(None, "Instruction of keys whose records name no task.")
    use_train_config: bool = option(False, "Use the `training` settings of each task in the version's file.")
    inbatch_same_dataset: str | None = option(
        None, f"Every step from one dataset: {', '.join(PLANS)}. Not given: steps mix datasets."
    )
    task_temperature: float = option(
        1.0, "Steps of a task: by its records to this power; 1 in proportion, 0 the same for every task."
    )
    train_group_size: int = option(8, "Keys of one query: 1 positive and the rest negatives.")
    select_positive: str = option("first", f"Which positive: {', '.join(SELECT_POSITIVE)}.")
    select_negative: str = option("random", f"Which negatives: {', '.join(SELECT_NEGATIVE)}.")
    random_negatives: int = option(0, "Of the group's negatives, how many are drawn from other records of the dataset.")
    max_sample_num: int | None = option(None, "At most this many records of each dataset.")
    teacher_scores_min: float | None = option(None, "Drop records whose best teacher score is lower.")
    teacher_scores_margin: float | None = option(None, "Drop records whose teacher scores differ by less.")
    shuffle_ratio: float = option(0.0, "Probability that a positive over 100 characters has its thirds shuffled.")
    small_threshold: int = option(0, "Datasets of a folder and task with fewer records are merged.")
    drop_threshold: int = option(0, "Merged datasets with fewer records are dropped.")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.inbatch_same_dataset in ("None", "none", ""):
            object.__setattr__(self, "inbatch_same_dataset", None)
        as_prefix("", self.prompt_format, flag="--prompt_format")
        choose("token_cache", self.token_cache, TOKEN_CACHE)
        choose("inbatch_same_dataset", self.inbatch_same_dataset, tuple(PLANS))
        choose("select_positive", self.select_positive, SELECT_POSITIVE)
        choose("select_negative", self.select_negative, SELECT_NEGATIVE)
        at_least("train_group_size", self.train_group_size, 1)
        if self.max_sample_num is not None:
            at_least("max_sample_num", self.max_sample_num, 1)
        for name in ("teacher_scores_min", "teacher_scores_margin"):
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise reject(f"--{name}", value, "a finite number")
        if not 0 <= self.task_temperature <= 1:
            raise reject("--task_temperature", self.task_temperature, "a number in [0, 1]")
        at_least("small_threshold", self.small_threshold, 0)
        at_least("drop_threshold", self.drop_threshold, 0)
        if not 0 <= self.shuffle_ratio <= 1:
            raise reject("--shuffle_ratio", self.shuffle_ratio, "a probability in [0, 1]")
        if not 0 <= self.random_negatives < max(1, self.train_group_size):
            raise reject(
                "--random_negatives", self.random_negatives, f"0 to {self.train_group_size - 1}: the group's negatives"
            )


@dataclass(kw_only=True, repr=False)
class TrainArguments(RunArguments):
    """How it learns: every flag of transformers' TrainingArguments, and these."""

    cos_temperature: float = option(0.01, "Divides cosine scores; inner products and distances stay as they are.")
    contrastive_weight: float = option(0.2, "Weight of InfoNCE where a dataset also has teacher scores; 0 is off.")
    distill_weight: float = option(1.0, "Weight of distillation where a dataset also trains InfoNCE; 0 is off.")
    loss: list[str] | None = option(
        None, f"Losses, in place of the weights above; records choose what fits them: {', '.join(LOSSES)}."
    )
    false_negative_margin: str | None = option(
        None, "InfoNCE leaves out keys that score above the positive by more than this: 0.1, or 10%% of its score."
    )
    teacher_temperature: str = option(  # a number once it is parsed, or auto
        1.0, "Divides teacher scores; auto: as --teacher_entropy wants it, for each dataset."
    )
    teacher_entropy: float = option(
        0.5, "Entropy of the targets that --teacher_temperature auto makes, as a share of the greatest possible."
    )
    student_temperature: float = option(1.0, "Divides the student's scores in distillation, after cos_temperature.")
    stable_distill: bool = option(False, "LLM-Embedder's ranked distillation instead of KL.")
    kd_loss_type: str = option("kl_div", f"Distillation loss: {', '.join(KD_LOSSES)}.")
    knowledge_distillation: bool | None = option(
        None, "False: teacher scores are not used. True: every record must have them. Default: used where they are."
    )
    negative_cross_device: bool = option(True, "Keys of all ranks serve as negatives.")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; then device, precision and transformers' own checks."""
        for name in ("cos_temperature", "student_temperature"):
            above_zero(name, getattr(self, name))
        if self.teacher_temperature != AUTO:
            self.teacher_temperature = as_number("teacher_temperature", self.teacher_temperature)  # type: ignore[assignment]
            above_zero("teacher_temperature", self.teacher_temperature)  # type: ignore[arg-type]
        if not 0 < self.teacher_entropy < 1:
            raise reject("--teacher_entropy", self.teacher_entropy, "a number between 0 and 1")
        self.false_negative_limit()
        for name in self.loss or ():
            choose("loss", name, tuple(LOSSES))
        for name in ("contrastive_weight", "distill_weight"):
            at_least(name, getattr(self, name), 0)
        at_least("per_device_train_batch_size", self.per_device_train_batch_size, 1)
        choose("kd_loss_type", self.kd_loss_type, KD_LOSSES)
        super().__post_init__()

    def false_negative_limit(self) -> dict[str, float]:
        """Return InfoNCE's option for --false_negative_margin."""
        text = (self.false_negative_margin or "").strip()
        if text.lower() in ("", "none"):
            return {}
        value = as_number("false_negative_margin", text.removesuffix("%"))
        at_least("false_negative_margin", value, 0)
        return {"false_negative_percent" if text.endswith("%") else "false_negative_margin": value}


@dataclass(frozen=True, slots=True)
class Arguments:
    """Everything that a run was asked for."""

    data: DataArguments
    model: ModelArguments
    train: TrainArguments
    eval: EvalArguments
    notes: tuple[str, ...]  # what was made of old spellings, each said once
    given: frozenset[str] = frozenset()  # names of the flags that were typed

    def to_json(self) -> str:
        """Settings as JSON, secrets left out."""
        return settings_json(self.train, self.data, self.model, self.eval)


CLASSES = (DataArguments, ModelArguments, TrainArguments, EvalArguments)


def parser() -> HfArgumentParser:
    """Build the parser of run_dense.py."""
    return make_parser(
        CLASSES,
        prog="run_dense.py",
        description="Train a Chinese embedder on the records of many tasks.",
        example=EXAMPLE,
    )


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Parse a command line, old spellings included.

    Raises:
        UserError: an unknown flag (with the nearest known one), a wrong value, or a combination that cannot work.
    """
    words = sys.argv[1:] if argv is None else argv
    (data, model, train, measured), given, translated = read_flags(words, parser(), CLASSES, evaluation_defaults)
    notes = [*translated, *train.notes]
    if data.train_data:
        idle = sorted(ALONE & given.keys())
        notes += [f"--{name} changes nothing beside --train_data: it is of evaluation alone" for name in idle]
    if data.train_data or not measured.eval_data:
        check_together(data, model, train)
        check_evaluation(train, measured)
    return Arguments(data, model, train, measured, tuple(dict.fromkeys(notes)), frozenset(given))


def check_together(data: DataArguments, model: ModelArguments, train: TrainArguments) -> None:
    """Refuse combinations that cannot work."""
    if train.output_dir in (None, "trainer_output"):
        raise UserError("--output_dir: is missing, expected the folder of the run")
    if not data.train_data:
        raise UserError("--train_data: is missing, expected files of JSON Lines")
    if train.deepspeed and not launched():
        raise UserError("--deepspeed: start with `torchrun --nproc_per_node=1 run_dense.py ...` or `deepspeed`")
    if train.torch_compile and train.use_cpu and model.packing:
        raise UserError(
            "--torch_compile: on the CPU packed texts would be compiled anew for the lengths of every step, expected "
            "--torch_compile False, or --no_packing beside it"
        )
    if data.task_temperature != 1 and data.inbatch_same_dataset is None:
        raise UserError("--task_temperature: needs --inbatch_same_dataset, because a mixed step has no single task")
    if train.teacher_temperature == AUTO and data.inbatch_same_dataset is None:
        raise UserError(
            "--teacher_temperature auto: needs --inbatch_same_dataset, each dataset has a temperature of its own"
        )
    if data.use_train_config and data.inbatch_same_dataset is None:
        raise UserError("--use_train_config: needs --inbatch_same_dataset, because a mixed step has no single task")


def check_evaluation(train: TrainArguments, measured: EvalArguments) -> None:
    """Refuse evaluation without sets, and a best checkpoint without evaluation."""
    strategy = str(getattr(train.eval_strategy, "value", train.eval_strategy))
    check_measured(train, measured=measured.wanted, expected="--eval_data, --validation_share or --canary")
    if measured.wanted and not measured.metric_names:
        raise UserError("--metrics: none of them is measured in training, expected e.g. --metrics ndcg --cutoffs 10")
    if measured.wanted and train.fsdp:
        raise UserError("--fsdp: weights are sharded, which evaluation in training cannot read yet; use `evaluate`")
    if train.early_stopping_patience is not None and strategy == "no":
        raise UserError("--early_stopping_patience: needs --eval_strategy steps or epoch")
