import math

import pytest
import torch
from msgspec.structs import replace
from torch.nn import Parameter

from maquette.core.specs import LrScheduler
from maquette.testing.factories import training_spec
from maquette.trainer.optim import build_lr_scheduler, build_optimizer

pytestmark = pytest.mark.torch

PEAK, STEPS, WARMUP = 1e-3, 10, 4


def rates(name: LrScheduler, warmup: int) -> list[float]:
    """The rate of each step, relative to the peak."""
    settings = replace(
        training_spec().settings,
        learning_rate=PEAK,
        max_train_steps=STEPS,
        lr_scheduler=name,
        lr_warmup_steps=warmup,
    )
    optimizer = build_optimizer([Parameter(torch.zeros(1))], settings)
    lr_scheduler = build_lr_scheduler(optimizer, settings)
    seen: list[float] = []
    for _ in range(STEPS):
        seen.append(float(lr_scheduler.get_last_lr()[0]) / PEAK)
        optimizer.step()
        lr_scheduler.step()
    return seen


FALLING = range(STEPS)
EXPECTED = {
    LrScheduler.CONSTANT: [1.0 for _ in FALLING],
    LrScheduler.CONSTANT_WITH_WARMUP: [1.0 for _ in FALLING],
    LrScheduler.LINEAR: [1 - step / STEPS for step in FALLING],
    LrScheduler.COSINE: [(1 + math.cos(math.pi * step / STEPS)) / 2 for step in FALLING],
    LrScheduler.COSINE_WITH_RESTARTS: [(1 + math.cos(math.pi * step / STEPS)) / 2 for step in FALLING],
    LrScheduler.POLYNOMIAL: [1 - step / STEPS for step in FALLING],
}


@pytest.mark.parametrize("name", LrScheduler)
def test_each_schedule_follows_its_curve(name: LrScheduler) -> None:
    assert rates(name, warmup=0) == pytest.approx(EXPECTED[name], abs=1e-4)


@pytest.mark.parametrize("name", LrScheduler)
def test_warm_up_rises_to_the_peak_except_with_constant(name: LrScheduler) -> None:
    expected = [1.0] * WARMUP if name is LrScheduler.CONSTANT else [step / WARMUP for step in range(WARMUP)]
    seen = rates(name, WARMUP)
    assert seen[:WARMUP] == pytest.approx(expected)
    assert seen[WARMUP] == pytest.approx(1.0)
