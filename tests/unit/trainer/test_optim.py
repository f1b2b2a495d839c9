import math
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from maquette.core.specs import LrScheduler, Optimizer
from maquette.testing.factories import training_spec
from maquette.trainer.optim import build_lr_scheduler, build_optimizer, scalars, scale_rate, used_rate
from maquette.trainer.prodigy import FIRST_DISTANCE, Prodigy

pytestmark = pytest.mark.torch

PEAK, STEPS, WARMUP = 1e-3, 10, 4


def rates(name: LrScheduler, warmup: int, peak: float = PEAK) -> list[float]:
    """The rate of each step, relative to the peak."""
    settings = replace(
        training_spec().settings,
        learning_rate=peak,
        max_train_steps=STEPS,
        lr_scheduler=name,
        lr_warmup_steps=warmup,
    )
    optimizer = build_optimizer([Parameter(torch.zeros(1))], settings)
    lr_scheduler = build_lr_scheduler(optimizer, settings)
    seen: list[float] = []
    for _ in range(STEPS):
        seen.append(float(lr_scheduler.get_last_lr()[0]) / peak)
        optimizer.step()
        lr_scheduler.step()
    return seen


FALLING = range(STEPS)
EXPECTED = {
    LrScheduler.CONSTANT: [1.0 for _ in FALLING],
    LrScheduler.CONSTANT_WITH_WARMUP: [1.0 for _ in FALLING],
    LrScheduler.LINEAR: [1 - step / STEPS for step in FALLING],
    LrScheduler.COSINE: [(1 + math.cos(math.pi * step / STEPS)) / 2 for step in FALLING],
    LrScheduler.COSINE_WITH_RESTARTS: [(1 + math.cos(math.pi * (3 * step / STEPS % 1))) / 2 for step in FALLING],
    LrScheduler.POLYNOMIAL: [1 - 0.999 * step / STEPS for step in FALLING],
}


@pytest.mark.parametrize("name", LrScheduler)
def test_each_schedule_follows_its_curve(name: LrScheduler) -> None:
    assert rates(name, warmup=0) == pytest.approx(EXPECTED[name], abs=1e-6)


@pytest.mark.parametrize("name", LrScheduler)
@pytest.mark.parametrize("peak", [1e-12, math.ulp(0.0)])
def test_the_smallest_rates_have_schedules_too(name: LrScheduler, peak: float) -> None:
    # The last bit of the very smallest there is counts for all of it.
    assert rates(name, 0, peak) == pytest.approx(EXPECTED[name], abs=1e-6 if peak == 1e-12 else 0.5)


@pytest.mark.parametrize("name", LrScheduler)
@pytest.mark.parametrize("warmup", [STEPS - 1, STEPS, STEPS + 1])
def test_warm_up_may_last_as_long_as_training(name: LrScheduler, warmup: int) -> None:
    expected = [1.0] * STEPS if name is LrScheduler.CONSTANT else [step / warmup for step in FALLING]
    assert rates(name, warmup) == pytest.approx(expected)


@pytest.mark.parametrize("name", LrScheduler)
def test_warm_up_rises_to_the_peak_except_with_constant(name: LrScheduler) -> None:
    expected = [1.0] * WARMUP if name is LrScheduler.CONSTANT else [step / WARMUP for step in range(WARMUP)]
    seen = rates(name, WARMUP)
    assert seen[:WARMUP] == pytest.approx(expected)
    assert seen[WARMUP] == pytest.approx(1.0)


