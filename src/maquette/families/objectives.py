"""What training makes small, from the papers: errors of diffusion's noise or velocity, and of rectified flow's."""

from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler
from torch.nn.functional import mse_loss

from maquette.core.basefolder import BrokenBase
from maquette.core.errors import InvalidRequest
from maquette.core.specs import TrainingSettings
from maquette.families.base import Conditioning, Noising
from maquette.families.flow import FlowSamplers


class Predicting(Protocol):
    """A pipeline, as far as an objective knows it."""

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """What the denoiser says of latents (pictures, channels, height, width) at timesteps (pictures)."""
        ...


class NoisePrediction:
    """Mean squared error between what the denoiser predicts and what its base was trained to predict.

    With latents x, noise e and the schedule's a = alpha-bar of the timestep, the denoiser sees
    sqrt(a) x + sqrt(1 - a) e (Ho et al. 2020, arXiv:2006.11239, equation 4). The base's noise scheduler says what it
    predicts: `epsilon` is e (the same paper, equation 14); `v_prediction` is sqrt(a) e - sqrt(1 - a) x
    (Salimans & Ho 2022, arXiv:2202.00512, section 4).

    Of the settings it takes three. `snr_gamma` bounds a timestep's weight by its signal-to-noise ratio (min-SNR, Hang
    et al. 2023, arXiv:2303.09556, section 3.4; the paper's value is 5); 0 weighs all alike. `noise_offset` is the
    deviation of what is added to the noise of each whole channel, so that pictures may become darker and lighter as a
    whole (Guttenberg 2023, "Diffusion with offset noise"). `zero_terminal_snr` trains down to no signal at all (Lin et
    al. 2023, arXiv:2305.08891, algorithm 1), also where the base was not; pictures are then drawn from there, see
    `families.samplers.rescaled`.

    Args:
        pipeline: whose denoiser learns.
        own: the base's noise scheduler.
        settings: of the run.

    Raises:
        BrokenBase: the base predicts something else.
        InvalidRequest: it predicts noise, and is to be trained where there is nothing but noise.
    """

    def __init__(self, pipeline: Predicting, own: Any, settings: TrainingSettings) -> None:
        self.pipeline = pipeline
        changes = {"rescale_betas_zero_snr": True} if settings.zero_terminal_snr else {}
        self.noise_scheduler: Any = DDPMScheduler.from_config(own.config, **changes)
        self.prediction_type: str = self.noise_scheduler.config.prediction_type
        self.snr_gamma = settings.snr_gamma
        self.noise_offset = settings.noise_offset
        if self.prediction_type not in {"epsilon", "v_prediction"}:
            raise BrokenBase(
                f"the base's noise scheduler has prediction_type {self.prediction_type!r}; "
                "known are epsilon and v_prediction"
            )
        if settings.zero_terminal_snr and self.prediction_type == "epsilon":
            raise InvalidRequest(
                "expert_setting.zero_terminal_snr",
                "the base predicts noise, which says nothing where all is noise; leave it out, or train on a base that"
                " predicts velocities",
            )

    def noising(self, latents: torch.Tensor, random: torch.Generator) -> Noising:
        """Noise and a random timestep for each of the latents (pictures, channels, height, width)."""
        noise = torch.randn(latents.shape, generator=random)
        if self.noise_offset:
            noise = noise + self.noise_offset * torch.randn(*latents.shape[:2], 1, 1, generator=random)
        last = self.noise_scheduler.config.num_train_timesteps
        return Noising(noise, torch.randint(0, last, latents.shape[:1], generator=random))

    def losses(self, latents: torch.Tensor, conditioning: Conditioning, noising: Noising) -> torch.Tensor:
        """One loss for each of the latents."""
        noise, timesteps = noising
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        prediction = self.pipeline.predict(noisy, timesteps, conditioning)
        losses = _squared_error(prediction, self._target(latents, noise, timesteps))
        return losses * self._weights(timesteps) if self.snr_gamma else losses

    def _target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if self.prediction_type == "epsilon":
            return noise
        return self.noise_scheduler.get_velocity(latents, noise, timesteps)

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """min(SNR, gamma) / SNR for noise, and / (SNR + 1) for velocities."""
        signal = self.noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = signal / (1 - signal)
        return snr.clamp(max=self.snr_gamma) / (snr if self.prediction_type == "epsilon" else snr + 1)


class RectifiedFlow:
    """Mean squared error between the denoiser's velocity and that of the straight way from picture to noise.

    With latents x, noise e and a level s in (0, 1) the denoiser sees (1 - s) x + s e and predicts e - x (Liu et al.
    2023, arXiv:2209.03003, equation 1, with its ends exchanged). Levels are logit-normal, so that the middle of the
    way, where most is to be learned, comes most often (Esser et al. 2024, arXiv:2403.03206, equation 19, with mean 0
    and deviation 1); and they are shifted towards noise as the base's pictures of this size are drawn (equation 23).

    Args:
        pipeline: whose denoiser learns; it is told s times the samplers' `timesteps`.
        samplers: which know how levels are shifted.
    """

    def __init__(self, pipeline: Predicting, samplers: FlowSamplers) -> None:
        self.pipeline = pipeline
        self.samplers = samplers

    def noising(self, latents: torch.Tensor, random: torch.Generator) -> Noising:
        """Noise and a random level for each of the latents (pictures, channels, height, width)."""
        noise = torch.randn(latents.shape, generator=random)
        levels = torch.randn(latents.shape[:1], generator=random).sigmoid()
        return Noising(noise, self.samplers.shifted(levels, tuple(latents.shape)))

    def losses(self, latents: torch.Tensor, conditioning: Conditioning, noising: Noising) -> torch.Tensor:
        """One loss for each of the latents."""
        noise, levels = noising
        share = levels.view(-1, 1, 1, 1)
        noisy = (1 - share) * latents + share * noise
        prediction = self.pipeline.predict(noisy, levels * self.samplers.timesteps, conditioning)
        return _squared_error(prediction, noise - latents)


def _squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over everything but the pictures, in float32."""
    return mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
