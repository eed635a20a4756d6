"""Retrieval metrics through ir-measures, behind one face. Queries without results count as zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zh_embedder.core.errors import reject
from zh_embedder.evaluation.sets import Qrels

Run = Mapping[str, Mapping[str, float]]  # query -> key -> score

NAMES = {"ndcg": "nDCG", "mrr": "RR", "recall": "R", "map": "AP", "precision": "P", "hit": "Success"}
WITH_CUTOFF = ("recall", "precision", "hit")  # they mean nothing without `@10`


def measure(name: str) -> str:
    """Turn `ndcg@10` into the name that ir-measures knows, `nDCG@10`."""
    base, at, cutoff = name.partition("@")
    # A cutoff of 0 would crash the library below, without a traceback.
    right = cutoff.isdecimal() and not cutoff.startswith("0") if at else base not in WITH_CUTOFF
    if base not in NAMES or not right:
        raise reject("metric", name, f"one of {', '.join(NAMES)}, such as ndcg@10")
    return f"{NAMES[base]}{at}{cutoff}"


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

    measures = {str(ir_measures.parse_measure(measure(name))): name for name in names}
    values = {name: dict.fromkeys(qrels, 0.0) for name in names}
    found = ir_measures.iter_calc([ir_measures.parse_measure(m) for m in measures], qrels, run)
    for value in found:
        values[measures[str(value.measure)]][value.query_id] = value.value
    return values


def mean(names: Sequence[str], qrels: Qrels, run: Run) -> dict[str, float]:
    """Return the mean of each metric over all judged queries."""
    return {name: sum(v.values()) / max(1, len(v)) for name, v in per_query(names, qrels, run).items()}
