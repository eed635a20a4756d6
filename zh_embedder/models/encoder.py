"""Encoder: the module that trains, with its tokenizer; texts to vectors for users; folders.

Shapes: N texts, T tokens of all texts together, L tokens of the longest, D dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from zh_embedder.bases.catalogue import named_base
from zh_embedder.bases.folder_format import DENSE, Layout, write_layout
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.files import beside, write_json
from zh_embedder.core.machine import accelerator, keep_few_kernels, keep_memory, resolve_dtype
from zh_embedder.core.progress import Bar
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.forward import Forward
from zh_embedder.models.load_options import LoadOptions
from zh_embedder.models.lora import LORA_FILE, merge_lora
from zh_embedder.models.parts import dense_weight, load_parts, without_bars
from zh_embedder.models.pooling import WITHOUT_PROMPT
from zh_embedder.models.precision import Encoding
from zh_embedder.models.spec import (
    ANY_TASK,
    KEY_PROMPTS,
    OUR_FILE,
    QUERY_PROMPT,
    EncoderSpec,
    Instructions,
    check_include_prompt,
    from_prompts,
    read_spec,
    within_positions,
)
from zh_embedder.text.tokens import check_texts, concatenate, prompt_tokens, prompts_of, save_tokenizer
from zh_embedder.text.truncation import behind, tokenize_cut

logger = logging.getLogger(__name__)

DENSE_WEIGHTS = "model.safetensors"
TOKENS_PER_BATCH = 8192  # tokens of one forward in `encode`
TEXTS_PER_BLOCK = 32768  # tokenised at a time in `encode`


class Encoder(Forward):
    """Texts to vectors.

    >>> encoder = Encoder.from_pretrained("data/outputs/icl/encoder")  # doctest: +SKIP
    >>> queries = encoder.encode_queries(["今天心情很好"], task="icl")  # doctest: +SKIP
    >>> scores = queries @ encoder.encode_keys(keys, task="icl").T  # doctest: +SKIP
    """

    precision: str = "fp32"  # of `encode`, unless it is told another
    brought: Instructions = MappingProxyType({})  # instructions that the base has of its own, whatever is used

    def __init__(self, backbone: Any, tokenizer: Any, spec: EncoderSpec, **options: Any) -> None:
        super().__init__(backbone, tokenizer, spec, **options)
        self.encoding_state = Encoding()

    # ---- texts to vectors, for users ----------------------------------------------------------------------------

    def encode_queries(
        self, texts: str | Sequence[str], task: str | None = None, **options: Any
    ) -> NDArray[np.float32]:
        """Vectors of queries of a task, its instruction in front of each. See `encode`."""
        return self.encode_side(texts, task, 0, **options)

    def encode_keys(self, texts: str | Sequence[str], task: str | None = None, **options: Any) -> NDArray[np.float32]:
        """Vectors of keys of a task, its instruction in front of each. See `encode`."""
        return self.encode_side(texts, task, 1, **options)

    def encode_side(
        self, texts: str | Sequence[str], task: str | None, side: int, **options: Any
    ) -> NDArray[np.float32]:
        """Vectors of texts of a task on a side (0 query, 1 key)."""
        own = {"max_length": self.spec.lengths[side], "truncation_side": self.spec.truncation_side(task, side)}
        return self.encode(texts, prompt=self.spec.prefix(task, side), **{**own, **options})

    encode_corpus = encode_keys  # FlagEmbedding's name
    encode_documents = encode_keys  # sentence-transformers' word

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | Sequence[str] = "",
        max_length: int | None = None,
        truncation_side: str | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        dtype: str | None = None,
        truncate_dim: int | None = None,
        show_progress: bool = True,
    ) -> NDArray[np.float32]:
        """Encode texts, longest first, in batches of bounded size; the order of the result is the order given.

        Args:
            texts: one text or many.
            prompt: put in front of every text, or one for each; its tokens are pooled where `spec.include_prompt` says.
            max_length: tokens of a text, prompt included; by default the longer of the two sides.
            truncation_side: end of a longer text that is cut, left or right; by default the tokenizer's. Its prompt
                stays.
            tokens_per_batch: tokens of one forward.
            dtype: precision of the model: fp32, bf16, fp16, or auto, the fastest that loses no range here; by default
                the encoder's own (`from_pretrained` says auto).
            truncate_dim: keep this many dimensions, normalised anew where vectors are; for encoders trained with
                --matryoshka_dims.
            show_progress: a progress bar where it takes over 5 seconds.

        Returns:
            (N, D) float32, or (D,) for a single string.

        Raises:
            UserError: something that is not a string or not whole characters, or a precision that is not known.
        """
        many = [texts] if isinstance(texts, str) else list(texts)
        for index, text in enumerate(many):
            if not isinstance(text, str):
                raise reject(f"texts[{index}]", text, "a string")
        prompts, side = prompts_of(prompt, len(many)), truncation_side or self.tokenizer.truncation_side
        limit = max_length or max(self.spec.query_max_length, self.spec.key_max_length)
        vectors = np.zeros((len(many), self.dimension), np.float32)
        bar = Bar(len(many), shown=show_progress)
        with self.encoding(dtype), bar:
            # Block by block: the token ids of a million texts, as Python has them, would fill the memory.
            for first in range(0, len(many), TEXTS_PER_BLOCK):
                block, before = (some[first : first + TEXTS_PER_BLOCK] for some in (many, prompts))
                whole = [behind(one, text, side) for text, one in zip(block, before, strict=True)]
                try:
                    ids = tokenize_cut(self.tokenizer, whole, limit)
                except UserError:
                    check_texts(block, first=first)  # the place in the user's text, not behind the instruction
                    raise
                out, left_out = vectors[first : first + TEXTS_PER_BLOCK], self.left_out(before, limit)
                self.encode_tokens(ids, out, prompts=left_out, tokens_per_batch=tokens_per_batch, done=bar.advance)
        if truncate_dim is not None:
            vectors = self.shorten(vectors, truncate_dim)
        return vectors[0] if isinstance(texts, str) else vectors

    def shorten(self, vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
        """Return the first dimensions of vectors, normalised anew where the encoder normalises: (N, D) -> (N, d)."""
        if not 1 <= dimensions <= self.dimension:
            raise reject("truncate_dim", dimensions, f"1 to {self.dimension}")
        short = vectors[:, :dimensions]
        if not self.spec.normalize:
            return short
        return short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)

    @contextmanager
    def encoding(self, dtype: str | None = None) -> Iterator[None]:
        """Put the encoder in the state to encode in: no dropout, no gradients, its weights in a precision.

        Weights are cast once, not layer by layer in every forward; training continues from the exact ones. For a thread
        at a time: others wait.
        """
        with self.encoding_state(self, resolve_dtype(dtype or self.precision, self.device)):
            yield

    def left_out(self, prompts: Sequence[str], max_length: int) -> list[int] | None:
        """Tokens in front of texts that pooling leaves out, given their prompts; None where it takes all."""
        if self.spec.include_prompt:
            return None
        counts = {prompt: prompt_tokens(self.tokenizer, prompt, max_length) for prompt in dict.fromkeys(prompts)}
        return [counts[prompt] for prompt in prompts]

    def encode_tokens(
        self,
        ids: Sequence[Sequence[int]],
        out: NDArray[np.float32],
        *,
        prompts: Sequence[int] | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        done: Callable[[int, int], None] = lambda _texts, _tokens: None,
    ) -> None:
        """Encode token ids into the rows of `out`, within `encoding`; `done` hears of each batch: texts, tokens.

        `prompts` are the tokens in front of each text that pooling leaves out, as `left_out` counts them.
        """
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
        start, waiting = 0, None
        while start < len(order):
            count = max(1, tokens_per_batch // len(ids[order[start]]))
            rows = order[start : start + count]
            left_out = None if prompts is None else [prompts[i] for i in rows]
            tokens = concatenate([ids[i] for i in rows], prompts=left_out)
            vectors = self.embed(tokens.to(self.device, non_blocking=True)).dense
            # The vectors of a batch are fetched when the next is on its way, so that a GPU never waits for the host.
            if waiting is not None:
                out[waiting[0]] = waiting[1].cpu().numpy()
            waiting = rows, vectors
            start += count
            done(len(rows), sum(tokens.sizes))
        if waiting is not None:
            out[waiting[0]] = waiting[1].cpu().numpy()

    # ---- folders --------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        device: str | torch.device | None = None,
        pooling: str | None = None,
        dtype: str = "auto",
        **loading: Any,
    ) -> Encoder:
        """Load an encoder folder of ours, a sentence-transformers folder, or a plain model by hub name or folder.

        Args:
            name_or_path: folder (of a run, a checkpoint or an encoder) or hub name.
            device: where to put it; by default the accelerator, if there is one.
            pooling: overrides what the folder says; where it says nothing, cls.
            dtype: precision of `encode`: fp32, bf16, fp16, or auto, the fastest that loses no range on this device.
            **loading: `include_prompt`, `cache_dir`, `token`, `trust_remote_code`, `packing`.

        Raises:
            UserError: it cannot be loaded; the message says what to do.
        """
        if key_folder(name_or_path):
            logger.warning("%s holds a key encoder too: load key_encoder/ for the keys", name_or_path)
        encoder = load_encoder(name_or_path, pooling=pooling, flag="from_pretrained", **loading)
        encoder.to(device or torch.device(accelerator() or "cpu")).eval()
        encoder.precision = dtype
        resolve_dtype(dtype, encoder.device)
        if encoder.device.type == "cpu":
            keep_memory()
            keep_few_kernels()
        return encoder

    def layout(self) -> Layout:
        """What the sentence-transformers files have to say."""
        return Layout(
            pooling=self.spec.pooling,
            dimension=self.dimension,
            metric=self.spec.metric,
            max_length=max(self.spec.lengths),
            normalize=self.spec.normalize,
            dense=self.spec.dense,
            include_prompt=self.spec.include_prompt,
            prompts=self.spec.prompts(),
        )

    def save(self, folder: str | Path, *, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the encoder folder: weights, tokenizer, sentence-transformers files; temporary until it is whole.

        Args:
            folder: target; replaced if it is there.
            state: weights to write instead of our own (gathered from a sharded model), with our names.
        """
        folder = Path(folder)
        state = dict(state) if state is not None else self.state_dict()
        state = {name: tensor.detach().float() for name, tensor in state.items()}
        with beside(folder) as partial:
            inner = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
            inner, adapters = merge_lora(self.backbone, inner)
            with without_bars():
                self.backbone.save_pretrained(partial, state_dict=inner, max_shard_size="100GB")
            save_tokenizer(self.tokenizer, partial, max_length=max(self.spec.lengths))
            write_layout(partial, self.layout())
            if adapters:
                save_file(adapters, partial / LORA_FILE)
            if self.spec.dense:
                self.save_dense(partial / DENSE, state["dense.weight"])
            write_json(partial / OUR_FILE, {"format": 1, **self.spec.to_json()})

    def save_dense(self, folder: Path, weight: Tensor) -> None:
        """Write the linear layer as sentence-transformers' Dense module."""
        size = weight.shape[0]
        settings = {"in_features": size, "out_features": size, "bias": False}
        write_json(folder / "config.json", {**settings, "activation_function": "torch.nn.modules.linear.Identity"})
        save_file({"linear.weight": weight.contiguous().cpu()}, folder / DENSE_WEIGHTS)


