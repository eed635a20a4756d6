"""Evaluation flags, of training runs and of `run_dense.py` alone. Names and defaults are LLM-Embedder's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zh_embedder.core.errors import reject, unknown_name
from zh_embedder.core.names import check_name
from zh_embedder.core.numbers import COUNT, real
from zh_embedder.core.options import check_numbers, choose, option
from zh_embedder.core.spellings import with_cutoffs
from zh_embedder.evaluation.retrieval_metrics import NAMES
from zh_embedder.search.bm25 import B_RANGE, K1, K1_RANGE, B
from zh_embedder.search.faiss_index import FLAT
from zh_embedder.text.prefix import KEY_TEMPLATE

METHODS = ("dense", "bm25", "random", "no")  # how keys are found
COLLATIONS = ("collate_key", "collate_neg", "collate_score")  # files for other programs, no metrics
METRICS, CUTOFFS = ("mrr", "recall", "ndcg"), (1, 5, 10, 100)  # LLM-Embedder's
ALONE = {  # flags that have no effect with --train_data
    *("eval_method", "retrieval_method", "faiss_index_factory", "k1", "b", "max_neg_num", "filter_answers", "log_path"),
    *("save_encode", "load_encode", "embedding_name", "save_index", "load_index", "save_result", "load_result"),
    *("save_name", "save_to_output"),
}
FIRST = "ndcg@10"  # shown first and plotted in training, if it is among the metrics
MEAN = "mean"  # over tasks: what picks the best checkpoint unless something else is named


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """Evaluation: in training with --train_data, of --eval_data alone without it."""

    eval_data: list[str] | None = option(
        None,
        "Evaluation sets: BEIR or FlagEmbedding folders, files of records, or LLM-Embedder's eval_data with --corpus.",
    )
    corpus: str | None = option(None, "JSON Lines file of keys that `pos_index` in --eval_data refers to.")
    key_template: str = option(KEY_TEMPLATE, "Template that turns a line of --corpus into a key.")
    eval_task: str | None = option(None, "Task of all sets in --eval_data. Default: the one named in their queries.")
    validation_share: float = option(
        0.0, "Share of the records to hold out and evaluate on, split by `group`.", number=real(0, below=1)
    )
    canary: str | None = option(None, "Set of general Chinese: not part of the mean, but a drop triggers a warning.")
    bm25: bool = option(False, "Measure BM25 over jieba's words once, for comparison.")
    metrics: list[str] = option(
        with_cutoffs(METRICS, CUTOFFS),
        f"Retrieval metrics with cutoff, such as ndcg@10 ({', '.join(NAMES)}); without --train_data also files for "
        f"other programs: {', '.join(COLLATIONS)}.",
    )
    hits: int = option(200, "Number of keys to retrieve per query.", number=COUNT)
    eval_method: str = option(
        "retrieval", "Without --train_data: retrieval, or rerank (rank each query's own candidates)."
    )
    retrieval_method: str = option("dense", f"Without --train_data, how to find keys: {', '.join(METHODS)}.")
    faiss_index_factory: str = option(FLAT, f"faiss index factory string; {FLAT} is exact.")
    k1: float = option(K1, "BM25: how much repeated words count.", number=K1_RANGE)
    b: float = option(B, "BM25: how strongly long keys are penalised.", number=B_RANGE)
    save_encode: bool = option(False, "Save the key vectors in --output_dir.")
    load_encode: bool = option(False, "Load the key vectors that --save_encode saved.")
    embedding_name: str = option("embeddings", "Name of the vectors' file.")
    save_index: bool = option(False, "Save the index in --output_dir.")
    load_index: bool = option(False, "Load the index that --save_index saved; keys are not encoded.")
    save_result: bool = option(False, "Save the retrieved keys and their scores in --output_dir.")
    load_result: bool = option(False, "Evaluate the keys that --save_result saved.")
    save_name: str | None = option(None, "Suffix in the names of collation and result files.")
    save_to_output: bool = option(False, "Write collations to --output_dir instead of next to --eval_data.")
    max_neg_num: int = option(100, "collate_neg: maximum number of negatives per query.", number=COUNT)
    filter_answers: bool = option(False, "collate_neg: leave out keys that contain one of the query's `answers`.")
    log_path: str | None = option(None, "Append the metrics to this file, as a line of JSON.")

    def __post_init__(self) -> None:
        """Reject invalid values."""
        for name in self.metrics:
            base, _, cutoff = name.partition("@")
            if base not in (*NAMES, *COLLATIONS):
                raise unknown_name("--metrics", name, (*NAMES, *COLLATIONS))
            if base in NAMES and not (cutoff.isdecimal() and int(cutoff) > 0):
                raise reject("--metrics", name, f"a cutoff of 1 or more, such as {base}@10")
        check_numbers(self)
        check_name("--embedding_name", self.embedding_name, what="a name of a file")
        if self.save_name is not None:
            check_name("--save_name", self.save_name, what="a suffix of names")
        choose("eval_method", self.eval_method, ("retrieval", "rerank"))
        choose("retrieval_method", self.retrieval_method, METHODS)

    @property
    def wanted(self) -> bool:
        """Whether training is evaluated."""
        return bool(self.eval_data or self.validation_share or self.canary)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Metrics whose cutoff is within --hits, the most important one first."""
        names = [name for name in self.metrics if name not in COLLATIONS]
        whole = [name for name in names if int(name.partition("@")[2]) <= self.hits]
        return tuple(sorted(dict.fromkeys(whole), key=lambda name: name != FIRST))


def evaluation_defaults(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return transformers flags that evaluation in training needs and that the user did not give.

    Evaluation runs at step 0, with every checkpoint and at the end; the mean over tasks picks the best checkpoint.
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
