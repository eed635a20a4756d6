"""Pretraining flags: corpus, base, objective; the others are those of every run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zh_embedder.config.run import RunArguments, check_measured, make_parser, read_flags, settings_json
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.options import above_zero, as_number, at_least, choose, option
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.pretraining.model import OBJECTIVES

if TYPE_CHECKING:
    from transformers import HfArgumentParser

TEXT_DOCUMENTS = ("lines", "paragraphs")
EXAMPLE = """example:
  go on from a base with your own texts, before fine-tuning:
    python -m zh_embedder.pretrain --query_encoder BAAI/bge-large-zh-v1.5 --corpus docs.jsonl --output_dir domain
    python run_dense.py --query_encoder domain --train_data train.jsonl --output_dir run
  from scratch:
    torchrun --nproc_per_node=2 -m zh_embedder.pretrain --from_scratch --hidden_size 256 --num_layers 4 \\
      --corpus 'corpus/*.jsonl.zst' --learning_rate 5e-4 --max_steps 2000 --output_dir base
"""
# The same meaning in transformers' run_mlm.py and FlagEmbedding's RetroMAE.
RENAMED: Mapping[str, str] = {
    "train_file": "corpus",
    "train_data": "corpus",
    "encoder_mlm_probability": "mlm_probability",
    "wwm_probability": "mlm_probability",
    "config": "query_encoder",
    "encoder_max_length": "max_seq_length",
    "pretrain_method": "objective",
}


@dataclass(frozen=True, kw_only=True)
class CorpusArguments:
    """What is read, and what is hidden of it."""

    corpus: list[str] | None = option(
        None, "Files, folders or globs: JSON Lines with a text and maybe a title, or .txt; plain, .gz or .zst."
    )
    data_root: str | None = option(None, "Folder that 'llm-embedder:' in front of a path points to.")
    field: str | None = option(None, "Field of the text. Default: text, query or contents, whichever is there.")
    use_title: bool = option(True, "Put a line's `title` in front of its text.")
    text_documents: str = option(
        "lines", "In .txt files: each of the lines is a document, or the paragraphs between blank lines are."
    )
    corpus_share: float = option(1.0, "Read this share of the documents, for trials.")
    dataset_cache_dir: str | None = option(None, "Where prepared corpora are kept. Default: ~/.cache/zh_embedder.")
    objective: str = option("mlm", "; ".join(f"{name}: {text}" for name, text in OBJECTIVES.items()) + ".")
    max_seq_length: int | None = option(
        None, "Tokens of a window, special ones included. Default: 512, or the positions of the base if fewer."
    )
    mlm_probability: float = option(0.15, "Share of the tokens that are predicted.")
    whole_word_mask: bool = option(True, "Hide whole words, as jieba cuts them.")
    word_dictionary: str | None = option(None, "File of words beside jieba's own: word, maybe frequency and tag.")
    decoder_mlm_probability: float = option(0.5, "Share of the text that is hidden from RetroMAE's decoder.")
    tokens_per_device: int = option(8192, "Tokens of a step on each device.")
    validation_share: float = option(0.005, "Share of the documents held out, to be measured on; 0 measures nothing.")
    validation_tokens: int = option(200_000, "At most so many tokens are measured.")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        choose("objective", self.objective, tuple(OBJECTIVES))
        choose("text_documents", self.text_documents, TEXT_DOCUMENTS)
        for name in ("mlm_probability", "decoder_mlm_probability"):
            if not 0 < getattr(self, name) < 1:
                raise reject(f"--{name}", getattr(self, name), "a share between 0 and 1")
        if not 0 < self.corpus_share <= 1:
            raise reject("--corpus_share", self.corpus_share, "a share above 0, at most 1")
        if not 0 <= self.validation_share < 1:
            raise reject("--validation_share", self.validation_share, "a share in [0, 1)")
        at_least("max_seq_length", self.max_seq_length, 8)
        for name in ("tokens_per_device", "validation_tokens"):
            at_least(name, getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class BaseArguments:
    """What learns."""

    query_encoder: str | None = option(
        None, "Base to go on from: a hub name or a folder. With --from_scratch: whose configuration and tokenizer."
    )
    from_scratch: bool = option(False, "Start from random weights.")
    hidden_size: int = option(256, "From scratch: hidden size.")
    num_layers: int = option(4, "From scratch: layers.")
    num_heads: int = option(4, "From scratch: attention heads.")
    intermediate_size: int | None = option(None, "From scratch: width of feed-forward layers. Default: four times.")
    max_positions: int = option(512, "From scratch: positions.")
    dropout: float = option(0.1, "From scratch: hidden dropout.")
    tokenizer_name: str | None = option(
        None, "Folder or hub name of the tokenizer. Default: the base's; from scratch, one of single characters."
    )
    pooling_method: str | None = option(
        None, f"{', '.join(POOLINGS)}: what the result says. Default: the base's own; from scratch, mean."
    )
    model_cache_dir: str | None = option(None, "Cache of downloaded bases.")
    trust_remote_code: bool = option(False, "Run code that comes with the base.")
    token: str | None = field(
        default=None, repr=False, metadata={"help": "Hub token; better set HF_TOKEN in the environment."}
    )
    packing: bool = option(
        True, "Compute no padding, where the base and the device allow it; attention dropout is then off."
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        choose("pooling_method", self.pooling_method, tuple(POOLINGS))
        for name in ("hidden_size", "num_layers", "num_heads", "intermediate_size"):
            at_least(name, getattr(self, name), 1)
        at_least("max_positions", self.max_positions, 8)
        if not 0 <= self.dropout < 1:
            raise reject("--dropout", self.dropout, "a probability in [0, 1)")
        if self.hidden_size % self.num_heads:
            raise reject("--num_heads", self.num_heads, f"a divisor of --hidden_size {self.hidden_size}")

    def hub(self) -> dict[str, Any]:
        """How hub names are loaded."""
        return {"cache_dir": self.model_cache_dir, "token": self.token, "trust_remote_code": self.trust_remote_code}


SIZES = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions", "dropout")


@dataclass(kw_only=True, repr=False)
class PretrainRunArguments(RunArguments):
    """How it learns: every flag of transformers' TrainingArguments, and these."""

    per_device_train_batch_size: int = option(16, "Windows of a step on each device; given, in place of its tokens.")
    learning_rate: float = option(1e-4, "Peak learning rate; 5e-4 to 1e-3 for small models from scratch.")
    num_train_epochs: float = option(1.0, "Passes through the corpus, if --max_steps says nothing.")

    def __post_init__(self) -> None:
        """Refuse engines that take the word embeddings apart; then what every run checks."""
        above_zero("num_train_epochs", self.num_train_epochs)
        at_least("per_device_train_batch_size", self.per_device_train_batch_size, 1)
        for name in ("deepspeed", "fsdp", "torch_compile"):
            if getattr(self, name):
                raise UserError(f"--{name}: is not built for pretraining; plain ranks under torchrun are")
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class PretrainArguments:
    """Everything that a run was asked for."""

    corpus: CorpusArguments
    base: BaseArguments
    train: PretrainRunArguments
    notes: tuple[str, ...]  # what was made of other spellings, each said once

    def to_json(self) -> str:
        """Settings as JSON, secrets left out."""
        return settings_json(self.train, self.corpus, self.base)


