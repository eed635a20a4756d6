"""Every loss of a teacher's vectors beside a naive loop in plain Python, and beside numbers worked by hand."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.losses.test_retrieval import score
from zh_embedder.losses.batch import VectorBatch
from zh_embedder.losses.table import LOSSES, OF_VECTORS, LossTerm, total_loss
from zh_embedder.losses.tiles import in_tiles
from zh_embedder.losses.vectors import similarity_kl, vector_cosine, vector_mse

VARIANTS = [
    ("vector_mse", {}),
    ("vector_cosine", {}),
    ("similarity_kl", {"temperature": 0.3}),
    ("similarity_kl", {"temperature": 0.3, "teacher_temperature": 0.2}),
]
KINDS = ("groups", "projected", "single", "single projected")
each_variant = pytest.mark.parametrize(("name", "options"), VARIANTS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def make_batch(kind="groups", *, b=4, g=3, d=6, seed=0, metric="cos", rows=None, unique=None):
    """A step of one process, groups or single texts; `rows` repeats some, of which the first `unique` count."""
    rng = torch.Generator().manual_seed(seed)
    t = 5 if "projected" in kind else d

    def unit(*shape):
        drawn = torch.randn(*shape, generator=rng, dtype=torch.float64)
        return F.normalize(drawn, dim=-1) if metric == "cos" else drawn

    single = kind.startswith("single")
    g = 1 if single else g
    long = 3 if metric == "cos" else 1  # a teacher that does not normalise
    queries, keys, theirs, their_keys = unit(b, d), unit(b, g, d), long * unit(b, t), long * unit(b, g, t)
    projection = torch.randn(t, d, generator=rng, dtype=torch.float64) if "projected" in kind else None
    chosen = torch.tensor(rows if rows is not None else list(range(b)))
    counts = torch.arange(len(chosen)) < (unique or len(chosen))
    texts = torch.arange(1, b * g + 1).view(b, g)
    if single:
        keys, their_keys = queries.unsqueeze(1), theirs.unsqueeze(1)
    return VectorBatch(
        queries=queries[chosen],
        keys=keys[chosen].flatten(0, 1),
        group=torch.arange(len(chosen) * g).view(-1, g),
        weights=counts.double() / counts.sum(),
        key_texts=texts[chosen].flatten(),
        positive_texts=texts[chosen, :1],
        key_counts=counts.repeat_interleave(g),
        metric=metric,
        teacher_queries=theirs[chosen],
        teacher_keys=their_keys[chosen].flatten(0, 1),
        projection=projection,
        own_keys=single,
    )


# The naive versions: lists of floats, one text at a time, as the formulas are written.


def unit_list(vector):
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector]


def projected(batch, vector):
    if batch.projection is None:
        return vector
    return [sum(w * v for w, v in zip(row, vector, strict=True)) for row in batch.projection.tolist()]


def texts_of(batch, b):
    """Each text of a row with its teacher's: (ours, theirs)."""
    yield batch.queries[b].tolist(), batch.teacher_queries[b].tolist()
    for key in [] if batch.own_keys else batch.group[b].tolist():
        yield batch.keys[key].tolist(), batch.teacher_keys[key].tolist()


def naive_mse(batch, b):
    squares = []
    for ours, theirs in texts_of(batch, b):
        wanted = unit_list(theirs) if batch.metric == "cos" else theirs
        squares.append(sum((o - t) ** 2 for o, t in zip(projected(batch, ours), wanted, strict=True)))
    return sum(squares) / len(squares)


def naive_cosine(batch, b):
    found = []
    for ours, theirs in texts_of(batch, b):
        one, other = unit_list(projected(batch, ours)), unit_list(theirs)
        found.append(1 - sum(o * t for o, t in zip(one, other, strict=True)))
    return sum(found) / len(found)


def naive_kl(batch, b, *, temperature, teacher_temperature=None):
    def prepared(vector):
        return unit_list(vector) if batch.metric == "cos" else vector.tolist()

    own = batch.group[b, 0]
    others = [
        key
        for key in range(len(batch.keys))
        if batch.key_counts[key] and not (batch.own_keys and batch.key_texts[key] == batch.key_texts[own])
    ]
    query = prepared(batch.teacher_queries[b])
    theirs = [score(batch.metric, query, prepared(batch.teacher_keys[key])) for key in others]
    ours = [score(batch.metric, batch.queries[b].tolist(), batch.keys[key].tolist()) for key in others]
    target = [math.exp(v / (teacher_temperature or temperature)) for v in theirs]
    found = [math.exp(v / temperature) for v in ours]
    total = 0.0
    for t, f in zip(target, found, strict=True):
        p, q = t / sum(target), f / sum(found)
        total += p * math.log(p / q)
    return total


NAIVE = {"vector_mse": naive_mse, "vector_cosine": naive_cosine, "similarity_kl": naive_kl}


def naive(name, batch, **options):
    return sum(float(w) * NAIVE[name](batch, b, **options) for b, w in enumerate(batch.weights) if w)


@each_variant
@each_kind
@pytest.mark.parametrize("metric", ["cos", "ip", "l2"])
def test_a_loss_is_its_formula_in_plain_loops(name, options, kind, metric):
    batch = make_batch(kind, metric=metric)
    assert LOSSES[name](batch, **options).item() == pytest.approx(naive(name, batch, **options), rel=1e-9)


