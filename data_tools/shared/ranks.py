"""Ranks of torchrun in tools: how they find each other and wait for each other."""

from __future__ import annotations

from collections.abc import Callable

from zh_embedder.core.distributed import wait_for_all
from zh_embedder.core.ranks import own_rank

DAYS = 30  # ranks wait for each other so long


def start_ranks() -> int:
    """Let the ranks of torchrun find each other; returns this one's number."""
    import datetime

    import torch.distributed as dist

    rank, ranks = own_rank()
    if ranks > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=DAYS))
    return rank


def in_turn(work: Callable[[], None]) -> None:
    """Do what only one rank does, and let all wait for it."""
    work()
    wait_for_all()
