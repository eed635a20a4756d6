"""What a model does on evaluation sets: vectors, hits and metrics, the work shared out over ranks.

Shapes: Q queries, K keys, D dimensions, H hits, W ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zh_embedder.core.distributed import gather_values
from zh_embedder.core.errors import reject
from zh_embedder.core.ranks import world
from zh_embedder.core.similarity import one_with_many
from zh_embedder.evaluation.means import over_queries
from zh_embedder.evaluation.outcome import Outcome, Role
from zh_embedder.evaluation.probes import measure_labels, measure_pairs
from zh_embedder.evaluation.retrieval_metrics import Run, per_query
from zh_embedder.evaluation.sets import EvalSet, LabelSet, PairSet, RetrievalSet
from zh_embedder.models.encoder import Encoder
from zh_embedder.models.folders import encoder_folder, key_folder
from zh_embedder.search.bm25 import K1, B, build_bm25
from zh_embedder.search.exact import search
from zh_embedder.text.prefix import full_text
from zh_embedder.text.tokens import cut_share

METRICS = ("ndcg@10", "mrr@10", "recall@10")
HITS = 100  # keys kept of each query
SAMPLE = 256  # texts of a side that are measured for the share that is cut
QUERY, KEY = 0, 1

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Model:
    """A model to be measured: the encoder of each side."""

    name: str
    query: Encoder
    key: Encoder
    instruct: bool = True  # with the instructions of each set's task
    dtype: str | None = None  # precision; the encoder's own where it is not said
    shared: bool = True  # each rank encodes its share; False: every rank encodes everything (sharded weights)
    role: Role = Role.BASE  # a model measured alone is the one that others would be compared with

    @classmethod
    def load(cls, name: str, *, dtype: str = "auto", instruct: bool = True) -> Model:
        """Load the folder of a run, a checkpoint or an encoder, or a hub name."""
        query = Encoder.from_pretrained(encoder_folder(name), dtype=dtype)
        folder = key_folder(name)
        key = Encoder.from_pretrained(folder, dtype=dtype) if folder else query
        return cls(name, query, key, instruct=instruct)

    def label(self, size: int | None) -> str:
        """Name of the model with vectors cut to so many dimensions."""
        return self.name if size is None else f"{self.name} [{size}]"

    def side(self, side: int, task: str | None) -> tuple[Encoder, str, int]:
        """Return a side's encoder, the instruction in front of its texts, and their greatest length in tokens."""
        encoder = (self.query, self.key)[side]
        # A model without instructions is measured without them.
        prompt = encoder.spec.prefix(task, side) if self.instruct and encoder.spec.instructions else ""
        return encoder, prompt, (encoder.spec.query_max_length, encoder.spec.key_max_length)[side]

    def share(self) -> tuple[int, int]:
        """Return this rank and how many ranks share the work."""
        return world() if self.shared else (0, 1)

    def own_vectors(self, texts: Sequence[str], side: int, task: str | None) -> Vectors:
        """Encode this rank's share of the texts: every W-th, from its own number on."""
        (encoder, prompt, limit), (rank, ranks) = self.side(side, task), self.share()
        shown = world()[0] == 0
        mine = list(texts[rank::ranks])
        return encoder.encode(mine, prompt=prompt, max_length=limit, dtype=self.dtype, show_progress=shown)

    def vectors(self, texts: Sequence[str], side: int, task: str | None) -> Vectors:
        """Encode texts, each rank its share; every rank gets the vectors of all, in their order."""
        return self.whole(self.own_vectors(texts, side, task), len(texts))

    def whole(self, own: Vectors, count: int) -> Vectors:
        """Put the rows of all ranks together, in their order."""
        ranks = self.share()[1]
        if ranks == 1:
            return own
        rows = self.gathered(own)
        found = np.empty((count, *own.shape[1:]), own.dtype)
        start = 0
        for rank in range(ranks):
            size = len(range(rank, count, ranks))
            found[rank::ranks] = rows[start : start + size]
            start += size
        return found

    def gathered(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Stack what ranks hold, which may be different numbers of rows."""
        local = torch.from_numpy(np.ascontiguousarray(rows)).to(self.query.device)
        return gather_values(local, even=False).cpu().numpy()

    def truncated(self, texts: Sequence[str], side: int, task: str | None) -> float:
        """Share of a sample of texts that are longer than the model reads."""
        encoder, prompt, limit = self.side(side, task)
        chosen = np.random.default_rng(0).permutation(len(texts))[:SAMPLE]
        whole = [full_text(texts[int(i)], instruction=prompt) for i in chosen]
        return cut_share(encoder.tokenizer, whole, limit)


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
    cut = model.truncated([*sides[0], *sides[1]], QUERY, data.task)
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
            truncated=(cut, cut),
            role=model.role,
        )
    return found


def measure_retrieval(
    model: Model, data: RetrievalSet, *, metrics: Sequence[str], hits: int, dimensions: Sequence[int | None]
) -> dict[int | None, Outcome]:
    """Measure retrieval or reranking; judged queries without text or results count as zero."""
    task, texts = data.task, list(data.keys.values())
    queries = model.vectors(list(data.queries.values()), QUERY, task)
    reranks = data.candidates is not None
    keys = model.vectors(texts, KEY, task) if reranks else model.own_vectors(texts, KEY, task)
    cut = (model.truncated(list(data.queries.values()), QUERY, task), model.truncated(texts, KEY, task))
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
            truncated=cut,
            role=model.role,
        )
    return found


def retrieve(model: Model, data: RetrievalSet, queries: Vectors, keys: Vectors, *, hits: int) -> Run:
    """Find the best keys of every query among all: each rank searches its own, then the best of all ranks are kept.

    Args:
        model: whose ranks share the work.
        data: names of queries and keys.
        queries: (Q, D), whole on every rank.
        keys: this rank's share.
        hits: keys of each query.

    Returns:
        query -> key -> score, best first, the same on every rank.
    """
    rank, ranks = model.share()
    scores: NDArray[Any]
    indices: NDArray[Any]
    most = min(hits, -(-len(data.keys) // ranks))  # columns that every rank sends
    scores, indices = search(queries, keys, hits=most, metric=model.query.spec.metric)
    indices = indices * ranks + rank
    if ranks > 1:
        lacking = ((0, 0), (0, most - scores.shape[1]))  # a rank with a key less than the others
        scores = np.pad(scores, lacking, constant_values=-np.inf)
        indices = np.pad(indices, lacking, constant_values=len(data.keys))
        scores, indices = (
            model.gathered(part).reshape(ranks, len(queries), most).transpose(1, 0, 2).reshape(len(queries), -1)
            for part in (scores, indices)
        )
        order = np.lexsort((indices, -scores), axis=1)[:, : min(hits, len(data.keys))]
        scores, indices = (np.take_along_axis(part, order, axis=1) for part in (scores, indices))
    names = list(data.keys)
    return {
        query: {names[i]: float(score) for score, i in zip(row, columns, strict=True) if i < len(names)}
        for query, row, columns in zip(data.queries, scores, indices, strict=True)
    }


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
    index = build_bm25(list(data.keys.values()), words=words, dictionary=dictionary, k1=k1, b=b, show_progress=True)
    most = hits if data.candidates is None else len(data.keys)
    scores, indices = index.search(list(data.queries.values()), most, show_progress=True)
    names = list(data.keys)
    run = {
        query: {names[i]: float(score) for score, i in zip(row, columns, strict=True) if i >= 0}
        for query, row, columns in zip(data.queries, scores, indices, strict=True)
    }
    if data.candidates is not None:  # those without a word in common come last, in the order given
        own = {query: [name for name in names if name in data.keys] for query, names in data.candidates.items()}
        run = {query: {name: run[query].get(name, 0.0) for name in own.get(query, ())} for query in run}
    items = per_query(metrics, data.qrels, run)
    return Outcome(
        model=f"BM25 ({words})",
        data=data.name,
        task=data.task,
        kind=data.kind,
        values=over_queries(items),
        items=items,
        run=run,
        role=Role.BASELINE,
    )


def rerank(model: Model, data: RetrievalSet, queries: Vectors, keys: Vectors) -> Run:
    """Score every query's own candidates."""
    rows = {name: row for row, name in enumerate(data.keys)}
    run: dict[str, dict[str, float]] = {}
    for query, vector in zip(data.queries, queries, strict=True):
        names = [name for name in (data.candidates or {}).get(query, ()) if name in rows]
        scores = one_with_many(vector, keys[[rows[name] for name in names]], model.query.spec.metric)
        run[query] = dict(sorted(zip(names, scores.tolist(), strict=True), key=lambda pair: -pair[1]))
    return run


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


def evaluate_retrieval(
    encoder: Encoder,
    data: RetrievalSet,
    *,
    key_encoder: Encoder | None = None,
    metrics: Sequence[str] = METRICS,
    hits: int = HITS,
) -> Mapping[str, float]:
    """Measure an encoder on one retrieval set; judged queries without text or results count as zero."""
    model = Model("", encoder, key_encoder or encoder)
    return measure_model(model, data, metrics=metrics, hits=hits)[None].values
