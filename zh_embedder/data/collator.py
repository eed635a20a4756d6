"""Collator: the examples of one rank's step as a Batch of token ids; texts tokenised, identical keys merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zh_embedder.core.hashing import ids_identity
from zh_embedder.data.batch import Batch
from zh_embedder.data.train_rows import Example
from zh_embedder.text.tokens import Ids, concatenate
from zh_embedder.text.truncation import Text, tokenize_cut


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
    ) -> None:
        self.tokenizer, self.key_tokenizer = tokenizer, key_tokenizer or tokenizer
        self.query_max_length, self.key_max_length = query_max_length, key_max_length
        self.merge_keys = merge_keys  # encode identical keys once

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Tokenise what is still text, and lay out."""
        request = examples[0].request
        queries = self.query_ids([e.query for e in examples])
        keys = self.key_ids([key for e in examples for key in e.keys])
        distinct, rows = merge(keys) if self.merge_keys else (keys, list(range(len(keys))))
        query_texts = [ids_identity(ids) for ids in queries]
        key_texts = [text for e in examples for text in e.key_texts]
        if not keys:  # labelled texts: the vectors of the queries are those of the keys
            rows, key_texts = list(range(len(queries))), query_texts
        widest = max(len(e.positive_texts) for e in examples)
        teacher, scores, labels = ([getattr(e, n) for e in examples] for n in ("teacher", "score", "label"))
        return Batch(
            queries=concatenate(queries),
            keys=concatenate(distinct),
            key_rows=torch.tensor(rows),
            key_texts=torch.tensor(key_texts),
            positive_texts=torch.tensor(
                [[*e.positive_texts, *[0] * (widest - len(e.positive_texts))] for e in examples], dtype=torch.int64
            ),
            counts=torch.tensor([e.request.counts for e in examples]),
            teacher=None if None in teacher else torch.tensor(teacher, dtype=torch.float32),
            dataset=request.dataset,
            step_rows=request.step_rows,
            step_queries=request.step_queries,
            duplicate_tokens=sum(map(len, keys)) - sum(map(len, distinct)),
            query_texts=torch.tensor(query_texts),
            pair_scores=None if None in scores else torch.tensor(scores, dtype=torch.float32),
            labels=None if None in labels else torch.tensor(labels),
        )

    def query_ids(self, texts: Sequence[Text | Ids]) -> list[Ids]:
        """Token ids of queries, instructions in front."""
        return token_ids(self.tokenizer, texts, self.query_max_length)

    def key_ids(self, texts: Sequence[Text | Ids]) -> list[Ids]:
        """Token ids of keys, instructions in front."""
        return token_ids(self.key_tokenizer, texts, self.key_max_length)


def token_ids(tokenizer: Any, texts: Sequence[Text | Ids], max_length: int) -> list[Ids]:
    """Token ids of each text; what is token ids already stays as it is."""
    new = list(dict.fromkeys(text for text in texts if not isinstance(text, np.ndarray)))
    made = tokenize_cut(tokenizer, new, max_length) if new else []
    known = {text: np.asarray(ids, np.int32) for text, ids in zip(new, made, strict=True)}
    return [text if isinstance(text, np.ndarray) else known[text] for text in texts]


def merge(texts: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    """Merge identical texts: K distinct ones in order of appearance, and which of them each of the N texts is."""
    places: dict[bytes, int] = {}
    rows = [places.setdefault(ids.tobytes(), len(places)) for ids in texts]
    return [np.frombuffer(ids, np.int32) for ids in places], rows
