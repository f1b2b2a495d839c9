"""A pass that a GPU plays again does what the pass itself does."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Linear, Parameter

from maquette.families.base import Adapters, Conditioning, Noising, Objective, load_family
from maquette.families.registry import FAMILIES
from maquette.testing.conformance import SETTINGS
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer import recording
from maquette.trainer.loop import forward_backward
from maquette.trainer.memory import recompute_activations
from maquette.trainer.recording import RecordedPass

pytestmark = pytest.mark.torch

PROMPTS = ("a red disc", "a green disc", "nothing")
SIDES = (8, 16)


class Model:
    """A pass through one layer."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(1)
        self.layer = Linear(8, 8, device=device)
        self.parameters = list(self.layer.parameters())
        self.calls = 0

    def __call__(self, x: torch.Tensor, named: dict[str, torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        loss = (self.layer(x) - named["target"]).square().mean()
        loss.backward()
        return loss.detach()

    def gradients(self) -> list[torch.Tensor]:
        found = [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]
        assert len(found) == 2
        return found

    def forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


@pytest.fixture
def model(device: torch.device) -> Model:
    return Model(device)


def batch(device: torch.device, seed: int, rows: int = 4) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    random = torch.Generator(device).manual_seed(seed)
    x, target = (torch.randn(rows, 8, device=device, generator=random) for _ in range(2))
    return x, {"target": target}


class TestPlaying:
    def test_it_answers_and_learns_what_the_pass_would(self, model: Model, device: torch.device) -> None:
        recorded = RecordedPass(model, model.parameters)
        for seed in range(5):
            model.forget_gradients()
            loss = recorded(*batch(device, seed))
            found = model.gradients()
            model.forget_gradients()
            assert torch.equal(loss, model(*batch(device, seed)))
            assert all(map(torch.equal, found, model.gradients()))

    def test_parts_of_one_step_add_up(self, model: Model, device: torch.device) -> None:
        """Of two shapes in turns, the way a batch of pictures of several sizes is shown."""
        recorded = RecordedPass(model, model.parameters)
        parts = [(seed, rows) for seed in range(4) for rows in (4, 3)]
        for part in parts:
            recorded(*batch(device, *part))
        model.forget_gradients()
        losses = [recorded(*batch(device, *part)) for part in parts]
        found = model.gradients()
        model.forget_gradients()
        assert torch.equal(torch.stack(losses), torch.stack([model(*batch(device, *part)) for part in parts]))
        torch.testing.assert_close(found, model.gradients())

    def test_recording_keeps_the_gradients_of_before(self, model: Model, device: torch.device) -> None:
        recorded = RecordedPass(model, model.parameters)
        recorded(*batch(device, 1))
        recorded(*batch(device, 2))
        found = model.gradients()
        model.forget_gradients()
        model(*batch(device, 1))
        model(*batch(device, 2))
        torch.testing.assert_close(found, model.gradients())

    def test_what_its_arguments_were_computed_from_learns_too(self, model: Model, device: torch.device) -> None:
        before = Linear(8, 8, device=device)
        recorded = RecordedPass(model, model.parameters)
        for seed in range(4):
            x, named = batch(device, seed)
            found: list[torch.Tensor | None] = []
            for through in (recorded, model):
                model.forget_gradients()
                before.zero_grad()
                through(before(x), named)
                found.append(before.weight.grad)
            torch.testing.assert_close(*found)
            assert found[0] is not None
            assert found[0].any()

    def test_a_step_changes_what_the_next_one_sees(self, model: Model, device: torch.device) -> None:
        recorded = RecordedPass(model, model.parameters)
        optimizer = torch.optim.SGD(model.parameters, lr=0.1)
        losses: list[float] = []
        for _ in range(20):
            optimizer.zero_grad()
            losses.append(recorded(*batch(device, 1)).item())
            optimizer.step()
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] / 2

    def test_python_takes_part_twice_for_each_shape(self, model: Model, device: torch.device) -> None:
        recorded = RecordedPass(model, model.parameters)
        for rows in (4, 3) * 5:
            recorded(*batch(device, 1, rows))
        assert model.calls == 4

    def test_of_too_many_shapes_some_are_not_recorded(
        self, model: Model, device: torch.device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recording, "MOST", 1)
        recorded = RecordedPass(model, model.parameters)
        for rows in (4, 3) * 5:
            recorded(*batch(device, 1, rows))
        assert model.calls == 2 + 5


@dataclass
class Training:
    """A LoRA that trains on a family's tiny base."""

    pipeline: Any
    adapters: Adapters
    objective: Objective

    @property
    def parameters(self) -> list[Parameter]:
        return list(self.adapters.parameters().values())

    def through(
        self, latents: torch.Tensor, told: Conditioning, noising: Noising, weights: torch.Tensor
    ) -> torch.Tensor:
        return forward_backward(self.objective, latents, told, noising, weights)

    def batches(self, device: torch.device) -> Iterator[tuple[Any, ...]]:
        """Three of each shape."""
        random = torch.Generator().manual_seed(4)
        with torch.no_grad():
            told = self.pipeline.encode_prompts(PROMPTS[:2])
        for _ in range(3):
            for side in SIDES:
                latents = torch.randn(2, self.pipeline.latent_channels, side, side, generator=random)
                noising = self.objective.noising(latents, random)
                moved = Noising(*(drawn.to(device) for drawn in noising))
                yield latents.to(device), told, moved, torch.tensor([0.5, 0.25], device=device)


@pytest.fixture(params=FAMILIES.own_names())
def training(request: pytest.FixtureRequest, device: torch.device, tmp_path: Path) -> Training:
    family = load_family(request.param)
    pipeline = family.pipeline.load(TINY_BASES.load(request.param).build(tmp_path / "base"), device)
    torch.manual_seed(2)
    adapters = family.adapters(pipeline)
    adapters.attach(SETTINGS)
    with torch.no_grad():
        for parameter in adapters.parameters().values():
            # A LoRA that is nothing yet has no gradients in half of its matrices.
            parameter.normal_(std=0.1)
    return Training(pipeline, adapters, family.objective(pipeline, SETTINGS))


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_family_learns_the_same(training: Training, device: torch.device, *, recomputed: bool) -> None:
    if recomputed:
        recompute_activations(training.pipeline)
    recorded = RecordedPass(training.through, training.parameters)
    for arguments in training.batches(device):
        results: list[tuple[torch.Tensor, list[torch.Tensor | None]]] = []
        for through in (recorded, training.through):
            for parameter in training.parameters:
                parameter.grad = None
            loss = through(*arguments)
            results.append((loss, [parameter.grad for parameter in training.parameters]))
        (loss, gradients), (expected_loss, expected) = results
        torch.testing.assert_close(loss, expected_loss)
        assert any(gradient is not None and gradient.any() for gradient in gradients)
        torch.testing.assert_close(gradients, expected)