@pytest.mark.parametrize("name", Optimizer)
def test_weights_decay_by_a_hundredth_of_the_rate(name: Optimizer) -> None:
    """Also one that no gradient moves, beside one that is moved."""
    still, moved = (Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    optimizer = build_optimizer([still, moved], replace(training_spec().settings, learning_rate=PEAK, optimizer=name))
    still.grad, moved.grad = torch.zeros_like(still), torch.ones_like(moved)
    rate = used_rate(optimizer)
    optimizer.step()
    # Prodigy corrects the rate of decay too, as it does Adam's moments.
    correction = math.sqrt(1 - 0.999) / (1 - 0.9) if name is Optimizer.PRODIGY else 1
    assert 1 - still.item() == pytest.approx(0.01 * rate * correction, rel=1e-6)


class TestProdigy:
    def test_it_finds_a_rate_and_the_minimum_by_itself(self) -> None:
        weight = Parameter(torch.zeros(3))
        target = torch.tensor([0.5, -0.3, 0.1])
        optimizer = Prodigy([weight])
        for _ in range(300):
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            optimizer.step()
        assert torch.allclose(weight.detach(), target, atol=1e-2)
        assert used_rate(optimizer) > 100 * FIRST_DISTANCE

    def test_its_steps_are_those_of_the_papers_algorithm(self) -> None:
        """One weight, in plain numbers: algorithm 4 with Adam's bias correction, and a schedule that falls.

        Gradients of one sign let the estimate grow; the last one, of the other, leaves it as it is.
        """
        values = [0.7, 0.2, 0.4, 0.5, 0.3, 0.6, 0.4, 0.2, 0.5, -0.3]
        weight = Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = Prodigy([weight], weight_decay=0.01)
        distances: list[float] = []
        x = x0 = 1.0
        d, numerator, s, mean, square = FIRST_DISTANCE, 0.0, 0.0, 0.0, 0.0
        for step, gradient in enumerate(values, start=1):
            lr = 3.0 - 0.1 * step
            rate = d * lr * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            numerator = math.sqrt(0.999) * numerator + d / FIRST_DISTANCE * rate * gradient * (x0 - x)
            mean = 0.9 * mean + 0.1 * d * gradient
            square = 0.999 * square + 0.001 * d * d * gradient * gradient
            s = math.sqrt(0.999) * s + d * d / FIRST_DISTANCE * gradient
            d = max(d, numerator / abs(s))
            x = x * (1 - 0.01 * rate) - rate * mean / (math.sqrt(square) + d * 1e-8)
            optimizer.param_groups[0]["lr"] = lr
            weight.grad = torch.tensor([gradient], dtype=torch.float64)
            optimizer.step()
            distances.append(d)
            assert x0 - weight.item() == pytest.approx(x0 - x, rel=1e-9)
            assert scalars(optimizer) == pytest.approx({"d": d, "numerator": numerator, "steps": step})
        assert distances[0] == FIRST_DISTANCE
        assert distances[-1] == distances[-2] > 10 * FIRST_DISTANCE

    def test_many_weights_are_one_point(self) -> None:
        """However it is cut up, one point moves, and one estimate says how far: sums go over all weights."""
        random = torch.Generator().manual_seed(1)
        start = torch.randn(26, generator=random, dtype=torch.float64)
        slope, scatter = torch.randn(26, generator=random), torch.randn(12, 26, generator=random)
        gradients = slope.double() + 0.3 * scatter.double()
        whole, cut = [Parameter(start.clone())], [Parameter(part) for part in matrices(start)]
        together, apart = Prodigy(whole, lr=3.0, weight_decay=0.01), Prodigy(cut, lr=3.0, weight_decay=0.01)
        for gradient in gradients:
            whole[0].grad = gradient
            for weight, part in zip(cut, matrices(gradient), strict=True):
                weight.grad = part
            together.step()
            apart.step()
            assert scalars(apart) == pytest.approx(scalars(together), rel=1e-12)
            assert torch.allclose(torch.cat([weight.flatten() for weight in cut]), whole[0], rtol=1e-12)
        assert scalars(together)["d"] > 10 * FIRST_DISTANCE

    def test_what_a_device_is_told_does_not_grow_with_the_number_of_weights(self) -> None:
        assert operations(weights=40) == operations(weights=2)


def matrices(values: torch.Tensor) -> list[torch.Tensor]:
    """Some numbers as weights of several shapes."""
    wide, tall, single, bias = values.clone().split((12, 8, 1, 5))
    return [wide.view(2, 6), tall.view(8, 1), single.view(()), bias]


class Operations(TorchDispatchMode):
    """Counts what is computed within the block; another view of the same numbers is nothing computed."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func is not torch.ops.aten.view.default
        return func(*args, **(kwargs or {}))


def operations(weights: int) -> int:
    """Of a step of Prodigy's, when its state is there."""
    trained = [Parameter(torch.ones(2, 3)) for _ in range(weights)]
    optimizer = Prodigy(trained)
    for weight in trained:
        weight.grad = torch.ones(2, 3)
    optimizer.step()
    with Operations() as counted:
        optimizer.step()
    return counted.number


def test_a_schedule_goes_on_at_half_its_rate() -> None:
    settings = replace(
        training_spec().settings, learning_rate=PEAK, max_train_steps=STEPS, lr_scheduler=LrScheduler.LINEAR
    )
    optimizer = build_optimizer([Parameter(torch.zeros(1))], settings)
    lr_scheduler = build_lr_scheduler(optimizer, settings)
    for _ in range(4):
        optimizer.step()
        lr_scheduler.step()
    scale_rate(lr_scheduler, 0.5)
    assert used_rate(optimizer) == pytest.approx(PEAK * 0.6 / 2)
    optimizer.step()
    lr_scheduler.step()
    assert used_rate(optimizer) == pytest.approx(PEAK * 0.5 / 2)
