"""Numbers that the flags and the settings of generation share."""

from __future__ import annotations

from zh_embedder.core.numbers import real, whole

PASSAGE_CHARS = whole(20)
CONCURRENCY = whole(1, 1000)
TIMEOUT = real(0.001)  # seconds
