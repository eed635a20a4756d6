"""Measurement of models on evaluation sets: vectors, keys found and metrics, the work shared out over ranks.

Shapes: Q queries, K keys, D dimensions, H hits, W ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zh_embedder.core.errors import reject
from zh_embedder.core.similarity import one_with_many
from zh_embedder.evaluation.find_keys import HITS, find_keys, rerank, retrieve
from zh_embedder.evaluation.left_out import lines_of
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.metrics import RANKED, parse
from zh_embedder.evaluation.model import KEY, QUERY, Model, Vectors
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.probes import measure_labels, measure_pairs
from zh_embedder.evaluation.read_set import read_set
from zh_embedder.evaluation.retrieval_metrics import per_query
from zh_embedder.evaluation.sets import EvalSet, LabelSet, PairSet, RetrievalSet
from zh_embedder.models.encoder import Encoder
from zh_embedder.search.bm25 import K1, B, BM25Options

logger = logging.getLogger(__name__)

METRICS = ("ndcg@10", "mrr@10", "recall@10")


def measure_model(
    model: Model,
    data: EvalSet,
    *,
    metrics: Sequence[str] = METRICS,
    hits: int = HITS,
    dimensions: Sequence[int | None] = (None,),
) -> dict[int | None, Outcome]:
    """Measure a model on a set, its vectors cut to each number of dimensions; None leaves them whole.

    Args:
        model: what is measured; on several ranks all must call this, and all get the whole result.
        data: a set of any kind.
        metrics: of retrieval and reranking, such as ndcg@10; other kinds have their own.
        hits: keys found for each query.
        dimensions: how many of a vector's first dimensions count, normalised anew.

    Raises:
        UserError: the model has no instruction for the set's task, or fewer dimensions.
    """
    for size in dimensions:
        if size is not None and not 1 <= size <= model.query.dimension:
            raise reject("--dims", size, f"1 to {model.query.dimension}, the dimensions of {model.name}")
    if isinstance(data, RetrievalSet):
        return measure_retrieval(model, data, metrics=metrics, hits=hits, dimensions=dimensions)
    return measure_texts(model, data, dimensions=dimensions)


def measure_texts(
    model: Model, data: PairSet | LabelSet, *, dimensions: Sequence[int | None]
) -> dict[int | None, Outcome]:
    """Measure sentence pairs or labelled texts: neither side is searched in, so all are encoded as queries."""
    sides = (data.firsts, data.seconds) if isinstance(data, PairSet) else (data.texts, data.train_texts)
    first, second = (model.vectors(texts, QUERY, data.task) for texts in sides)
    every = (QUERY, [*sides[0], *sides[1]])
    conditions = model.conditions((every, every), data.task)
    found = {}
    for size in dimensions:
        short, other = (v if size is None else model.query.shorten(v, size) for v in (first, second))
        if isinstance(data, PairSet):
            pieces = measure_pairs(data, short, other, metric=model.query.spec.metric)
        else:
            pieces = measure_labels(data, short, other if data.train_texts else None)
        found[size] = Outcome(
            model=model.label(size),
            data=data.name,
            task=data.task,
            kind=data.kind,
            values=pieces.values,
            items=pieces.items,
            gold=pieces.gold,
            predicted=pieces.predicted,
            **conditions,
            left_out=data.left_out,
            role=model.role,
        )
    return found


def measure_retrieval(
    model: Model, data: RetrievalSet, *, metrics: Sequence[str], hits: int, dimensions: Sequence[int | None]
) -> dict[int | None, Outcome]:
    """Measure retrieval or reranking; judged queries without results count as zero."""
    task, texts = data.task, list(data.keys.values())
    queries = model.vectors(list(data.queries.values()), QUERY, task)
    reranks = data.candidates is not None
    keys = model.vectors(texts, KEY, task) if reranks else model.own_vectors(texts, KEY, task)
    conditions = model.conditions(((QUERY, list(data.queries.values())), (KEY, texts)), task)
    found: dict[int | None, Outcome] = {}
    for size in dimensions:
        short = [v if size is None else model.query.shorten(v, size) for v in (queries, keys)]
        run = rerank(model, data, *short) if reranks else retrieve(model, data, *short, hits=hits)
        positives = best_positives(model, data, *short, share=(0, 1) if reranks else model.share())
        items = per_query(metrics, data.qrels, run)
        found[size] = Outcome(
            model=model.label(size),
            data=data.name,
            task=task,
            kind=data.kind,
            values=over_queries(items),
            items=items,
            run=run,
            positives=positives,
            **conditions,
            left_out=data.left_out,
            role=model.role,
        )
    return found


def measure_bm25(
    data: RetrievalSet,
    *,
    metrics: Sequence[str] = METRICS,
    hits: int = HITS,
    words: str = "jieba",
    dictionary: str | None = None,
    k1: float = K1,
    b: float = B,
) -> Outcome:
    """Measure BM25 over words on a retrieval or reranking set: what a model has to beat.

    Args:
        data: the set.
        metrics: such as ndcg@10.
        hits: keys found for each query.
        words: how texts are cut, a name in `segment.WORDS`.
        dictionary: a file of further words for jieba.
        k1: weight of a word that a key repeats.
        b: how much long keys are held back.
    """
    run = find_keys(data, BM25Options(words, dictionary, k1, b), hits=hits)
    items = per_query(metrics, data.qrels, run)
    return Outcome(
        model=f"BM25 ({words})",
        data=data.name,
        task=data.task,
        kind=data.kind,
        values=over_queries(items),
        items=items,
        run=run,
        left_out=data.left_out,
        role=Role.BASELINE,
    )


def best_positives(
    model: Model, data: RetrievalSet, queries: Vectors, keys: Vectors, *, share: tuple[int, int]
) -> dict[str, float]:
    """Score of each query's best relevant key, found or not; `keys` are those of `share`."""
    rank, ranks = share
    rows = {name: row // ranks for row, name in enumerate(data.keys) if row % ranks == rank}
    best = np.full(len(queries), -np.inf, np.float32)
    for place, (query, vector) in enumerate(zip(data.queries, queries, strict=True)):
        own = [rows[key] for key, value in data.qrels.get(query, {}).items() if value > 0 and key in rows]
        if own:
            best[place] = one_with_many(vector, keys[own], model.query.spec.metric).max()
    if ranks > 1:
        best = model.gathered(best).reshape(ranks, -1).max(axis=0)
    return {query: float(score) for query, score in zip(data.queries, best, strict=True) if np.isfinite(score)}


# ---- for users of the library ---------------------------------------------------------------------------------------


def evaluate(
    encoder: Encoder,
    data: EvalSet | str | Path,
    *,
    key_encoder: Encoder | None = None,
    metrics: Sequence[str] = METRICS,
    hits: int = HITS,
) -> Mapping[str, float]:
    """Measure an encoder on one evaluation set.

    >>> encoder = Encoder.from_pretrained("data/outputs/qa")  # doctest: +SKIP
    >>> evaluate(encoder, "data/qa/test", metrics=["ndcg@10"])["ndcg@10"]  # doctest: +SKIP

    Args:
        encoder: of the queries, and of the keys where they have none of their own.
        data: a set, or the folder or file of one, as `zh-embedder evaluate --data` reads it.
        key_encoder: of the keys.
        metrics: of retrieval and reranking, such as ndcg@10 (`zh-embedder metrics` lists them); sets of other kinds
            are measured by all metrics of their kind.
        hits: keys found for each query.

    Returns:
        metric -> value; judged queries without results count as zero. What the set's files lack is logged.

    Raises:
        UserError: the set is wrong, or the encoder has no instruction for its task.
    """
    for name in metrics:
        parse(name, RANKED[0], flag="metrics")
    data = read_set(data) if isinstance(data, str | Path) else data
    for line in lines_of(data.name, data):
        logger.warning("%s", line)
    return measure_model(Model("", encoder, key_encoder or encoder), data, metrics=metrics, hits=hits)[None].values
