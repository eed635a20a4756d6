"""A non-finite loss moves nothing and is named; a loss of exactly 0 stops the run; the meters are plain sums."""

import copy
import time

import pytest
import torch

from zh_embedder.core.errors import UserError
from zh_embedder.training.step_guard import ZERO_STEPS, Meter, StepGuard, Work, same_on_all_ranks

CPU = torch.device("cpu")
ROWS = (4, 7)


def describe(rows: tuple[int, ...]) -> str:
    """What the trainer says of a step's rows."""
    return f"task qa, dataset qa:train.jsonl, records at lines {', '.join(str(row + 1) for row in rows)}"


OPTIMIZERS = {
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


class Run:
    """A training loop as the trainer's: judge the loss, then backward, then update."""

    def __init__(self, name: str) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.optimizer = OPTIMIZERS[name]([self.weight])
        self.guard = StepGuard(CPU, describe)
        self.guard.watch(self.optimizer)
        self.steps = 0

    def micro_step(self, factor: float) -> None:
        loss = (self.weight**2).sum() * factor
        self.guard.see(loss.detach(), step=self.steps + 1, rows=ROWS)
        loss.backward()

    def step(self, *factors: float) -> None:
        for factor in factors:
            self.micro_step(factor)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1

    def state(self) -> tuple:
        """Weights and everything that the optimizer holds."""
        return self.weight.detach().clone(), copy.deepcopy(self.optimizer.state_dict())


def assert_equal(one, other) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_loss_that_is_not_finite_changes_nothing_and_is_named(name, bad):
    run = Run(name)
    run.step(1.0)
    run.step(1.0)
    before = run.state()
    with pytest.raises(UserError) as error:
        run.step(bad)
    assert_equal(run.state(), before)
    message = str(error.value)
    assert message.startswith("step 3: the loss is not finite, the update was skipped: ")
    assert "task qa, dataset qa:train.jsonl, records at lines 5, 8." in message
    assert "--dtype bf16 or fp32" in message


@pytest.mark.parametrize("name", ["fused AdamW", "fused SGD"])
def test_a_fused_optimizer_skips_its_update_before_the_host_knows(name):
    """On an accelerator the host reads the verdict late: the optimizer must not have moved in the meantime."""
    run = Run(name)
    run.step(1.0)
    before = run.state()
    with pytest.raises(UserError):
        run.micro_step(float("nan"))
    run.weight.grad = torch.full_like(run.weight, float("nan"))
    run.optimizer.step()
    assert_equal(run.state(), before)


@pytest.mark.parametrize("name", ["fused AdamW", "fused SGD"])
def test_a_bad_part_of_a_step_spoils_the_whole_and_every_later_one(name):
    """Sticky: with gradient accumulation a good part follows the bad one before the update."""
    run = Run(name)
    run.step(1.0, 1.0)
    before = run.state()
    with pytest.raises(UserError):
        run.micro_step(float("nan"))
    for _ in range(2):
        with pytest.raises(UserError, match="not finite"):
            run.micro_step(1.0)
        run.weight.grad = torch.ones_like(run.weight)
        run.optimizer.step()
        assert_equal(run.state(), before)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_guarded_run_without_trouble_is_an_unguarded_one(name):
    run, free = Run(name), Run(name)
    free.optimizer = OPTIMIZERS[name]([free.weight])  # nobody watches this one
    for _ in range(5):
        run.step(1.0, 0.5)
        free.step(1.0, 0.5)
    assert_equal(run.state(), free.state())
    assert not torch.equal(run.weight, torch.tensor([1.0, -2.0, 3.0]))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_only_fused_optimizers_are_watched_on_the_device(name):
    assert Run(name).guard.watched_on_device is name.startswith("fused")


def losses(guard: StepGuard, *values: float) -> None:
    for step, value in enumerate(values, start=1):
        guard.see(torch.tensor(value), step=step, rows=ROWS)


def test_twenty_zeros_stop_the_run_and_nineteen_do_not():
    assert ZERO_STEPS == 20
    losses(StepGuard(CPU, describe), *[0.0] * 19)
    losses(StepGuard(CPU, describe), *[0.0] * 19, 1e-30, *[0.0] * 19)
    losses(StepGuard(CPU, describe), *[0.0, 1.0] * 30)
    with pytest.raises(UserError) as error:
        losses(StepGuard(CPU, describe), 1.0, *[0.0] * 20)
    message = str(error.value)
    assert message.startswith(
        "step 21: the loss has been exactly 0 for 20 steps, the model is not learning: task qa, dataset"
    )
    assert "too small a --cos_temperature" in message


def test_a_small_or_negative_loss_is_no_zero():
    losses(StepGuard(CPU, describe), *[1e-38] * 30)
    losses(StepGuard(CPU, describe), *[-1.0] * 30)


def test_the_first_bad_step_is_the_one_that_is_named():
    guard = StepGuard(CPU, describe)
    guard.history = [  # verdicts that an accelerator has not handed over yet
        (3, (0,), torch.tensor([0.0, 0.0]), None),
        (4, (1,), torch.tensor([1.0, 0.0]), None),
        (5, (2,), torch.tensor([1.0, 0.0]), None),
    ]
    with pytest.raises(UserError, match=r"^step 4: .*records at lines 2\."):
        guard.check()
    guard.check()  # said once


# ---- meters ---------------------------------------------------------------------------------------------------------


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


def test_one_rank_agrees_with_itself():
    assert same_on_all_ranks([0, 2, 1], CPU)
    assert same_on_all_ranks([], CPU)
