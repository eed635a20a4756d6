"""Teacher models: cross-encoder, language model, embedder. A teacher is a class and a row of TEACHERS.

language_model: score(key) = max over answers a of (1/|a|) sum_t log p(a_t | prompt(key, query), a_<t): the tokens of
the answer alone count, as in LLM-Embedder's `run_lm_score.py`; `--reduction sum` leaves out the 1/|a|.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from zh_embedder.bases.catalogue import BASES
from zh_embedder.core.errors import UserError, reject
from zh_embedder.core.machine import resolve_dtype
from zh_embedder.core.ranks import own_device
from zh_embedder.core.similarity import one_with_many
from zh_embedder.core.strict_yaml import read_yaml
from zh_embedder.evaluation.model import KEY, QUERY, Model
from zh_embedder.models.cross_encoder import TOKENS, CrossEncoder, batches

PROMPTS = Path(__file__).with_name("prompts.yaml")
SLOT = re.compile(r"\{(key|query|answer)\}")


@dataclass(frozen=True, slots=True)
class Item:
    """A key to be scored."""

    query: str
    key: str
    task: str | None = None
    answers: tuple[str, ...] = ()


class Teacher(Protocol):
    """Scores keys."""

    @classmethod
    def load(cls, settings: TeacherSettings) -> Teacher:
        """Load the model."""

    def prompt(self, task: str | None) -> str:
        """The prompt around the texts of a task: another prompt gives other scores."""

    def scores(self, items: Sequence[Item]) -> list[float]:
        """Score of each item, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSettings:
    """How to load a teacher."""

    model: str
    dtype: str = "auto"
    max_length: int | None = None
    tokens: int = TOKENS
    prompts: Path = PROMPTS
    reduction: str = "mean"


