import json

import numpy as np
import pytest

from zh_embedder.core.errors import UserError
from zh_embedder.data.plan import (
    MIXED,
    PLANS,
    Plan,
    epoch_steps,
    plan_epoch,
    rank_steps,
    shares_of,
    steps_of,
    waiting_rows,
)

SIZES = (23, 3, 8, 16)  # with steps of 8 rows: 2 steps and 7 rows over, less than a step, exactly 1, exactly 2
STEP = 8
ONCE = sorted(mode for mode in PLANS if mode.startswith("epoch"))  # each row at most once in an epoch
MODES = [*sorted(PLANS), None]
SHAPES = [  # sizes, rows of a step
    (SIZES, STEP),
    ((1,), 1),
    ((1,), 4),
    ((5,), 4),
    ((4,), 4),
    ((3, 3, 3), 4),
    ((1, 1, 1, 200), 7),
    ((100, 57, 2, 31), 16),
    ((7, 7), 1),
    ((2, 1000), 64),
]
each_mode = pytest.mark.parametrize("mode", MODES)
each_shape = pytest.mark.parametrize(("sizes", "step_rows"), SHAPES)


def plan(mode="epoch", *, sizes=SIZES, step_rows=STEP, seed=7, epoch=0):
    return plan_epoch(sizes, step_rows=step_rows, mode=mode, seed=seed, epoch=epoch)


def listed(p):
    return [p.datasets.tolist(), p.rows.tolist(), p.counts.tolist()]


def steps(p):
    """The steps of a plan without their order."""
    return sorted(zip(*listed(p), strict=True))


def rows_of(sizes, dataset):
    """Global rows of one dataset."""
    start = sum(sizes[:dataset])
    return set(range(start, start + sizes[dataset]))


# Every mode.


@each_mode
def test_a_plan_is_a_function_of_seed_and_epoch(mode):
    np.random.seed(0)
    once = listed(plan(mode))
    np.random.seed(1)
    plan(mode, epoch=3)  # what was planned before changes nothing
    assert listed(plan(mode)) == once
    assert np.random.randint(2**31) == np.random.RandomState(1).randint(2**31)  # global state was not touched
    assert listed(plan(mode, epoch=1)) != once
    assert listed(plan(mode, seed=8)) != once


@each_mode
@each_shape
def test_an_epoch_has_the_promised_number_of_full_steps(mode, sizes, step_rows):
    promised = epoch_steps(sizes, step_rows=step_rows, mode=mode)
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (2, 5)]:
        p = plan(mode, sizes=sizes, step_rows=step_rows, seed=seed, epoch=epoch)
        assert len(p) == promised
        assert p.rows.shape == p.counts.shape == (promised, step_rows)
        assert p.datasets.shape == (promised,)


@pytest.mark.parametrize(
    ("mode", "expected"),
    # 23 + 3 + 8 + 16 rows in steps of 8: 2 + 1 + 1 + 2 by dataset; 50 // 8 together
    [("epoch", 6), ("epoch-static", 6), ("epoch-random", 6), ("random", 6), (None, 6)],
)
def test_steps_of_an_epoch_by_hand(mode, expected):
    assert epoch_steps(SIZES, step_rows=STEP, mode=mode) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    # 15 + 15 + 1 rows in steps of 8: 1 + 1 + 1 by dataset; 31 // 8 = 3 together; steps of 32: one each, or one
    [("epoch", (3, 3)), ("random", (3, 3)), (None, (3, 1))],
)
def test_modes_differ_in_what_becomes_of_the_tails(mode, expected):
    assert tuple(epoch_steps((15, 15, 1), step_rows=r, mode=mode) for r in (8, 32)) == expected


@pytest.mark.parametrize("mode", sorted(PLANS))
@each_shape
def test_every_step_holds_one_dataset(mode, sizes, step_rows):
    for epoch in range(3):
        p = plan(mode, sizes=sizes, step_rows=step_rows, epoch=epoch)
        for dataset, rows in zip(p.datasets.tolist(), p.rows.tolist(), strict=True):
            assert set(rows) <= rows_of(sizes, dataset)


@each_mode
@each_shape
def test_a_row_counts_once_in_its_step_at_most_and_repeats_do_not_count(mode, sizes, step_rows):
    p = plan(mode, sizes=sizes, step_rows=step_rows)
    for dataset, rows, counts in zip(*listed(p), strict=True):
        available = sum(sizes) if dataset == MIXED else sizes[dataset]
        counted = [row for row, counts_here in zip(rows, counts, strict=True) if counts_here]
        assert len(counted) == len(set(counted)) == min(step_rows, available)
        assert set(rows) == set(counted)  # repeated rows are rows of the same step


