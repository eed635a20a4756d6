"""Training flags: data, model, losses. Names and defaults are LLM-Embedder's; the rest are those of transformers.

Parsed and checked before anything is loaded, and frozen afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from transformers import TrainingArguments

from zh_embedder.config.evaluation import ALONE, EvalArguments, evaluation_defaults
from zh_embedder.config.inherited_flags import INHERITED
from zh_embedder.config.model import ModelArguments
from zh_embedder.config.run import (
    RunArguments,
    check_folder,
    check_measured,
    make_parser,
    read_flags,
    settings_json,
)
from zh_embedder.config.run_version import DEFAULT_VERSION
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.numbers import AMOUNT, COUNT, FINITE, LENGTH, NOT_NEGATIVE, POSITIVE, SHARE, real, whole
from zh_embedder.core.options import AUTO, check_numbers, choose, option
from zh_embedder.core.ranks import launched
from zh_embedder.data.groups import SELECT_NEGATIVE, SELECT_POSITIVE
from zh_embedder.data.plan import PLANS
from zh_embedder.losses.table import LOSSES, OF_VECTORS
from zh_embedder.losses.teacher_temperature import ENTROPY
from zh_embedder.text.prefix import as_prefix

if TYPE_CHECKING:
    from zh_embedder.config.run import RunParser

TOKEN_CACHE = (AUTO, "always", "never")
KD_LOSSES = ("kl_div", "m3_kd_loss")
LABEL_TASKS = ("icl",)
VECTOR_LOSS = "vector_cosine"  # of a teacher's vectors, unless a flag or a task names others
GROUP_SIZE = whole(1, 10_000)
PROGRAM = "run_dense.py"
EXAMPLE = """example:
  torchrun --nproc_per_node=2 run_dense.py --output_dir data/outputs/icl \\
    --train_data llm-embedder:train.jsonl --data_root data \\
    --query_encoder BAAI/bge-large-zh-v1.5 --version zh_llm_embedder \\
    --inbatch_same_dataset epoch --learning_rate 2e-5 --num_train_epochs 2 \\
    --train_group_size 15 --per_device_train_batch_size 16 --cos_temperature 0.02
