"""Assignment of groups to parts: whole groups, each dataset in proportion, in an order that no file decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_tools.splitting.census import Census
from zh_embedder.data.source_groups import draw_groups, sizes_of


def assign(census: Census, wanted: Mapping[str, float | int | None]) -> NDArray[np.int64]:
    """Return the part of each record, (N,): whole groups, each dataset in proportion.

    Groups are taken in the order of the least hash among their records: neither the order of lines nor that of files
    changes where a group goes.
    """
    order = ordered_groups(census)
    counts = np.bincount(census.datasets, minlength=len(census.names))
    sizes = [sizes_of(census.groups[census.datasets == d]) for d in range(len(counts))]
    rest = next(i for i, share in enumerate(wanted.values()) if share is None)
    part_of = dict.fromkeys(order, rest)
    for number, share in enumerate(wanted.values()):
        if number == rest or not share:
            continue
        part = share if isinstance(share, float) else share / counts.sum()
        quotas = [max(1, round(part * n)) for n in counts.tolist()]
        for group in draw_closely([g for g in order if part_of[g] == rest], sizes, quotas):
            part_of[group] = number
    return np.asarray([part_of[group] for group in census.groups.tolist()], np.int64)


def draw_closely(order: Sequence[int], sizes: Sequence[Mapping[int, int]], quotas: Sequence[int]) -> set[int]:
    """Draw groups that fit; where they leave a dataset below half of its quota, larger ones too."""
    drawn = draw_groups(order, sizes, quotas, limit=1)
    reached = [sum(size.get(group, 0) for group in drawn) for size in sizes]
    if all(2 * have >= quota for have, quota in zip(reached, quotas, strict=True)):
        return drawn
    return draw_groups(order, sizes, quotas)


def ordered_groups(census: Census) -> list[int]:
    """Return the groups in the order of the least key in each."""
    order = np.lexsort((census.keys, census.groups))
    groups = census.groups[order]
    firsts = order[np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])]
    return census.groups[firsts[np.argsort(census.keys[firsts], kind="stable")]].tolist()
