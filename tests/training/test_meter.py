"""Meters of the log, by hand."""

import time

import pytest
import torch

from zh_embedder.training.meter import Meter, Work

CPU = torch.device("cpu")


def watched(queries, masked):
    """What `objectives.watch` returns for a step."""
    return {"queries": torch.tensor(queries), "masked_by_text": torch.tensor(masked)}


def test_meters_are_sums_and_means_by_hand():
    meter = Meter(CPU, started=time.perf_counter() - 2.0)
    meter.step("qa", 0, torch.tensor(1.0), Work(texts=10, tokens=100, padded_tokens=200, computed_tokens=100), {})
    meter.step("tool", 1, torch.tensor(5.0), Work(texts=20, tokens=300, padded_tokens=400, computed_tokens=200), {})
    meter.update(2.0)  # an update of two tasks
    meter.step("qa", 0, torch.tensor(2.0), Work(texts=10, tokens=100, padded_tokens=100, computed_tokens=100), {})
    meter.step(
        "qa", 2, torch.tensor(6.0), Work(texts=10, tokens=100, duplicate_tokens=50, padded_tokens=100), watched(3, 6)
    )
    meter.update(torch.tensor(0.5))
    meter.step(
        "qa", 0, torch.tensor(3.0), Work(texts=30, tokens=400, operations=8e9, seconds_waited=0.5), watched(5, 2)
    )
    meter.update(1.5)
    entries = meter.drain(peak=1e10)
    assert meter.datasets == [0, 1, 0, 2, 0]
    timed = [entries.pop(name) for name in ("texts_per_second", "tokens_per_second", "data_wait", "mfu")]
    assert entries == {
        "loss/qa": 3.0,  # (1 + 2 + 6 + 3) / 4
        "loss/tool": 5.0,
        "grad_norm/qa": 1.0,  # (0.5 + 1.5) / 2
        "grad_norm/several": 2.0,
        "masked_by_text/qa": 1.0,  # (6 + 2) / (3 + 5)
        "padding_avoided": 1 - (400 + 50) / 800,
        "duplicates_avoided": 0.05,  # 50 of 1,000
    }
    # Two seconds and what this test took.
    assert timed == pytest.approx([80 / 2.0, 1000 / 2.0, 0.5 / 2.0, 8e9 / 2.0 / 1e10], rel=0.1)


def test_work_adds_up_number_by_number():
    one = Work(1, 2, 3, 4, 5, 6.0, 7.0)
    assert one + Work(10, 20, 30, 40, 50, 60.0, 70.0) == Work(11, 22, 33, 44, 55, 66.0, 77.0)
    assert one + Work() == one
    assert sum([one, one], Work()) == Work(2, 4, 6, 8, 10, 12.0, 14.0)


def test_rates_of_two_ranks_by_hand():
    """10 seconds; 1,000 tokens, 200 of them duplicates; 900 computed for the other 800, of 2,000 with padding."""
    work = Work(40, 1000, 200, 900, 2000, operations=6e12, seconds_waited=4.0)
    assert work.rates(10.0, ranks=2, peak=1e12) == pytest.approx(
        {
            "texts_per_second": 4.0,
            "tokens_per_second": 100.0,
            "data_wait": 0.2,  # each rank waited 2 of 10 seconds
            "padding_avoided": 0.45,  # neither computed nor a duplicate: 900 of 2,000
            "duplicates_avoided": 0.2,
            "mfu": 0.3,  # 6e11 operations a second of two ranks with 1e12 each
        }
    )
    assert "mfu" not in work.rates(10.0, ranks=2, peak=None)


def test_the_meter_keeps_no_graph():
    weight = torch.nn.Parameter(torch.tensor(2.0))
    meter = Meter(CPU)
    meter.step("qa", 0, weight * 3, Work(texts=1, tokens=1), {"queries": weight})
    meter.update(weight * 4)
    assert not meter.losses["qa"].requires_grad
    assert not meter.norms["qa"].requires_grad
    assert {name: value for name, value in meter.drain().items() if "/" in name} == {
        "loss/qa": 6.0,
        "grad_norm/qa": 8.0,
    }


def test_an_empty_meter_has_rates_of_zero():
    entries = Meter(CPU).drain(peak=1e12)
    assert entries.pop("padding_avoided") == 1.0  # nothing was padded
    assert entries == {
        "texts_per_second": 0.0,
        "tokens_per_second": 0.0,
        "data_wait": 0.0,
        "duplicates_avoided": 0.0,
        "mfu": 0.0,
    }
