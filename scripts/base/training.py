"""What both trainings share: averaged weights, the learning rate's course, checkpoints, pictures as tensors."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

log = logging.getLogger("base")

_WARM_UP_STEPS = 200
_DECAY_SHARE = 0.3


class AveragedWeights:
    """An exponential moving average of a module's weights; what is exported."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        # Early on the average would mostly remember the random start: let it follow faster then.
        decay = min(self.decay, (1 + step) / (10 + step))
        learnt = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        torch._foreach_lerp_([self.weights[name] for name in learnt], list(learnt.values()), 1 - decay)


def rate_factor(step: int, total: int) -> float:
    """Warm up, stay, then fall linearly over the last part of the run.

    A run that is continued with more steps simply goes back up to the plateau.
    """
    return min(1.0, (step + 1) / _WARM_UP_STEPS, (total - step) / (_DECAY_SHARE * total))


def save_checkpoint(file: Path, state: dict) -> None:
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)


def load_checkpoint(file: Path) -> dict | None:
    return torch.load(file, weights_only=True) if file.exists() else None


def as_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [batch, height, width, 3] to float [batch, 3, height, width] in -1..1, channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1..1, the mean over the batch."""
    errors = (a.clamp(-1, 1) - b).square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(4 / errors)).mean().item()
