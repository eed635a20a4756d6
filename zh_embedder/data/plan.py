"""Plan of an epoch: which rows form which step. Pure: every rank computes it and reads its slice.

Rows are global: row r of dataset d is `offsets[d] + r`. A step takes R = ranks * per-rank batch rows.
Shapes: S steps of the epoch, R rows of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zh_embedder.core.errors import UserError

Ints = NDArray[np.int64]
PLAN_STREAM = 2**32 - 1  # sets the plan's random stream apart from those of the rows
MIXED = -1  # the dataset of a step whose rows come from all datasets


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of one epoch, for all ranks together."""

    datasets: Ints  # (S,) index of the dataset, or MIXED
    rows: Ints  # (S, R) global rows
    counts: NDArray[np.bool_]  # (S, R) False where a row was repeated to fill the step: the loss leaves it out

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class RankStep:
    """What one rank reads for one step."""

    dataset: int  # index, or MIXED
    rows: Ints  # (B,) global rows
    counts: NDArray[np.bool_]  # (B,)
    step_queries: int  # rows of the whole step that count


Shares = Sequence[float] | None  # of each dataset in the steps of an epoch; None: as its size has it


def shares_of(sizes: Sequence[int], tasks: Sequence[str], weights: Sequence[float], temperature: float) -> Shares:
    """Return the share of each dataset in the steps: a task by its size to the power of `temperature`.

    1 is in proportion to the records, 0 gives every task the same (Conneau and Lample 2019, arXiv 1901.07291, there
    over languages). Within a task its datasets share by their sizes. Weights multiply; None where nothing is asked for.

    Args:
        sizes: records of each dataset.
        tasks: task of each.
        weights: of each dataset, its task's weight included.
        temperature: within 0 and 1.
    """
    if temperature == 1 and len(set(weights)) <= 1:
        return None
    totals = {task: sum(s for s, t in zip(sizes, tasks, strict=True) if t == task) for task in tasks}
    parts = [
        weight * totals[task] ** temperature * size / totals[task]
        for size, task, weight in zip(sizes, tasks, weights, strict=True)
    ]
    return tuple(part / sum(parts) for part in parts)


