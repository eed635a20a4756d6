"""Parity of an exported model with ours: the same vectors, or no export.

Shapes: N sample texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zh_embedder.core.errors import UserError
from zh_embedder.models.encoder import Encoder
from zh_embedder.models.spec import KEY_SUFFIX
from zh_embedder.text.prefix import full_text
from zh_embedder.text.tokens import tokenize

TOLERANCE = 1e-4
SAMPLES = (
    "猫",
    "今天天气怎么样？",
    "请帮我查一下明天上午从北京到上海的高铁，最好九点以后出发。",
    "The model reads English, 数字 12345 and 标点，《书名》——all in one line.",
    "茶叶采摘后要经过萎凋、揉捻、发酵和干燥。不同的发酵程度造就了绿茶、乌龙茶和红茶的风味差别，冲泡时的水温也因此不同。",
)


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest difference of any component, by prompt name."""

    by_prompt: dict[str, float]

    @property
    def worst(self) -> str:
        """The prompt whose vectors differ most; a NaN is the largest difference."""
        return max(self.by_prompt, key=lambda name: np.nan_to_num(self.by_prompt[name], nan=np.inf))

    @property
    def largest(self) -> float:
        """The largest of all."""
        return self.by_prompt[self.worst]

    def check(self, target: object, reader: str, *, tolerance: float = TOLERANCE) -> None:
        """Refuse an export whose reader makes other vectors.

        Raises:
            UserError: a component differs by more than the tolerance, or is NaN.
        """
        if not self.largest <= tolerance:
            raise UserError(
                f"{target}: {reader} differs by {self.largest:.1e} ({self.worst}), more than {tolerance}: not exported"
            )


def compare_prompts(encoder: Encoder, theirs: Callable[[list[str], str | None], ArrayLike]) -> Parity:
    """Compare our vectors of sample texts with another reader's, for every task and side.

    Args:
        encoder: ours, on the CPU.
        theirs: (texts, name of the prompt: task, task + `.key`, or None) -> (N, D).
    """
    found: dict[str, float] = {}
    texts = within(encoder, SAMPLES)
    tasks: list[str | None] = [*encoder.spec.instructions] or [None]
    for task in tasks:
        pairs = (
            (task, encoder.encode_queries(texts, task=task, show_progress=False)),
            (f"{task}{KEY_SUFFIX}" if task else None, encoder.encode_keys(texts, task=task, show_progress=False)),
        )
        for name, vectors in pairs:
            found[name or "no prompt"] = difference(vectors, theirs(texts, name))
    return Parity(found)


def difference(ours: NDArray[np.float32], theirs: ArrayLike) -> float:
    """Largest absolute difference of any component."""
    return float(np.abs(ours - np.asarray(theirs, np.float32)).max())


def within(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    """Shorten texts so that, with any instruction in front, both maximum lengths hold them."""
    prefixes = {"", *(prefix for sides in encoder.spec.instructions.values() for prefix in sides)}
    limit = min(encoder.spec.query_max_length, encoder.spec.key_max_length)

    def fits(text: str) -> bool:
        whole = [full_text(text, instruction=prefix) for prefix in prefixes]
        return all(len(ids) <= limit for ids in tokenize(encoder.tokenizer, whole, limit + 1))

    return [next((text[:end] for end in range(len(text), 1, -1) if fits(text[:end])), text[:1]) for text in texts]
