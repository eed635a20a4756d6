"""Train Chinese text embedders for many retrieval tasks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zh_embedder.evaluation.measure import evaluate
    from zh_embedder.models.encoder import Encoder
    from zh_embedder.search.vector_store import open_vectors

__version__ = "0.1.0"
__all__ = ["Encoder", "__version__", "evaluate", "open_vectors"]


def __getattr__(name: str) -> Any:
    """Load what is asked for, and nothing else: the encoder brings torch with it."""
    if name == "Encoder":
        from zh_embedder.models.encoder import Encoder

        return Encoder
    if name == "evaluate":
        from zh_embedder.evaluation.measure import evaluate

        return evaluate
    if name == "open_vectors":
        from zh_embedder.search.vector_store import open_vectors

        return open_vectors
    raise AttributeError(f"module 'zh_embedder' has no attribute {name!r}")
