"""Teacher model: an encoder that makes vectors of texts, with its own prompts; loaded where the cache lacks some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from zh_embedder.bases.names import hub_folder, load_config
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.hashing import hash_of, model_hash
from zh_embedder.core.machine import dtype_name
from zh_embedder.core.progress import Bar
from zh_embedder.data.teacher_vectors import FORMAT, KEY, QUERY, Vectors
from zh_embedder.models.encoder import Encoder, load_encoder, with_prompts
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.models.spec import EncoderSpec, instructions_for, position_limit, read_spec, within_positions
from zh_embedder.text.prefix import excerpt, full_text
from zh_embedder.text.tokens import tokenize

if TYPE_CHECKING:
    from zh_embedder.config.instructions import Version

FLAG = "--teacher_encoder"


@dataclass(frozen=True, slots=True)
class Way:
    """How texts become vectors: which of the teacher's encoders, its prompt and its longest text."""

    encoder: str  # folder or hub name
    prompt: str
    max_length: int  # tokens


class TeacherModel:
    """An encoder that makes vectors of texts; loaded where the cache lacks some."""

    def __init__(self, name: str, *, version: Version | None, max_length: int | None, device: torch.device) -> None:
        self.name, self.version, self.max_length, self.device = name, version, max_length, device
        query = encoder_folder(name, flag=FLAG)
        self.folders = (query, key_folder(name) or query)  # of queries, of keys
        self.loaded: dict[str, Encoder] = {}
        self.hashes: dict[str, str] = {}

    @cached_property
    def specs(self) -> tuple[EncoderSpec, EncoderSpec]:
        """What the folders of both sides say."""
        return self.spec(self.folders[QUERY]), self.spec(self.folders[KEY])

    def spec(self, name: str) -> EncoderSpec:
        """What a folder says about pooling, prompts and lengths."""
        folder = self.here(name)
        spec = read_spec(folder) if folder is not None else None
        config = load_config(name, flag=FLAG)
        spec = within_positions(spec or EncoderSpec(query_max_length=512, key_max_length=512), config)
        return with_prompts(spec, name)

    def here(self, name: str) -> Path | None:
        """The folder that a model's small files are in."""
        return Path(name) if Path(name).is_dir() else hub_folder(name, flag=FLAG, cache_dir=None, token=None)

    @property
    def dimension(self) -> int:
        """Dimensions of its vectors."""
        return int(load_config(self.folders[QUERY], flag=FLAG).hidden_size)

    def prompt(self, task: str, side: int) -> str:
        """Prompt of a side: of --teacher_version where it is given, else the folder's, of the task or by default.

        Raises:
            UserError: it has prompts, and none for the task.
        """
        if self.version is not None:
            spec = self.version.task(task, where="--teacher_version")
            return (spec.query, spec.key)[side]
        own = self.specs[side]
        if not own.instructions:
            return ""
        if (found := instructions_for(own.instructions, task)) is not None:
            return found[side]
        if own.default_task is not None:
            return own.prefix(None, side)
        raise UserError(
            f"{FLAG}: {self.name} has no prompt for task {task} and none for all tasks, only for "
            f"{', '.join(sorted(own.instructions))}; --teacher_version NAME gives it others (none: no prompts)"
        )

    def way(self, task: str, side: int) -> Way:
        """How the texts of a task and side become vectors."""
        spec = self.specs[side]
        longest = (spec.query_max_length, spec.key_max_length)[side]
        if self.max_length is not None:
            limit = position_limit(load_config(self.folders[side], flag=FLAG))
            if limit and self.max_length > limit:
                raise reject("--teacher_max_length", self.max_length, f"at most {limit}, the positions of this teacher")
            longest = self.max_length
        return Way(self.folders[side], self.prompt(task, side), longest)

    def folder(self, way: Way, cache: Path) -> Path:
        """Where the vectors of a way are kept: a hash of all that decides them."""
        if way.encoder not in self.hashes:
            small = self.here(way.encoder)  # of a hub, the folder of a commit
            own = Path(way.encoder).is_dir()
            self.hashes[way.encoder] = model_hash(way.encoder) if own else f"{way.encoder}@{small and small.name}"
        decides = [FORMAT, self.hashes[way.encoder], way.prompt, way.max_length, self.dtype]
        return cache / hash_of(json.dumps(decides).encode())

    @property
    def dtype(self) -> str:
        """Precision in which vectors are made."""
        return dtype_name("auto", self.device)

    def load(self, name: str) -> Encoder:
        """Load one of its encoders, once."""
        if name not in self.loaded:
            self.loaded[name] = load_encoder(name, flag=FLAG).to(self.device).eval()
        return self.loaded[name]

    def encode(self, texts: Sequence[str], way: Way, bar: Bar) -> Vectors:
        """Make vectors of texts, (N, D), of length 1 where the teacher compares cosines.

        Raises:
            UserError: one is not finite.
        """
        encoder = self.load(way.encoder)
        vectors = np.zeros((len(texts), encoder.dimension), np.float32)
        with encoder.encoding(self.dtype):
            ids = tokenize(
                encoder.tokenizer, [full_text(text, instruction=way.prompt) for text in texts], way.max_length
            )
            prompts = encoder.left_out([way.prompt] * len(texts), way.max_length)
            encoder.encode_tokens(ids, vectors, prompts=prompts, done=bar.advance)
        if encoder.spec.metric == "cos" and not encoder.spec.normalize:
            vectors = F.normalize(torch.from_numpy(vectors), dim=-1).numpy()
        good = np.isfinite(vectors.astype(np.float16)).all(axis=1)
        if not good.all():
            raise UserError(f"{FLAG}: {self.name}: the vector of {excerpt(texts[int(good.argmin())])} is not finite")
        return vectors