def load_encoder(
    name_or_path: str,
    options: LoadOptions | None = None,
    *,
    flag: str = "--query_encoder",
    changes: Mapping[str, Any] | None = None,
    **given: Any,
) -> Encoder:
    """Load a model with its tokenizer and what its folder says, overridden by what the caller says.

    Args:
        name_or_path: folder or hub name.
        options: what overrides the folder's.
        flag: what the user typed it behind, for messages.
        changes: other fields of `EncoderSpec` to set.
        **given: single fields of `LoadOptions`, in place of those in `options`.

    Raises:
        UserError: nothing can be loaded from there; the message says what to do.
    """
    chosen, name = replace(options or LoadOptions(), **given), encoder_folder(name_or_path, flag=flag)
    config, backbone, tokenizer, folder = load_parts(name, chosen, flag=flag)
    spec = read_spec(folder, pooling=chosen.pooling, include_prompt=chosen.include_prompt) if folder else None
    if spec is None and chosen.pooling is None:
        logger.warning("%s says nothing about pooling: cls is used (--pooling_method changes it)", name_or_path)
    has_dense = spec is not None and spec.dense
    spec = with_prompts(within_positions(spec or EncoderSpec(query_max_length=512, key_max_length=512), config), name)
    spec = replace(spec, base=spec.base or name_of(name))
    brought = spec.instructions
    spec = replace(with_choices(spec, chosen, name=name_or_path), **(changes or {}))
    encoder = Encoder(
        backbone,
        tokenizer,
        spec,
        pad_to_multiple_of=chosen.pad_to_multiple_of,
        sub_batch_size=chosen.sub_batch_size,
        packing=chosen.packing,
    )
    encoder.brought = brought
    if encoder.dense is not None and has_dense and folder:
        encoder.dense.load_state_dict({"weight": dense_weight(folder / DENSE / DENSE_WEIGHTS)})
    return encoder