def read_prompts(path: Path) -> dict[str, str]:
    """Read the prompts of tasks.

    Raises:
        UserError: the file is no such YAML.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise reject(str(path), raw, "a line `task: prompt` for each task")
    for task, prompt in raw.items():
        slots = sorted(SLOT.findall(prompt)) if isinstance(prompt, str) else []
        if slots != ["answer", "key", "query"] or not prompt.endswith("{answer}"):
            raise reject(f"{path}: {task}", prompt, "a text with {key}, {query} and, at its end, {answer}")
    return {str(task): prompt for task, prompt in raw.items()}


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model."""

    model: Any
    tokenizer: Any
    prompts: Mapping[str, str]
    max_length: int = 2048
    tokens: int = TOKENS
    reduction: str = "mean"

    @classmethod
    def load(cls, settings: TeacherSettings) -> LanguageModel:
        """Load a folder or hub name.

        Raises:
            UserError: it cannot be loaded.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if settings.model in BASES and not Path(settings.model).exists():
            raise UserError(f"{settings.model}: is an embedder, expected a language model")
        device, prompts = own_device(), read_prompts(settings.prompts)
        try:
            tokenizer = AutoTokenizer.from_pretrained(settings.model)
            dtype = resolve_dtype(settings.dtype, device)
            model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype).to(device).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"{settings.model}: cannot be loaded as a language model: {error}") from None
        length = settings.max_length or 2048
        return cls(model, tokenizer, prompts, length, settings.tokens, settings.reduction)

    def prompt(self, task: str | None) -> str:
        """Return the prompt of a task.

        Raises:
            UserError: there is none, and no default.
        """
        if (prompt := self.prompts.get(task or "default", self.prompts.get("default"))) is None:
            raise UserError(f"prompts: {task}: is missing, as is `default`; expected a line `{task}: ...`")
        return prompt

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def pieces(self, item: Item, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of what is given and of the answer; the end of a key that is too long is cut off."""
        before = self.prompt(item.task).removesuffix("{answer}")
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        wanted = self.ids(answer)[: self.max_length // 2]
        room = self.max_length - len(wanted) - len(start)
        key = item.key
        given = self.ids(filled(before, key, item.query))
        if len(given) > room:
            kept = max(0, len(own := self.ids(key)) - (len(given) - room))
            key = self.tokenizer.decode(own[:kept])
            given = self.ids(filled(before, key, item.query))[-room:]
        return start + given, wanted

    def scores(self, items: Sequence[Item]) -> list[float]:
        """Score of each item: of its answers the likeliest counts."""
        owners = [place for place, item in enumerate(items) for _ in item.answers]
        pairs = [self.pieces(item, answer) for item in items for answer in item.answers]
        found = [-float("inf")] * len(items)
        for places in batches([len(given) + len(wanted) for given, wanted in pairs], self.tokens):
            for place, score in zip(places, self.likelihoods([pairs[p] for p in places]), strict=True):
                found[owners[place]] = max(found[owners[place]], score)
        return found

    @torch.inference_mode()
    def likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Log-likelihood of each answer; rows are filled up on the left, so that only the last logits are computed."""
        longest = max(len(given) + len(wanted) for given, wanted in pairs)
        kept = max(len(wanted) for _, wanted in pairs) + 1
        rows = [[0] * (longest - len(given) - len(wanted)) + given + wanted for given, wanted in pairs]
        ids = torch.tensor(rows, device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(g) - len(w)) + [1] * (len(g) + len(w)) for g, w in pairs])
        mask = mask.to(ids.device)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self.model(input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=kept).logits
        logs = logits[:, -kept:-1].float().log_softmax(-1)
        said = logs.gather(2, ids[:, 1 - kept :].unsqueeze(2)).squeeze(2)  # (B, kept - 1), right-aligned
        sums = [row[len(row) - len(wanted) :].sum().item() for row, (_, wanted) in zip(said, pairs, strict=True)]
        if self.reduction == "sum":
            return sums
        return [total / max(1, len(wanted)) for total, (_, wanted) in zip(sums, pairs, strict=True)]


def filled(prompt: str, key: str, query: str) -> str:
    """Put texts into a prompt; what they hold is not searched for slots."""
    texts = {"key": key, "query": query}
    return SLOT.sub(lambda slot: texts[slot[1]], prompt)


@dataclass(frozen=True, slots=True)
class Reranker:
    """A cross-encoder."""

    inner: CrossEncoder

    @classmethod
    def load(cls, settings: TeacherSettings) -> Reranker:
        """Load a folder or hub name."""
        length = settings.max_length or 512
        return cls(CrossEncoder.load(settings.model, dtype=settings.dtype, max_length=length, tokens=settings.tokens))

    def prompt(self, task: str | None) -> str:
        """Return nothing: a cross-encoder reads query and key as they are."""
        return ""

    def scores(self, items: Sequence[Item]) -> list[float]:
        """Score of each item."""
        return self.inner.scores([(item.query, item.key) for item in items])


@dataclass(frozen=True, slots=True)
class Embedder:
    """An embedder: ours or of sentence-transformers."""

    model: Model

    @classmethod
    def load(cls, settings: TeacherSettings) -> Embedder:
        """Load a folder or hub name."""
        return cls(replace(Model.load(settings.model, dtype=settings.dtype), shared=False))

    def prompt(self, task: str | None) -> str:
        """Return the instructions of both sides."""
        return "\0".join(self.model.side(side, task)[1] for side in (QUERY, KEY))

    def scores(self, items: Sequence[Item]) -> list[float]:
        """Score of each item by the model's own metric."""
        found = [0.0] * len(items)
        for task in dict.fromkeys(item.task for item in items):
            own = [place for place, item in enumerate(items) if item.task == task]
            of_query = self.named([items[place].query for place in own], QUERY, task)
            of_key = self.named([items[place].key for place in own], KEY, task)
            for place in own:
                query, key = of_query[items[place].query], of_key[items[place].key]
                found[place] = float(one_with_many(query, key[None], self.model.query.spec.metric)[0])
        return found

    def named(self, texts: Sequence[str], side: int, task: str | None) -> dict[str, Any]:
        """Vectors by text, each text encoded once."""
        unique = list(dict.fromkeys(texts))
        return dict(zip(unique, self.model.vectors(unique, side, task), strict=True))


TEACHERS: Mapping[str, type[Teacher]] = {
    "cross_encoder": Reranker,
    "language_model": LanguageModel,
    "embedder": Embedder,
}
