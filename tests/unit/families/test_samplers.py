"""Every published sampler, against a denoiser that knows the picture.

Such a denoiser makes the true path exact for every method, so whatever ends anywhere else has misread the base's noise
schedule, what the base predicts, or where it began.
"""

import inspect
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from msgspec.structs import replace

from maquette.core.drawing import Sampler
from maquette.families.objectives import NoisePrediction
from maquette.families.samplers import (
    LEAST_SIGNAL,
    DiffusionSamplers,
    Evaluation,
    build_scheduler,
    plan,
    skipped_steps,
)
from maquette.testing.factories import training_spec

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
PICTURE = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)

LEVELS: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1.x": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
    },
    "the class's own betas": {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "no signal left": {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    },
}


def own_scheduler(levels: str) -> Any:
    return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **LEVELS[levels])


def knowing(own: Any, noisy: torch.Tensor, timestep: float) -> torch.Tensor:
    """What a denoiser that knows the picture says of it at a timestep, which may lie between two."""
    signals = own.alphas_cumprod.double().clamp(min=2**-24)
    logits = torch.log((1 - signals) / signals)
    below = min(int(timestep), len(logits) - 2)
    logit = torch.lerp(logits[below], logits[below + 1], timestep - below)
    signal = torch.sigmoid(-logit).float()
    noise = (noisy - signal.sqrt() * PICTURE) / (1 - signal).sqrt()
    if own.config.prediction_type == "epsilon":
        return noise
    return signal.sqrt() * noise - (1 - signal).sqrt() * PICTURE


def drawn(scheduler: Any, own: Any, steps: int, strength: float) -> torch.Tensor:
    evaluations = plan(scheduler, steps, skipped_steps(steps, strength), CPU)
    random = torch.Generator().manual_seed(1)
    noise = torch.randn(PICTURE.shape, generator=random)
    if strength < 1:
        latents = scheduler.add_noise(PICTURE, noise, evaluations[0].timestep.reshape(1))
    else:
        latents = noise * scheduler.init_noise_sigma
    options = {"generator": random} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in (evaluation.timestep for evaluation in evaluations):
        said = knowing(own, scheduler.scale_model_input(latents, timestep), timestep.item())
        latents = scheduler.step(said, timestep, latents, **options, return_dict=False)[0]
    return latents


SPELLINGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "as published with 1.5": (PNDMScheduler, {"skip_prk_steps": True, "steps_offset": 1}),
    "no offset, cut to range": (DDIMScheduler, {"clip_sample": True, "set_alpha_to_one": True, "thresholding": True}),
    "trailing": (DDIMScheduler, {"timestep_spacing": "trailing"}),
    "leading, other levels": (EulerDiscreteScheduler, {"timestep_spacing": "leading", "use_karras_sigmas": True}),
    "another method": (
        DPMSolverMultistepScheduler,
        {"solver_order": 3, "solver_type": "heun", "algorithm_type": "sde-dpmsolver++", "lower_order_final": False},
    ),
}
"""Ways in which the file of one and the same base may describe its scheduler."""


@pytest.mark.parametrize("sampler", Sampler)
def test_a_name_draws_alike_however_the_file_of_the_base_is_spelt(sampler: Sampler) -> None:
    levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    reference = own_scheduler("Stable Diffusion 1.x")
    wanted = drawn(build_scheduler(sampler, reference), reference, 6, 1.0)
    for spelling, (kind, options) in SPELLINGS.items():
        scheduler = build_scheduler(sampler, kind(**levels, **options))
        assert torch.equal(drawn(scheduler, reference, 6, 1.0), wanted), spelling


@pytest.mark.parametrize(
    ("sampler", "timesteps"),
    [
        # k-diffusion's time from 999 to 0, as `get_sigmas` of the web interface asks.
        (Sampler.EULER, [999, 749.25, 499.5, 249.75, 0]),
        (Sampler.EULER_A, [999, 749.25, 499.5, 249.75, 0]),
        # `make_ddim_timesteps`: every 200th, one further.
        (Sampler.DDIM, [801, 601, 401, 201, 1]),
        (Sampler.PLMS, [801, 601, 601, 401, 201, 1]),
        (Sampler.UNIPC, [999, 799, 599, 400, 200]),
    ],
)
def test_a_name_asks_at_its_own_timesteps(sampler: Sampler, timesteps: list[float]) -> None:
    scheduler = build_scheduler(sampler, own_scheduler("Stable Diffusion 1.x"))
    assert [one.timestep.item() for one in plan(scheduler, 5, 0, CPU)] == timesteps


