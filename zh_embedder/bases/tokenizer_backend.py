"""Tokenizer backends: the Rust half of a tokenizer, read alone or changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OF_CLASS = (  # arguments of a tokenizer's own class
    *("tokenizer_file", "tokenizer_object", "vocab_file", "merges_file", "vocab", "merges", "backend", "name_or_path"),
    *("do_lower_case", "strip_accents", "tokenize_chinese_chars", "tokenizer_class"),
)


def lower_cased(tokenizer: Any) -> Any:
    """Return a tokenizer that reads texts in lower case, as sentence-transformers' `do_lower_case` does.

    The lower case becomes a part of the tokenizer itself: whoever loads what is saved, by whatever library, has it.
    """
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    if '"lowercase":true' in (rules := "" if backend.normalizer is None else normalizer_json(backend)) or (
        '"type":"Lowercase"' in rules
    ):
        return tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *([] if backend.normalizer is None else [backend.normalizer])]
    )
    return with_backend(tokenizer, backend)


def with_backend(tokenizer: Any, backend: Any) -> Any:
    """Return a tokenizer of this backend, with the special tokens and settings of another."""
    from transformers import PreTrainedTokenizerFast

    # A class of its own, such as BertTokenizer, would make its own rules anew when it is loaded.
    kept = {name: value for name, value in tokenizer.init_kwargs.items() if name not in OF_CLASS}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **{**kept, **tokenizer.special_tokens_map})
    made.truncation_side, made.padding_side = tokenizer.truncation_side, tokenizer.padding_side
    made.model_input_names = tokenizer.model_input_names
    return made


def normalizer_json(backend: Any) -> str:
    """Return the normaliser of a tokenizer as JSON without blanks."""
    return json.dumps(json.loads(backend.to_str())["normalizer"], separators=(",", ":"))


def parse(path: Path) -> Any:
    """Read tokenizer.json alone, which says where it is wrong."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def of_content(content: Mapping[str, Any]) -> Any:
    """Make the backend of the content of a tokenizer.json."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(content))
