"""Token ids of texts, end to end; rows are padded only where a model wants them.

Shapes: N texts, T tokens of all texts together, L tokens of the longest.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zh_embedder.core.errors import reject
from zh_embedder.core.files import read_json, write_json
from zh_embedder.core.hashing import hash_of, sha256_of

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids of N texts, end to end. `sizes` stays on the host, so that no step waits for the device."""

    ids: Tensor  # (T,)
    sizes: tuple[int, ...]  # N lengths, their sum is T
    bounds: Tensor  # (N + 1,) int32: text i lies between bounds[i] and bounds[i + 1]
    positions: Tensor  # (T,) place of each token in its text
    prompts: Tensor | None = None  # (N,) int32: tokens in front of each text that pooling leaves out; None: nowhere any

    @classmethod
    def of(cls, ids: Tensor, sizes: Sequence[int], *, prompts: Tensor | None = None) -> TokenBatch:
        """Add what follows from the lengths; built on the host and moved with the ids."""
        bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        positions = np.arange(bounds[-1], dtype=np.int64) - np.repeat(bounds[:-1], sizes)
        return cls(ids, tuple(sizes), torch.from_numpy(bounds), torch.from_numpy(positions), prompts).to(ids.device)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.sizes)

    def _map(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        prompts = None if self.prompts is None else change(self.prompts)
        return TokenBatch(change(self.ids), self.sizes, change(self.bounds), change(self.positions), prompts)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> TokenBatch:
        """Move to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TokenBatch:
        """Pin, for a copy that does not block."""
        return self._map(Tensor.pin_memory)

    def piece(self, first: int, last: int) -> TokenBatch:
        """Texts `first` to `last`, that one left out."""
        start = sum(self.sizes[:first])
        sizes = self.sizes[first:last]
        rows = slice(start, start + sum(sizes))
        prompts = None if self.prompts is None else self.prompts[first:last]
        return TokenBatch(self.ids[rows], sizes, self.bounds[first : last + 1] - start, self.positions[rows], prompts)

    def chunks(self, count: int | None) -> Iterator[TokenBatch]:
        """Split into batches of at most `count` texts; None is one batch."""
        step = count or len(self)
        for first in range(0, len(self), step):
            yield self.piece(first, min(first + step, len(self)))

    def join(self, other: TokenBatch) -> TokenBatch:
        """Lay the texts of another batch behind these."""
        bounds = torch.cat([self.bounds, other.bounds[1:] + sum(self.sizes)])
        ids, positions = (torch.cat([getattr(b, name) for b in (self, other)]) for name in ("ids", "positions"))
        parts = [b.bounds.new_zeros(len(b)) if b.prompts is None else b.prompts for b in (self, other)]
        prompts = None if self.prompts is None and other.prompts is None else torch.cat(parts)
        return TokenBatch(ids, self.sizes + other.sizes, bounds, positions, prompts)

    def by_length(self) -> tuple[TokenBatch, Tensor]:
        """Texts of one length side by side, the longest first, and where each text went, (N,)."""
        order = sorted(range(len(self)), key=lambda i: -self.sizes[i])
        texts = self.ids.split(list(self.sizes))
        place = torch.empty(len(self), dtype=torch.int64)
        place[order] = torch.arange(len(self))
        prompts = None if self.prompts is None else self.prompts[order]
        ids, sizes = torch.cat([texts[i] for i in order]), [self.sizes[i] for i in order]
        return TokenBatch.of(ids, sizes, prompts=prompts), place

    def padded(self, pad_id: int, *, multiple: int | None = None) -> tuple[Tensor, Tensor]:
        """Lay the texts out in rows, padding on the right: ids (N, L) and mask (N, L), 1 on real tokens."""
        longest = max(self.sizes)
        if multiple:
            longest = -(-longest // multiple) * multiple
        lengths = self.bounds.diff().unsqueeze(1)  # (N, 1)
        positions = torch.arange(longest, device=self.ids.device)
        mask = positions < lengths
        rows = torch.full((len(self), longest), pad_id, dtype=self.ids.dtype, device=self.ids.device)
        return rows.masked_scatter(mask, self.ids), mask.long()

    def unpadded(self, rows: Tensor) -> Tensor:
        """Take the real tokens out of padded rows, (N, L, ...) -> (T, ...), without asking the device for a count."""
        owners = torch.repeat_interleave(self.bounds.diff().long(), output_size=len(self.ids))  # (T,)
        return rows[owners, self.positions]


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Token ids of a key, its instruction in front; equal to another one exactly where their texts are."""

    text: int  # identity of the text
    ids: Ids = field(compare=False)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One training record as token ids, instructions in front: all that selection and a batch need of it."""

    query: Ids
    pos: Sequence[TokenKey]
    neg: Sequence[TokenKey]
    teacher_scores: Sequence[float] | None  # pos then neg
    score: float | None = None  # of a pair
    label: int | None = None  # identity of the label of a labelled text
    prompt: int = 0  # tokens of the query's instruction


def concatenate(texts: Sequence[Sequence[int] | Ids], *, prompts: Sequence[int] | None = None) -> TokenBatch:
    """Lay token ids of several texts end to end.

    Args:
        texts: their ids.
        prompts: tokens in front of each text that pooling leaves out; None where it takes all.
    """
    flat = np.concatenate([np.empty(0, np.int64), *(np.asarray(ids, dtype=np.int64) for ids in texts)])
    left_out = None if prompts is None else torch.tensor(prompts, dtype=torch.int32)
    return TokenBatch.of(torch.from_numpy(flat), [len(ids) for ids in texts], prompts=left_out)


def save_tokenizer(tokenizer: Any, folder: Path, *, max_length: int | None = None) -> None:
    """Write the tokenizer, with the two files that transformers 5 leaves out and older readers want.

    Args:
        tokenizer: any of transformers'.
        folder: target.
        max_length: tokens of a text that readers of the folder allow; by default the tokenizer's own.
    """
    # Set on a tokenizer, the sides are not saved; a model that was trained on the ends of texts must be used on them.
    tokenizer.init_kwargs |= {"truncation_side": tokenizer.truncation_side, "padding_side": tokenizer.padding_side}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()  # or the last call's maximum would be saved, and cut other readers' texts
    tokenizer.save_pretrained(folder)
    special = {
        n: t if isinstance(t, str) else t.content
        for n, t in tokenizer.special_tokens_map.items()
        if isinstance(t, str) or hasattr(t, "content")
    }
    write_json(folder / "special_tokens_map.json", special)
    settings = read_json(folder / "tokenizer_config.json")
    if max_length is not None and settings.get("model_max_length") != max_length:
        settings["model_max_length"] = max_length
        write_json(folder / "tokenizer_config.json", settings)
    if settings.get("tokenizer_class") == "TokenizersBackend":  # the same class, by the name that transformers 4 knows
        write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    if "WordPiece" in str(getattr(backend, "model", "")):
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), "utf-8")


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of each text, special tokens included, at most `max_length` of them.

    Args:
        tokenizer: any of transformers'.
        texts: what to cut.
        max_length: tokens of a text.

    Raises:
        UserError: a text holds half a character, a lone surrogate, which no tokenizer can read.
    """
    try:
        return token_ids(tokenizer, texts, max_length)
    except (TypeError, ValueError):
        check_texts(texts)
        raise


def check_texts(texts: Sequence[str], *, first: int = 0, name: str = "texts") -> None:
    """Refuse texts that hold half a character, as a cut in the middle of an emoji leaves it."""
    for place, text in enumerate(texts, first):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = f"{name}[{place}]: character {error.start}"
            raise reject(where, text[error.start], "whole characters: this one is half of a surrogate pair") from None


def prompts_of(prompt: str | Sequence[str], count: int) -> list[str]:
    """Return the prompt of each of some texts.

    Raises:
        UserError: there are fewer or more than texts, or one holds half a character.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    check_texts(prompts, name="prompt")
    if not isinstance(prompt, str) and len(prompts) != count:
        raise reject("prompt", f"{len(prompts)} prompts", f"one, or {count}: one for each text")
    return prompts * count if isinstance(prompt, str) else prompts


def token_ids(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of texts that are whole."""
    if not is_plain(tokenizer):
        encoded = tokenizer(
            list(texts),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [ids or empty_text(tokenizer) for ids in encoded["input_ids"]]
    # What the call above does, without the offsets and masks that are not read: a quarter more texts a second.
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return [encoding.ids or empty_text(tokenizer) for encoding in backend.encode_batch_fast(list(texts))]


def prompt_tokens(tokenizer: Any, prompt: str, max_length: int) -> int:
    """Count the tokens in front of a text that are its prompt's, as sentence-transformers does.

    They are those of the prompt alone, less a special token at its end. So the number is the same for every text behind
    a prompt, also where a tokenizer merges the prompt's end with the text's start, or cuts the prompt off.

    Args:
        tokenizer: any of transformers'.
        prompt: what stands in front of the texts.
        max_length: tokens of a text, prompt included.
    """
    if not prompt:
        return 0
    (ids,) = tokenize(tokenizer, [prompt], max_length)
    return len(ids) - (ids[-1] in tokenizer.all_special_ids)


def cut_share(tokenizer: Any, texts: Sequence[str], limit: int) -> float:
    """Share of texts that have more tokens than `limit`."""
    lengths = [len(ids) for ids in tokenize(tokenizer, texts, limit + 1)]
    return sum(length > limit for length in lengths) / max(1, len(lengths))


def unknown_characters(tokenizer: Any, texts: Iterable[str]) -> tuple[Counter[str], int]:
    """Count the characters that a tokenizer has no piece for, and all of them; blanks, controls and accents left out.

    Characters, not pieces: some tokenizers make one unknown piece of a whole sentence, others leave it out unsaid.
    """
    unknown: Counter[str] = Counter()
    total = 0
    for text in texts:
        missing = [unicodedata.category(character)[0] not in "CMZ" for character in text]
        total += sum(missing)
        for first, last in known_spans(tokenizer, text):
            missing[first:last] = [False] * (last - first)
        unknown.update(character for character, lacks in zip(text, missing, strict=True) if lacks)
    return unknown, total


def known_spans(tokenizer: Any, text: str) -> Iterator[tuple[int, int]]:
    """Yield where the known pieces of a text begin and end."""
    unknown = tokenizer.unk_token_id
    if not tokenizer.is_fast:  # Python code alone has no places: the share is right, the characters are not named
        ids = tokenizer.encode(text, add_special_tokens=False)
        yield 0, round(len(text) * sum(index != unknown for index in ids) / max(1, len(ids)))
        return
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for index, (first, last) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        if index != unknown:
            yield first, last


def unknown_share(tokenizer: Any, texts: Iterable[str]) -> float:
    """Share of the characters of texts that a tokenizer has no piece for."""
    unknown, total = unknown_characters(tokenizer, texts)
    return unknown.total() / max(1, total)


def empty_text(tokenizer: Any) -> list[int]:
    """Token ids of an empty text where the tokenizer makes nothing of it: a text without tokens has no vector."""
    known = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, 0)
    return [next(index for index in known if index is not None)]


def fingerprint(tokenizer: Any) -> str | None:
    """Hash of everything that decides which ids a text gets but its maximum length; None where Python code decides."""
    if not is_plain(tokenizer):
        return None
    settings = [type(tokenizer).__qualname__, tokenizer.truncation_side, tokenizer.split_special_tokens]
    settings += map(str, empty_text(tokenizer))
    settings += [f"{name} {version(name)}" for name in ("tokenizers", "transformers")]
    return hash_of(f"{settings}\n{tokenizer_content(tokenizer)}".encode())


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of what makes tokens of a text, for any tokenizer; versions of libraries do not count."""
    return sha256_of(f"{tokenizer.truncation_side} {tokenizer_content(tokenizer)}".encode())


def tokenizer_content(tokenizer: Any) -> str:
    """The definition of a fast tokenizer, without the truncation and padding of its last call; else the vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps(tokenizer.get_vocab(), sort_keys=True)
    backend.no_truncation()
    backend.no_padding()
    return str(backend.to_str())


def is_plain(tokenizer: Any) -> bool:
    """Whether a tokenizer is its Rust backend and nothing else: no Python of its own comes before it."""
    kind = type(tokenizer)
    own = [getattr(kind, name, None) for name in ("__call__", "_encode_plus", "set_truncation_and_padding")]
    return hasattr(tokenizer, "backend_tokenizer") and all(
        getattr(method, "__module__", "").startswith("transformers.tokenization_utils") for method in own
    )