@pytest.mark.parametrize("sampler", Sampler)
def test_every_name_begins_where_a_base_without_signal_has_learned_to_begin(sampler: Sampler) -> None:
    own = own_scheduler("no signal left")
    first, *_ = plan(build_scheduler(sampler, own), 5, 0, CPU)
    # By Karras' levels the first of all timesteps without signal is as good as the last.
    assert own.alphas_cumprod[int(first.timestep)] <= LEAST_SIGNAL


def test_ddim_is_the_own_sampler_of_a_base_that_was_trained_down_to_hardly_any_signal() -> None:
    own = own_scheduler("the class's own betas")
    by_name, itself = (drawn(build_scheduler(sampler, own), own, 30, 1.0) for sampler in (Sampler.DDIM, None))
    assert torch.equal(by_name, itself)


def numbered(evaluations: list[Evaluation]) -> list[int]:
    return [evaluation.step for evaluation in evaluations]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("sampler", Sampler)
def test_every_sampler_arrives(sampler: Sampler, levels: str) -> None:
    own = own_scheduler(levels)
    # DDIM and PLMS end at the last level that the base was trained on, a little noise away from the picture.
    near = 4 * (1 - own.alphas_cumprod[0]).sqrt().item()
    scheduler = build_scheduler(sampler, own)
    for steps, strength in ((4, 1.0), (61, 1.0), (8, 0.9), (8, 0.5), (8, 0.125)):
        error = (drawn(scheduler, own, steps, strength) - PICTURE).abs().max().item()
        assert error < near, (steps, strength)


class TestZeroTerminalSnr:
    @pytest.fixture
    def samplers(self) -> DiffusionSamplers:
        samplers = DiffusionSamplers(own_scheduler("the class's own betas"))
        samplers.zero_terminal_snr = True
        return samplers

    @pytest.mark.parametrize("sampler", [None, *Sampler])
    def test_every_sampler_begins_without_signal_and_arrives(
        self, samplers: DiffusionSamplers, sampler: Sampler | None
    ) -> None:
        scheduler = samplers.scheduler(sampler, ())
        first, *_ = plan(scheduler, 5, 0, CPU)
        assert samplers.own.alphas_cumprod[int(first.timestep)] <= LEAST_SIGNAL
        near = 4 * (1 - samplers.own.alphas_cumprod[0]).sqrt().item()
        assert (drawn(scheduler, samplers.own, 8, 1.0) - PICTURE).abs().max().item() < near

    def test_levels_are_those_that_were_trained(self, samplers: DiffusionSamplers) -> None:
        training = replace(training_spec().settings, zero_terminal_snr=True)
        trained = NoisePrediction(Silent(), own_scheduler("the class's own betas"), training).noise_scheduler
        assert torch.equal(samplers.own.alphas_cumprod, trained.alphas_cumprod)
        assert not samplers.agree(DiffusionSamplers(own_scheduler("the class's own betas")))

    def test_afterwards_the_base_draws_as_before(self, samplers: DiffusionSamplers) -> None:
        samplers.scheduler(Sampler.EULER, ())
        samplers.zero_terminal_snr = False
        own = own_scheduler("the class's own betas")
        for sampler in (None, Sampler.EULER):
            before = drawn(build_scheduler(sampler, own), own, 5, 1.0)
            assert torch.equal(drawn(samplers.scheduler(sampler, ()), own, 5, 1.0), before)

    def test_a_base_that_predicts_noise_keeps_its_levels(self) -> None:
        own = own_scheduler("Stable Diffusion 1.x")
        samplers = DiffusionSamplers(own)
        samplers.zero_terminal_snr = True
        assert samplers.own is own


class Silent:
    """A pipeline that is not asked."""

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        raise NotImplementedError