@pytest.mark.parametrize("mode", [*ONCE, None])
@each_shape
def test_no_row_is_used_twice_in_an_epoch(mode, sizes, step_rows):
    for epoch in range(3):
        p = plan(mode, sizes=sizes, step_rows=step_rows, epoch=epoch)
        counted = p.rows[p.counts].tolist()
        assert len(counted) == len(set(counted))


# Modes that go through each dataset once.


@pytest.mark.parametrize("mode", ONCE)
@each_shape
def test_each_dataset_fills_the_steps_that_it_can_and_one_at_least(mode, sizes, step_rows):
    p = plan(mode, sizes=sizes, step_rows=step_rows)
    assert np.bincount(p.datasets).tolist() == [max(1, size // step_rows) for size in sizes]


@pytest.mark.parametrize("mode", ONCE)
def test_a_small_dataset_has_one_step_in_which_each_row_counts_once(mode):
    for epoch in range(5):
        p = plan(mode, epoch=epoch)
        (index,) = np.flatnonzero(p.datasets == 1)  # 3 rows, global 23 to 25
        rows, counts = p.rows[index], p.counts[index]
        assert sorted(rows[:3]) == [23, 24, 25]
        assert rows.tolist() == [*rows[:3], *rows[:3], *rows[:2]]  # cycled: none is favoured
        assert counts.tolist() == [True] * 3 + [False] * 5
        assert np.delete(p.counts, index, axis=0).all()


def test_epoch_static_keeps_the_steps_and_changes_their_order():
    epochs = [plan("epoch-static", epoch=epoch) for epoch in range(4)]
    assert all(steps(p) == steps(epochs[0]) for p in epochs)
    assert len({str(listed(p)) for p in epochs}) == 4
    assert steps(plan("epoch-static", seed=8)) != steps(epochs[0])


@pytest.mark.parametrize("mode", ["epoch", "epoch-random"])
def test_other_modes_form_new_steps_each_epoch(mode):
    assert steps(plan(mode, epoch=1)) != steps(plan(mode))


@pytest.mark.parametrize("mode", ["epoch", "epoch-random", None])
def test_every_row_has_its_turn_within_a_few_epochs(mode):
    seen = set()
    for epoch in range(12):
        p = plan(mode, epoch=epoch)
        seen |= set(p.rows[p.counts].tolist())
    assert seen == set(range(sum(SIZES)))


def test_rows_that_wait_by_hand():
    assert waiting_rows((23, 3, 8, 16), 8) == [7, 0, 0, 0]  # 23 - 2 * 8; three rows fit in their repeated step
    assert waiting_rows((10, 4, 3), 4) == [2, 0, 0]


@pytest.mark.parametrize("mode", ONCE)
@each_shape
def test_rows_that_wait_are_those_that_no_step_holds(mode, sizes, step_rows):
    used = set(plan(mode, sizes=sizes, step_rows=step_rows).rows.flatten().tolist())
    left = [len(rows_of(sizes, dataset) - used) for dataset in range(len(sizes))]
    assert left == waiting_rows(sizes, step_rows)


# Chances.


def share(hits, of):
    """Four standard deviations around a share: what chance leaves within 1 in 16,000."""
    return hits / of, 4 * np.sqrt(0.25 / of)


def test_epoch_random_draws_by_the_rows_that_are_left():
    # Steps of 8 from 23 and 8 rows: first by 23 : 8; then, where the first dataset was drawn, by 15 : 8. After that
    # only one of them can fill a step. Steps shuffled evenly (`epoch`) would give 2/3, then 1/2.
    order = [plan("epoch-random", sizes=(23, 8), seed=seed).datasets.tolist() for seed in range(4000)]
    assert {tuple(sorted(datasets)) for datasets in order} == {(0, 0, 1)}
    first, tolerance = share(sum(datasets[0] == 0 for datasets in order), 4000)
    assert first == pytest.approx(23 / 31, abs=tolerance)
    again = [datasets[1] == 0 for datasets in order if datasets[0] == 0]
    second, tolerance = share(sum(again), len(again))
    assert second == pytest.approx(15 / 23, abs=tolerance)


def test_epoch_random_draws_a_small_dataset_by_its_rows_too():
    first = [plan("epoch-random", sizes=(15, 9, 4), seed=seed).datasets[0] for seed in range(4000)]
    for dataset, size in enumerate((15, 9, 4)):
        found, tolerance = share(first.count(dataset), 4000)
        assert found == pytest.approx(size / 28, abs=tolerance)  # not 1/3 each, as in `epoch`


def test_epoch_shuffles_steps_of_all_datasets_evenly():
    first = [plan("epoch", sizes=(15, 9, 4), seed=seed).datasets[0] for seed in range(4000)]
    for dataset in range(3):
        found, tolerance = share(first.count(dataset), 4000)
        assert found == pytest.approx(1 / 3, abs=tolerance)


def test_random_draws_datasets_by_their_size():
    sizes = (800, 400, 2800)  # 500 steps in proportion 0.2, 0.1, 0.7
    counts = sum(np.bincount(plan("random", sizes=sizes, epoch=epoch).datasets, minlength=3) for epoch in range(8))
    for dataset, expected in enumerate((0.2, 0.1, 0.7)):
        found, tolerance = share(counts[dataset], 4000)
        assert found == pytest.approx(expected, abs=tolerance)


def test_random_draws_rows_anew_in_each_step():
    p = plan("random", sizes=(40,), step_rows=8)
    assert len(set(p.rows.flatten().tolist())) < 40  # 5 steps of 8 of 40 rows: some twice, some not at all


@pytest.mark.parametrize("mode", sorted(PLANS))
@pytest.mark.parametrize("sizes", [(1, 1, 1, 100_000), (1, 1, 1, 1), (5, 2000), (3, 4, 5, 6, 7)])
def test_no_dataset_starves(mode, sizes):
    for seed in range(20):
        p = plan(mode, sizes=sizes, step_rows=64, seed=seed)
        assert set(p.datasets.tolist()) == set(range(len(sizes)))


def test_the_step_of_a_dataset_that_no_draw_hit_stands_anywhere_in_the_epoch():
    # One row among 6400: about one draw in 64 epochs hits it, so nearly every step of it was taken over.
    plans = [plan("random", sizes=(6399, 1), step_rows=64, seed=seed) for seed in range(400)]
    places = [int(np.flatnonzero(p.datasets == 1)[0]) for p in plans]
    late, tolerance = share(sum(place >= 50 for place in places), 400)  # of 100 steps
    assert late == pytest.approx(1 / 2, abs=tolerance)


# Ranks.


@each_mode
@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_ranks_share_the_dataset_and_split_the_rows(mode, ranks, batch_size):
    p = plan(mode)
    shares = [list(rank_steps(p, rank=rank, batch_size=batch_size)) for rank in range(ranks)]
    assert [len(own) for own in shares] == [len(p)] * ranks
    for index, parts in enumerate(zip(*shares, strict=True)):
        assert {part.dataset for part in parts} == {p.datasets[index]}
        assert np.concatenate([part.rows for part in parts]).tolist() == p.rows[index].tolist()
        assert np.concatenate([part.counts for part in parts]).tolist() == p.counts[index].tolist()
        assert all(len(part.rows) == batch_size for part in parts)
        assert {part.step_queries for part in parts} == {sum(int(part.counts.sum()) for part in parts)}


def test_the_queries_of_a_step_are_those_of_all_ranks_even_for_a_rank_with_repeats_only():
    p = plan("epoch", sizes=(3,), step_rows=8)
    (last,) = rank_steps(p, rank=1, batch_size=4)
    assert last.counts.tolist() == [False] * 4
    assert last.step_queries == 3


@each_mode
@pytest.mark.parametrize("done", [0, 1, 4, 6])
def test_resuming_is_slicing(mode, done):
    whole = plan(mode, epoch=2)
    rest = Plan(whole.datasets[done:], whole.rows[done:], whole.counts[done:])
    expected = list(rank_steps(whole, rank=1, batch_size=4))[done:]
    resumed = list(rank_steps(rest, rank=1, batch_size=4))
    assert len(resumed) == len(whole) - done
    for ours, theirs in zip(resumed, expected, strict=True):
        assert (ours.dataset, ours.step_queries) == (theirs.dataset, theirs.step_queries)
        assert (ours.rows.tolist(), ours.counts.tolist()) == (theirs.rows.tolist(), theirs.counts.tolist())


# Mixed steps and what is refused.


def test_without_same_dataset_batches_steps_mix_datasets():
    p = plan(None)
    assert set(p.datasets.tolist()) == {MIXED}
    found = [{next(d for d in range(4) if row in rows_of(SIZES, d)) for row in rows} for rows in p.rows.tolist()]
    assert all(len(datasets) > 1 for datasets in found)


@each_mode
@pytest.mark.parametrize("sizes", [(), (0,), (5, 0, 3)])
def test_empty_datasets_are_refused(mode, sizes):
    shown = json.dumps(list(sizes))
    for ask in (lambda: plan(mode, sizes=sizes), lambda: epoch_steps(sizes, step_rows=4, mode=mode)):
        with pytest.raises(UserError) as refused:
            ask()
        assert str(refused.value) == (
            f"training data: got datasets of {shown} records, expected at least one record in each"
        )


def test_a_step_without_rows_is_refused():
    with pytest.raises(UserError, match="step batch: got 0 rows, expected at least 1"):
        plan(step_rows=0)


# Shares.

BIG = (160, 32, 16, 4)  # with steps of 8: 20, 4 and 2 steps, and one whose rows are cycled


@pytest.mark.parametrize(
    ("temperature", "weights", "expected"),
    [
        (0.0, (1, 1, 1), (1 / 2, 1 / 2 * 1 / 4, 1 / 2 * 3 / 4)),  # two tasks the same; within one, by size
        (0.5, (1, 1, 1), (10 / 12, 2 / 12 * 1 / 4, 2 / 12 * 3 / 4)),  # roots of 100 and 4
        (1.0, (1, 2, 2), (100 / 108, 2 / 108, 6 / 108)),
        (1.0, (1, 8, 1), (100 / 111, 8 / 111, 3 / 111)),
    ],
)
def test_shares_by_hand(temperature, weights, expected):
    found = shares_of((100, 1, 3), ("qa", "tool", "tool"), weights, temperature)
    assert found == pytest.approx(expected)
    assert sum(found) == pytest.approx(1)


def test_without_temperature_and_weights_sizes_decide():
    assert shares_of((100, 1, 3), ("qa", "tool", "tool"), (1, 1, 1), 1.0) is None
    assert shares_of((100, 1, 3), ("qa", "tool", "tool"), (2, 2, 2), 1.0) is None  # the same for all


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (None, [20, 4, 2, 1]),
        ((0.25, 0.25, 0.25, 0.25), [7, 7, 7, 6]),  # 27 steps in all
        ((0.97, 0.01, 0.01, 0.01), [26, 1, 1, 1]),  # nobody starves: 29 steps in all
        ((0.5, 0.3, 0.15, 0.05), [14, 8, 4, 1]),  # 13.5, 8.1, 4.05, 1.35: the largest rest is rounded up
    ],
)
def test_steps_by_shares_by_hand(shares, expected):
    assert steps_of(BIG, 8, shares) == expected


