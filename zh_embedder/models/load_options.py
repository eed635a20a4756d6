"""Load options of a base: what the caller sets instead of what the folder holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """Options of `load_encoder`; None leaves a thing as the folder has it."""

    pooling: str | None = None
    include_prompt: bool | None = None  # pool the tokens of instructions too
    dense: bool | None = None  # True adds a linear layer, False leaves out the folder's
    cache_dir: str | None = None  # of downloaded models
    token: str | None = field(default=None, repr=False)  # of the hub
    trust_remote_code: bool = False  # run code that comes with the model
    config_name: str | None = None  # configuration, if not the model's own
    tokenizer_name: str | None = None  # tokenizer, if not the model's own
    truncation_side: str | None = None  # where longer texts are cut
    pad_to_multiple_of: int | None = None  # length of padded rows
    sub_batch_size: int | None = None  # texts of one forward
    packing: bool = True  # compute no padding, where the model allows it

    def hub(self) -> dict[str, Any]:
        """What transformers' loaders take."""
        return {"cache_dir": self.cache_dir, "token": self.token, "trust_remote_code": self.trust_remote_code}

    def for_inference(self) -> LoadOptions:
        """The options without those of training: configuration, tokenizer and truncation are the folder's own."""
        return replace(
            self,
            config_name=None,
            tokenizer_name=None,
            truncation_side=None,
            pad_to_multiple_of=None,
            sub_batch_size=None,
        )
