"""Every loss beside a naive double loop in plain Python, and beside numbers worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zh_embedder.core.errors import UserError
from zh_embedder.data.schema import GROUP
from zh_embedder.losses.batch import VectorBatch, excluded, other_queries
from zh_embedder.losses.retrieval import false_negatives, info_nce, margin_mse, ranked_distillation, teacher_kl, triplet
from zh_embedder.losses.table import LOSSES, LossTerm, total_loss

T = 0.3  # a temperature at which no softmax of these tests underflows
VARIANTS = [  # every loss with every option that changes its meaning
    ("info_nce", {"temperature": T}),
    ("info_nce", {"temperature": T, "in_batch": False}),
    ("info_nce", {"temperature": T, "query_to_query": True}),
    ("info_nce", {"temperature": T, "key_to_key": True}),
    ("info_nce", {"temperature": T, "key_to_query": True}),
    ("info_nce", {"temperature": T, "query_to_query": True, "key_to_key": True, "false_negative_margin": 0.1}),
    ("info_nce", {"temperature": T, "false_negative_margin": 0.0}),
    ("info_nce", {"temperature": T, "false_negative_percent": 20.0}),
    ("triplet", {}),
    ("triplet", {"margin": 1.5}),
    ("margin_mse", {}),
    ("margin_mse", {"scale": 3.0}),
    ("m3_distillation", {"temperature": T, "teacher_temperature": 0.5}),
    ("m3_distillation", {"temperature": T, "in_batch": False}),
    ("teacher_kl", {"temperature": T}),
    ("teacher_kl", {"temperature": T, "teacher_temperature": 0.5, "student_temperature": 2.0}),
    ("ranked_distillation", {"temperature": T}),
    ("ranked_distillation", {"temperature": T, "sort": False}),
    ("ranked_distillation", {"temperature": T, "teacher_temperature": 0.5}),
    ("ranked_distillation", {"temperature": T, "in_batch": False}),
]
OWN_GROUP = ("teacher_kl", "triplet", "margin_mse")  # look at a query's own keys alone
IN_BATCH = [v for v in VARIANTS if v[0] not in OWN_GROUP and v[1].get("in_batch", True)]
BY_TEXT = [v for v in IN_BATCH if not any(name.startswith("false_negative") for name in v[1])]  # not by score
each_variant = pytest.mark.parametrize(("name", "options"), VARIANTS)
each_metric = pytest.mark.parametrize("metric", ["cos", "ip", "l2"])


# The naive versions: lists of floats, one score at a time, as the formulas are written.


def score(metric, query, key):
    if metric == "l2":
        return -sum((a - b) ** 2 for a, b in zip(query, key, strict=True))
    return sum(a * b for a, b in zip(query, key, strict=True))


def probabilities(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def may_be_negative(batch, query, key):
    """A key may be a negative unless its row was repeated, its text is a known positive, or it has the label."""
    known = batch.positive_texts[query].tolist()
    if batch.key_answers is not None and key not in batch.group[query].tolist():
        own = batch.query_answers[batch.group[query, 0] // batch.group.shape[1]].item()
        if own and own == batch.key_answers[key].item():
            return False
    return bool(batch.key_counts[key]) and batch.key_texts[key].item() not in known


def naive_info_nce(
    batch,
    query,
    scores,
    group,
    teacher,
    *,
    temperature,
    in_batch=True,
    query_to_query=False,
    key_to_key=False,
    key_to_query=False,
    false_negative_margin=None,
    false_negative_percent=None,
):
    best = scores[group[0]]

    def counted(value):
        if false_negative_margin is not None and value > best + false_negative_margin:
            return 0.0
        if false_negative_percent is not None and value > best + abs(best) * false_negative_percent / 100:
            return 0.0
        return math.exp(value / temperature)

    total = math.exp(best / temperature)
    for key in range(len(scores)) if in_batch else group:
        if key != group[0] and may_be_negative(batch, query, key):
            total += counted(scores[key])
    positive = batch.keys[group[0]].tolist()
    for key in range(len(scores)) if key_to_key else []:
        if key != group[0] and may_be_negative(batch, query, key):
            total += counted(score(batch.metric, positive, batch.keys[key].tolist()))
    g = len(group)
    for other, vector in enumerate(batch.step_queries.tolist()):
        same = batch.query_texts[other] == batch.query_texts[group[0] // g]
        own = 0 if batch.query_answers is None else batch.query_answers[group[0] // g].item()
        alike = own and own == batch.query_answers[other].item()
        if same or alike or not may_be_negative(replace(batch, key_answers=None), query, other * g):
            continue  # itself, its twin, one of its label, a repeated one, or one that was asked for a known positive
        if query_to_query:
            total += counted(score(batch.metric, batch.queries[query].tolist(), vector))
        if key_to_query:
            total += counted(score(batch.metric, positive, vector))
    return -math.log(math.exp(best / temperature) / total)


def naive_triplet(batch, query, scores, group, teacher, *, margin=0.2):
    known = batch.positive_texts[query].tolist()
    negatives = [key for key in group[1:] if batch.key_texts[key].item() not in known]
    return sum(max(0.0, scores[key] - scores[group[0]] + margin) for key in negatives) / max(1, len(negatives))


def naive_margin_mse(batch, query, scores, group, teacher, *, scale=1.0):
    known, squares = batch.positive_texts[query].tolist(), []
    for place, key in enumerate(group[1:], 1):
        if batch.key_texts[key].item() not in known:
            squares.append((scale * (scores[group[0]] - scores[key]) - (teacher[0] - teacher[place])) ** 2)
    return sum(squares) / max(1, len(squares))


def naive_teacher_kl(
    batch, query, scores, group, teacher, *, temperature, teacher_temperature=1.0, student_temperature=1.0
):
    target = probabilities([t / teacher_temperature for t in teacher])
    student = probabilities([scores[key] / temperature / student_temperature for key in group])
    return sum(p * math.log(p / q) for p, q in zip(target, student, strict=True))


def naive_ranked_distillation(
    batch, query, scores, group, teacher, *, temperature, teacher_temperature=1.0, sort=True, in_batch=True
):
    own = list(zip(group, probabilities([t / teacher_temperature for t in teacher]), strict=True))
    if sort:
        own = [own[0], *sorted(own[1:], key=lambda pair: -pair[1])]
    left = [key for key in range(len(scores)) if key in group or (in_batch and may_be_negative(batch, query, key))]
    loss = 0.0
    for key, share in own:
        total = sum(math.exp(scores[k] / temperature) for k in left)
        loss += share * -math.log(math.exp(scores[key] / temperature) / total)
        left.remove(key)
    return loss


def naive_m3_distillation(*arguments, **options):
    return naive_ranked_distillation(*arguments, sort=False, **options)


NAIVE = {
    "info_nce": naive_info_nce,
    "triplet": naive_triplet,
    "margin_mse": naive_margin_mse,
    "m3_distillation": naive_m3_distillation,
    "teacher_kl": naive_teacher_kl,
    "ranked_distillation": naive_ranked_distillation,
}


def naive(name, batch, **options):
    queries, keys = batch.queries.tolist(), batch.keys.tolist()
    loss = 0.0
    for query, (vector, group) in enumerate(zip(queries, batch.group.tolist(), strict=True)):
        scores = [score(batch.metric, vector, key) for key in keys]
        teacher = batch.teacher[query].tolist()
        loss += batch.weights[query].item() * NAIVE[name](batch, query, scores, group, teacher, **options)
    return loss


def make_batch(*, seed=0, metric="cos", ranks=3, rank=1, b=3, g=4, d=5):
    """What one of `ranks` ranks sees: shared texts, several known positives, repeated rows, uneven weights."""
    rng = np.random.default_rng(seed)
    keys_total = ranks * b * g
    queries, keys = (torch.tensor(rng.normal(size=(n, d))) for n in (b, keys_total))
    step_queries = torch.tensor(np.random.default_rng((seed, 1)).normal(size=(ranks * b, d)))
    step_queries[rank * b : (rank + 1) * b] = queries
    if metric == "cos":
        step_queries, keys = F.normalize(step_queries, dim=-1), F.normalize(keys, dim=-1)
    query_texts = torch.arange(1, ranks * b + 1)
    query_texts[2] = query_texts[rank * b + 1]  # another rank has this rank's second query too
    texts = torch.arange(1, keys_total + 1)
    group = rank * b * g + torch.arange(b * g).view(b, g)
    positives = torch.zeros(b, 3, dtype=torch.long)
    positives[:, 0] = texts[group[:, 0]]
    positives[0, 1:] = texts[[0, g]]  # positives of rank 0's first two queries
    positives[1, 1] = texts[group[2, 1]]  # stands among the negatives of this rank's query 2
    counts = torch.ones(keys_total, dtype=torch.bool)
    counts[-2 * g :] = False  # the last two rows of the last rank were repeated
    return VectorBatch(
        queries=step_queries[rank * b : (rank + 1) * b].clone(),
        keys=keys,
        group=group,
        weights=torch.tensor(rng.uniform(0.1, 1.0, size=b)),
        key_texts=texts,
        positive_texts=positives,
        key_counts=counts,
        teacher=torch.tensor(rng.normal(size=(b, g))),
        metric=metric,
        step_queries=step_queries,
        query_texts=query_texts,
    )


def with_labels(batch, *, labels=3):
    """The step with labels: every fourth key has none, and one of this rank's queries."""
    rng = np.random.default_rng(5)
    g = batch.group.shape[1]
    keys = torch.tensor(rng.integers(1, labels + 1, size=len(batch.key_texts)))
    keys[3::4] = 0
    queries = keys[::g].clone()
    queries[batch.group[2, 0] // g] = 0
    return replace(batch, query_answers=queries, key_answers=keys)


@pytest.mark.parametrize("seed", range(5))
@each_metric
@each_variant
def test_a_loss_is_its_formula_summed_by_two_loops(name, options, metric, seed):
    batch = make_batch(seed=seed, metric=metric)
    assert LOSSES[name](batch, **options).item() == pytest.approx(naive(name, batch, **options), rel=1e-10)


@each_variant
def test_keys_of_one_label_are_no_negatives_of_each_other(name, options):
    plain, batch = make_batch(), with_labels(make_batch())
    found = LOSSES[name](batch, **options).item()
    assert found == pytest.approx(naive(name, batch, **options), rel=1e-10)
    assert (found < LOSSES[name](plain, **options).item()) == ((name, options) in IN_BATCH)  # something was left out


def test_labels_that_no_other_record_has_change_nothing():
    batch = make_batch()
    alone = replace(batch, query_answers=torch.arange(1, 10), key_answers=torch.arange(1, 10).repeat_interleave(4))
    none = replace(batch, query_answers=torch.zeros(9).long(), key_answers=torch.zeros(36).long())
    for one in (alone, none):
        assert torch.equal(excluded(one), excluded(batch))
        assert torch.equal(other_queries(one), other_queries(batch))


def test_a_step_of_one_label_leaves_a_record_its_own_negatives():
    batch = make_batch()
    one = replace(batch, query_answers=torch.ones(9).long(), key_answers=torch.ones(36).long())
    alone = info_nce(batch, temperature=T, in_batch=False)
    assert info_nce(one, temperature=T).item() == pytest.approx(alone.item(), rel=1e-12)
    assert info_nce(one, temperature=T, query_to_query=True).item() == pytest.approx(alone.item(), rel=1e-12)


@each_metric
@each_variant
def test_a_gradient_is_the_slope_of_the_loss(name, options, metric):
    batch = make_batch(metric=metric, d=3)

    def loss(queries, keys, others):
        return LOSSES[name](replace(batch, queries=queries, keys=keys, step_queries=others), **options)

    vectors = [v.requires_grad_() for v in (batch.queries, batch.keys, batch.step_queries)]
    torch.autograd.gradcheck(loss, vectors)


def test_every_loss_is_in_the_tables_of_this_file():
    assert {name for name, _ in VARIANTS} == {n for n, loss in LOSSES.items() if loss.data == GROUP} == NAIVE.keys()


# By hand. D = 1, the query is 1, so that a key ln(n) has the score ln(n) and exp(score) = n.


def by_hand(*keys, group, teacher=None, known=(), texts=None, counts=None, weight=1.0):
    return VectorBatch(
        queries=torch.ones(1, 1, dtype=torch.float64),
        keys=torch.tensor(keys, dtype=torch.float64).log().unsqueeze(1),
        group=torch.tensor([group]),
        weights=torch.tensor([weight], dtype=torch.float64),
        key_texts=torch.tensor(texts or range(1, len(keys) + 1)),
        positive_texts=torch.tensor([[group[0] + 1, *known]]),
        key_counts=torch.tensor(counts or [True] * len(keys)),
        teacher=None if teacher is None else torch.tensor([teacher], dtype=torch.float64).log(),
        metric="ip",
    )


def test_info_nce_by_hand():
    batch = by_hand(3, 1, 2, 4, group=[0, 1])
    assert info_nce(batch, temperature=1.0).item() == pytest.approx(math.log(10 / 3))  # 3 of 3 + 1 + 2 + 4
    assert info_nce(batch, temperature=0.5).item() == pytest.approx(math.log(30 / 9))  # squares: 9 of 9 + 1 + 4 + 16
    assert info_nce(batch, temperature=1.0, in_batch=False).item() == pytest.approx(math.log(4 / 3))  # 3 of 3 + 1


def test_info_nce_leaves_known_positives_and_repeated_rows_out_of_the_sum_by_hand():
    batch = by_hand(3, 1, 2, 4, group=[0, 1], known=[3], counts=[True, True, True, False])
    assert info_nce(batch, temperature=1.0).item() == pytest.approx(math.log(4 / 3))  # 2 is known, 4 was repeated


@pytest.mark.parametrize("in_batch", [True, False])
def test_info_nce_ignores_copies_of_the_positive_that_fill_its_own_group(in_batch):
    batch = by_hand(3, 1, 3, 3, group=[0, 1, 2, 3], texts=[1, 2, 1, 1])
    assert info_nce(batch, temperature=1.0, in_batch=in_batch).item() == pytest.approx(math.log(4 / 3))


def test_teacher_kl_by_hand():
    batch = by_hand(3, 1, 7, group=[0, 1], teacher=[1, 1])
    # teacher (1/2, 1/2), student (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2
    assert teacher_kl(batch, temperature=1.0).item() == pytest.approx(0.5 * math.log(4 / 3))
    # the student squared and rooted again: temperature 0.5, then student_temperature 2
    assert teacher_kl(batch, temperature=0.5, student_temperature=2.0).item() == pytest.approx(0.5 * math.log(4 / 3))


def test_teacher_temperature_by_hand():
    batch = by_hand(9, 1, group=[0, 1], teacher=[3, 1])
    # teacher (3, 1) squared is (9, 1): exactly the student
    assert teacher_kl(batch, temperature=1.0, teacher_temperature=0.5).item() == pytest.approx(0.0, abs=1e-12)
    assert teacher_kl(batch, temperature=1.0).item() == pytest.approx(
        0.75 * math.log(0.75 / 0.9) + 0.25 * math.log(2.5)
    )


def test_ranked_distillation_by_hand():
    batch = by_hand(3, 1, 4, 2, group=[0, 1, 2], teacher=[5, 1, 2])
    # teacher 5/8, 1/8, 2/8. Sorted, key 2 (4) comes before key 1 (1); key 3 (2) is another query's.
    sorted_loss = 5 / 8 * math.log(10 / 3) + 2 / 8 * math.log(7 / 4) + 1 / 8 * math.log(3 / 1)
    as_it_stands = 5 / 8 * math.log(10 / 3) + 1 / 8 * math.log(7 / 1) + 2 / 8 * math.log(6 / 4)
    assert ranked_distillation(batch, temperature=1.0).item() == pytest.approx(sorted_loss)
    assert ranked_distillation(batch, temperature=1.0, sort=False).item() == pytest.approx(as_it_stands)


def test_sorting_leaves_the_positive_first_even_where_the_teacher_likes_a_negative_better():
    batch = by_hand(3, 1, 2, group=[0, 1], teacher=[1, 9])
    expected = 0.1 * math.log(6 / 3) + 0.9 * math.log(3 / 1)
    assert ranked_distillation(batch, temperature=1.0).item() == pytest.approx(expected)


def test_sorting_matters_only_where_negatives_stand_unsorted():
    batch = by_hand(3, 1, 4, 2, group=[0, 1, 2], teacher=[5, 2, 1])
    losses = [ranked_distillation(batch, temperature=1.0, sort=sort).item() for sort in (True, False)]
    assert losses[0] == losses[1]


@each_variant
def test_weights_are_the_share_of_each_query(name, options):
    batch = make_batch(seed=1)
    each = [
        LOSSES[name](replace(batch, weights=torch.eye(3, dtype=torch.float64)[query]), **options).item()
        for query in range(3)
    ]
    weighted = sum(w * loss for w, loss in zip(batch.weights.tolist(), each, strict=True))
    assert len({round(loss, 9) for loss in each}) == 3
    assert LOSSES[name](batch, **options).item() == pytest.approx(weighted)


def test_triplet_by_hand():
    batch = by_hand(math.e**0.5, 1, math.e**0.4, math.e**2, group=[0, 1, 2, 3], texts=[1, 2, 3, 1])
    # scores .5 and 0, .4, 2; the last is a copy of the positive: (0 + .1) / 2 at a margin of .2
    assert triplet(batch, margin=0.2).item() == pytest.approx(0.05)


def test_margin_mse_by_hand():
    e = math.e
    batch = by_hand(e**0.5, 1, e**0.4, group=[0, 1, 2], teacher=[e**3, e**1, e**2])
    # margins .5 and .1, the teacher's 2 and 1
    assert margin_mse(batch).item() == pytest.approx((1.5**2 + 0.9**2) / 2)
    assert margin_mse(batch, scale=4.0).item() == pytest.approx((0.0**2 + 0.6**2) / 2)


def test_margin_mse_does_not_count_copies_of_the_positive():
    batch = by_hand(math.e**0.5, 1, math.e**0.5, group=[0, 1, 2], texts=[1, 2, 1], teacher=[math.e**3, 1, math.e**3])
    assert margin_mse(batch).item() == pytest.approx((0.5 - 3) ** 2)


def test_margin_mse_does_not_learn_from_keys_that_the_teacher_never_saw():
    batch = by_hand(1, 1, 2, group=[0, 1, 2])
    batch = replace(batch, teacher=torch.tensor([[3.0, 1.0, 1.0 - 1e4]], dtype=torch.float64))
    assert margin_mse(batch).item() == pytest.approx(4.0)  # (0 - 2) ** 2, from the first negative alone


def test_the_other_sides_of_info_nce_by_hand():
    # D = 1, as above, and two queries: 1 for the positive 3, 2 for the positive 5. The products are logarithms.
    batch = VectorBatch(
        queries=torch.tensor([[1.0], [2.0]]),
        keys=torch.tensor([[3.0], [5.0]]),
        group=torch.tensor([[0], [1]]),
        weights=torch.tensor([1.0, 0.0]),
        key_texts=torch.tensor([1, 2]),
        positive_texts=torch.tensor([[1], [2]]),
        key_counts=torch.tensor([True, True]),
        metric="ip",
        step_queries=torch.tensor([[1.0], [2.0]]),
        query_texts=torch.tensor([8, 9]),
    )
    e = math.e
    plain = e**3 + e**5
    for options, more in (
        ({}, 0),
        ({"query_to_query": True}, e**2),
        ({"key_to_key": True}, e**15),
        ({"key_to_query": True}, e**6),
        ({"query_to_query": True, "key_to_key": True, "key_to_query": True}, e**2 + e**15 + e**6),
    ):
        expected = math.log((plain + more) / e**3)
        assert info_nce(batch, temperature=1.0, **options).item() == pytest.approx(expected), options


def test_a_margin_leaves_out_what_scores_above_the_positive_by_more_by_hand():
    e = math.e
    batch = by_hand(e**0.5, e**0.55, e**0.61, e**0.4, group=[0])
    values = [e**0.5, e**0.55, e**0.61, e**0.4]

    def loss(*kept):
        return math.log(sum(values[i] for i in kept) / values[0])

    assert info_nce(batch, temperature=1.0).item() == pytest.approx(loss(0, 1, 2, 3))
    assert info_nce(batch, temperature=1.0, false_negative_margin=0.1).item() == pytest.approx(loss(0, 1, 3))
    assert info_nce(batch, temperature=1.0, false_negative_margin=0.0).item() == pytest.approx(loss(0, 3))
    assert info_nce(batch, temperature=1.0, false_negative_percent=20.0).item() == pytest.approx(loss(0, 1, 3))
    assert info_nce(batch, temperature=1.0, false_negative_percent=5.0).item() == pytest.approx(loss(0, 3))


def test_what_is_left_out_is_counted_by_hand():
    batch = by_hand(3, 4, 5, 2, 9, group=[0], known=[3], texts=[1, 2, 3, 4, 5], counts=[True, True, True, True, False])
    assert [n.item() for n in false_negatives(batch)] == [1, 0, 0]  # the key of text 3
    assert [n.item() for n in false_negatives(batch, margin=0.0)] == [1, 0, 1]  # and 4; 5 is known, 9 was repeated
    assert [n.item() for n in false_negatives(batch, margin=1.0)] == [1, 0, 0]
    nobody = replace(batch, weights=torch.zeros(1))
    assert [n.item() for n in false_negatives(nobody, margin=0.0)] == [0, 0, 0]  # a repeated query


def test_only_other_questions_for_other_answers_stand_beside_a_query():
    batch = make_batch()
    assert other_queries(batch).tolist() == [
        [False, False, True, False, True, True, True, False, False],  # those of rank 0 are for known positives
        [True, True, False, True, False, True, True, False, False],  # the third is the same text
        [True, True, True, True, True, False, True, False, False],
    ]


# Masks.


def key_gradient(batch, name, options):
    """(P,) length of each key's gradient."""
    keys = batch.keys.detach().clone().requires_grad_()
    LOSSES[name](replace(batch, keys=keys), **options).backward()
    return keys.grad.norm(dim=1)


def test_only_known_positives_and_repeated_rows_are_excluded():
    batch = make_batch()
    expected = [
        [key != group[0] and not may_be_negative(batch, query, key) for key in range(len(batch.keys))]
        for query, group in enumerate(batch.group.tolist())
    ]
    assert excluded(batch).tolist() == expected
    assert [sum(row) for row in expected] == [8 + 2, 8 + 1, 8]  # two repeated rows of 4 keys, then the known positives


@each_metric
@pytest.mark.parametrize(("name", "options"), BY_TEXT)
def test_a_key_of_another_query_whose_text_is_a_known_positive_is_never_a_negative(name, options, metric):
    batch = make_batch(metric=metric)
    first = replace(batch, weights=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    known, unknown = 0, 1  # columns of rank 0: the first is a known positive of our query 0, the second is nobody's
    gradient = key_gradient(first, name, options)
    assert gradient[known] == 0
    assert gradient[unknown] > 1e-8
    # Without the knowledge it would be one.
    positives = batch.positive_texts.clone()
    positives[0, 1:] = 0
    assert key_gradient(replace(first, positive_texts=positives), name, options)[known] > 1e-8


@pytest.mark.parametrize(("name", "options"), BY_TEXT)
def test_two_queries_with_the_same_positive_do_not_push_it_away(name, options):
    batch = make_batch(ranks=1, rank=0)
    texts, keys = torch.arange(1, 13), batch.keys.clone()
    texts[4], keys[4] = texts[0], keys[0]  # the second query's positive is the first one's
    shared = replace(
        batch,
        keys=keys,
        key_texts=texts,
        positive_texts=texts[batch.group[:, :1]],
        key_counts=torch.ones(12, dtype=torch.bool),
        query_texts=torch.arange(1, 4),
    )
    pulls = key_gradient(replace(shared, weights=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)), name, options)
    assert pulls[4] == 0
    assert min(pulls[0], pulls[5], pulls[8]) > 1e-6


def test_the_padding_of_known_positives_excludes_nothing():
    batch = make_batch()
    wider = torch.cat([batch.positive_texts, torch.zeros(3, 4, dtype=torch.long)], dim=1)
    assert torch.equal(excluded(replace(batch, positive_texts=wider)), excluded(batch))


@each_metric
@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v not in IN_BATCH])
def test_without_in_batch_negatives_a_query_sees_only_its_own_group(name, options, metric):
    batch = make_batch(metric=metric)
    others = torch.ones(len(batch.keys), dtype=torch.bool)
    others[batch.group.flatten()] = False
    assert key_gradient(batch, name, options)[others].tolist() == [0.0] * int(others.sum())
    moved = batch.keys.clone()
    moved[others] = 7.0
    elsewhere = LOSSES[name](replace(batch, keys=moved), **options)
    assert elsewhere.item() == pytest.approx(LOSSES[name](batch, **options).item(), rel=1e-12)


