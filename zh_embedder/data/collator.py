"""Collator: the examples of one rank's step as a Batch of token ids; texts tokenised, identical keys merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zh_embedder.core.hashing import ids_identity
from zh_embedder.data.answer_labels import NO_LABEL
from zh_embedder.data.batch import Batch
from zh_embedder.data.train_rows import Example
from zh_embedder.text.tokens import Ids, concatenate, prompt_tokens
from zh_embedder.text.truncation import Text, tokenize_cut

QUERY, KEY = 0, 1  # sides


class Collator:
    """Examples of one rank's step -> Batch."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        query_max_length: int,
        key_max_length: int,
        key_tokenizer: Any = None,
        merge_keys: bool = True,
        include_prompt: tuple[bool, bool] = (True, True),
    ) -> None:
        self.tokenizer, self.key_tokenizer = tokenizer, key_tokenizer or tokenizer
        self.query_max_length, self.key_max_length = query_max_length, key_max_length
        self.merge_keys = merge_keys  # encode identical keys once
        self.include_prompt = include_prompt  # of queries and of keys: pool the tokens of instructions too
        self.counted: dict[tuple[str, int], int] = {}  # tokens of instructions, by text and side

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Tokenise what is still text, and lay out."""
        request = examples[0].request
        ids = self.key_ids if examples[0].as_key else self.query_ids
        queries = ids([e.query for e in examples])
        keys = self.key_ids([key for e in examples for key in e.keys])
        query_prompts, key_prompts = self.left_out(examples)
        rows, places = merge(keys, key_prompts) if self.merge_keys else (range(len(keys)),) * 2
        distinct = [keys[place] for place in places]
        query_texts = [ids_identity(ids) for ids in queries]
        key_texts = [text for e in examples for text in e.key_texts]
        if not keys:  # single texts: the vectors of the queries are those of the keys
            rows, key_texts = range(len(queries)), query_texts
        key_answers = [label for e in examples for label in e.key_answers or [NO_LABEL] * len(e.keys)]
        widest = max(len(e.positive_texts) for e in examples)
        teacher, scores, labels = ([getattr(e, n) for e in examples] for n in ("teacher", "score", "label"))
        vectors = [e.vectors for e in examples if e.vectors is not None]
        return Batch(
            queries=concatenate(queries, prompts=query_prompts),
            keys=concatenate(distinct, prompts=key_prompts and [key_prompts[place] for place in places]),
            key_rows=torch.tensor(rows),
            key_texts=torch.tensor(key_texts),
            positive_texts=torch.tensor(
                [[*e.positive_texts, *[0] * (widest - len(e.positive_texts))] for e in examples], dtype=torch.int64
            ),
            answers=torch.tensor([e.answers for e in examples]),
            key_answers=torch.tensor(key_answers or [NO_LABEL] * len(rows)),
            counts=torch.tensor([e.request.counts for e in examples]),
            teacher=None if None in teacher else torch.tensor(teacher, dtype=torch.float32),
            dataset=request.dataset,
            step_rows=request.step_rows,
            step_queries=request.step_queries,
            duplicate_tokens=sum(map(len, keys)) - sum(map(len, distinct)),
            query_texts=torch.tensor(query_texts),
            pair_scores=None if None in scores else torch.tensor(scores, dtype=torch.float32),
            labels=None if None in labels else torch.tensor(labels),
            vectors=torch.from_numpy(np.stack(vectors)) if vectors else None,
        )

    def query_ids(self, texts: Sequence[Text | Ids]) -> list[Ids]:
        """Token ids of queries, instructions in front."""
        return token_ids(self.tokenizer, texts, self.query_max_length)

    def key_ids(self, texts: Sequence[Text | Ids]) -> list[Ids]:
        """Token ids of keys, instructions in front."""
        return token_ids(self.key_tokenizer, texts, self.key_max_length)

    def prompt_tokens(self, prompt: str | int, side: int) -> int:
        """Tokens of an instruction in front of texts of a side; what is a number already stays as it is."""
        if isinstance(prompt, int):
            return prompt
        if (prompt, side) not in self.counted:
            tokenizer = (self.tokenizer, self.key_tokenizer)[side]
            limit = (self.query_max_length, self.key_max_length)[side]
            self.counted[prompt, side] = prompt_tokens(tokenizer, prompt, limit)
        return self.counted[prompt, side]

    def left_out(self, examples: Sequence[Example]) -> tuple[list[int] | None, list[int] | None]:
        """Tokens in front of each query and each key that pooling leaves out; None where it takes all of a side."""
        queries = keys = None
        if not self.include_prompt[QUERY]:
            queries = [self.prompt_tokens(e.query_prompt, KEY if e.as_key else QUERY) for e in examples]
        if not self.include_prompt[KEY]:
            keys = [self.prompt_tokens(e.key_prompt, KEY) for e in examples for _ in e.keys]
        return queries, keys


def token_ids(tokenizer: Any, texts: Sequence[Text | Ids], max_length: int) -> list[Ids]:
    """Token ids of each text; what is token ids already stays as it is."""
    new = list(dict.fromkeys(text for text in texts if not isinstance(text, np.ndarray)))
    made = tokenize_cut(tokenizer, new, max_length) if new else []
    known = {text: np.asarray(ids, np.int32) for text, ids in zip(new, made, strict=True)}
    return [text if isinstance(text, np.ndarray) else known[text] for text in texts]


def merge(texts: Sequence[Ids], prompts: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
    """Merge identical texts: which of K distinct ones each of the N texts is, and where each of the K comes first.

    Texts of the same tokens whose `prompts` differ, in how many of them pooling leaves out, are not identical.
    """
    distinct: dict[tuple[bytes, int], int] = {}
    rows: list[int] = []
    places: list[int] = []
    for place, ids in enumerate(texts):
        row = distinct.setdefault((ids.tobytes(), prompts[place] if prompts else 0), len(distinct))
        if row == len(places):
            places.append(place)
        rows.append(row)
    return rows, places
