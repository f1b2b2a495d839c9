"""Optimiser and learning-rate schedule."""

from collections.abc import Iterable

from diffusers.optimization import get_scheduler
from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from maquette.core.specs import TrainingSettings

MAX_GRAD_NORM = 1.0


def build_optimizer(parameters: Iterable[Parameter], settings: TrainingSettings) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with the field's usual weight decay."""
    return AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, fused=True)


def build_lr_scheduler(optimizer: AdamW, settings: TrainingSettings) -> LambdaLR:
    """The schedule of this name over all steps; `constant` takes no warm-up, as published."""
    return get_scheduler(
        settings.lr_scheduler.value,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