"""


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """Training data."""

    train_data: list[str] | None = option(
        None,
        "Training records: JSON Lines (also .gz, .zst), folders or globs; `llm-embedder:` means below --data_root.",
    )
    data_root: str | None = option(None, "Folder that `llm-embedder:` refers to in a path.")
    dataset_cache_dir: str | None = option(None, "Cache folder for prepared data. Default: ~/.cache/zh_embedder.")
    token_cache: str = option(
        AUTO,
        "Tokenize all records before training and cache the result: always, never, or auto (unless it takes long).",
    )
    version: str | None = option(
        None,
        "Instruction version: a name or a YAML file; list them with `zh-embedder versions`. Default: the base's own, "
        f"else {DEFAULT_VERSION}.",
    )
    instructions_dir: str | None = option(None, "Folder to search first for --version.")
    add_instruction: bool = option(True, "Prepend the task's instructions to queries and keys.")
    default_task: str | None = option(
        None, "Task of records without one; also the `query` and `document` prompts of an export."
    )
    query_instruction: str | None = option(None, "Query instruction for records without a task.", may_be_empty=True)
    prompt_format: str = option("{}{}", "Template that joins a record's own `prompt` and its query, query last.")
    key_instruction: str | None = option(None, "Key instruction for records without a task.", may_be_empty=True)
    use_train_config: bool = option(False, "Apply the version's `training` settings of each task.")
    inbatch_same_dataset: str | None = option(
        None,
        f"Take each step from one dataset: {', '.join(PLANS)}. Default: steps mix datasets.",
        may_be_empty=True,
    )
    task_temperature: float = option(
        1.0,
        "Steps per task, proportional to its records to this power; 1: proportional, 0: equal for all tasks.",
        number=SHARE,
    )
    train_group_size: int = option(8, "Keys per query: 1 positive, the rest negatives.", number=GROUP_SIZE)
    select_positive: str = option("first", f"Which positive to use: {', '.join(SELECT_POSITIVE)}.")
    select_negative: str = option("random", f"Which negatives to use: {', '.join(SELECT_NEGATIVE)}.")
    random_negatives: int = option(0, "Number of negatives to draw from other records of the dataset.", number=AMOUNT)
    label_tasks: list[str] = option(
        list(LABEL_TASKS),
        "Tasks whose `answers` are class labels: keys of records with the same answers are no negatives of each other. "
        "none: no task.",
    )
    max_sample_num: int | None = option(None, "Maximum number of records per dataset.", number=COUNT)
    teacher_scores_min: float | None = option(
        None, "Drop records whose highest teacher score is below this.", number=FINITE
    )
    teacher_scores_margin: float | None = option(
        None, "Drop records whose teacher scores span less than this.", number=FINITE
    )
    shuffle_ratio: float = option(
        0.0, "Probability of shuffling the thirds of a positive over 100 characters.", number=SHARE
    )
    small_threshold: int = option(0, "Merge datasets of a folder and task that have fewer records.", number=AMOUNT)
    drop_threshold: int = option(0, "Drop merged datasets that have fewer records.", number=AMOUNT)

    def __post_init__(self) -> None:
        """Reject invalid values."""
        if self.inbatch_same_dataset in ("None", "none", ""):
            object.__setattr__(self, "inbatch_same_dataset", None)
        if self.label_tasks == ["none"]:
            object.__setattr__(self, "label_tasks", [])
        as_prefix("", self.prompt_format, flag="--prompt_format")
        choose("token_cache", self.token_cache, TOKEN_CACHE)
        choose("inbatch_same_dataset", self.inbatch_same_dataset, tuple(PLANS))
        choose("select_positive", self.select_positive, SELECT_POSITIVE)
        choose("select_negative", self.select_negative, SELECT_NEGATIVE)
        check_numbers(self)
        if self.random_negatives >= self.train_group_size:
            raise reject(
                "--random_negatives", self.random_negatives, f"0 to {self.train_group_size - 1}: the group's negatives"
            )


@dataclass(kw_only=True, repr=False)
class TrainArguments(RunArguments):
    """Training: these flags and all of transformers' TrainingArguments."""

    cos_temperature: float = option(
        0.01, "Temperature: divides cosine scores (not inner products or distances).", number=POSITIVE
    )
    contrastive_weight: float = option(
        0.2, "Weight of InfoNCE in datasets that also have teacher scores; 0: off.", number=NOT_NEGATIVE
    )
    distill_weight: float = option(
        1.0, "Weight of distillation in datasets that also train InfoNCE; 0: off.", number=NOT_NEGATIVE
    )
    loss: list[str] | None = option(
        None,
        f"Losses instead of the two weights; a dataset takes what fits it: {', '.join(LOSSES)}.",
    )
    false_negative_margin: str | None = option(
        None,
        "Leave keys out of InfoNCE that outscore the positive by more than this: 0.1, or 10%% of its score.",
        may_be_empty=True,
    )
    teacher_temperature: str = option(  # a number once it is parsed, or auto
        1.0,
        "Divides teacher scores; auto: chosen per dataset to reach --teacher_entropy.",
        number=real(above=0, also={AUTO: "chosen per dataset"}),
    )
    teacher_entropy: float = option(
        ENTROPY,
        "Target entropy for --teacher_temperature auto, as a share of the maximum.",
        number=real(above=0, below=1),
    )
    student_temperature: float = option(
        1.0, "Divides the student's scores in distillation, after --cos_temperature.", number=POSITIVE
    )
    stable_distill: bool = option(False, "Use LLM-Embedder's ranked distillation instead of KL divergence.")
    kd_loss_type: str = option("kl_div", f"Distillation loss: {', '.join(KD_LOSSES)}.")
    knowledge_distillation: bool | None = option(
        None, "True: require teacher scores in every record. False: ignore them. Default: use them where present."
    )
    teacher_encoder: list[str] | None = option(
        None,
        "Learn from the vectors of this model too: a hub name, a folder, or folders that `zh-embedder encode` wrote.",
    )
    teacher_loss: list[str] | None = option(
        None,
        f"Losses of the teacher's vectors, added to each dataset's: {', '.join(OF_VECTORS)}. Default: {VECTOR_LOSS}.",
    )
    teacher_weight: float = option(
        1.0, "Weight of each --teacher_loss; 0: only where a task's `loss` names one.", number=NOT_NEGATIVE
    )
    teacher_dim: int | None = option(
        None, "Cut the teacher's vectors to this size (for a Matryoshka teacher).", number=COUNT
    )
    teacher_version: str | None = option(
        None, "Instruction version of the teacher. Default: the prompts in its folder."
    )
    teacher_max_length: int | None = option(
        None,
        "Maximum tokens of a text for the teacher, including its prompt. Default: the teacher's own.",
        number=LENGTH,
    )
    negative_cross_device: bool = option(True, "Use the keys of all ranks as negatives.")

    def __post_init__(self) -> None:
        """Reject invalid values; then choose device and precision, and run the checks of transformers."""
        check_numbers(self, INHERITED)
        self.false_negative_limit()
        for name in self.loss or ():
            choose("loss", name, tuple(LOSSES))
        for name in self.teacher_loss or ():
            choose("teacher_loss", name, OF_VECTORS)
        choose("kd_loss_type", self.kd_loss_type, KD_LOSSES)
        self.check_teacher()
        super().__post_init__()

    def check_teacher(self) -> None:
        """Reject flags of a teacher that is not named."""
        if self.teacher_encoder:
            return
        for name in ("teacher_loss", "teacher_dim", "teacher_version", "teacher_max_length"):
            if getattr(self, name) is not None:
                raise UserError(f"--{name}: needs --teacher_encoder, the model whose vectors are learnt")

    def false_negative_limit(self) -> dict[str, float]:
        """Return InfoNCE's option for --false_negative_margin."""
        text = (self.false_negative_margin or "").strip()
        if text.lower() in ("", "none"):
            return {}
        value = NOT_NEGATIVE.read("--false_negative_margin", text.removesuffix("%"))
        return {"false_negative_percent" if text.endswith("%") else "false_negative_margin": float(value)}


