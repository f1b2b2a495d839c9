"""A CUDA graph does what the pass that was captured does.

On a machine with a GPU these are real ones, and elsewhere tapes, which keep to the same rules.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch.nn import Linear, Parameter

from maquette.families.base import Adapters, Conditioning, Noising, Objective, load_family
from maquette.families.precision import use_device
from maquette.families.registry import FAMILIES
from maquette.testing.conformance import SETTINGS
from maquette.testing.tape import Tape, taping
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer import graphs
from maquette.trainer.graphs import GraphedPass, NotCapturable
from maquette.trainer.loop import forward_backward
from maquette.trainer.memory import recompute_activations

pytestmark = pytest.mark.torch

PROMPTS = ("a red disc", "a green disc")
SIDES = (8, 16)
ROUNDING = 0.05
"""Of the largest gradient: on a GPU attention adds up in no fixed order, in bfloat16."""
SAID = r"^a forward .* graph \(CUDA error: operation not permitted when stream is capturing\); .* comes in as a tensor"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.device_count() - 1)
        use_device(device)
        return device
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", taping)
    return torch.device("cpu")


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


class TestReplaying:
    def test_it_answers_and_learns_what_the_pass_would(self, model: Model, device: torch.device) -> None:
        graphed = GraphedPass(model, model.parameters)
        for seed in range(5):
            model.forget_gradients()
            loss = graphed(*batch(device, seed))
            found = model.gradients()
            model.forget_gradients()
            assert torch.equal(loss, model(*batch(device, seed)))
            assert all(map(torch.equal, found, model.gradients()))

    def test_parts_of_one_step_add_up(self, model: Model, device: torch.device) -> None:
        """Of two shapes in turns, the way a batch of pictures of several sizes is shown."""
        graphed = GraphedPass(model, model.parameters)
        parts = [(seed, rows) for seed in range(4) for rows in (4, 3)]
        for part in parts:
            graphed(*batch(device, *part))
        model.forget_gradients()
        losses = [graphed(*batch(device, *part)) for part in parts]
        found = model.gradients()
        model.forget_gradients()
        assert torch.equal(torch.stack(losses), torch.stack([model(*batch(device, *part)) for part in parts]))
        torch.testing.assert_close(found, model.gradients())

    def test_a_shape_that_comes_again_in_a_step_adds_up(self, model: Model, device: torch.device) -> None:
        graphed = GraphedPass(model, model.parameters)
        for seed in range(2):
            graphed(*batch(device, seed))
        model.forget_gradients()
        for seed in range(3):
            graphed(*batch(device, seed))
        found = model.gradients()
        model.forget_gradients()
        for seed in range(3):
            model(*batch(device, seed))
        torch.testing.assert_close(found, model.gradients())

    def test_capturing_keeps_the_gradients_of_before(self, model: Model, device: torch.device) -> None:
        graphed = GraphedPass(model, model.parameters)
        graphed(*batch(device, 1))
        graphed(*batch(device, 2))
        found = model.gradients()
        model.forget_gradients()
        model(*batch(device, 1))
        model(*batch(device, 2))
        torch.testing.assert_close(found, model.gradients())

    def test_what_its_arguments_were_computed_from_learns_too(self, model: Model, device: torch.device) -> None:
        before = Linear(8, 8, device=device)
        graphed = GraphedPass(model, model.parameters)
        for seed in range(4):
            x, named = batch(device, seed)
            found: list[torch.Tensor | None] = []
            for through in (graphed, model):
                model.forget_gradients()
                before.zero_grad()
                through(before(x), named)
                found.append(before.weight.grad)
            torch.testing.assert_close(*found)
            assert found[0] is not None
            assert found[0].any()

    def test_a_step_changes_what_the_next_one_sees(self, model: Model, device: torch.device) -> None:
        graphed = GraphedPass(model, model.parameters)
        optimizer = torch.optim.SGD(model.parameters, lr=0.1)
        losses: list[float] = []
        for _ in range(20):
            optimizer.zero_grad()
            losses.append(graphed(*batch(device, 1)).item())
            optimizer.step()
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] / 2

    def test_python_takes_part_twice_for_each_shape(self, model: Model, device: torch.device) -> None:
        graphed = GraphedPass(model, model.parameters)
        for rows in (4, 3) * 5:
            graphed(*batch(device, 1, rows))
        assert model.calls == 4

    def test_of_too_many_shapes_some_are_not_graphed(
        self, model: Model, device: torch.device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(graphs, "MAX_GRAPHS", 1)
        graphed = GraphedPass(model, model.parameters)
        for rows in (4, 3) * 5:
            graphed(*batch(device, 1, rows))
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
        """Three of each shape, with what text encoders with a LoRA say of prompts."""
        random = torch.Generator().manual_seed(4)
        for _ in range(3):
            for side in SIDES:
                told = self.pipeline.encode_prompts(PROMPTS)
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
    adapters.attach(replace(SETTINGS, train_text_encoder=True))
    with torch.no_grad():
        for parameter in adapters.parameters().values():
            # A LoRA that is nothing yet has no gradients in half of its matrices.
            parameter.normal_(std=0.1)
    return Training(pipeline, adapters, family.objective(pipeline, SETTINGS))


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_family_learns_the_same(training: Training, device: torch.device, *, recomputed: bool) -> None:
    if recomputed:
        recompute_activations(training.pipeline)
    graphed = GraphedPass(training.through, training.parameters)
    batches = zip(training.batches(device), training.batches(device), strict=True)
    for pair in batches:
        results: list[tuple[torch.Tensor, list[torch.Tensor | None]]] = []
        for through, arguments in zip((graphed, training.through), pair, strict=True):
            for parameter in training.parameters:
                parameter.grad = None
            loss = through(*arguments)
            results.append((loss, [parameter.grad for parameter in training.parameters]))
        (loss, gradients), (expected_loss, expected) = results
        torch.testing.assert_close(loss, expected_loss)
        rounding = ROUNDING if device.type == "cuda" else 0
        for gradient, other in zip(gradients, expected, strict=True):
            assert gradient is not None
            assert other is not None
            assert other.any()
            assert (gradient - other).abs().max() <= rounding * other.abs().max()


class TestWhatCanNotBeCaptured:
    @pytest.mark.parametrize(
        "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
    )
    def test_memory_that_runs_out_is_told_as_such(
        self, model: Model, device: torch.device, error: RuntimeError
    ) -> None:
        """Also where an error of what is left half captured takes its place."""

        def failing(x: torch.Tensor, named: dict[str, torch.Tensor]) -> torch.Tensor:
            if model.calls:
                try:
                    raise error
                finally:
                    raise RuntimeError("operation failed due to a previous error during capture")
            return model(x, named)

        graphed = GraphedPass(failing, model.parameters)
        graphed(*batch(device, 1))
        with pytest.raises(torch.OutOfMemoryError):
            graphed(*batch(device, 1))

    def test_it_is_told_what_the_pass_must_not_do(self, model: Model, device: torch.device) -> None:
        """Last of all: behind such a capture torch's random source of the device is no longer of use (2.11)."""

        def reading(x: torch.Tensor, named: dict[str, torch.Tensor]) -> torch.Tensor:
            return model(x * x.mean().item(), named)

        graphed = GraphedPass(reading, model.parameters)
        graphed(*batch(device, 1))
        with pytest.raises(NotCapturable, match=SAID):
            graphed(*batch(device, 1))
