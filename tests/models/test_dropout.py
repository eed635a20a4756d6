"""Dropout by sixteen bits: the share, the scale and the seed are right, and nothing else of a model changes."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from zh_embedder.models.dropout import LEVELS, LOWEST, Dropout, cheapen

COUNT = 1_000_000
SHARES = [0.05, 0.1, 0.25, 0.5, 0.9]


def drop(share, values, *, seed=0, kind=Dropout):
    """Values after dropout in training."""
    torch.manual_seed(seed)
    return kind(share)(values)


# ---- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", SHARES)
def test_the_share_that_is_dropped_is_p(share):
    """Within 5 standard deviations of a binomial: by chance outside once in 1.7 million, and the seed is fixed."""
    dropped = int((drop(share, torch.ones(COUNT)) == 0).sum())
    assert abs(dropped - COUNT * share) < 5 * math.sqrt(COUNT * share * (1 - share))


@pytest.mark.parametrize("kind", [Dropout, nn.Dropout])
@pytest.mark.parametrize("share", SHARES)
def test_places_are_drawn_one_by_one_as_torch_draws_them(share, kind):
    """Drops in 400 places are binomial: their mean and variance over 5,000 rows, each within 5 standard errors."""
    places, rows = 400, 5000
    counts = (drop(share, torch.ones(rows, places), kind=kind) == 0).sum(dim=1).double()
    variance = places * share * (1 - share)
    assert counts.mean().item() == pytest.approx(places * share, abs=5 * math.sqrt(variance / rows))
    assert counts.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / (rows - 1)))


@pytest.mark.parametrize("apart", [1, 2, 3, 4, 5])
def test_neighbours_are_independent(apart):
    """Four places share one drawn integer: their correlation is 0 within 5 standard errors."""
    dropped = (drop(0.25, torch.ones(COUNT)) == 0).double() - 0.25
    correlation = (dropped[:-apart] * dropped[apart:]).mean() / (0.25 * 0.75)
    assert abs(correlation) < 5 / math.sqrt(COUNT)


def test_sixteen_bits_decide(monkeypatch):
    """Where every word is drawn once, exactly p * 65536 places are dropped: those of the lowest words."""
    words = torch.arange(-LEVELS // 2, LEVELS // 2, dtype=torch.int32).to(torch.int16)

    def every_word(drawn, low, high):
        assert (drawn.dtype, len(drawn), low, high) == (torch.int64, LEVELS // 4, LOWEST, None)
        return words.view(torch.int64).clone()

    monkeypatch.setattr(torch.Tensor, "random_", every_word)
    for dropped in (1, 2, 6554, 16384, 32767, 32768, 32769, 58982, 65535):
        out = Dropout(dropped / LEVELS)(torch.ones(LEVELS))
        assert (out[:dropped] == 0).all()
        assert (out[dropped:] > 0).all()
    for share, dropped in ((1e-9, 0), (0.4 / LEVELS, 0), (0.6 / LEVELS, 1), (0.1, 6554), (1 - 1e-9, 65535)):
        assert (Dropout(share)(torch.ones(LEVELS)) == 0).sum() == dropped  # the nearest step, and never all


def test_all_64_bits_are_drawn():
    """Of the integers behind the mask every bit is set in half of them, within 5 standard deviations."""
    torch.manual_seed(0)
    drawn = torch.empty(10_000, dtype=torch.int64).random_(LOWEST, None)
    set_ = torch.stack([(drawn >> bit) & 1 for bit in range(64)]).sum(dim=1)
    assert ((set_ - 5000).abs() < 5 * 50).all()


def test_the_seed_decides():
    values = torch.randn(1000)
    one, again, other = (drop(0.5, values, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.manual_seed(7)
    layer = Dropout(0.5)
    assert not torch.equal(layer(values), layer(values))  # and goes on from there


# ---- what becomes of the values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1000,), (7, 3, 11), (5,), (1,), (0,), (2, 0, 3)])
def test_what_is_kept_is_scaled(shape, dtype):
    values = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 1).to(dtype)
    out = drop(0.25, values)
    kept = out != 0
    assert (out.shape, out.dtype) == (values.shape, dtype)
    torch.testing.assert_close(out[kept], values[kept] / 0.75)
    assert (values >= 1).all()  # the values given are not touched


def test_values_that_do_not_lie_in_order_are_dropped_by_place():
    values = torch.arange(1.0, 13.0).view(3, 4)
    assert torch.equal(drop(0.5, values.t()), drop(0.5, values.t().contiguous()))


def test_the_gradient_passes_where_the_value_did():
    values = torch.ones(64, 32, requires_grad=True)
    out = drop(0.3, values)
    weights = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    (out * weights).sum().backward()
    torch.testing.assert_close(values.grad, weights * out.detach())  # d out / d value is out, where values are 1
    assert ((values.grad == 0) == (out == 0)).all()


def test_gradients_are_those_of_a_fixed_mask():
    def fixed(values):
        return drop(0.4, values, seed=3)

    values = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    assert torch.autograd.gradcheck(fixed, (values,))


def test_a_checkpointed_layer_drops_the_same_again():
    from torch.utils.checkpoint import checkpoint

    found = []
    for run in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=False)):
        layer = nn.Sequential(nn.Linear(8, 8), Dropout(0.5), nn.Linear(8, 8))
        layer.load_state_dict({name: torch.full_like(w, 0.1) for name, w in layer.state_dict().items()})
        torch.manual_seed(5)
        run(layer, torch.ones(16, 8, requires_grad=True)).sum().backward()
        found.append([p.grad for p in layer.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


# ---- where it is torch's own ----------------------------------------------------------------------------------------


def test_evaluation_drops_nothing():
    values = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(values), values)


@pytest.mark.parametrize("share", [0, 0.0, 1, 1.0])
def test_none_and_all_are_torchs(share):
    values = torch.randn(100)
    assert torch.equal(drop(share, values), drop(share, values, kind=nn.Dropout))


def test_other_devices_are_torchs():
    assert Dropout(0.5)(torch.ones(3, device="meta")).device.type == "meta"


class OwnDropout(nn.Dropout):
    """Somebody else's."""


def test_a_model_changes_its_plain_dropouts_and_nothing_else():
    parts = [nn.Linear(4, 4), nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.3)), OwnDropout(0.2), nn.AlphaDropout(0.4)]
    model = nn.Sequential(*parts, nn.Dropout1d(0.5))
    names = list(model.state_dict())
    for _ in range(2):  # twice is once
        cheapen(model)
        kinds = [type(module) for module in model.modules()]
        plain = [nn.Sequential, nn.Linear, Dropout, nn.Sequential, Dropout, OwnDropout, nn.AlphaDropout, nn.Dropout1d]
        assert kinds == plain
    assert [module.p for module in model.modules() if isinstance(module, Dropout)] == [0.1, 0.3]
    assert list(model.state_dict()) == names
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(module) for module in other.modules()] == plain