def steps_of(sizes: Sequence[int], step_rows: int, shares: Shares = None) -> list[int]:
    """Steps of each dataset in an epoch; one at least (a small dataset never starves).

    By size they are the full steps that its rows fill. By shares, as many steps in all are given out anew: more than a
    dataset fills are several passes through its rows, fewer leave rows for another epoch's shuffle.
    """
    full = [max(1, size // step_rows) for size in sizes]
    if shares is None:
        return full
    exact = [share * sum(full) for share in shares]
    steps = [max(1, int(part)) for part in exact]
    by_rest = sorted(range(len(sizes)), key=lambda d: steps[d] - exact[d])
    for dataset in by_rest[: max(0, sum(full) - sum(steps))]:
        steps[dataset] += 1
    return steps


def epoch_steps(sizes: Sequence[int], *, step_rows: int, mode: str | None, shares: Shares = None) -> int:
    """Return the number of steps of an epoch: the same for every epoch and seed."""
    check_sizes(sizes, step_rows)
    if mode in ("epoch", "epoch-static", "epoch-random"):
        return sum(steps_of(sizes, step_rows, shares))
    return max(len(sizes) if mode == "random" else 1, sum(sizes) // step_rows)


def waiting_rows(sizes: Sequence[int], step_rows: int, shares: Shares = None) -> list[int]:
    """Rows of each dataset that no step of an epoch takes, and that wait for another epoch's shuffle."""
    steps = steps_of(sizes, step_rows, shares)
    # A dataset that fills no step, or is passed through again, leaves none: the next pass takes the rows left over.
    return [max(0, size - n * step_rows) if size >= step_rows else 0 for size, n in zip(sizes, steps, strict=True)]


def check_sizes(sizes: Sequence[int], step_rows: int) -> None:
    """Refuse an empty dataset and a step without rows."""
    if step_rows < 1:
        raise UserError(f"step batch: got {step_rows} rows, expected at least 1")
    if not sizes or min(sizes) < 1:
        raise UserError(f"training data: got datasets of {list(sizes)} records, expected at least one record in each")


def cut(order: Ints, step_rows: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Cut shuffled rows into full steps, (S, R) rows and counts; rows too few for one step are cycled and marked."""
    if len(order) < step_rows:
        return np.resize(order, (1, step_rows)), (np.arange(step_rows) < len(order))[None]
    steps = len(order) // step_rows
    return order[: steps * step_rows].reshape(steps, step_rows), np.ones((steps, step_rows), bool)


def passes(size: int, steps: int, step_rows: int, rng: np.random.Generator) -> tuple[Ints, NDArray[np.bool_]]:
    """`steps` steps of a dataset, (S, R) rows and counts: its rows shuffled and cut, as often as it takes."""
    rows, counts = cut(rng.permutation(size), step_rows)
    while len(rows) < steps:
        more, real = cut(rng.permutation(size), step_rows)
        rows, counts = np.concatenate([rows, more]), np.concatenate([counts, real])
    return rows[:steps], counts[:steps]


def plan_epochwise(sizes: Sequence[int], step_rows: int, shares: Shares, rng: np.random.Generator) -> Plan:
    """`epoch`: rows of each dataset shuffled and cut into steps, the steps of all datasets shuffled together."""
    datasets, rows, counts, offset = [], [], [], 0
    for index, (size, steps) in enumerate(zip(sizes, steps_of(sizes, step_rows, shares), strict=True)):
        step, count = passes(size, steps, step_rows, rng)
        step = step + offset
        datasets.append(np.full(len(step), index))
        rows.append(step)
        counts.append(count)
        offset += size
    order = rng.permutation(sum(len(step) for step in rows))
    return Plan(np.concatenate(datasets)[order], np.concatenate(rows)[order], np.concatenate(counts)[order])


def plan_epoch_static(
    sizes: Sequence[int], step_rows: int, shares: Shares, first: np.random.Generator, later: np.random.Generator
) -> Plan:
    """`epoch-static`: the steps of epoch 0 in every epoch, their order drawn anew."""
    plan = plan_epochwise(sizes, step_rows, shares, first)
    order = later.permutation(len(plan))
    return Plan(plan.datasets[order], plan.rows[order], plan.counts[order])


def plan_epoch_random(sizes: Sequence[int], step_rows: int, shares: Shares, rng: np.random.Generator) -> Plan:
    """`epoch-random`: each step draws a dataset with probability proportional to the rows that it has left.

    A dataset that cannot fill a step any more is out until all are; then the epoch ends. One too small for a single
    step is drawn once, its rows cycled.
    """
    plan = plan_epochwise(sizes, step_rows, shares, rng)
    queues = [list(np.flatnonzero(plan.datasets == index)) for index in range(len(sizes))]
    left = np.array(sizes if shares is None else [len(queue) * step_rows for queue in queues], float)
    order = []
    for _ in range(len(plan)):
        drawn = int(rng.choice(len(sizes), p=left / left.sum()))
        order.append(queues[drawn].pop())
        left[drawn] = left[drawn] - step_rows if queues[drawn] else 0.0
    return Plan(plan.datasets[order], plan.rows[order], plan.counts[order])


def plan_random(sizes: Sequence[int], step_rows: int, shares: Shares, rng: np.random.Generator) -> Plan:
    """`random`: each step draws a dataset with probability proportional to its size (or share), and fresh rows of it.

    Rows are drawn without replacement within the whole step, not only within a rank. A dataset that no draw hit takes
    over a step of the one drawn most often.
    """
    steps = epoch_steps(sizes, step_rows=step_rows, mode="random")
    offsets = np.cumsum([0, *sizes])
    share = np.asarray(sizes, float) / sum(sizes) if shares is None else np.asarray(shares)
    datasets = rng.choice(len(sizes), size=steps, p=share)
    for missed in np.setdiff1d(np.arange(len(sizes)), datasets):
        most = np.bincount(datasets).argmax()
        datasets[rng.choice(np.flatnonzero(datasets == most))] = missed
    cuts = [
        cut(rng.choice(sizes[d], size=min(step_rows, sizes[d]), replace=False) + offsets[d], step_rows)
        for d in datasets
    ]
    return Plan(datasets, np.concatenate([rows for rows, _ in cuts]), np.concatenate([counts for _, counts in cuts]))


def plan_mixed(sizes: Sequence[int], step_rows: int, rng: np.random.Generator) -> Plan:
    """No same-dataset batches: rows of all datasets shuffled together and cut into steps."""
    rows, counts = cut(rng.permutation(sum(sizes)), step_rows)
    return Plan(np.full(len(rows), MIXED), rows, counts)


Rng = np.random.Generator
PLANS: Mapping[str, Callable[[Sequence[int], int, Shares, Rng, Rng], Plan]] = {
    "epoch": lambda sizes, step_rows, shares, _, now: plan_epochwise(sizes, step_rows, shares, now),
    "epoch-static": plan_epoch_static,
    "epoch-random": lambda sizes, step_rows, shares, _, now: plan_epoch_random(sizes, step_rows, shares, now),
    "random": lambda sizes, step_rows, shares, _, now: plan_random(sizes, step_rows, shares, now),
}


def plan_epoch(
    sizes: Sequence[int], *, step_rows: int, mode: str | None, seed: int, epoch: int, shares: Shares = None
) -> Plan:
    """Plan one epoch.

    Args:
        sizes: records of each dataset.
        step_rows: rows of a step, all ranks together.
        mode: a name of PLANS, or None for batches that mix datasets.
        seed: the run's data seed.
        epoch: from 0.
        shares: see `shares_of`; not for batches that mix datasets.

    Returns:
        The plan; its length is `epoch_steps(...)`, whatever the epoch.

    Raises:
        UserError: no dataset, an empty one, or no rows in a step.
    """
    check_sizes(sizes, step_rows)
    now = np.random.default_rng((seed, epoch, PLAN_STREAM))
    if mode is None:
        return plan_mixed(sizes, step_rows, now)
    return PLANS[mode](sizes, step_rows, shares, np.random.default_rng((seed, 0, PLAN_STREAM)), now)


def rank_steps(plan: Plan, *, rank: int, batch_size: int) -> Iterator[RankStep]:
    """Yield what `rank` reads of every step: the rank-th slice of `batch_size` rows."""
    mine = slice(rank * batch_size, (rank + 1) * batch_size)
    for dataset, rows, counts in zip(plan.datasets, plan.rows, plan.counts, strict=True):
        yield RankStep(int(dataset), rows[mine], counts[mine], int(counts.sum()))
