"""Terms and Matryoshka, on batches of every kind."""

import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.losses.test_pairs import VARIANTS as PAIR_VARIANTS
from tests.losses.test_pairs import make_step, of_kind
from tests.losses.test_retrieval import VARIANTS, make_batch
from zh_embedder.losses.table import LOSSES, LossTerm, RunOptions, parse_terms, sees_queries, total_loss

EVERY = [*VARIANTS, *PAIR_VARIANTS]
each_variant = pytest.mark.parametrize(("name", "options"), EVERY)


def batch_for(name):
    return of_kind(make_step(), name) if name in dict(PAIR_VARIANTS) else make_batch(b=5)


def loss_and_gradients(batch, term, **how):
    vectors = [v.detach().clone().requires_grad_() for v in (batch.queries, batch.keys, batch.step_queries)]
    queries, keys, step_queries = vectors
    loss = total_loss(replace(batch, queries=queries, keys=keys, step_queries=step_queries), (term,), **how)
    loss.backward()
    return [loss.detach(), *(torch.zeros_like(v) if v.grad is None else v.grad for v in vectors)]


# ---- Matryoshka -----------------------------------------------------------------------------------------------------


@each_variant
def test_matryoshka_is_the_weighted_mean_of_the_loss_on_shorter_vectors(name, options):
    batch, term = batch_for(name), LossTerm(name=name, options=options)

    def shortened(dims):
        vectors = (v[:, :dims] for v in (batch.queries, batch.keys, batch.step_queries))
        queries, keys, step_queries = (F.normalize(v, dim=-1) for v in vectors)
        return term.loss(replace(batch, queries=queries, keys=keys, step_queries=step_queries), **options).item()

    expected = (3 * shortened(4) + shortened(2)) / 4
    assert total_loss(batch, (term,), dimensions={4: 3.0, 2: 1.0}).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("metric", "expected"), [("cos", [1.0, 0.0]), ("ip", [0.6, 0.0]), ("l2", [0.6, 0.0])])
def test_only_cosines_want_shorter_vectors_normalised(metric, expected):
    batch = replace(make_batch(), queries=torch.tensor([[0.6, 0.0, 0.8]]), metric=metric)
    assert batch.truncated(2).queries.tolist() == [pytest.approx(expected)]


# ---- terms ----------------------------------------------------------------------------------------------------------


def test_a_list_of_names_and_mappings_is_read():
    terms = parse_terms(["triplet", {"name": "info_nce", "weight": 0.5, "query_to_query": True}], where="here")
    assert terms == (LossTerm(name="triplet"), LossTerm(name="info_nce", weight=0.5, options={"query_to_query": True}))
    assert parse_terms("cosent", where="here") == (LossTerm(name="cosent"),)


def test_flags_fill_only_what_a_term_leaves_open_and_takes_from_flags():
    flags = RunOptions(temperature=0.02, teacher_temperature=3.0, in_batch=False)
    filled = LossTerm(name="info_nce", weight=2.0, options={"temperature": 0.5}).filled(flags)
    assert filled == LossTerm(name="info_nce", weight=2.0, options={"temperature": 0.5, "in_batch": False})
    assert LossTerm(name="cosent").filled(flags) == LossTerm(name="cosent")  # its own default


@each_variant
def test_the_queries_of_other_ranks_are_gathered_where_a_loss_wants_them(name, options):
    batch, term = replace(batch_for(name), step_queries=None), LossTerm(name=name, options=options)
    if sees_queries((LossTerm(name="triplet"), term)):
        with pytest.raises(ValueError, match="queries of other ranks"):
            total_loss(batch, (term,))
    else:
        assert total_loss(batch, (term,)).isfinite()


def test_every_loss_says_where_it_comes_from():
    sources = ("arXiv", "kexue.fm", "sentence-transformers", "FlagEmbedding", "LLM-Embedder", "2006")
    for name, loss in LOSSES.items():
        assert any(
            source in sys.modules[loss.compute.__module__].__dict__[loss.compute.__name__].__doc__ for source in sources
        ), name
