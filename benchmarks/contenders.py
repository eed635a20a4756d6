"""Who is measured, and with which flags: each program at its defaults and at the best that its own flags can do."""

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
    threads: bool = False  # OMP_NUM_THREADS is set to the cores of a rank, as a careful user would

    @property
    def is_peer(self) -> bool:
        return not self.name.startswith(OURS)

    def flags(self, kind: str) -> dict[str, Any]:
        return dict(self.train if kind == "train" else self.encode)


def contenders(device: str, *, bf16: bool) -> list[Contender]:
    """Return all contenders; `bf16` says whether this hardware gains from it.

    What was tried for "best" on a CPU, and left out because it was slower or changed nothing, stands in docs/log.md.
    """
    half = {"bf16": True} if bf16 else {}
    fe, st = "benchmarks.worker_flagembedding", "benchmarks.worker_sentence_transformers"
    on_cpu = device == "cpu"
    # FlagEmbedding turns every model to fp32 on the CPU: smaller batches are all that is left.
    fe_encode = {"batch_size": 32} if on_cpu else {"use_fp16": False, "use_bf16": bf16, "batch_size": 256}
    st_encode = {"model": {"model_kwargs": {"dtype": "bfloat16"}}} if bf16 else {}
    return [
        Contender(OURS, "benchmarks.worker_ours", "torch"),
        Contender("ours fp32", "benchmarks.worker_ours", "torch", {"dtype": "fp32"}),
        Contender("flagembedding default", fe, "FlagEmbedding"),
        Contender("flagembedding best", fe, "FlagEmbedding", half, fe_encode, threads=True),
        Contender("sentence-transformers default", st, "sentence-transformers"),
        Contender("sentence-transformers best", st, "sentence-transformers", half, st_encode, threads=True),
    ]
