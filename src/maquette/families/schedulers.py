"""Samplers that diffusers lacks, or has only with libraries we do without, as schedulers of its kind.

All but PLMS work on latents x = x0 + sigma * noise (Karras et al. 2022, arXiv:2206.00364). Where a denoiser says that
the picture is x0, the way from sigma to a lower level is `x0 + (x - x0) * lower / sigma`: exact as long as x0 stays,
it is both Euler's step and DPM-Solver++'s of first order (Lu et al. 2022, arXiv:2211.01095).

Noise comes from the generator that is passed, so that a seed gives one picture on every device.
"""

from typing import Any

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, KDPM2AncestralDiscreteScheduler, KDPM2DiscreteScheduler, PNDMScheduler
from diffusers.utils.torch_utils import randn_tensor


class LmsScheduler(EulerDiscreteScheduler):
    """LMS: linear multistep (Adams-Bashforth) of up to fourth order over sigma.

    The step is the integral of the polynomial through the last derivatives; a polynomial of third degree is
    integrated exactly by Gauss's formula with two nodes.
    """

    MAX_ORDER = 4
    NODES, WEIGHTS = np.polynomial.legendre.leggauss(2)

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Plan the steps, and forget the last picture's derivatives."""
        super().set_timesteps(*args, **kwargs)
        self.derivatives: list[torch.Tensor] = []

    def step(  # pyright: ignore[reportIncompatibleMethodOverride] # Fewer options than the parent, none of which we use.
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,  # noqa: ARG002 - as every scheduler; the place was found when the input was scaled
        sample: torch.Tensor,
        return_dict: bool = False,  # noqa: ARG002 - every scheduler takes it
    ) -> tuple[torch.Tensor]:
        """The latents (a tuple of one) after one step."""
        index: Any = self.step_index
        sigma = self.sigmas[index]
        original = _original(self.config, model_output, sample, sigma)
        self.derivatives = [(sample - original) / sigma, *self.derivatives[: self.MAX_ORDER - 1]]
        for back, derivative in enumerate(self.derivatives):
            sample = sample + self._coefficient(index, back) * derivative
        self._step_index = index + 1
        return (sample,)

    def _coefficient(self, index: int, back: int) -> float:
        """The integral, from here to the next sigma, of the polynomial that is 1 `back` steps ago and else 0."""
        known = [self.sigmas[index - ago].item() for ago in range(len(self.derivatives))]
        begin, end = known[0], self.sigmas[index + 1].item()
        places = (begin + end) / 2 + (end - begin) / 2 * self.NODES
        heights = np.ones_like(places)
        for ago, other in enumerate(known):
            if ago != back:
                heights *= (places - other) / (known[back] - other)
        return float((end - begin) / 2 * (self.WEIGHTS * heights).sum())


class Dpmpp2sAncestralScheduler(KDPM2AncestralDiscreteScheduler):
    """DPM++ 2S a: DPM-Solver++ of second order within one step, ancestral.

    It has levels and timesteps of DPM2 a, and differs in the second half: the whole step begins at the old latents,
    led by what the denoiser makes of the middle.
    """

    def step(  # pyright: ignore[reportIncompatibleMethodOverride] # Tensors alone.
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = False,  # noqa: ARG002 - every scheduler takes it
    ) -> tuple[torch.Tensor]:
        """The latents (a tuple of one) after one half of a step."""
        if self.step_index is None:
            self._init_step_index(timestep)
        index: Any = self.step_index
        self._step_index = index + 1
        if self.state_in_first_order:
            sigma, middle = self.sigmas[index], self.sigmas_interpol[index]
            original = _original(self.config, model_output, sample, sigma)
            self.sample = sample
            return (_towards(original, sample, middle / sigma),)
        sigma, middle, lower = self.sigmas[index - 1], self.sigmas_interpol[index - 1], self.sigmas[index]
        original = _original(self.config, model_output, sample, middle)
        down, up = _ancestral(sigma, lower)
        begin, self.sample = self.sample, None
        return (_towards(original, begin, down / sigma) + up * _noise_like(sample, generator),)