# Repeated rows.


def step(queries, keys, teacher, rows, unique, *, metric):
    """The step batch of the given rows: row r has query r, keys (r, 0..G-1); past `unique` rows are repeated ones."""
    n, g = len(rows), keys.shape[1]
    counts = torch.arange(n) < unique
    texts = 1 + torch.tensor(rows).unsqueeze(1) * g + torch.arange(g)  # (n, G)
    return VectorBatch(
        queries=queries[rows],
        keys=keys[rows].flatten(0, 1),
        group=torch.arange(n * g).view(n, g),
        weights=counts / unique,
        key_texts=texts.flatten(),
        positive_texts=texts[:, :1],
        key_counts=counts.repeat_interleave(g),
        teacher=teacher[rows],
        metric=metric,
        step_queries=queries[rows],
        query_texts=1 + torch.tensor(rows),
    )


@each_metric
@each_variant
@pytest.mark.parametrize(("unique", "step_rows"), [(5, 8), (1, 4), (3, 9)])
def test_a_step_with_repeated_rows_equals_the_step_of_its_unique_rows(name, options, metric, unique, step_rows):
    rng = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(*shape, 6, generator=rng, dtype=torch.float64) for shape in ((unique,), (unique, 3)))
    teacher = torch.randn(unique, 3, generator=rng, dtype=torch.float64)

    def loss_and_gradients(rows):
        q, k = queries.clone().requires_grad_(), keys.clone().requires_grad_()
        vectors = [F.normalize(x, dim=-1) if metric == "cos" else x for x in (q, k)]
        batch = step(*vectors, teacher, rows, unique, metric=metric)
        batch.keys.retain_grad()
        loss = LOSSES[name](batch, **options)
        loss.backward()
        return loss.detach(), q.grad, k.grad, batch.keys.grad

    alone = loss_and_gradients(list(range(unique)))
    cycled = loss_and_gradients([row % unique for row in range(step_rows)])
    for ours, expected in zip(cycled[:3], alone[:3], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
    assert cycled[3][unique * 3 :].abs().max() == 0  # nothing pulls on the keys of repeated rows


# Metrics.


def test_metrics_by_hand():
    queries, keys = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0], [4.0, -3.0]])
    batch = replace(make_batch(), queries=queries, keys=keys)
    assert replace(batch, metric="ip").scores().tolist() == [[25.0, 0.0, 0.0]]
    assert replace(batch, metric="l2").scores().tolist() == [[0.0, -25.0, -50.0]]  # (4-3)^2 + (-3-4)^2 = 50
    unit = replace(batch, queries=queries / 5, keys=F.normalize(keys, dim=-1), metric="cos")
    assert unit.scores()[0].tolist() == pytest.approx([1.0, 0.0, 0.0])


