"""From noise to latents: the loop, with guidance, and with a refiner that takes over."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from maquette.families.base import Conditioning, Predict
from maquette.families.precision import mixed_precision
from maquette.families.samplers import Evaluation, plan, skipped_steps


@dataclass(frozen=True)
class GuidedDenoiser:
    """A base's denoiser with what it is told, and how far its answer is led by it.

    Attributes:
        conditioning: of the negative prompt and the prompt, in this order; where guidance is none, of the prompt alone.
        guidance_scale: of classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598); 1 or less is none.
    """

    predict: Predict
    conditioning: Conditioning
    guidance_scale: float

    def __call__(self, scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """What the denoiser says of latents that the scheduler has scaled for it, guided."""
        if self.guidance_scale <= 1:
            return self._say(scaled, timestep)
        unconditional, conditional = self._say(torch.cat([scaled] * 2), timestep).chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _say(self, scaled: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        with mixed_precision(scaled.device):
            said = self.predict(scaled, timestep, self.conditioning)
        return said.float()


@dataclass(frozen=True)
class Refiner:
    """A second denoiser, and the share (0..1) of the steps after which it takes over."""

    denoiser: GuidedDenoiser
    switch_at: float


@dataclass(frozen=True)
class Denoising:
    """How one picture is denoised, in however many passes.

    Attributes:
        new_scheduler: makes the scheduler of one pass over latents of a shape.
        refiner: takes over at one level of noise, so a pass that begins below it is the refiner's from the start.
        device: where latents are.
        random: of all noise, on the CPU.
        stepped: called after each step.
    """

    new_scheduler: Callable[[tuple[int, ...]], Any]
    steps: int
    denoiser: GuidedDenoiser
    refiner: Refiner | None
    device: torch.device
    random: torch.Generator
    stepped: Callable[[], None]

    def from_noise(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Latents of this shape, from nothing but noise."""
        scheduler = self.new_scheduler(shape)
        evaluations = plan(scheduler, self.steps, 0, self.device)
        return self._run(scheduler, evaluations, self._noise(shape) * scheduler.init_noise_sigma)

    def from_latents(self, latents: torch.Tensor, strength: float) -> torch.Tensor:
        """Latents drawn anew over `strength` (0..1) of the steps; with less than one step they stay as they are."""
        scheduler = self.new_scheduler(tuple(latents.shape))
        evaluations = plan(scheduler, self.steps, skipped_steps(self.steps, strength), self.device)
        if not evaluations:
            return latents
        first = evaluations[0].timestep.reshape(1)
        return self._run(scheduler, evaluations, scheduler.add_noise(latents, self._noise(latents.shape), first))

    def _run(self, scheduler: Any, evaluations: list[Evaluation], latents: torch.Tensor) -> torch.Tensor:
        options = {"generator": self.random} if "generator" in inspect.signature(scheduler.step).parameters else {}
        for evaluation, after in zip_longest(evaluations, evaluations[1:]):
            timestep = evaluation.timestep
            denoiser = self._denoiser_of(evaluation.step)
            said = denoiser(scheduler.scale_model_input(latents, timestep), timestep)
            latents = scheduler.step(said, timestep, latents, **options, return_dict=False)[0]
            if after is None or after.step != evaluation.step:
                self.stepped()
        return latents

    def _denoiser_of(self, step: int) -> GuidedDenoiser:
        if self.refiner is not None and step >= self.refiner.switch_at * self.steps:
            return self.refiner.denoiser
        return self.denoiser

    def _noise(self, shape: tuple[int, ...]) -> torch.Tensor:
        return randn_tensor(shape, generator=self.random, device=self.device, dtype=torch.float32)