class DpmppSdeScheduler(KDPM2DiscreteScheduler):
    """DPM++ SDE: the stochastic DPM-Solver++ of second order within one step.

    It has levels and timesteps of DPM2. Both the way to the middle and the whole step are ancestral. Their noise is
    that of one Brownian motion over sigma, so that the whole step's contains the first half's.
    """

    def step(  # pyright: ignore[reportIncompatibleMethodOverride] # The parent is deterministic.
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = False,  # noqa: ARG002 - every scheduler takes it
    ) -> tuple[torch.Tensor]:
        """The latents (a tuple of one) after one half of a step."""
        if self.step_index is None:
            self._init_step_index(timestep)
        index: Any = self.step_index
        self._step_index = index + 1
        if self.state_in_first_order:
            sigma = self.sigmas[index]
            middle = (sigma * self.sigmas[index + 1]).sqrt()
            original = _original(self.config, model_output, sample, sigma)
            self.sample, self.first_noise = sample, _noise_like(sample, generator)
            down, up = _ancestral(sigma, middle)
            return (_towards(original, sample, down / sigma) + up * self.first_noise,)
        sigma, lower = self.sigmas[index - 1], self.sigmas[index]
        middle = (sigma * lower).sqrt()
        original = _original(self.config, model_output, sample, middle)
        # How much of the way, and so of the motion's variance, lies before the middle.
        share = (sigma - middle) / (sigma - lower)
        noise = share.sqrt() * self.first_noise + (1 - share).sqrt() * _noise_like(sample, generator)
        down, up = _ancestral(sigma, lower)
        begin, self.sample = self.sample, None
        return (_towards(original, begin, down / sigma) + up * noise,)


class PlmsScheduler(PNDMScheduler):
    """PLMS for bases that predict velocities as well.

    The library mixes the denoiser's last answers as they are. Velocities of different levels can't be mixed, the noise
    they imply can; with few steps the difference is a ruined picture.
    """

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        return_dict: bool = False,  # noqa: ARG002 - every scheduler takes it
    ) -> Any:
        """The latents (a tuple of one) after one step."""
        if self.config["prediction_type"] == "v_prediction":
            signal = self.alphas_cumprod[timestep]
            model_output = signal.sqrt() * model_output + (1 - signal).sqrt() * sample
        return super().step(model_output, timestep, sample, return_dict=False)

    def _get_prev_sample(
        self, sample: torch.Tensor, timestep: int, prev_timestep: int, model_output: torch.Tensor
    ) -> torch.Tensor:
        """From one level to the next by the noise (Song et al. 2021, arXiv:2010.02502, equation 12, sigma 0)."""
        signal = self.alphas_cumprod[timestep]
        next_signal = self.alphas_cumprod[prev_timestep] if prev_timestep >= 0 else self.final_alpha_cumprod
        original = (sample - (1 - signal).sqrt() * model_output) / signal.sqrt()
        return next_signal.sqrt() * original + (1 - next_signal).sqrt() * model_output


def _original(config: Any, model_output: torch.Tensor, sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The picture's latents, x0, as the denoiser sees them in a sample of level sigma."""
    prediction_type = config.prediction_type
    if prediction_type == "epsilon":
        return sample - sigma * model_output
    if prediction_type == "v_prediction":
        return sample / (sigma**2 + 1) - model_output * sigma / (sigma**2 + 1).sqrt()
    raise ValueError(f"prediction_type {prediction_type!r}; known are epsilon and v_prediction")


def _towards(original: torch.Tensor, sample: Any, share: torch.Tensor) -> torch.Tensor:
    """The sample with this share of its noise left."""
    return original + (sample - original) * share


def _ancestral(sigma: torch.Tensor, lower: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far down to go, and how much fresh noise to add, to reach `lower` with as much chance as training had."""
    return lower**2 / sigma, lower * (1 - (lower / sigma) ** 2).sqrt()


def _noise_like(sample: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
