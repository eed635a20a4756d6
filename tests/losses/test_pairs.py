"""Losses of scored pairs and of labelled texts, beside naive double loops and numbers worked by hand."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zh_embedder.data.schema import GROUP, LABELLED, PAIR
from zh_embedder.losses.batch import VectorBatch
from zh_embedder.losses.pairs import (
    angle,
    complex_quotient,
    contrastive,
    cosent,
    cosine_regression,
    online_contrastive,
    ordered,
    supervised_contrastive,
)
from zh_embedder.losses.table import ANY, LOSSES

VARIANTS = [
    ("cosine_regression", {}),
    ("cosine_regression", {"score_range": (-1.0, 3.0)}),
    ("contrastive", {}),
    ("contrastive", {"margin": 1.2, "threshold": 0.3}),
    ("online_contrastive", {}),
    ("online_contrastive", {"margin": 1.5, "threshold": 0.7}),
    ("cosent", {"temperature": 0.3}),
    ("angle", {"temperature": 0.5}),
    ("supervised_contrastive", {"temperature": 0.3}),
]
each_variant = pytest.mark.parametrize(("name", "options"), VARIANTS)


def cosine(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def naive_cosine_regression(sims, scores, score_range=(0.0, 1.0)):
    low, high = score_range
    return sum((s - (y - low) / (high - low)) ** 2 for s, y in zip(sims, scores, strict=True)) / len(sims)


def naive_contrastive(sims, scores, margin=0.5, threshold=0.5):
    total = 0.0
    for s, y in zip(sims, scores, strict=True):
        total += (1 - s) ** 2 / 2 if y > threshold else max(0.0, margin - (1 - s)) ** 2 / 2
    return total / len(sims)


def naive_online_contrastive(sims, scores, margin=0.5, threshold=0.5):
    positive = [1 - s for s, y in zip(sims, scores, strict=True) if y > threshold]
    negative = [1 - s for s, y in zip(sims, scores, strict=True) if y <= threshold]
    middle = sum(1 - s for s in sims) / len(sims)
    near, far = min(negative, default=middle), max(positive, default=middle)
    hard = sum(d**2 for d in positive if d > near) + sum(max(0.0, margin - d) ** 2 for d in negative if d < far)
    return hard / len(sims)


def naive_cosent(sims, scores, temperature):
    total = 1.0
    for si, yi in zip(sims, scores, strict=True):
        for sj, yj in zip(sims, scores, strict=True):
            if yi > yj:
                total += math.exp((sj - si) / temperature)
    return math.log(total)


NAIVE = {
    "cosine_regression": naive_cosine_regression,
    "contrastive": naive_contrastive,
    "online_contrastive": naive_online_contrastive,
    "cosent": naive_cosent,
    "angle": naive_cosent,
}


def naive_quotient(left, right):
    """AnglE's similarity with Python's own complex numbers."""
    half = len(left) // 2
    z = [complex(a, b) for a, b in zip(left[:half], left[half:], strict=True)]
    w = [complex(c, d) for c, d in zip(right[:half], right[half:], strict=True)]
    lengths = [math.sqrt(sum(abs(x) ** 2 for x in v)) for v in (z, w)]
    square = lengths[1] ** 2
    total = 0.0
    for a, b in zip(z, w, strict=True):
        product = a * b.conjugate() / square / (lengths[0] / lengths[1])
        total += product.real + product.imag
    return abs(total)


def naive_supervised(vectors, texts, labels, temperature):
    total = 0.0
    for i, vector in enumerate(vectors):
        others = [a for a in range(len(vectors)) if texts[a] != texts[i]]
        positives = [p for p in others if labels[p] == labels[i]]
        denominator = sum(math.exp(cosine(vector, vectors[a]) / temperature) for a in others)
        for p in positives:
            total -= math.log(math.exp(cosine(vector, vectors[p]) / temperature) / denominator) / len(positives)
    return total / len(vectors)


def naive(name, batch, **options):
    """The value of a whole step of one process, all of whose rows count."""
    queries, keys = batch.queries.tolist(), batch.keys.tolist()
    if name == "supervised_contrastive":
        return naive_supervised(queries, batch.key_texts.tolist(), batch.labels.tolist(), **options)
    like = naive_quotient if name == "angle" else cosine
    return NAIVE[name]([like(q, k) for q, k in zip(queries, keys, strict=True)], batch.targets.tolist(), **options)


def make_step(n=9, *, seed=0, d=6, rows=None, unique=None):
    """A step of n pairs (or labelled texts) on one process; `rows` repeats some, of which the first `unique` count."""
    rng = torch.Generator().manual_seed(seed)
    left, right = (F.normalize(torch.randn(n, d, generator=rng, dtype=torch.float64), dim=-1) for _ in range(2))
    scores = torch.rand(n, generator=rng, dtype=torch.float64)
    scores[1] = scores[0]  # a tie
    labels = torch.randint(1, 4, (n,), generator=rng)
    chosen = torch.tensor(rows if rows is not None else list(range(n)))
    counts = torch.arange(len(chosen)) < (unique or len(chosen))
    return VectorBatch(
        queries=left[chosen],
        keys=right[chosen],
        group=torch.arange(len(chosen)).view(-1, 1),
        weights=counts.double() / counts.sum(),
        key_texts=chosen + 1,
        positive_texts=chosen.view(-1, 1) + 1,
        key_counts=counts,
        step_queries=left[chosen],
        query_texts=chosen + 1,
        targets=scores[chosen],
        labels=labels[chosen],
    )


def of_kind(batch, name):
    """Labelled texts are their own keys."""
    return replace(batch, keys=batch.queries) if LOSSES[name].data == LABELLED else batch


@pytest.mark.parametrize("seed", range(5))
@each_variant
def test_a_loss_is_its_formula_summed_by_two_loops(name, options, seed):
    batch = of_kind(make_step(seed=seed), name)
    assert LOSSES[name](batch, **options).item() == pytest.approx(naive(name, batch, **options), rel=1e-10)


@each_variant
def test_a_gradient_is_the_slope_of_the_loss(name, options):
    batch = make_step(n=6, d=4)
    batch = replace(batch, labels=torch.tensor([1, 1, 2, 2, 2, 3]))

    def loss(left, right):
        changed = replace(batch, queries=left, step_queries=left, keys=right)
        return LOSSES[name](of_kind(changed, name), **options)

    torch.autograd.gradcheck(loss, (batch.queries.clone().requires_grad_(), batch.keys.clone().requires_grad_()))


@each_variant
@pytest.mark.parametrize(("unique", "step_rows"), [(5, 8), (3, 9)])
def test_a_step_with_repeated_rows_equals_the_step_of_its_unique_rows(name, options, unique, step_rows):
    alone = of_kind(make_step(n=unique), name)
    cycled = of_kind(make_step(n=unique, rows=[i % unique for i in range(step_rows)], unique=unique), name)
    assert LOSSES[name](cycled, **options).item() == pytest.approx(LOSSES[name](alone, **options).item(), rel=1e-12)


def test_every_loss_of_pairs_and_labels_is_in_the_table_of_this_file():
    assert {name for name, _ in VARIANTS} == {name for name, loss in LOSSES.items() if loss.data not in (GROUP, ANY)}
    assert NAIVE.keys() == {name for name, loss in LOSSES.items() if loss.data == PAIR}


# By hand. Pairs of unit vectors whose cosine is given.


def pairs(*sims, scores):
    left = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(sims), 2)
    right = torch.tensor([[s, math.sqrt(1 - s * s)] for s in sims], dtype=torch.float64)
    every = torch.arange(len(sims))
    return VectorBatch(
        queries=left,
        keys=right,
        group=every.view(-1, 1),
        weights=torch.full((len(sims),), 1 / len(sims), dtype=torch.float64),
        key_texts=every + 1,
        positive_texts=every.view(-1, 1) + 1,
        key_counts=torch.ones(len(sims), dtype=torch.bool),
        step_queries=left,
        targets=torch.tensor(scores, dtype=torch.float64),
    )


def test_cosine_regression_by_hand():
    batch = pairs(0.6, 0.0, scores=[5.0, 0.0])
    # 5 of [0, 5] is 1: (.6 - 1) ** 2 and 0
    assert cosine_regression(batch, score_range=(0.0, 5.0)).item() == pytest.approx(0.08)


def test_contrastive_by_hand():
    batch = pairs(0.6, 0.8, 0.0, scores=[1.0, 0.0, 0.0])
    # .4 ** 2 / 2, (.5 - .2) ** 2 / 2, and nothing at distance 1
    assert contrastive(batch).item() == pytest.approx((0.08 + 0.045) / 3)


def test_online_contrastive_by_hand():
    batch = pairs(0.6, 1.0, 0.8, 0.0, scores=[1.0, 1.0, 0.0, 0.0])
    # distances: positives .4 and 0, negatives .2 and 1. Hard: .4 (above .2) and .2 (below .4).
    assert online_contrastive(batch).item() == pytest.approx((0.16 + 0.3**2) / 4)


def test_online_contrastive_of_one_kind_of_pairs_takes_the_mean_for_the_other():
    batch = pairs(0.6, 1.0, scores=[1.0, 1.0])  # distances .4 and 0, their mean .2
    assert online_contrastive(batch).item() == pytest.approx(0.16 / 2)


def test_cosent_by_hand():
    batch = pairs(0.6, 0.8, 0.0, scores=[3.0, 1.0, 1.0])
    # 3 above 1 twice; the two of score 1 are not compared
    expected = math.log(1 + math.exp(0.2) + math.exp(-0.6))
    assert cosent(batch, temperature=1.0).item() == pytest.approx(expected)
    assert cosent(pairs(0.6, 0.8, scores=[1.0, 1.0]), temperature=1.0).item() == 0.0


def test_pairs_in_any_order_are_compared_alike_even_where_exponentials_are_large():
    found = torch.tensor([90.0, -80.0, 10.0, 95.0], dtype=torch.float64, requires_grad=True)
    wanted, counts = torch.tensor([2.0, 1.0, 3.0, 1.0]), torch.ones(4, dtype=torch.bool)
    expected = math.log(1 + sum(math.exp(a) for a in (-80 - 90, 95 - 90, 90 - 10, -80 - 10, 95 - 10)))
    value = ordered(found, wanted, counts)
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert found.grad.isfinite().all()
    assert found.grad.abs().sum() > 1


def test_angle_by_hand():
    # (1 + 2i) / (3 + 4i) = (11 + 2i) / 25; divided by the lengths' ratio sqrt(5) / 5: 13 / 25 * 5 / sqrt(5)
    value = complex_quotient(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    assert value.item() == pytest.approx(13 / 25 * 5 / math.sqrt(5))


def test_supervised_contrastive_by_hand():
    step = pairs(1.0, 0.6, 0.0, scores=[0, 0, 0])
    batch = replace(step, queries=step.keys, keys=step.keys, labels=torch.tensor([1, 1, 2]))
    # cosines: 1-2 .6, 1-3 0, 2-3 .8; text 3 is alone with its label
    first = -math.log(math.exp(0.6) / (math.exp(0.6) + 1))
    second = -math.log(math.exp(0.6) / (math.exp(0.6) + math.exp(0.8)))
    assert supervised_contrastive(batch, temperature=1.0).item() == pytest.approx((first + second) / 3)


def test_a_text_is_not_its_own_neighbour_under_another_row():
    step = pairs(1.0, 1.0, 0.6, 0.0, scores=[0] * 4)
    batch = replace(step, queries=step.keys, keys=step.keys, labels=torch.tensor([1, 1, 1, 2]))
    twins = replace(batch, key_texts=torch.tensor([5, 5, 6, 7]))
    first = -math.log(math.exp(0.6) / (math.exp(0.6) + 1))
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    alone = supervised_contrastive(replace(twins, weights=weights), temperature=1.0)
    assert alone.item() == pytest.approx(first)


def test_a_step_in_which_nobody_has_a_neighbour_adds_nothing_and_stays_finite():
    for sims in ((1.0, 0.6), (1.0,)):  # two texts of two labels; a text alone
        step = pairs(*sims, scores=[0] * len(sims))
        vectors = step.keys.clone().requires_grad_()
        labels = torch.arange(len(sims))
        loss = supervised_contrastive(replace(step, queries=vectors, keys=vectors, labels=labels))
        loss.backward()
        assert loss.item() == 0.0
        assert vectors.grad.abs().max() == 0


def test_angle_is_cosent_of_angles():
    batch = pairs(0.6, 0.8, scores=[1.0, 0.0])
    found = complex_quotient(batch.queries, batch.keys)
    expected = math.log(1 + math.exp((found[1] - found[0]).item() / 0.5))
    assert angle(batch, temperature=0.5).item() == pytest.approx(expected)
