"""The published samplers as diffusers schedulers, and the order in which a scheduler asks the denoiser."""

import copy
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
from maquette.families.sd15.schedulers import Dpmpp2sAncestralScheduler, DpmppSdeScheduler, LmsScheduler, PlmsScheduler

PLAIN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
KARRAS = PLAIN | {"use_karras_sigmas": True}
"""Levels of noise as Karras et al. 2022 (arXiv:2206.00364, equation 5) space them."""
DPMPP_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero"}

SCHEDULERS: dict[Sampler, tuple[type[Any], dict[str, Any]]] = {
    Sampler.EULER_A: (EulerAncestralDiscreteScheduler, {}),
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
    Sampler.DDIM: (DDIMScheduler, {"clip_sample": False}),
    Sampler.PLMS: (PlmsScheduler, {"skip_prk_steps": True}),
    Sampler.UNIPC: (UniPCMultistepScheduler, PLAIN),
}
"""By their formulas PLMS and DPM2 a are rough in fewer than about 20 steps where a base was trained down to almost no
signal: their first steps are then long, and led by a noise whose small errors weigh much."""

NOISE_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
"""Said outright: where a base's file leaves them out, the library would take the other class's defaults for them."""

LEAST_SIGNAL = 2**-24
"""Share of the picture's variance at the noisiest level of a base that was trained down to none; none at all would be
a level of infinite sigma."""


@dataclass(frozen=True)
class Evaluation:
    """One call of the denoiser, and the number (from 0) of the step that it is for."""

    timestep: torch.Tensor
    step: int


def build_scheduler(sampler: Sampler | None, own: Any) -> Any:
    """A scheduler for one picture; it follows the base's `own` in everything but the method, and in all for None."""
    if sampler is None:
        return copy.deepcopy(own)
    kind, options = SCHEDULERS[sampler]
    schedule = {key: own.config[key] for key in NOISE_SCHEDULE if key in own.config}
    with _library_as_it_is():
        scheduler = kind.from_config(own.config, **schedule, **options)
    if own.config.get("rescale_betas_zero_snr"):
        # Half of the schedulers don't know this option, and would take the levels of an ordinary base.
        scheduler.alphas_cumprod = own.alphas_cumprod.clamp(min=LEAST_SIGNAL)
    return scheduler


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