@dataclass(frozen=True, slots=True)
class Arguments:
    """All settings of a run."""

    data: DataArguments
    model: ModelArguments
    train: TrainArguments
    eval: EvalArguments
    notes: tuple[str, ...]  # log lines about translated flags
    given: frozenset[str] = frozenset()  # names of the flags that were typed

    def to_json(self) -> str:
        """Settings as JSON, secrets left out."""
        return settings_json(self.train, self.data, self.model, self.eval)


CLASSES = (DataArguments, ModelArguments, TrainArguments, EvalArguments)
# Flags that an evaluation alone reads, of the groups that are about training.
READ = {
    *("data_root", "version", "instructions_dir", "add_instruction", "default_task"),
    *("train_data", "dtype", "cpu_threads"),
}
IDLE = {  # flags that have no effect without --train_data
    *({one.name for one in fields(DataArguments)} - READ),
    *({one.name for one in fields(TrainArguments)} - {one.name for one in fields(TrainingArguments)} - READ),
    *("learning_rate", "warmup_steps", "weight_decay", "num_train_epochs", "max_steps", "lr_scheduler_type"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_grad_norm", "optim"),
    *("save_steps", "save_strategy", "save_total_limit", "eval_steps", "eval_strategy", "resume_from_checkpoint"),
    *("matryoshka_dims", "matryoshka_weights", "lora_rank", "lora_alpha", "sub_batch_size", "fix_position_embedding"),
}


def parser(program: str = PROGRAM) -> RunParser:
    """Build the parser of run_dense.py."""
    return make_parser(
        CLASSES,
        prog=program,
        description="Train a Chinese embedder on the records of many tasks.",
        example=EXAMPLE,
    )


def parse(argv: Sequence[str] | None = None, *, program: str = PROGRAM) -> Arguments:
    """Parse a command line, other spellings included.

    Raises:
        UserError: an unknown flag (with the nearest known one), a wrong value, or a combination that cannot work.
    """
    words = sys.argv[1:] if argv is None else argv
    (data, model, train, measured), given, translated = read_flags("train", words, parser(program), evaluation_defaults)
    notes = [*translated, *train.notes]
    if data.train_data:
        idle = sorted(ALONE & given.keys())
        notes += [f"--{name} has no effect with --train_data: it is for evaluation only" for name in idle]
    elif idle := sorted(f"--{name}" for name in IDLE & given.keys()):
        notes.append(f"no effect without --train_data, as nothing is trained: {', '.join(idle)}")
    if data.train_data or not measured.eval_data:
        check_together(data, model, train)
        check_evaluation(train, measured)
    return Arguments(data, model, train, measured, tuple(dict.fromkeys(notes)), frozenset(given))


def check_together(data: DataArguments, model: ModelArguments, train: TrainArguments) -> None:
    """Reject combinations that cannot work."""
    check_folder(train)
    if not data.train_data:
        raise UserError("--train_data: is missing, expected files of JSON Lines")
    if train.deepspeed and not launched():
        raise UserError("--deepspeed: start with `torchrun --nproc_per_node=1 run_dense.py ...` or `deepspeed`")
    if train.torch_compile and train.use_cpu and model.packing:
        raise UserError(
            "--torch_compile: on a CPU, packed texts are recompiled for the lengths of every step, expected "
            "--torch_compile False, or --no_packing as well"
        )
    if data.task_temperature != 1 and data.inbatch_same_dataset is None:
        raise UserError("--task_temperature: needs --inbatch_same_dataset, because a mixed step has no single task")
    if train.teacher_temperature == AUTO and data.inbatch_same_dataset is None:
        raise UserError(
            "--teacher_temperature auto: needs --inbatch_same_dataset, because each dataset gets its own temperature"
        )
    if data.use_train_config and data.inbatch_same_dataset is None:
        raise UserError("--use_train_config: needs --inbatch_same_dataset, because a mixed step has no single task")


def check_evaluation(train: TrainArguments, measured: EvalArguments) -> None:
    """Reject evaluation without sets, and a best checkpoint without evaluation."""
    strategy = str(getattr(train.eval_strategy, "value", train.eval_strategy))
    check_measured(train, measured=measured.wanted, expected="--eval_data, --validation_share or --canary")
    if measured.wanted and not measured.metric_names:
        raise UserError("--metrics: none of them is measured in training, expected e.g. --metrics ndcg@10")
    if measured.wanted and train.fsdp:
        raise UserError(
            "--fsdp: evaluation in training cannot read sharded weights yet; use `zh-embedder evaluate` afterwards"
        )
    if train.early_stopping_patience is not None and strategy == "no":
        raise UserError("--early_stopping_patience: needs --eval_strategy steps or epoch")
