"""Evaluation sets: retrieval and reranking, sentence pairs, labelled texts. Types alone; `read_set` reads files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zh_embedder.evaluation.left_out import LeftOut

Qrels = Mapping[str, Mapping[str, int]]  # query -> key -> relevance
KINDS = ("retrieval", "reranking", "similarity", "pair_classification", "classification", "clustering")


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Queries of one task, keys, and who is relevant to whom. With candidates, each query ranks its own: reranking."""

    name: str
    task: str | None
    queries: dict[str, str]
    keys: dict[str, str]
    qrels: Qrels
    candidates: Mapping[str, Sequence[str]] | None = None
    canary: bool = False  # general Chinese: measured, but no part of a mean, and a drop is reported
    own_keys: frozenset[str] = frozenset()  # queries that are keys themselves: left out of their own results
    left_out: tuple[LeftOut, ...] = ()  # what the files hold and a figure does not rest on

    @property
    def kind(self) -> str:
        """The kind of measurement."""
        return "retrieval" if self.candidates is None else "reranking"


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs of texts with a score each: graded ones for similarity, those of 0 and 1 for pair classification."""

    name: str
    task: str | None
    firsts: Sequence[str]
    seconds: Sequence[str]
    scores: Sequence[float]
    graded: bool = False  # similarity even where all scores are 0 or 1, as in C-MTEB's LCQMC
    canary: bool = False
    left_out: tuple[LeftOut, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of measurement."""
        return "similarity" if self.graded or not set(self.scores) <= {0.0, 1.0} else "pair_classification"


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Texts with a label each: classification where there are others to learn from, else clustering."""

    name: str
    task: str | None
    texts: Sequence[str]
    labels: Sequence[str]
    train_texts: Sequence[str] = ()
    train_labels: Sequence[str] = ()
    canary: bool = False
    left_out: tuple[LeftOut, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of measurement."""
        return "classification" if self.train_texts else "clustering"


EvalSet = RetrievalSet | PairSet | LabelSet
