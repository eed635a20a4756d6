"""The import `zh_embedder.tiny.build`, as docs have shown it."""

from zh_embedder.bases.tiny import build

__all__ = ["build"]