@pytest.mark.parametrize("mode", ONCE)
def test_a_plan_by_shares_has_the_steps_that_they_give(mode):
    shares = (0.25, 0.25, 0.25, 0.25)
    for epoch in range(3):
        p = plan_epoch(BIG, step_rows=8, mode=mode, seed=3, epoch=epoch, shares=shares)
        assert len(p) == epoch_steps(BIG, step_rows=8, mode=mode, shares=shares) == 27
        assert np.bincount(p.datasets).tolist() == [7, 7, 7, 6]
        for dataset, rows, counts in zip(p.datasets, p.rows, p.counts, strict=True):
            assert set(rows.tolist()) <= rows_of(BIG, dataset)
            assert len(set(rows[counts].tolist())) == counts.sum() == min(8, BIG[dataset])  # no row twice in a step


def test_a_dataset_passed_through_again_has_had_all_its_rows_before():
    p = plan_epoch((64, 16), step_rows=8, mode="epoch", seed=3, epoch=0, shares=(0.4, 0.6))
    seen = p.rows[p.datasets == 1].flatten()  # 6 steps of two each pass
    assert sorted(seen.tolist()) == sorted([*range(64, 80)] * 3)
    steps_seen = p.rows[p.datasets == 1].tolist()
    assert len({tuple(sorted(step)) for step in steps_seen}) == 6  # every pass is shuffled anew


def test_rows_that_shares_leave_out_are_counted():
    assert waiting_rows(BIG, 8, (0.25, 0.25, 0.25, 0.25)) == [160 - 56, 0, 0, 0]


def test_random_steps_are_drawn_by_shares():
    p = plan_epoch((8000, 80), step_rows=8, mode="random", seed=3, epoch=0, shares=(0.2, 0.8))
    assert 0.75 < (p.datasets == 1).mean() < 0.85
    plain = plan_epoch((8000, 80), step_rows=8, mode="random", seed=3, epoch=0)
    assert (plain.datasets == 1).mean() < 0.05
