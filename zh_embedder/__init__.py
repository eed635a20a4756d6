"""Train Chinese text embedders for many retrieval tasks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zh_embedder.encoder import Encoder

__version__ = "0.1.0"
__all__ = ["Encoder", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the encoder, and torch with it, only when it is asked for."""
    if name == "Encoder":
        from zh_embedder.encoder import Encoder

        return Encoder
    raise AttributeError(f"module 'zh_embedder' has no attribute {name!r}")
