"""Faiss index search: faster than exact search where keys are many, by leaving most of them out.

Shapes: Q queries, K keys, D dimensions, H hits. Scores mean what they mean in exact search (l2: minus the squared
distance), as far as the index keeps vectors whole.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError, nearest, reject
from zh_embedder.core.files import renamed
from zh_embedder.core.progress import Bar
from zh_embedder.core.similarity import placed
from zh_embedder.search.exact import (
    Hits,
    Rows,
    blocks_of,
    check,
    check_width,
    search,
    search_blocks,
    search_folder,
)
from zh_embedder.search.vector_store import NO_KEY, Vectors

__all__ = ["Index", "build", "load_index", "retrieve", "save_index", "search", "search_blocks", "search_folder"]

logger = logging.getLogger(__name__)

FLAT = "Flat"
FLAG = "faiss_index_factory"
EXAMPLES = (FLAT, "IVF4096,Flat", "IVF4096,PQ32", "HNSW32", "PQ32", "OPQ32_128,IVF4096,PQ32", "SQ8")
ADDED = 65536  # keys added at a time
SAMPLE, PER_LIST = 65536, 64  # keys to train with: SAMPLE, or PER_LIST for each list if more
GOOD = 39  # keys for each list below which faiss warns
PROBED, LEAST_PROBED = 32, 16  # one list in PROBED is searched, LEAST_PROBED at least
LEAST_EF = 64


@dataclass(frozen=True, slots=True)
class Index:
    """A faiss index over K keys."""

    inner: Any  # faiss.Index
    metric: str

    def __len__(self) -> int:
        """Return the number of keys."""
        return int(self.inner.ntotal)

    def search(self, queries: Rows, hits: int, *, probes: int | None = None, ef: int | None = None) -> Hits:
        """Find good keys of each query.

        Args:
            queries: (Q, D).
            hits: how many keys to return for a query.
            probes: lists that an IVF index looks into; by default one in 32, but 16 at least.
            ef: candidates that an HNSW index follows; by default twice the hits, but 64 at least.

        Returns:
            Scores and key indices, both (Q, min(H, K)), best first; of equal scores the lower index first. Where an
            index finds fewer, rows are filled up with index -1 and score minus infinity.

        Raises:
            UserError: an argument is wrong, or the index has no such setting.
        """
        check(hits, self.metric)
        check_width(queries, self.inner.d)
        self.tune("nprobe", probes, min(lists_of(self.inner), max(LEAST_PROBED, lists_of(self.inner) // PROBED)))
        self.tune("efSearch", ef, max(LEAST_EF, 2 * hits))
        hits = min(hits, len(self))
        if not hits or not len(queries):
            return np.zeros((len(queries), hits), np.float32), np.zeros((len(queries), hits), np.int64)
        values, indices = self.inner.search(placed(queries, self.metric).numpy(), hits)
        scores = np.where(indices == NO_KEY, -np.inf, -values if self.metric == "l2" else values).astype(np.float32)
        order = np.lexsort((indices, -scores))
        return np.take_along_axis(scores, order, 1), np.take_along_axis(indices.astype(np.int64), order, 1)

    def tune(self, name: str, asked: int | None, default: int) -> None:
        """Set how thoroughly to search, where the index has such a setting."""
        import faiss

        if asked is not None and asked < 1:
            raise reject(name, asked, "at least 1")
        space = faiss.GpuParameterSpace() if hasattr(faiss, "GpuParameterSpace") else faiss.ParameterSpace()
        try:
            space.set_index_parameter(self.inner, name, asked or default)
        except RuntimeError:
            if asked is not None:
                raise reject(name, asked, f"none: an index of type {type(self.inner).__name__} has no {name}") from None


def retrieve(
    queries: Rows,
    keys: Rows | Vectors,
    *,
    hits: int,
    metric: str = "cos",
    factory: str = FLAT,
    device: str | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Hits:
    """Find the keys of each query in the way that a factory string names; `Flat` is our exact search, without faiss.

    Args:
        queries: (Q, D).
        keys: (K, D), or the folder that `open_vectors` returned.
        hits: how many keys to return for a query.
        metric: cos, ip or l2.
        factory: of faiss, such as `IVF4096,Flat`.
        device: where exact search scores; by default the accelerator, if there is one.
        seed: of the sample that an index is trained with.
        show_progress: show a bar where building takes over 5 seconds.

    Returns:
        Scores and key indices, as `search` and `Index.search` do.

    Raises:
        UserError: an argument is wrong.
    """
    if factory == FLAT:
        return search_blocks(queries, blocks_of(keys), hits=hits, metric=metric, device=device)
    check(hits, metric)
    return build(keys, factory=factory, metric=metric, seed=seed, show_progress=show_progress).search(queries, hits)


def build(
    keys: Rows | Vectors,
    *,
    factory: str = FLAT,
    metric: str = "cos",
    seed: int = 0,
    sample: int | None = None,
    show_progress: bool = False,
) -> Index:
    """Build a faiss index, block by block; on the first GPU where faiss-gpu is installed and knows such an index there.

    The same keys, factory and seed give the same index, but for HNSW, whose graph depends on which thread comes first.

    Args:
        keys: (K, D), or the folder that `open_vectors` returned.
        factory: of faiss, such as `Flat`, `IVF4096,Flat`, `HNSW32` or `PQ32`.
        metric: cos, ip or l2.
        seed: of the sample of keys that it is trained with, where it is.
        sample: how many; by default 64 for each list, and 65,536 at least.
        show_progress: show a bar where adding takes over 5 seconds.

    Raises:
        UserError: faiss is not installed or does not understand the factory, or there are too few keys for it.
    """
    check(1, metric)
    width = keys.dimension if isinstance(keys, Vectors) else keys.shape[1]
    inner = make(factory, width, metric)
    if not inner.is_trained:
        count = min(len(keys), sample or max(SAMPLE, PER_LIST * lists_of(inner)))
        train(inner, factory, placed(drawn(keys, count, seed=seed), metric).numpy())
    with Bar(len(keys), shown=show_progress) as bar:
        for rows in pieces(keys):
            inner.add(placed(rows, metric).numpy())
            bar.advance(len(rows))
    return Index(inner, metric)


def import_faiss() -> Any:
    """Import faiss, or say how to get it."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            f"{FLAG}: faiss is not installed: `pip install zh-embedder[cpu]` (or [gpu]); `{FLAT}` searches without it"
        ) from None
    return faiss


