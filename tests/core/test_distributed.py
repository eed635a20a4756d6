"""Two real processes (gloo) beside one: the gathered step must give the gradient of the whole step."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tests.processes import finish, forked, start
from zh_embedder.core.distributed import gather_values, gather_with_grad, sum_over_ranks, wait_for_all
from zh_embedder.core.ranks import world
from zh_embedder.data.schema import GROUP, LABELLED
from zh_embedder.losses.batch import VectorBatch
from zh_embedder.losses.table import ANY, LOSSES

WORLD, B, G, WIDTH, D = 2, 4, 3, 6, 6
STEP = WORLD * B
EVERY_SIDE = {"query_to_query": True, "key_to_key": True, "key_to_query": True}
TERMS = [
    *((name, {"temperature": 0.3} if "temperature" in loss.options else {}) for name, loss in LOSSES.items()),
    ("info_nce", {"temperature": 0.3, "in_batch": False}),
    ("info_nce", {"temperature": 0.3, **EVERY_SIDE}),
    ("info_nce", {"temperature": 0.3, "false_negative_margin": 0.1}),
    *((name, {"single": True}) for name, loss in LOSSES.items() if loss.data == ANY),
]
UNIQUE = {  # rows that count of a step of 8; the rest are repeated ones
    "every row counts": 8,
    "the last rank has repeated rows": 5,
    "the last rank has nothing but repeated rows": 3,
}
CASES = [(index, unique, metric) for index in range(len(TERMS)) for unique in UNIQUE for metric in ("cos", "l2")]


def case_name(case):
    index, unique, metric = case
    name, options = TERMS[index]
    return "-".join([name, *(option for option in options if option != "temperature"), metric, unique])


def inputs():
    """Features of STEP queries and their keys, the shared weight, teacher scores, scores of pairs."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(STEP, WIDTH), (STEP, G, WIDTH), (WIDTH, D), (STEP, G), (STEP,)]
    return [torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in shapes]


def identities():
    """Text identities (STEP, G) and known positives (STEP, 2); rows 0 and 4, on different ranks, share a positive."""
    texts = torch.arange(1, STEP * G + 1).view(STEP, G)
    texts[4, 0] = texts[0, 0]
    also_known = torch.zeros(STEP, dtype=torch.long)
    also_known[1] = texts[2, 1]  # a negative of row 2 is a positive of row 1 ...
    also_known[4] = texts[0, 2]  # ... and one of row 0, on the first rank, is a positive of row 4
    return texts, torch.stack([texts[:, 0], also_known], dim=1)


def gradient(case, *, rank, ranks, step_rows):
    """The weight's gradient on one of `ranks` ranks, for a step that cycles the case's unique rows."""
    index, unique, metric = case
    name, options = TERMS[index]
    single = LOSSES[name].data == LABELLED or "single" in options
    n, b, g = UNIQUE[unique], step_rows // ranks, G if LOSSES[name].data in (GROUP, ANY) and not single else 1
    queries, keys, weight, teacher, scores = inputs()
    their_keys = queries[:, None] if single else keys.flip(2)[:, :g]
    texts, positives = identities()
    if UNIQUE[unique] == STEP:
        keys[4, 0] = keys[0, 0]  # the shared text
    weight.requires_grad_()
    rows = (torch.arange(step_rows) % n)[rank * b : (rank + 1) * b]
    counts = (torch.arange(step_rows) < n)[rank * b : (rank + 1) * b]
    q, k = queries[rows] @ weight, keys[rows, :g].flatten(0, 1) @ weight
    if metric == "cos":
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    key_texts = texts[rows, :g].flatten()
    if single:
        k, key_texts = q, 100 + rows
    batch = VectorBatch(
        queries=q,
        keys=gather_with_grad(k),
        group=rank * b * g + torch.arange(b * g).view(b, g),
        weights=ranks / n * counts,
        key_texts=gather_values(key_texts),
        positive_texts=positives[rows],
        key_counts=gather_values(counts.repeat_interleave(g)),
        teacher=teacher[rows],
        metric=metric,
        step_queries=gather_with_grad(q),
        query_texts=gather_values(100 + rows),
        targets=gather_values(scores[rows].sigmoid()),
        labels=gather_values(rows % 2),
        query_answers=gather_values(rows % 3),  # 0 is none
        key_answers=gather_values((rows % 3).repeat_interleave(g)),
        teacher_queries=queries[rows] + 1,
        teacher_keys=gather_values(their_keys[rows].flatten(0, 1) + 1),
        own_keys=single,
    )
    loss = LOSSES[name](batch, **{option: value for option, value in options.items() if option != "single"})
    loss.backward()
    return loss.detach(), weight.grad


