"""Contenders with their flags: each program at its defaults and at the best that its own flags can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "ours"


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table."""

    name: str
    module: str  # of the worker
    needs: str  # the distribution that must be installed
    train: Mapping[str, Any] = field(default_factory=dict)
    encode: Mapping[str, Any] = field(default_factory=dict)
    by_shape: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)  # (kind, shape): flags more
    threads: bool = False  # OMP_NUM_THREADS is set to the cores of a rank, as a careful user would

    @property
    def is_peer(self) -> bool:
        return not self.name.startswith(OURS)

    def flags(self, kind: str, shape: str) -> dict[str, Any]:
        return {**(self.train if kind == "train" else self.encode), **self.by_shape.get((kind, shape), {})}


def contenders(device: str, *, bf16: bool, flash: bool = False) -> list[Contender]:
    """Return all contenders.

    Args:
        device: cpu or cuda.
        bf16: this hardware gains from it.
        flash: the peers have flash-attn, with which sentence-transformers computes no padding.
    """
    flagembedding = {"module": "benchmarks.worker_flagembedding", "needs": "FlagEmbedding"}
    transformers = {"module": "benchmarks.worker_sentence_transformers", "needs": "sentence-transformers"}
    best_fe = best_flagembedding_on_cpu if device == "cpu" else best_flagembedding_on_cuda
    best_st = best_sentence_transformers_on_cpu if device == "cpu" else best_sentence_transformers_on_cuda
    return [
        Contender(OURS, "benchmarks.worker_ours", "torch"),
        Contender("ours fp32", "benchmarks.worker_ours", "torch", train={"dtype": "fp32"}, encode={"dtype": "fp32"}),
        Contender("flagembedding default", **flagembedding),
        Contender("flagembedding best", **flagembedding, **best_fe(bf16)),
        Contender("sentence-transformers default", **transformers),
        Contender("sentence-transformers best", **transformers, **best_st(bf16, flash)),
    ]


def best_flagembedding_on_cpu(bf16: bool) -> dict[str, Any]:
    """Encoding is always fp32 there. Sub-batches of one pad nothing, and their small tensors cause no page faults."""
    half = {"bf16": True} if bf16 else {}
    small = {("train", shape): {"sub_batch_size": 1} for shape in ("long", "full")}
    return {"train": half, "encode": {"batch_size": 32}, "by_shape": small, "threads": True}


def best_flagembedding_on_cuda(bf16: bool) -> dict[str, Any]:
    """Encoding is fp16 by default there."""
    half = {"bf16": True} if bf16 else {"fp16": True}
    return {"train": half, "encode": {"use_fp16": not bf16, "use_bf16": bf16}, "threads": True}


def best_sentence_transformers_on_cpu(bf16: bool, flash: bool) -> dict[str, Any]:
    """With attention dropout, torch's own attention is slower on a CPU than the written-out one."""
    half, cast = ({"bf16": True}, {"dtype": "bfloat16"}) if bf16 else ({}, {})
    eager = {"model": {"model_kwargs": {"attn_implementation": "eager"}}}
    return {"train": {**half, **eager}, "encode": {"model": {"model_kwargs": cast}}, "threads": True}


def best_sentence_transformers_on_cuda(bf16: bool, flash: bool) -> dict[str, Any]:
    """Half precision, larger batches, and no padding where flash-attn is there."""
    attention = {"attn_implementation": "flash_attention_2"} if flash else {}
    half, cast = ({"bf16": True}, {"dtype": "bfloat16"}) if bf16 else ({"fp16": True}, {"dtype": "float16"})
    return {
        "train": {**half, "model": {"model_kwargs": attention}},
        "encode": {"batch_size": 256, "model": {"model_kwargs": {**cast, **attention}}},
        "threads": True,
    }
