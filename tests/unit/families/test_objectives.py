"""The objectives' options, against a denoiser that answers the same always."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from msgspec.structs import replace

from maquette.core.errors import InvalidRequest
from maquette.core.specs import TrainingSettings
from maquette.families.flow import FlowSamplers
from maquette.families.objectives import NoisePrediction, RectifiedFlow
from maquette.testing.factories import training_spec

pytestmark = pytest.mark.torch

PICTURES = 4096
LATENTS = torch.zeros(PICTURES, 1, 2, 2)


class Silent:
    """Answers zero to everything, so that a loss is its target's square; remembers what it was shown."""

    noisy: torch.Tensor
    timesteps: torch.Tensor

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        self.noisy, self.timesteps = latents, timesteps
        return torch.zeros_like(latents)


def scheduler(prediction_type: str = "epsilon") -> Any:
    config: dict[str, Any] = {"prediction_type": prediction_type}
    return DDPMScheduler(**config)


def settings(**changes: Any) -> TrainingSettings:
    return replace(training_spec().settings, **changes)


def losses(objective: NoisePrediction | RectifiedFlow) -> torch.Tensor:
    return objective.losses(LATENTS, {}, objective.noising(LATENTS, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_bounds_the_weight_of_a_timestep(prediction_type: str) -> None:
    own, seen = scheduler(prediction_type), Silent()
    plain = losses(NoisePrediction(seen, own, settings()))
    weighted = losses(NoisePrediction(seen, own, settings(snr_gamma=5.0)))
    signal = own.alphas_cumprod[seen.timesteps]
    snr = signal / (1 - signal)
    bounded = torch.minimum(snr, torch.tensor(5.0))
    wanted = bounded / snr if prediction_type == "epsilon" else bounded / (snr + 1)
    torch.testing.assert_close(weighted / plain, wanted, rtol=1e-4, atol=1e-6)
    assert (wanted < 0.999).any()


def test_a_noise_offset_moves_whole_channels() -> None:
    plain, moved = (
        losses(NoisePrediction(Silent(), scheduler(), settings(noise_offset=offset))) for offset in (0.0, 0.5)
    )
    # The noise's variance grows by the offset's.
    assert plain.mean().item() == pytest.approx(1, abs=0.05)
    assert moved.mean().item() == pytest.approx(1.25, abs=0.08)


def test_zero_terminal_snr_leaves_no_signal_at_the_last_timestep() -> None:
    objective = NoisePrediction(Silent(), scheduler("v_prediction"), settings(zero_terminal_snr=True))
    assert objective.noise_scheduler.alphas_cumprod[-1] == 0
    assert scheduler("v_prediction").alphas_cumprod[-1] > 0


def test_noise_can_not_be_predicted_where_all_is_noise() -> None:
    with pytest.raises(InvalidRequest, match=r"^expert_setting.zero_terminal_snr: the base predicts noise"):
        NoisePrediction(Silent(), scheduler(), settings(zero_terminal_snr=True))


def flow(**options: Any) -> FlowSamplers:
    return FlowSamplers(FlowMatchEulerDiscreteScheduler(**options), patch=2)


def test_flow_goes_straight_from_picture_to_noise() -> None:
    seen = Silent()
    said = losses(RectifiedFlow(seen, flow()))
    level = (seen.timesteps / 1000).view(-1, 1, 1, 1)
    # The picture is zero: what is seen is the noise's share, and the velocity is the noise.
    torch.testing.assert_close((seen.noisy / level).square().mean(dim=(1, 2, 3)), said, rtol=1e-3, atol=1e-4)


def test_levels_are_logit_normal() -> None:
    seen = Silent()
    losses(RectifiedFlow(seen, flow()))
    logits = torch.logit(seen.timesteps / 1000)
    assert logits.mean().item() == pytest.approx(0, abs=0.05)
    assert logits.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("options", "moved"),
    [({"shift": 3.0}, 1.0986), ({"use_dynamic_shifting": True, "shift": 3.0}, 0.5 - 255 * 0.65 / 3840)],
)
def test_levels_are_shifted_as_pictures_of_their_size_are_drawn(options: dict[str, Any], moved: float) -> None:
    """A shift moves all logits by its logarithm."""
    plain, shifted = Silent(), Silent()
    losses(RectifiedFlow(plain, flow()))
    losses(RectifiedFlow(shifted, flow(**options)))
    apart = torch.logit(shifted.timesteps / 1000) - torch.logit(plain.timesteps / 1000)
    torch.testing.assert_close(apart, torch.full_like(apart, moved), rtol=1e-2, atol=1e-2)


def test_the_schedule_that_draws_is_shifted_alike() -> None:
    samplers = flow(use_dynamic_shifting=True)
    shape = (1, 16, 64, 96)
    scheduler = samplers.scheduler(None, shape)
    scheduler.set_timesteps(4, torch.device("cpu"))
    wanted = samplers.shifted(torch.tensor([1.0, 0.75, 0.5, 0.25]), shape)
    torch.testing.assert_close(scheduler.timesteps / 1000, wanted)
