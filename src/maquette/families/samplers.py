"""The published samplers as diffusers schedulers, and the order in which a scheduler asks the denoiser.

A published name means one method and one way of choosing the levels of noise, whatever the scheduler's file of a base
says: from the base come only the noise it was trained with, and what it predicts. Each name draws as in the
AUTOMATIC1111 web interface, from which users know it:

- the samplers of k-diffusion go from the noisiest level to the least noisy one in equal steps of time (`linspace`), or
  of Karras' scale between the same two, and then to none;
- DDIM and PLMS ask at every n-th timestep, counted from 1 (`leading`, one further), and end at the first level of
  training; but where a base was trained down to hardly any signal they begin at its last level (`trailing`), for only
  there it has learned to begin (Lin et al. 2023, arXiv:2305.08891);
- UniPC is of second order, with equal steps of time, as its authors and diffusers advise for guided drawing.
"""

import copy
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Self

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from maquette.core.drawing import Sampler
from maquette.families.schedulers import Dpmpp2sAncestralScheduler, DpmppSdeScheduler, LmsScheduler, PlmsScheduler

PLAIN = {"timestep_spacing": "linspace"}
KARRAS = PLAIN | {"use_karras_sigmas": True}
"""Levels of noise as Karras et al. 2022 (arXiv:2206.00364, equation 5) space them."""
EVERY_NTH = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
FROM_NO_SIGNAL = {"timestep_spacing": "trailing"}
DPMPP_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"}
UNIPC = {"solver_order": 2, "solver_type": "bh2", "predict_x0": True, "final_sigmas_type": "zero"}

SCHEDULERS: dict[Sampler, tuple[type[Any], dict[str, Any]]] = {
    Sampler.EULER_A: (EulerAncestralDiscreteScheduler, PLAIN),
    Sampler.EULER: (EulerDiscreteScheduler, PLAIN),
    Sampler.LMS: (LmsScheduler, PLAIN),
    Sampler.HEUN: (HeunDiscreteScheduler, PLAIN),
    Sampler.DPM2: (KDPM2DiscreteScheduler, PLAIN),
    Sampler.DPM2_A: (KDPM2AncestralDiscreteScheduler, PLAIN),
    Sampler.DPMPP_2S_A: (Dpmpp2sAncestralScheduler, PLAIN),
    Sampler.DPMPP_2M: (DPMSolverMultistepScheduler, DPMPP_2M | PLAIN),
    Sampler.DPMPP_SDE: (DpmppSdeScheduler, PLAIN),
    Sampler.LMS_KARRAS: (LmsScheduler, KARRAS),
    Sampler.DPM2_KARRAS: (KDPM2DiscreteScheduler, KARRAS),
    Sampler.DPM2_A_KARRAS: (KDPM2AncestralDiscreteScheduler, KARRAS),
    Sampler.DPMPP_2S_A_KARRAS: (Dpmpp2sAncestralScheduler, KARRAS),
    Sampler.DPMPP_2M_KARRAS: (DPMSolverMultistepScheduler, DPMPP_2M | KARRAS),
    Sampler.DPMPP_SDE_KARRAS: (DpmppSdeScheduler, KARRAS),
    Sampler.DDIM: (DDIMScheduler, EVERY_NTH | {"clip_sample": False}),
    Sampler.PLMS: (PlmsScheduler, EVERY_NTH | {"skip_prk_steps": True}),
    Sampler.UNIPC: (UniPCMultistepScheduler, UNIPC | PLAIN),
}
"""By their formulas PLMS and DPM2 a are rough in fewer than about 20 steps where a base was trained down to almost no
signal: their first steps are then long, and led by a noise whose small errors weigh much."""

NOISE_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
"""What a base was trained with, and no more: whatever else its file says belongs to a method of its own."""

HARDLY_ANY_SIGNAL = 1e-3
"""Share of the picture's variance at the noisiest level; Stable Diffusion 1.x keeps 5e-3, linear betas 4e-5."""

LEAST_SIGNAL = 2**-24
"""Share of the picture's variance at the noisiest level of a base that was trained down to none; none at all would be
a level of infinite sigma."""


@dataclass(frozen=True)
class Evaluation:
    """One call of the denoiser, and the number (from 0) of the step that it is for."""

    timestep: torch.Tensor
    step: int