@each_metric
def test_scores_of_the_own_group_are_columns_of_all_scores(metric):
    batch = make_batch(metric=metric)
    torch.testing.assert_close(batch.own_scores(), batch.scores().gather(1, batch.group))


@each_metric
def test_similarities_are_those_of_a_double_loop(metric):
    batch = make_batch(metric=metric)
    expected = [[score(metric, q, k) for k in batch.keys.tolist()] for q in batch.queries.tolist()]
    torch.testing.assert_close(batch.scores(), torch.tensor(expected, dtype=torch.float64))


# Terms.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("info_nec", {}, r"^loss: unknown name 'info_nec'; did you mean 'info_nce'\?"),
        ("teacher_kl", {"temprature": 1.0}, r"^loss teacher_kl: .*'temprature'; did you mean 'temperature'\?"),
        ("info_nce", {"inbatch": False}, r"^loss info_nce: .*'inbatch'; did you mean 'in_batch'\?"),
        ("ranked_distillation", {"sorted": True}, r"^loss ranked_distillation: .*'sorted'; did you mean 'sort'\?"),
        ("info_nce", {"batch": None}, r"unknown name 'batch'"),  # an argument, but no option
    ],
)
def test_a_term_refuses_unknown_losses_and_options_with_the_nearest_name(name, options, message):
    with pytest.raises(UserError, match=message):
        LossTerm(name=name, options=options)


@each_variant
def test_a_term_takes_every_option_of_its_loss(name, options):
    batch, term = make_batch(), LossTerm(name=name, options=options)
    assert total_loss(batch, (term,)).item() == pytest.approx(naive(name, batch, **options))


def test_the_total_is_the_weighted_sum_of_its_terms():
    batch = by_hand(3, 1, 7, group=[0, 1], teacher=[1, 1])
    terms = (
        LossTerm(name="info_nce", weight=0.2, options={"temperature": 1.0}),  # ln(11/3)
        LossTerm(name="teacher_kl", weight=2.0, options={"temperature": 1.0}),  # 1/2 ln(4/3), as above
    )
    assert total_loss(batch, terms).item() == pytest.approx(0.2 * math.log(11 / 3) + math.log(4 / 3))


@pytest.mark.parametrize("name", ["teacher_kl", "ranked_distillation", "m3_distillation", "margin_mse"])
def test_distillation_without_teacher_scores_says_so(name):
    said = "ranked_distillation" if name == "m3_distillation" else name
    with pytest.raises(UserError, match=f"^{said}: the records have no teacher_scores"):
        LOSSES[name](replace(make_batch(), teacher=None))
