"""Pretraining flags: corpus, base, objective; the rest are those of every run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zh_embedder.config.run import RunArguments, check_folder, check_measured, make_parser, read_flags, settings_json
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.numbers import COUNT, POSITIVE, real, whole
from zh_embedder.core.options import check_numbers, choose, option
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.pretraining.model import OBJECTIVES

if TYPE_CHECKING:
    from zh_embedder.config.run import RunParser

WINDOW = whole(8)  # tokens
MASKED = real(above=0, below=1)
VALIDATION_SHARE = real(0, below=1)
TEXT_DOCUMENTS = ("lines", "paragraphs")
PROGRAM = "python -m zh_embedder.pretrain"
EXAMPLE = """example:
  continue pretraining a base on your own texts, before fine-tuning:
    python -m zh_embedder.pretrain --query_encoder BAAI/bge-large-zh-v1.5 --corpus docs.jsonl --output_dir domain
    python run_dense.py --query_encoder domain --train_data train.jsonl --output_dir run
  from scratch:
    torchrun --nproc_per_node=2 -m zh_embedder.pretrain --from_scratch --hidden_size 256 --num_layers 4 \\
      --corpus 'corpus/*.jsonl.zst' --learning_rate 5e-4 --max_steps 2000 --output_dir base
"""


@dataclass(frozen=True, kw_only=True)
class CorpusArguments:
    """Corpus and masking."""

    corpus: list[str] | None = option(
        None,
        "Text to learn from: JSON Lines with a text (and title) or .txt files (.gz and .zst too), folders or globs.",
    )
    data_root: str | None = option(None, "Folder that `llm-embedder:` refers to in a path.")
    field: str | None = option(None, "Name of the text field. Default: text, query or contents, whichever exists.")
    use_title: bool = option(True, "Prepend a line's `title` to its text.")
    text_documents: str = option(
        "lines", "What a document is in .txt files: each of the lines, or paragraphs between blank lines."
    )
    corpus_share: float = option(
        1.0, "Read only this share of the documents, for trial runs.", number=real(above=0, high=1)
    )
    dataset_cache_dir: str | None = option(None, "Cache folder for prepared data. Default: ~/.cache/zh_embedder.")
    objective: str = option("mlm", "; ".join(f"{name}: {text}" for name, text in OBJECTIVES.items()) + ".")
    max_seq_length: int | None = option(
        None,
        "Tokens per window, including special tokens. Default: 512, or the base's maximum if lower.",
        number=WINDOW,
    )
    mlm_probability: float = option(0.15, "Share of tokens to predict.", number=MASKED)
    whole_word_mask: bool = option(True, "Mask whole words, as segmented by jieba.")
    user_dict: str | None = option(None, "File of extra words for jieba: word, and optionally frequency and tag.")
    decoder_mlm_probability: float = option(0.5, "Share of tokens to mask for RetroMAE's decoder.", number=MASKED)
    tokens_per_device: int = option(8192, "Tokens per step on each device.", number=COUNT)
    validation_share: float = option(
        0.005, "Share of the documents to hold out for evaluation; 0: no evaluation.", number=VALIDATION_SHARE
    )
    validation_tokens: int = option(200_000, "Maximum number of tokens to evaluate on.", number=COUNT)

    def __post_init__(self) -> None:
        """Reject invalid values."""
        choose("objective", self.objective, tuple(OBJECTIVES))
        choose("text_documents", self.text_documents, TEXT_DOCUMENTS)
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class BaseArguments:
    """Base."""

    query_encoder: str | None = option(
        None,
        "Base to continue from: a hub name or a folder. With --from_scratch: source of configuration and tokenizer.",
    )
    from_scratch: bool = option(False, "Start from random weights.")
    hidden_size: int = option(256, "From scratch: hidden size.", number=COUNT)
    num_layers: int = option(4, "From scratch: number of layers.", number=COUNT)
    num_heads: int = option(4, "From scratch: number of attention heads.", number=COUNT)
    intermediate_size: int | None = option(
        None, "From scratch: width of feed-forward layers. Default: 4 * hidden_size.", number=COUNT
    )
    max_positions: int = option(512, "From scratch: maximum tokens of a text.", number=WINDOW)
    dropout: float = option(0.1, "From scratch: hidden dropout.", number=real(0, below=1))
    tokenizer_name: str | None = option(
        None, "Tokenizer: a folder or hub name. Default: the base's; from scratch, single characters."
    )
    pooling_method: str | None = option(
        None, f"Pooling to record in the result: {', '.join(POOLINGS)}. Default: the base's own; from scratch, mean."
    )
    model_cache_dir: str | None = option(None, "Cache folder for downloaded bases.")
    trust_remote_code: bool = option(False, "Run code that ships with the base.")
    token: str | None = field(
        default=None, repr=False, metadata={"help": "Hub token; prefer HF_TOKEN in the environment."}
    )
    packing: bool = option(
        True, "Skip padding tokens where the base and the device allow it; this turns attention dropout off."
    )

    def __post_init__(self) -> None:
        """Reject invalid values."""
        choose("pooling_method", self.pooling_method, tuple(POOLINGS))
        check_numbers(self)
        if self.hidden_size % self.num_heads:
            raise reject("--num_heads", self.num_heads, f"a divisor of --hidden_size {self.hidden_size}")

    def hub(self) -> dict[str, Any]:
        """Options for loading from a hub."""
        return {"cache_dir": self.model_cache_dir, "token": self.token, "trust_remote_code": self.trust_remote_code}


SIZES = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions", "dropout")


@dataclass(kw_only=True, repr=False)
class PretrainRunArguments(RunArguments):
    """Training: these flags and all of transformers' TrainingArguments."""

    per_device_train_batch_size: int = option(
        16, "Windows per step on each device; if given, replaces --tokens_per_device.", number=COUNT
    )
    learning_rate: float = option(
        1e-4, "Peak learning rate; 5e-4 to 1e-3 for small models from scratch.", number=POSITIVE
    )
    num_train_epochs: float = option(1.0, "Passes over the corpus, unless --max_steps is given.", number=POSITIVE)

    def __post_init__(self) -> None:
        """Reject engines that shard the word embeddings; then run the checks of every run."""
        for name in ("deepspeed", "fsdp", "torch_compile"):
            if getattr(self, name):
                raise UserError(f"--{name}: is not supported in pretraining; use torchrun")
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class PretrainArguments:
    """All settings of a run."""

    corpus: CorpusArguments
    base: BaseArguments
    train: PretrainRunArguments
    notes: tuple[str, ...]  # log lines about translated flags

    def to_json(self) -> str:
        """Settings as JSON, secrets left out."""
        return settings_json(self.train, self.corpus, self.base)