CLASSES = (CorpusArguments, BaseArguments, PretrainRunArguments)


def parser() -> HfArgumentParser:
    """Build the parser of the command."""
    return make_parser(
        CLASSES,
        prog="python -m zh_embedder.pretrain",
        description="Pretrain a Chinese encoder on plain text: masked words, or RetroMAE.",
        example=EXAMPLE,
    )


def renamed(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Put our names in the place of other programs' for the same; returns the command line and what was done."""
    words, notes = list[str](), list[str]()
    for word in argv:
        name, equals, value = word.removeprefix("--").partition("=")
        ours = RENAMED.get(name.replace("-", "_")) if word.startswith("--") else None
        words.append(word if ours is None else f"--{ours}{equals}{value}")
        if ours is not None:
            notes.append(f"--{name} is --{ours}")
    return words, notes


def evaluation_defaults(given: Mapping[str, str | None]) -> dict[str, str]:
    """Flags of transformers that measuring needs and the user did not give: at step 0, ten times, and at the end."""
    if as_number("validation_share", given.get("validation_share") or "1") == 0:
        return {}
    defaults = {
        "eval_strategy": "steps",
        "eval_on_start": "True",
        "eval_steps": given.get("save_steps") or "0.1",
        "metric_for_best_model": "loss",
        "greater_is_better": "False",
    }
    if given.get("eval_strategy", "steps") != "steps":
        del defaults["eval_steps"]
    return {name: value for name, value in defaults.items() if name not in given}


def parse(argv: Sequence[str] | None = None) -> PretrainArguments:
    """Parse a command line.

    Raises:
        UserError: an unknown flag (with the nearest known one), a wrong value, or a combination that cannot work.
    """
    words, notes = renamed(sys.argv[1:] if argv is None else argv)
    (corpus, base, train), given, translated = read_flags(words, parser(), CLASSES, evaluation_defaults)
    check_together(corpus, base, train, given)
    if "per_device_train_batch_size" in given:
        windows, length = train.per_device_train_batch_size, corpus.max_seq_length or 512
        if "tokens_per_device" in given:
            notes.append("--per_device_train_batch_size gives way to --tokens_per_device")
        else:
            corpus = replace(corpus, tokens_per_device=windows * length)
            notes.append(f"--per_device_train_batch_size {windows} is --tokens_per_device {windows * length}")
    every = (*notes, *translated, *train.notes)
    return PretrainArguments(corpus, base, train, tuple(dict.fromkeys(every)))


def check_together(
    corpus: CorpusArguments, base: BaseArguments, train: PretrainRunArguments, given: Mapping[str, str | None]
) -> None:
    """Refuse combinations that cannot work."""
    if train.output_dir in (None, "trainer_output"):
        raise UserError("--output_dir: is missing, expected the folder of the run")
    if not corpus.corpus:
        raise UserError("--corpus: is missing, expected files of documents")
    if base.query_encoder is None and not base.from_scratch:
        raise UserError("--query_encoder: is missing, expected a base to go on from, or --from_scratch")
    sizes = [name for name in SIZES if name in given]
    if sizes and (base.query_encoder is not None or not base.from_scratch):
        whose = "--from_scratch alone" if not base.from_scratch else "no --query_encoder, whose configuration is taken"
        raise UserError(f"--{sizes[0]}: is a size of models from scratch, expected {whose}")
    if base.tokenizer_name and not base.from_scratch:
        raise UserError("--tokenizer_name: a base goes on with its own words, expected --from_scratch beside it")
    check_measured(train, measured=bool(corpus.validation_share), expected="--validation_share above 0")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") or os.environ.get("ACCELERATE_USE_FSDP"):
        raise UserError("accelerate's DeepSpeed and FSDP are not built for pretraining; start with torchrun")
