"""Model flags: base, pooling, lengths, GradCache, Matryoshka, LoRA."""

from __future__ import annotations

from dataclasses import dataclass, field

from zh_embedder.core.errors import reject
from zh_embedder.core.numbers import COUNT, LENGTH, POSITIVE, SHARE, real
from zh_embedder.core.options import check_numbers, choose, option
from zh_embedder.core.similarity import SIMILARITIES
from zh_embedder.models.load_options import LoadOptions
from zh_embedder.models.pooling import POOLINGS
from zh_embedder.text.truncation import SIDES
from zh_embedder.text.unknown import HELP, MAX_UNKNOWN


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Model."""

    query_encoder: str = option("BAAI/bge-large-zh-v1.5", "Base to train: a hub name or a local folder.")
    key_encoder: str | None = option(None, "Separate base for keys; implies --tie_encoders False.")
    tie_encoders: bool = option(True, "Use one encoder for queries and keys.")
    pooling_method: list[str] | None = option(
        None,
        f"Pooling: {', '.join(POOLINGS)}; add `dense` for a linear layer on top. Default: the base's own, else cls.",
    )
    include_prompt: bool | None = option(
        None,
        "Pool the tokens of the instruction too; False, with mean pooling: only those of the text. "
        "Default: the base's own, else True.",
    )
    dense_metric: str = option("cos", f"Similarity of vectors: {', '.join(SIMILARITIES)}.")
    query_max_length: int = option(
        256, "Maximum tokens of a query in training, including its instruction.", number=LENGTH
    )
    key_max_length: int = option(256, "Maximum tokens of a key in training, including its instruction.", number=LENGTH)
    saved_max_length: list[int] | None = option(
        None,
        "Maximum tokens of a text in use, for evaluation and in the saved folders: one number, or two, of queries and "
        "of keys. Default: the base's own, or those of training where they are larger.",
        number=LENGTH,
    )
    truncation_side: str = option(
        "right",
        "Side on which longer texts are truncated: right or left; instructions stay. A task's own setting goes first.",
    )
    config_name: str | None = option(None, "Model configuration, if it differs from the base.")
    tokenizer_name: str | None = option(None, "Tokenizer, if it differs from the base.")
    model_cache_dir: str | None = option(None, "Cache folder for downloaded bases.")
    trust_remote_code: bool = option(False, "Run code that ships with the base.")
    token: str | None = field(
        default=None, repr=False, metadata={"help": "Hub token; prefer HF_TOKEN in the environment."}
    )
    fix_position_embedding: bool = option(False, "Freeze the position embeddings.")
    packing: bool = option(
        True, "Skip padding tokens where the base and the device allow it; this turns attention dropout off."
    )
    pad_to_multiple_of: int | None = option(
        None, "Pad to a multiple of this length where texts are not packed.", number=COUNT
    )
    sub_batch_size: int | None = option(
        None,
        "GradCache: encode this many texts at a time, in two passes; memory no longer grows with the batch size.",
        number=COUNT,
    )
    matryoshka_dims: list[int] | None = option(
        None, "Embedding sizes to train for (Matryoshka), e.g. 1024 512 256 64.", number=COUNT
    )
    matryoshka_weights: list[float] | None = option(
        None, "Loss weight of each of --matryoshka_dims. Default: equal.", number=POSITIVE
    )

    max_unknown: float = option(MAX_UNKNOWN, f"{HELP} 1: never.", number=SHARE)
    lora_rank: int | None = option(None, "Train LoRA adapters of this rank; they are merged when saved.", number=COUNT)
    lora_alpha: float = option(
        16.0, "LoRA scaling: adapters are multiplied by lora_alpha / lora_rank.", number=POSITIVE
    )
    lora_dropout: float = option(0.1, "Dropout on the input of LoRA adapters.", number=real(0, below=1))
    target_modules: list[str] | None = option(
        None, "Names of the layers that get LoRA adapters. Default: all linear layers."
    )

    def __post_init__(self) -> None:
        """Reject invalid values."""
        check_numbers(self)
        choose("dense_metric", self.dense_metric, tuple(SIMILARITIES))
        choose("truncation_side", self.truncation_side, SIDES)
        if self.saved_max_length is not None and len(self.saved_max_length) not in (1, 2):
            raise reject("--saved_max_length", " ".join(map(str, self.saved_max_length)), "one number or two")
        for method in self.pooling_method or ():
            choose("pooling_method", method, (*POOLINGS, "dense"))
        if len([m for m in self.pooling_method or () if m != "dense"]) > 1:
            raise reject("--pooling_method", " ".join(self.pooling_method or ()), "one method, optionally with `dense`")
        self.check_matryoshka()
        if not self.query_encoder:
            raise reject("--query_encoder", self.query_encoder, "a hub name or a folder")

    def check_matryoshka(self) -> None:
        """Reject dimensions and weights that do not match."""
        dims, weights = self.matryoshka_dims or [], self.matryoshka_weights or []
        if len(set(dims)) < len(dims):
            raise reject("--matryoshka_dims", dims, "numbers that differ")
        if weights and len(weights) != len(dims):
            raise reject("--matryoshka_weights", weights, f"a number for each of {len(dims)} --matryoshka_dims")

    @property
    def dimensions(self) -> dict[int, float] | None:
        """Embedding sizes that the loss is computed at, with their weights; None: the full size only."""
        dims = self.matryoshka_dims
        return dict(zip(dims, self.matryoshka_weights or [1.0] * len(dims), strict=True)) if dims else None

    @property
    def tied(self) -> bool:
        """Whether one encoder serves both sides."""
        return self.tie_encoders and self.key_encoder in (None, self.query_encoder)

    @property
    def saved_lengths(self) -> tuple[int, int] | None:
        """Tokens of a query and of a key in use; None: as the base has them."""
        asked = self.saved_max_length
        return (asked[0], asked[-1]) if asked else None

    def load_options(self) -> LoadOptions:
        """How the encoders are loaded."""
        methods = self.pooling_method or []
        return LoadOptions(
            pooling=next((method for method in methods if method != "dense"), None),
            include_prompt=self.include_prompt,
            dense=("dense" in methods) if methods else None,
            cache_dir=self.model_cache_dir,
            token=self.token,
            trust_remote_code=self.trust_remote_code,
            config_name=self.config_name,
            tokenizer_name=self.tokenizer_name,
            truncation_side=self.truncation_side,
            pad_to_multiple_of=self.pad_to_multiple_of,
            sub_batch_size=self.sub_batch_size,
            packing=self.packing,
        )