class DiffusionSamplers:
    """The published samplers for the noise that a base's own scheduler is for.

    Attributes:
        zero_terminal_snr: whether pictures begin where there is no signal, since a LoRA acts that was trained so.
    """

    def __init__(self, own: Any) -> None:
        self.zero_terminal_snr = False
        self._own = own
        # Kept, since the library takes a third of a second to make some.
        self._build = cache(build_scheduler)

    @property
    def own(self) -> Any:
        """The base's own scheduler, or what stands in for it."""
        return self._rescaled if self.zero_terminal_snr else self._own

    def scheduler(self, sampler: Sampler | None, shape: tuple[int, ...]) -> Any:  # noqa: ARG002 - the same for every size
        """A new scheduler for one pass over latents of this shape."""
        return copy.deepcopy(self._build(sampler, self.own))

    def agree(self, other: Self) -> bool:
        """Whether a level of noise, and what is predicted there, mean the same to both."""
        return self.own.config.prediction_type == other.own.config.prediction_type and torch.allclose(
            self.own.alphas_cumprod, other.own.alphas_cumprod
        )

    @cached_property
    def _rescaled(self) -> Any:
        return rescaled(self._own)


def build_scheduler(sampler: Sampler | None, own: Any) -> Any:
    """A scheduler for one picture, for the noise that the base's `own` is for; None is that one itself."""
    if sampler is None:
        return copy.deepcopy(own)
    kind, options = SCHEDULERS[sampler]
    if own.alphas_cumprod[-1] < HARDLY_ANY_SIGNAL and options["timestep_spacing"] == "leading":
        options = options | FROM_NO_SIGNAL
    with _library_as_it_is():
        scheduler = kind(**{key: own.config[key] for key in NOISE_SCHEDULE}, **options)
    if own.config.get("rescale_betas_zero_snr"):
        # Half of the schedulers don't know this option, and would take the levels of an ordinary base.
        scheduler.alphas_cumprod = own.alphas_cumprod.clamp(min=LEAST_SIGNAL)
    return scheduler


def rescaled(own: Any) -> Any:
    """A base's scheduler for its levels of noise stretched down to no signal, from which DDIM begins (Lin et al. 2023,
    arXiv:2305.08891, algorithm 1 and section 3.3).

    A base that predicts noise keeps its own: where all is noise it says nothing of the picture.
    """
    if own.config.prediction_type == "epsilon":
        return own
    kind, options = SCHEDULERS[Sampler.DDIM]
    with _library_as_it_is():
        return kind(
            **{key: own.config[key] for key in NOISE_SCHEDULE}, **options | FROM_NO_SIGNAL, rescale_betas_zero_snr=True
        )


def skipped_steps(steps: int, strength: float) -> int:
    """How many of the steps at the beginning drop out where a picture is drawn anew only from `strength` (0..1) on."""
    return steps - min(int(steps * strength), steps)


def plan(scheduler: Any, steps: int, skipped: int, device: torch.device) -> list[Evaluation]:
    """Prepare a scheduler to draw the last of `steps` steps, without the first `skipped`; answer what it will ask."""
    with _library_as_it_is():
        scheduler.set_timesteps(steps, device=device)
    # Rounding makes the library plan a step too many for some numbers of steps (61, trailing), at timestep -1.
    timesteps = scheduler.timesteps[scheduler.timesteps >= 0]
    if isinstance(scheduler, PNDMScheduler) and scheduler.config["skip_prk_steps"]:
        return _plan_plms(timesteps, skipped)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * scheduler.order)
    return [
        Evaluation(timestep, index // scheduler.order)
        for index, timestep in enumerate(timesteps)
        if index >= skipped * scheduler.order
    ]


def _plan_plms(timesteps: torch.Tensor, skipped: int) -> list[Evaluation]:
    """PLMS asks once more in its first step, at the second timestep, to begin with a derivative of second order."""
    left = torch.unique_consecutive(timesteps)[skipped:]
    evaluations = [Evaluation(timestep, skipped + index) for index, timestep in enumerate(left)]
    again = [Evaluation(timestep, skipped) for timestep in left[1:2]]
    return evaluations[:1] + again + evaluations[1:]


@contextmanager
def _library_as_it_is() -> Generator[None]:
    """The library's schedulers turn tensors into arrays and back in ways that NumPy deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="__array_(_|wrap__) ", category=DeprecationWarning)
        yield
