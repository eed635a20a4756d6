"""The flags that say what is measured, in training and without it. Names and defaults are LLM-Embedder's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zh_embedder.core.errors import reject, unknown_name
from zh_embedder.core.options import at_least, choose, option
from zh_embedder.evaluation.retrieval_metrics import NAMES
from zh_embedder.text.prefix import KEY_TEMPLATE

METHODS = ("dense", "bm25", "random", "no")  # how keys are found
COLLATIONS = ("collate_key", "collate_neg", "collate_score")  # files for other programs, no metrics
ALONE = {  # flags that count without --train_data only
    *("eval_method", "retrieval_method", "faiss_index_factory", "k1", "b", "max_neg_num", "filter_answers", "log_path"),
    *("save_encode", "load_encode", "embedding_name", "save_index", "load_index", "save_result", "load_result"),
    *("save_name", "save_to_output"),
}
FIRST = "ndcg@10"  # shown first and followed in training, where it is among the metrics
MEAN = "mean"  # over tasks: what picks the best checkpoint unless something else is named


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """What is measured: in training beside --train_data; without it, --eval_data alone."""

    eval_data: list[str] | None = option(
        None, "Sets to measure: BEIR or FlagEmbedding folders, records, or LLM-Embedder's eval_data beside --corpus."
    )
    corpus: str | None = option(None, "JSON Lines of keys that --eval_data's `pos_index` counts in.")
    key_template: str = option(KEY_TEMPLATE, "How a line of --corpus becomes a key.")
    eval_task: str | None = option(None, "Task of every set in --eval_data. Default: what its queries say.")
    validation_share: float = option(0.0, "Hold so many of the records out of training, by `group`, and measure them.")
    canary: str | None = option(None, "A set of general Chinese: not part of the mean, a drop there is said aloud.")
    bm25_baseline: bool = option(False, "Measure BM25 over jieba's words too, once, to stand beside the model.")
    metrics: list[str] = option(["mrr", "recall", "ndcg"], f"Of retrieval: {', '.join((*NAMES, *COLLATIONS))}.")
    cutoffs: list[int] = option([1, 5, 10, 100], "Metrics are taken at so many keys.")
    hits: int = option(200, "Keys found for each query.")
    eval_method: str = option("retrieval", "Without --train_data: retrieval, or rerank, the keys each query brings.")
    retrieval_method: str = option("dense", f"Without --train_data, how keys are found: {', '.join(METHODS)}.")
    faiss_index_factory: str = option("Flat", "Index over the keys, as faiss spells it; Flat is exact.")
    k1: float = option(0.82, "Of BM25: weight of a word that a key repeats.")
    b: float = option(0.68, "Of BM25: how much long keys are held back.")
    save_encode: bool = option(False, "Keep the vectors of keys in --output_dir.")
    load_encode: bool = option(False, "Take the vectors of keys that --save_encode kept.")
    embedding_name: str = option("embeddings", "Name of their file.")
    save_index: bool = option(False, "Keep the index in --output_dir.")
    load_index: bool = option(False, "Take the index that --save_index kept; keys are not encoded.")
    save_result: bool = option(False, "Keep the keys found, with their scores, in --output_dir.")
    load_result: bool = option(False, "Measure the keys that --save_result kept.")
    save_name: str | None = option(None, "Part of the names of files that collations and results are written to.")
    save_to_output: bool = option(False, "Collations go to --output_dir, not beside --eval_data.")
    max_neg_num: int = option(100, "collate_neg keeps so many negatives of each query.")
    filter_answers: bool = option(False, "collate_neg leaves out keys that hold one of the query's `answers`.")
    log_path: str | None = option(None, "Append a line of JSON with the metrics to this file.")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in self.metrics:
            if name.partition("@")[0] not in (*NAMES, *COLLATIONS):
                raise unknown_name("--metrics", name, (*NAMES, *COLLATIONS))
        for cutoff in self.cutoffs:
            at_least("cutoffs", cutoff, 1)
        at_least("hits", self.hits, 1)
        at_least("max_neg_num", self.max_neg_num, 1)
        choose("eval_method", self.eval_method, ("retrieval", "rerank"))
        choose("retrieval_method", self.retrieval_method, METHODS)
        if not 0 <= self.validation_share < 1:
            raise reject("--validation_share", self.validation_share, "a share in [0, 1)")

    @property
    def wanted(self) -> bool:
        """Tell whether training is to be measured."""
        return bool(self.eval_data or self.validation_share or self.canary)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Metrics with their cutoffs, the one that is shown first in front."""
        names = [name for name in self.metrics if name not in COLLATIONS]
        found = [name if "@" in name else f"{name}@{cutoff}" for name in names for cutoff in self.cutoffs]
        whole = [name for name in found if int(name.partition("@")[2]) <= self.hits]
        return tuple(sorted(dict.fromkeys(whole), key=lambda name: name != FIRST))


def evaluation_defaults(given: Mapping[str, str | None]) -> dict[str, str]:
    """Flags of transformers that evaluation in training needs and the user did not give.

    Evaluated at step 0, wherever a checkpoint is saved, and at the end; the mean over tasks picks the best.
    """
    if not any(name in given for name in ("eval_data", "validation_share", "canary")):
        return {}
    steps = given.get("save_strategy", "steps") != "epoch"
    defaults = {"eval_strategy": "steps" if steps else "epoch", "eval_on_start": "True", "metric_for_best_model": MEAN}
    if steps and "eval_strategy" not in given:
        defaults["eval_steps"] = given.get("save_steps") or "2000"
    if given.get("save_strategy") in ("no", "best"):
        defaults["eval_steps"] = "0.1"
    return {name: value for name, value in defaults.items() if name not in given}