def work(rank, folder):
    """One rank: everything that the tests below compare."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {"world": world(), "cases": {}}
    for case in CASES:
        loss, grad = gradient(case, rank=rank, ranks=WORLD, step_rows=STEP)
        dist.all_reduce(loss)
        dist.all_reduce(grad)
        found["cases"][case] = (loss / WORLD, grad / WORLD)  # what DDP hands the optimiser

    local = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * rank
    found["values"] = {
        "floats": gather_values(local),
        "integers": gather_values(torch.tensor([2**62 + rank])),
        "booleans": gather_values(torch.tensor([rank == 0, True])),
        "transposed": gather_values(local.T),
        "bfloat16": gather_values(local.bfloat16()),
    }
    leaf = local.clone().requires_grad_()
    (gather_with_grad(leaf) * torch.arange(8.0).view(4, 2) * (rank + 1)).sum().backward()
    found["pull"] = leaf.grad
    few = (torch.arange(6.0).view(3, 2) + 10 * rank)[: 3 - 2 * rank].clone().requires_grad_()  # 3 rows, then 1
    every = gather_with_grad(few, even=False)
    (every * torch.arange(8.0).view(4, 2) * (rank + 1)).sum().backward()
    none = gather_values(torch.ones(2 * rank, 1, dtype=torch.long), even=False)  # 0 rows, then 2
    found["uneven"] = {"rows": every.detach(), "pull": few.grad, "none": none}
    mine = torch.tensor([1.0 + rank, 5.0])
    found["sum"], found["mine"] = sum_over_ranks(mine), mine

    arrived = Path(folder, "rank 1 has arrived")
    if rank == 1:
        time.sleep(0.5)
        arrived.touch()
    wait_for_all()
    found["waited"] = arrived.exists()
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    finish(start([*forked(WORLD), __file__, folder], folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_two_ranks_have_the_loss_and_gradient_of_one_process(case, two_ranks):
    expected = gradient(case, rank=0, ranks=1, step_rows=UNIQUE[case[1]])
    assert expected[1].norm() > 1e-2
    for rank in two_ranks:
        torch.testing.assert_close(rank["cases"][case], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_every_rank_has_the_rows_of_all_ranks_in_order(two_ranks):
    floats = [[1.0, 2.0], [3.0, 4.0], [11.0, 12.0], [13.0, 14.0]]
    for rank, found in enumerate(two_ranks):
        assert found["world"] == (rank, WORLD)
        assert found["values"]["floats"].tolist() == floats
        assert found["values"]["bfloat16"].tolist() == floats
        assert found["values"]["integers"].tolist() == [2**62, 2**62 + 1]  # text identities are as long
        assert found["values"]["booleans"].tolist() == [True, True, False, True]
        assert found["values"]["transposed"].tolist() == [[1.0, 3.0], [2.0, 4.0], [11.0, 13.0], [12.0, 14.0]]


@pytest.mark.slow
def test_the_gradient_of_a_gathered_row_is_the_sum_over_ranks(two_ranks):
    # rank r multiplies row i of the step by (2i, 2i + 1) and (r + 1): together by 3
    assert two_ranks[0]["pull"].tolist() == [[0.0, 3.0], [6.0, 9.0]]
    assert two_ranks[1]["pull"].tolist() == [[12.0, 15.0], [18.0, 21.0]]


@pytest.mark.slow
def test_ranks_with_different_numbers_of_rows_are_gathered_too(two_ranks):
    for found in two_ranks:
        assert found["uneven"]["rows"].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [10.0, 11.0]]
        assert found["uneven"]["none"].tolist() == [[1], [1]]
    assert two_ranks[0]["uneven"]["pull"].tolist() == [[0.0, 3.0], [6.0, 9.0], [12.0, 15.0]]
    assert two_ranks[1]["uneven"]["pull"].tolist() == [[18.0, 21.0]]


@pytest.mark.slow
def test_a_sum_over_ranks_is_the_same_everywhere_and_leaves_the_terms_alone(two_ranks):
    for rank, found in enumerate(two_ranks):
        assert found["sum"].tolist() == [3.0, 10.0]
        assert found["mine"].tolist() == [1.0 + rank, 5.0]


@pytest.mark.slow
def test_ranks_wait_for_the_slowest(two_ranks):
    assert [found["waited"] for found in two_ranks] == [True, True]


def test_one_process_gathers_only_itself():
    local = torch.arange(6.0).view(3, 2).requires_grad_()
    assert world() == (0, 1)
    assert gather_with_grad(local) is local
    assert gather_values(local) is local
    total = sum_over_ranks(local)
    assert torch.equal(total, local)
    assert total is not local
    wait_for_all()  # returns


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_the_reference_of_repeated_rows_is_the_step_of_unique_rows(case):
    alone = gradient(case, rank=0, ranks=1, step_rows=UNIQUE[case[1]])
    cycled = gradient(case, rank=0, ranks=1, step_rows=STEP)
    torch.testing.assert_close(cycled, alone, atol=1e-6, rtol=1e-5)


if __name__ == "__main__":  # one of the ranks
    work(int(os.environ["RANK"]), sys.argv[1])
