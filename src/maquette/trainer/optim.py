"""Optimiser and learning-rate schedule."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from diffusers.optimization import get_scheduler
from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from maquette.core.specs import LR_CYCLES, LrScheduler, Optimizer, TrainingSettings
from maquette.trainer.prodigy import Prodigy

AnyOptimizer: TypeAlias = AdamW | Prodigy

MAX_GRAD_NORM = 1.0
BETAS = (0.9, 0.999)
WEIGHT_DECAY = 1e-2
LAST_SHARE = 1e-3
"""Of the peak, at which `polynomial` ends."""


def build_optimizer(parameters: Iterable[Parameter], settings: TrainingSettings) -> AnyOptimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) or Prodigy, with the field's usual weight decay."""
    match settings.optimizer:
        case Optimizer.ADAMW:
            return AdamW(parameters, lr=settings.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
        case Optimizer.PRODIGY:
            return Prodigy(parameters, betas=BETAS, weight_decay=WEIGHT_DECAY)


def build_lr_scheduler(optimizer: AnyOptimizer, settings: TrainingSettings) -> LambdaLR:
    """The schedule of this name over all steps; `constant` takes no warm-up, as published."""
    warmup, steps = settings.lr_warmup_steps, settings.max_train_steps
    if settings.lr_scheduler is LrScheduler.POLYNOMIAL:
        return LambdaLR(optimizer, lambda step: _polynomial(step, warmup, steps))
    return get_scheduler(
        settings.lr_scheduler.value,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=steps,
        num_cycles=LR_CYCLES,
    )


def _polynomial(step: int, warmup: int, steps: int) -> float:
    """The peak's share at a step: the polynomial of first degree of diffusers' `get_scheduler`.

    That one ends at 1e-7, whatever the peak, and can't be had with a smaller one or with a warm-up as long as training.
    """
    if step < warmup:
        return step / warmup
    left = (steps - step) / max(1, steps - warmup)
    return LAST_SHARE + (1 - LAST_SHARE) * left


def used_rate(optimizer: AnyOptimizer) -> float:
    """The learning rate of the step that is about to be taken."""
    group = optimizer.param_groups[0]
    return float(group["lr"] * group.get("d", 1.0))


def scale_rate(lr_scheduler: LambdaLR, factor: float) -> None:
    """Multiply the schedule's rates, from the step on that is about to be taken."""
    schedule = lr_scheduler.state_dict()
    for entry in ("base_lrs", "_last_lr"):
        schedule[entry] = [rate * factor for rate in schedule[entry]]
    restore_schedule(lr_scheduler, schedule)


def restore_schedule(lr_scheduler: LambdaLR, schedule: Mapping[str, object]) -> None:
    """Go on from a schedule's `state_dict`, whose rates the optimiser takes over."""
    lr_scheduler.load_state_dict(dict(schedule))
    for group, rate in zip(lr_scheduler.optimizer.param_groups, lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = rate


def scalars(optimizer: AnyOptimizer) -> dict[str, float]:
    """What an optimiser of one group knows besides its tensors and its rate."""
    return {name: optimizer.param_groups[0][name] for name in Prodigy.NUMBERS if name in optimizer.param_groups[0]}
