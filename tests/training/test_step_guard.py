"""A non-finite loss moves nothing and is named; a loss of exactly 0 stops the run."""

import copy

import pytest
import torch

from zh_embedder.core.errors import UserError
from zh_embedder.training.step_guard import ZERO_STEPS, StepGuard, check_finite, same_on_all_ranks

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


def test_one_rank_agrees_with_itself():
    assert same_on_all_ranks([0, 2, 1], CPU)
    assert same_on_all_ranks([], CPU)


def test_weights_that_are_not_finite_are_refused_by_name():
    weights = {"a": torch.ones(3), "ids": torch.arange(3), "b": torch.tensor([1.0, float("nan")])}
    check_finite({name: weights[name] for name in ("a", "ids")}, step=7)
    with pytest.raises(UserError, match=r"^step 7: 1 of 3 weights hold NaN or infinity, such as b: they are"):
        check_finite(weights, step=7)
    with pytest.raises(UserError, match="2 of 3 weights hold NaN or infinity, such as a"):
        check_finite({**weights, "a": torch.tensor([-float("inf")])}, step=7)