def reason(error: RuntimeError) -> str:
    """Return what faiss says, without the place in its source."""
    return re.sub(r"(?s)^Error in .*?\.(?:cpp|h|cu):\d+: ", "", str(error)).strip()


def make(factory: str, width: int, metric: str) -> Any:
    """Make an empty faiss index, on the GPU where that can be."""
    faiss = import_faiss()
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if "LSH" in factory:
        raise reject(FLAG, factory, "another: the distances of LSH are not those of a metric")
    if "PCA" in factory and metric != "l2":
        raise reject(FLAG, factory, f"another: PCA moves the origin, after which {metric} is another; OPQ does not")
    try:
        inner = faiss.index_factory(width, factory, kind)
    except RuntimeError as error:
        hint = nearest(factory, EXAMPLES) or nearest(factory.upper(), EXAMPLES) or ","
        expected = f"what faiss understands{hint} such as {', '.join(EXAMPLES)} ({reason(error)})"
        raise reject(FLAG, factory, expected) from None
    if hasattr(inner, "do_polysemous_training"):
        inner.do_polysemous_training = (
            False  # PQ's codes ordered for Hamming distances, which no search here uses: slow
        )
    if not getattr(faiss, "get_num_gpus", int)():
        return inner
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, inner)
    except RuntimeError as error:
        logger.info("%s stays on the CPU: %s", factory, reason(error))
        return inner


def lists_of(inner: Any) -> int:
    """Lists of an IVF index, 0 of any other."""
    import faiss

    ivf = inner if hasattr(inner, "nlist") else faiss.try_extract_index_ivf(inner)
    return int(ivf.nlist) if ivf is not None else 0


def train(inner: Any, factory: str, rows: NDArray[np.float32]) -> None:
    """Train an index with a sample, (any number, D).

    Raises:
        UserError: there are too few.
    """
    lists = lists_of(inner)
    if len(rows) < lists:
        expected = f"{lists} vectors at least, {lists * GOOD} to be good; for fewer a smaller IVF, or {FLAT}"
        raise reject(f"{FLAG}: {factory}", f"{len(rows)} vectors to train with", expected)
    try:
        inner.train(rows)
    except RuntimeError as error:
        expected = f"more vectors, or a simpler index such as {FLAT} ({reason(error)})"
        raise reject(f"{FLAG}: {factory}", f"{len(rows)} vectors to train with", expected) from None


def drawn(keys: Rows | Vectors, count: int, *, seed: int) -> Rows:
    """Draw keys at random, each at most once, in their order, (count, D)."""
    rows = np.sort(np.random.default_rng(seed).choice(len(keys), count, replace=False))
    found = []
    for first, block in blocks_of(keys):
        low, high = np.searchsorted(rows, (first, first + len(block)))
        found.append(np.asarray(block[rows[low:high] - first], dtype=np.float32))
    return np.concatenate(found)


def pieces(keys: Rows | Vectors) -> Iterator[Rows]:
    """Yield all keys in their order, not too many at a time."""
    for _, block in blocks_of(keys):
        for start in range(0, len(block), ADDED):
            yield block[start : start + ADDED]


def save_index(index: Index, path: str | Path) -> None:
    """Write a faiss index into one file, whole or not at all.

    Raises:
        UserError: faiss cannot write it.
    """
    faiss = import_faiss()
    on_gpu = hasattr(faiss, "GpuIndex") and isinstance(index.inner, faiss.GpuIndex)
    inner = faiss.index_gpu_to_cpu(index.inner) if on_gpu else index.inner
    with renamed(Path(path)) as partial:
        try:
            faiss.write_index(inner, str(partial))
        except RuntimeError as error:
            raise UserError(f"{path}: cannot be written: {reason(error)}") from None


def load_index(path: str | Path, *, metric: str) -> Index:
    """Read a faiss index.

    Args:
        path: of the file.
        metric: that it was built for. A file tells l2 from the others, but not cos from ip.

    Raises:
        UserError: the file is missing, is no faiss index, or was built for another metric.
    """
    check(1, metric)
    faiss = import_faiss()
    if not Path(path).is_file():
        raise UserError(f"{path}: is missing, expected a file that save_index or faiss has written")
    try:
        inner = faiss.read_index(str(path))
    except RuntimeError as error:
        raise UserError(f"{path}: is not a faiss index, or is torn: {reason(error)}") from None
    if (inner.metric_type == faiss.METRIC_L2) != (metric == "l2"):
        built = "l2" if inner.metric_type == faiss.METRIC_L2 else "cos or ip"
        raise reject(f"{path}: metric", metric, f"{built}, which the index was built for")
    return Index(inner, metric)