def test_multistep_of_fourth_order_is_exact_for_cubic_paths() -> None:
    """The library's integral by scipy is the same number; here it is held by what it must be exact for."""
    scheduler = build_scheduler(Sampler.LMS, own_scheduler("Stable Diffusion 1.x"))
    plan(scheduler, 8, 0, CPU)
    scheduler.derivatives = [torch.zeros(())] * 4
    begin, end = scheduler.sigmas[5].item(), scheduler.sigmas[6].item()
    for power in range(4):
        heights = [scheduler.sigmas[5 - back].item() ** power for back in range(4)]
        step = sum(scheduler._coefficient(5, back) * height for back, height in enumerate(heights))
        assert step == pytest.approx((end ** (power + 1) - begin ** (power + 1)) / (power + 1), rel=1e-6)


def test_chance_comes_from_the_generator_alone() -> None:
    own = own_scheduler("Stable Diffusion 1.x")
    for sampler in (Sampler.EULER_A, Sampler.DPM2_A, Sampler.DPMPP_2S_A, Sampler.DPMPP_SDE_KARRAS):
        scheduler = build_scheduler(sampler, own)
        state = torch.get_rng_state()
        evaluations = plan(scheduler, 4, 0, CPU)

        def walk(seed: int, scheduler: Any = scheduler, evaluations: list[Evaluation] = evaluations) -> torch.Tensor:
            random, latents = torch.Generator().manual_seed(seed), torch.ones(1, 1, 8, 8)
            plan(scheduler, 4, 0, CPU)
            for evaluation in evaluations[:3]:
                scheduler.scale_model_input(latents, evaluation.timestep)
                said = torch.zeros_like(latents)
                latents = scheduler.step(said, evaluation.timestep, latents, generator=random, return_dict=False)[0]
            return latents

        assert torch.equal(walk(1), walk(1))
        assert not torch.equal(walk(1), walk(2))
        assert torch.equal(state, torch.get_rng_state())


def test_the_noise_of_a_stochastic_step_has_its_levels_size() -> None:
    """With a denoiser that sees nothing (x0 = 0) latents of level sigma must go to latents of the next level."""
    scheduler = build_scheduler(Sampler.DPMPP_SDE, own_scheduler("Stable Diffusion 1.x"))
    evaluations = plan(scheduler, 6, 0, CPU)
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 256, 256, generator=random) * scheduler.sigmas[0]
    for index, evaluation in enumerate(evaluations[:8]):
        level = (scheduler.sigmas[index - 1] * scheduler.sigmas[index]).sqrt() if index % 2 else scheduler.sigmas[index]
        assert latents.std().item() == pytest.approx(level.item(), rel=0.01)
        scaled = scheduler.scale_model_input(latents, evaluation.timestep)
        said = latents / level if level else scaled
        latents = scheduler.step(said, evaluation.timestep, latents, generator=random, return_dict=False)[0]


def test_none_is_the_bases_own_untouched() -> None:
    own = own_scheduler("the class's own betas")
    before = own.timesteps.clone()
    scheduler = build_scheduler(None, own)
    plan(scheduler, 5, 0, CPU)
    assert type(scheduler) is DDIMScheduler
    assert scheduler.config == own.config
    assert torch.equal(own.timesteps, before)


def test_evaluations_are_counted_by_steps() -> None:
    own = own_scheduler("Stable Diffusion 1.x")
    assert numbered(plan(build_scheduler(Sampler.EULER, own), 4, 1, CPU)) == [1, 2, 3]
    assert numbered(plan(build_scheduler(Sampler.HEUN, own), 4, 1, CPU)) == [1, 1, 2, 2, 3]
    assert numbered(plan(build_scheduler(Sampler.PLMS, own), 4, 1, CPU)) == [1, 1, 2, 3]
    assert numbered(plan(build_scheduler(Sampler.PLMS, own), 4, 4, CPU)) == []


def test_plms_from_the_start_asks_as_the_library_does() -> None:
    own = own_scheduler("Stable Diffusion 1.x")
    library: Any = PNDMScheduler.from_config(own.config, skip_prk_steps=True)
    library.set_timesteps(6)
    asked = [evaluation.timestep.item() for evaluation in plan(build_scheduler(Sampler.PLMS, own), 6, 0, CPU)]
    assert asked == library.timesteps.tolist()


@pytest.mark.parametrize(("strength", "skipped"), [(0, 10), (0.05, 10), (0.1, 9), (0.5, 5), (0.99, 1), (1, 0)])
def test_strength_is_a_share_of_the_steps(strength: float, skipped: int) -> None:
    assert skipped_steps(10, strength) == skipped