def test_every_loss_of_vectors_is_in_the_table_of_this_file():
    assert {name for name, _ in VARIANTS} == set(OF_VECTORS) == NAIVE.keys()


@each_variant
@each_kind
def test_a_gradient_is_the_slope_of_the_loss(name, options, kind):
    batch = make_batch(kind, b=3, d=4)
    weight = batch.projection if batch.projection is not None else torch.ones(1, dtype=torch.float64)

    def loss(queries, keys, projection):
        own = queries if batch.own_keys else keys
        changed = replace(batch, queries=queries, keys=own)
        if batch.projection is not None:
            changed = replace(changed, projection=projection)
        return LOSSES[name](changed, **options)

    inputs = (one.clone().requires_grad_() for one in (batch.queries, batch.keys, weight))
    torch.autograd.gradcheck(loss, tuple(inputs))


@each_variant
@each_kind
@pytest.mark.parametrize(("unique", "step_rows"), [(3, 8), (1, 4)])
def test_a_step_with_repeated_rows_equals_the_step_of_its_unique_rows(name, options, kind, unique, step_rows):
    alone = make_batch(kind, rows=list(range(unique)))
    cycled = make_batch(kind, rows=[i % unique for i in range(step_rows)], unique=unique)
    found = LOSSES[name](cycled, **options).item()
    assert math.isfinite(found)
    assert found == pytest.approx(LOSSES[name](alone, **options).item(), rel=1e-12, abs=1e-12)


@each_variant
@each_kind
def test_in_tiles_it_is_the_same_loss_and_gradient(name, options, kind, monkeypatch):
    from zh_embedder.losses import tiles

    monkeypatch.setattr(tiles, "TILE", 1)
    batch, found = make_batch(kind, b=5), []
    for whole in (True, False):
        parts = {
            n: v.clone().requires_grad_()
            for n in ("queries", "keys", "projection")
            if (v := getattr(batch, n)) is not None
        }
        changed = replace(batch, **parts)
        loss = LOSSES[name](changed, **options) if whole else in_tiles(changed, lambda b: LOSSES[name](b, **options))
        (3 * loss).backward()  # as a weight does
        found.append((loss, {n: p.grad for n, p in parts.items()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["groups", "single"])
def test_the_teacher_itself_has_no_loss(kind):
    batch = make_batch(kind)
    itself = replace(
        batch, queries=F.normalize(batch.teacher_queries, dim=-1), keys=F.normalize(batch.teacher_keys, dim=-1)
    )
    for name, options in VARIANTS[:3]:
        assert LOSSES[name](itself, **options).item() == pytest.approx(0, abs=1e-12)
        assert LOSSES[name](batch, **options).item() > 0.01


def test_with_unit_vectors_the_squared_distance_is_twice_the_cosine_loss():
    batch = make_batch()
    assert vector_mse(batch).item() == pytest.approx(2 * vector_cosine(batch).item(), rel=1e-12)


def test_by_hand():
    """One text at (1, 0), whose teacher is at (0, 2); another at (0, 1), whose teacher is there."""
    batch = replace(
        make_batch("single", b=2, d=2),
        queries=torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64),
        teacher_queries=torch.tensor([[0.0, 2.0], [0.0, 1.0]], dtype=torch.float64),
    )
    assert vector_cosine(batch).item() == pytest.approx(0.5)
    assert vector_mse(batch).item() == pytest.approx(1.0)


# ---- Matryoshka -----------------------------------------------------------------------------------------------------


@each_variant
@each_kind
@pytest.mark.parametrize("metric", ["cos", "ip"])
def test_at_a_smaller_size_the_first_columns_or_the_cut_teacher_serve(name, options, kind, metric):
    batch, size = make_batch(kind, metric=metric), 4
    cut = {n: getattr(batch, n)[:, :size] for n in ("queries", "keys")}
    if metric == "cos":
        cut = {n: F.normalize(v, dim=-1) for n, v in cut.items()}
    by_hand = replace(batch, **cut)
    if batch.projection is not None:
        by_hand = replace(by_hand, projection=batch.projection[:, :size])
    elif name != "similarity_kl":  # similarities are the whole teacher's
        by_hand = replace(
            by_hand, teacher_queries=batch.teacher_queries[:, :size], teacher_keys=batch.teacher_keys[:, :size]
        )
    term = LossTerm(name=name, options=options)
    found = total_loss(batch, [term], dimensions={size: 2.0})
    assert found.item() == pytest.approx(naive(name, by_hand, **options), rel=1e-9)
    both = total_loss(batch, [term], dimensions={size: 1.0, 6: 3.0})
    assert both.item() == pytest.approx(0.25 * found.item() + 0.75 * naive(name, batch, **options), rel=1e-9)


def test_scores_alone_are_refused():
    from tests.losses.test_batch import scored
    from tests.losses.test_retrieval import make_batch as groups

    for loss in (vector_mse, vector_cosine, similarity_kl):
        with pytest.raises(ValueError, match=f"{loss.__name__}: compares vectors"):
            loss(scored(groups()))
