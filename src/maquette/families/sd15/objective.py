"""Denoising loss of Stable Diffusion."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.nn.functional import mse_loss

from maquette.core.basefolder import BrokenBase
from maquette.families.base import Conditioning
from maquette.families.sd15.pipeline import Sd15Pipeline


class Sd15Objective:
    """Mean squared error between what the denoiser predicts and what its base was trained to predict.

    With latents x, noise e and the schedule's a = alpha-bar of the timestep, the denoiser sees
    sqrt(a) x + sqrt(1 - a) e (Ho et al. 2020, arXiv:2006.11239, equation 4). The base's noise scheduler says what it
    predicts: `epsilon` is e (the same paper, equation 14); `v_prediction` is sqrt(a) e - sqrt(1 - a) x
    (Salimans & Ho 2022, arXiv:2202.00512, section 4).

    Raises:
        BrokenBase: the base predicts something else.
    """

    def __init__(self, pipeline: Sd15Pipeline) -> None:
        self.unet = pipeline.unet
        self.noise_scheduler: Any = DDPMScheduler.from_config(pipeline.parts.scheduler.config)
        self.prediction_type: str = self.noise_scheduler.config.prediction_type
        if self.prediction_type not in {"epsilon", "v_prediction"}:
            raise BrokenBase(
                f"the base's noise scheduler has prediction_type {self.prediction_type!r}; "
                "known are epsilon and v_prediction"
            )

    def losses(self, latents: torch.Tensor, conditioning: Conditioning, random: torch.Generator) -> torch.Tensor:
        """One loss for each of the latents (pictures, channels, height, width), at a random timestep each."""
        noise = torch.randn(latents.shape, generator=random).to(latents.device)
        last = self.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, last, latents.shape[:1], generator=random).to(latents.device)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        prediction = self.unet(noisy, timesteps, conditioning["prompt_embeds"], return_dict=False)[0]
        target = self._target(latents, noise, timesteps)
        return mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))

    def _target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if self.prediction_type == "epsilon":
            return noise
        return self.noise_scheduler.get_velocity(latents, noise, timesteps)