CLASSES = (CorpusArguments, BaseArguments, PretrainRunArguments)


def parser(program: str = PROGRAM) -> RunParser:
    """Build the parser of the command."""
    return make_parser(
        CLASSES,
        prog=program,
        description="Pretrain a Chinese encoder on plain text: masked words, or RetroMAE.",
        example=EXAMPLE,
    )


def evaluation_defaults(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return transformers flags that evaluation needs and that were not given: at step 0, ten times, and at the end."""
    if VALIDATION_SHARE.read("--validation_share", given.get("validation_share") or "0.5") == 0:
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


def parse(argv: Sequence[str] | None = None, *, program: str = PROGRAM) -> PretrainArguments:
    """Parse a command line.

    Raises:
        UserError: an unknown flag (with the nearest known one), a wrong value, or a combination that cannot work.
    """
    words = sys.argv[1:] if argv is None else argv
    (corpus, base, train), given, notes = read_flags("pretrain", words, parser(program), evaluation_defaults)
    check_together(corpus, base, train, given)
    if "per_device_train_batch_size" in given:
        windows, length = train.per_device_train_batch_size, corpus.max_seq_length or 512
        if "tokens_per_device" in given:
            notes.append("--per_device_train_batch_size is overridden by --tokens_per_device")
        else:
            corpus = replace(corpus, tokens_per_device=windows * length)
            notes.append(f"--per_device_train_batch_size {windows} is --tokens_per_device {windows * length}")
    return PretrainArguments(corpus, base, train, tuple(dict.fromkeys([*notes, *train.notes])))


def check_together(
    corpus: CorpusArguments, base: BaseArguments, train: PretrainRunArguments, given: Mapping[str, str | None]
) -> None:
    """Reject combinations that cannot work."""
    check_folder(train)
    if not corpus.corpus:
        raise UserError("--corpus: is missing, expected files of documents")
    if base.query_encoder is None and not base.from_scratch:
        raise UserError("--query_encoder: is missing, expected a base to continue from, or --from_scratch")
    sizes = [name for name in SIZES if name in given]
    if sizes and (base.query_encoder is not None or not base.from_scratch):
        whose = "--from_scratch" if not base.from_scratch else "no --query_encoder, because its configuration is used"
        raise UserError(f"--{sizes[0]}: only applies from scratch, expected {whose}")
    if base.tokenizer_name and not base.from_scratch:
        raise UserError("--tokenizer_name: a base keeps its own tokenizer, expected --from_scratch as well")
    check_measured(train, measured=bool(corpus.validation_share), expected="--validation_share above 0")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") or os.environ.get("ACCELERATE_USE_FSDP"):
        raise UserError("accelerate's DeepSpeed and FSDP are not supported in pretraining; start with torchrun")