def with_choices(spec: EncoderSpec, chosen: LoadOptions, *, name: str) -> EncoderSpec:
    """Return what a folder says, overridden by what the caller chose about pooling.

    Raises:
        UserError: instructions are to be left out of a pooling that takes one token.
    """
    pooling = chosen.pooling or spec.pooling
    include_prompt = spec.include_prompt if chosen.include_prompt is None else chosen.include_prompt
    if chosen.include_prompt is None and not include_prompt and pooling not in WITHOUT_PROMPT:
        logger.warning("%s leaves the prompt's tokens out of the mean: with pooling %s, none are", name, pooling)
        include_prompt = True
    check_include_prompt("--include_prompt", include_prompt, pooling)
    dense = spec.dense if chosen.dense is None else chosen.dense
    return replace(spec, pooling=pooling, include_prompt=include_prompt, dense=dense)


def name_of(name_or_path: str) -> str | None:
    """Return the name by which others know a base: the catalogue's or a hub's; None of a folder that is neither's."""
    known = named_base(name_or_path)
    if known is not None:
        return known.name
    return None if Path(name_or_path).expanduser().is_dir() else name_or_path


def with_prompts(spec: EncoderSpec, name: str) -> EncoderSpec:
    """Give a base of the catalogue the prompts that it was trained with, where its folder says nothing of them."""
    base = named_base(name)
    if base is None or base.version is None or any(any(pair) for pair in spec.instructions.values()):
        return spec
    names = {"query": QUERY_PROMPT, "key": KEY_PROMPTS[0]}
    instructions = from_prompts({names[side]: prompt for side, prompt in base.prompts.items()})
    return replace(spec, instructions=instructions, default_task=ANY_TASK) if instructions else spec
