"""Samplers of bases that were trained by rectified flow: levels of noise from 1 to 0, and Euler's step between them."""

import math
from typing import Any, Self

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from maquette.core.drawing import Sampler
from maquette.families.base import Unsupported


class FlowScheduler(FlowMatchEulerDiscreteScheduler):
    """Diffusers' scheduler of rectified flow, with the methods that its schedulers of diffusion have besides."""

    init_noise_sigma = 1.0

    def shift_for(self, shift: float | None) -> Self:
        """Shift levels by the logarithm `shift` from now on; None is as the scheduler's file says."""
        self._mu = shift
        return self

    def set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] # Fewer options than the parent, none of which we use.
        """Plan the steps, from noise alone on in equal ones before they are shifted."""
        levels = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        super().set_timesteps(num_inference_steps, device=device, sigmas=levels.tolist(), mu=self._mu)

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - as every scheduler
        """The latents as they are: the denoiser is told of their level alone."""
        return sample

    def add_noise(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Latents as far on the way to noise as these timesteps are."""
        return self.scale_noise(sample, timesteps, noise)  # pyright: ignore[reportArgumentType] # Tensors are what it takes.


class FlowSamplers:
    """Samplers for the levels that a base's own scheduler is for.

    Of the published samplers Euler's alone is what such bases are drawn with; the others are methods for the levels of
    diffusion, or add noise that a straight way does not have.

    Args:
        own: the base's scheduler.
        patch: latents that the denoiser reads as one, along a side.
    """

    def __init__(self, own: Any, patch: int) -> None:
        self.own = own
        self.patch = patch

    @property
    def timesteps(self) -> int:
        """What the denoiser is told of the level 1."""
        return self.own.config.num_train_timesteps

    def scheduler(self, sampler: Sampler | None, shape: tuple[int, ...]) -> Any:
        """A new scheduler for one pass over latents of this shape.

        Raises:
            Unsupported: the sampler is not Euler's.
        """
        if sampler not in (None, Sampler.EULER):
            raise Unsupported(
                f"sampler: this base draws with {Sampler.EULER.value!r} alone, not with {sampler.value!r}"
            )
        scheduler: Any = FlowScheduler.from_config(self.own.config)
        return scheduler.shift_for(self._dynamic_shift(shape))

    def agree(self, other: Self) -> bool:
        """Whether a level of noise means the same to both; how their steps are shifted does not matter."""
        return self.timesteps == other.timesteps

    def shifted(self, levels: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Levels in (0, 1) as far towards noise as latents of this shape ask for.

        A shift a turns s into a s / (1 + (a - 1) s) (Esser et al. 2024, arXiv:2403.03206, equation 23).
        """
        dynamic = self._dynamic_shift(shape)
        shift = self.own.config.shift if dynamic is None else math.exp(dynamic)
        return shift * levels / (1 + (shift - 1) * levels)

    def _dynamic_shift(self, shape: tuple[int, ...]) -> float | None:
        """The logarithm of the shift for latents of this shape, linear in patches; None where size plays no part."""
        config = self.own.config
        if not config.use_dynamic_shifting:
            return None
        patches = (shape[-2] // self.patch) * (shape[-1] // self.patch)
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return patches * slope + (config.base_shift - slope * config.base_image_seq_len)
