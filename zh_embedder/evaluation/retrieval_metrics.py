"""Retrieval metrics of a run, by ir-measures and by functions of our own. Queries without results count as zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zh_embedder.evaluation.metrics import RANKED, Named, of_kind, parse
from zh_embedder.evaluation.sets import Qrels

Run = Mapping[str, Mapping[str, float]]  # query -> key -> score

NAMES = tuple(metric.name for metric in of_kind(RANKED[0]))


def measure(name: str) -> str:
    """Turn `ndcg@10` into the name that ir-measures knows, `nDCG@10`."""
    return library_name(parse(name, RANKED[0]))


def library_name(named: Named) -> str:
    """Return the name of a metric in ir-measures."""
    return f"{named.metric.ir_measure}" + ("" if named.cutoff is None else f"@{named.cutoff}")


def per_query(names: Sequence[str], qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Value of each metric for each judged query; 0 for one without results.

    Args:
        names: such as `ndcg@10`, `mrr@10`, `recall@10`.
        qrels: relevance judgements.
        run: scores of retrieved keys.

    Returns:
        metric -> query -> value.
    """
    import ir_measures

    asked = {name: parse(name, RANKED[0]) for name in names}
    values = {name: dict.fromkeys(qrels, 0.0) for name in names}
    theirs = {n: ir_measures.parse_measure(library_name(m)) for n, m in asked.items() if m.metric.ranking is None}
    measures = {str(measure): name for name, measure in theirs.items()}
    if theirs:
        for value in ir_measures.iter_calc(list(theirs.values()), qrels, run):
            values[measures[str(value.measure)]][value.query_id] = value.value
    for name, own in asked.items():
        if own.metric.ranking is not None:
            for query in qrels.keys() & run.keys():
                values[name][query] = own.metric.ranking(qrels[query], best_first(run[query]), own.cutoff)
    return values


def best_first(scores: Mapping[str, float]) -> list[str]:
    """Keys by their score, best first; of equal scores the higher id first, as trec_eval has it."""
    return sorted(scores, key=lambda key: (scores[key], key), reverse=True)
