"""Whole runs on a GPU: what they learn, what they plan and take, and how they go on."""

import gc
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.core.lifecycle import Reason
from maquette.core.progress import MemoryTaken, Planned, Resumed, Step
from maquette.core.rundir import RunDirectory
from maquette.families.base import Part, all_there, load_family
from maquette.families.registry import FAMILIES
from maquette.inference.pictures import difference
from maquette.testing.runs import carry_out, change_spec, make_run, read_messages, read_spec
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer import loop
from maquette.trainer.failures import RunFailed, StopRequested
from maquette.trainer.graphs import GraphedPass
from maquette.trainer.memory import plan_run
from maquette.trainer.residency import Residency
from maquette.trainer.sampling import draw_sample

pytestmark = pytest.mark.torch

T = TypeVar("T")

STEPS = 12
LIBRARIES = 256 << 20
MEAN_BOUND, LARGEST_BOUND = 0.5, 16
LEFT = 8 << 20
"""Bytes that are too few for the bundled base."""
LOSSES_AGREE = 0.05
"""Share by which losses in bfloat16 may be off those in float32."""
ALIKE = 0.9
"""Cosine between what two runs learn that differ by rounding alone; adaptive steps make much of small gradients."""


def make(root: Path, base: Path, device: torch.device | str, **settings: Any) -> RunDirectory:
    directory = make_run(root, base, max_train_steps=STEPS, **settings)
    change_spec(directory, device=str(device))
    return directory


def said(directory: RunDirectory, kind: type[T]) -> list[T]:
    return [message for message in read_messages(directory) if isinstance(message, kind)]


def losses(directory: RunDirectory) -> list[float]:
    return [message.loss for message in said(directory, Step)]


def learned(directory: RunDirectory) -> dict[str, torch.Tensor]:
    """What each component's LoRA has become: its second matrices, which begin as zeros, in one row."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, tensor in load_file(directory.output / "lora.safetensors").items():
        if name.endswith("lora_B.weight"):
            found.setdefault(name.partition(".")[0], []).append(tensor.flatten())
    return {component: torch.cat(rows) for component, rows in found.items()}


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The least cosine between two runs' components."""
    assert one.keys() == other.keys()
    return min(cosine_similarity(one[component], other[component], dim=0).item() for component in one)


@pytest.fixture(scope="module", params=FAMILIES.own_names())
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY_BASES.load(request.param).build(tmp_path_factory.mktemp(request.param) / "base")


@pytest.mark.parametrize("trains", [False, True])
def test_it_learns_what_a_cpu_learns(base: Path, device: torch.device, tmp_path: Path, *, trains: bool) -> None:
    """The same pictures, wordings, noise and timesteps, and the same steps but for the rounding to bfloat16."""
    here, there = (make(tmp_path / str(place), base, place, train_text_encoder=trains) for place in (device, "cpu"))
    for directory in (here, there):
        carry_out(directory)
    assert losses(here) == pytest.approx(losses(there), rel=LOSSES_AGREE)
    assert alike(learned(here), learned(there)) > ALIKE


def test_graphs_learn_what_launched_kernels_learn(
    base: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"train_batch_size": 2, "train_text_encoder": True}
    graphed = make(tmp_path / "graphed", base, device, **settings)
    carry_out(graphed)
    monkeypatch.setattr(loop, "plan_run", lambda *asked: replace(plan_run(*asked), cuda_graphs=False))
    launched = make(tmp_path / "launched", base, device, **settings)
    carry_out(launched)
    assert [plan.cuda_graphs for run in (graphed, launched) for plan in said(run, Planned)] == [True, True]
    assert losses(graphed) == pytest.approx(losses(launched), rel=1e-2)
    assert alike(learned(graphed), learned(launched)) > ALIKE


def test_it_goes_on_where_it_was_stopped(
    base: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, stopped = make(tmp_path / "straight", base, device), make(tmp_path / "stopped", base, device)
    carry_out(straight)
    play, calls = GraphedPass.__call__, iter(range(100))

    def stopping(self: GraphedPass, *arguments: Any) -> torch.Tensor:
        if next(calls) == STEPS // 2:
            stopped.stop.touch()
        return play(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GraphedPass, "__call__", stopping)
        with pytest.raises(StopRequested):
            carry_out(stopped)
    stopped.stop.unlink()
    carry_out(stopped)
    (resumed,) = said(stopped, Resumed)
    assert resumed.verified
    assert losses(stopped) == pytest.approx(losses(straight), rel=1e-3)


def test_parts_in_turn_leave_no_other_on_the_device(
    base: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, directory = make(tmp_path / "together", base, device), make(tmp_path / "in turn", base, device)
    carry_out(together)
    seen: list[dict[Part, set[str]]] = []

    class Watched(Residency):
        def bring(self, *parts: Part) -> None:
            super().bring(*parts)
            seen.append(
                {
                    part: {weight.device.type for model in models for weight in model.parameters()}
                    for part, models in self._pipeline.modules.items()
                }
            )
            # Some families have no encoders of one kind.
            assert all(places <= ({"cuda"} if part in parts else {"cpu"}) for part, places in seen[-1].items())

    monkeypatch.setattr(loop, "plan_run", lambda *asked: replace(plan_run(*asked), together=False, cuda_graphs=False))
    monkeypatch.setattr(loop, "Residency", Watched)
    training = read_spec(directory).training
    change_spec(directory, training=replace(training, checkpoint_samples=(training.sample,)), checkpoint_every=4)
    carry_out(directory)
    assert len(seen) > len(Part)
    assert losses(directory) == pytest.approx(losses(together), rel=1e-3)


def test_the_plan_covers_what_is_taken(device: torch.device, tmp_path: Path) -> None:
    """But for what libraries take for themselves, which is little beside a base of a published size."""
    directory = make(tmp_path / "run", BUNDLED_PATH, device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    carry_out(directory)
    (planned,), (taken,) = said(directory, Planned), said(directory, MemoryTaken)
    assert (planned.dtype, planned.cuda_graphs, planned.parts_in_turn) == ("bfloat16", True, False)
    assert 0 < taken.peak_bytes - before <= planned.needed_bytes + LIBRARIES


def test_a_device_without_memory_ends_it_with_its_reason(device: torch.device, tmp_path: Path) -> None:
    directory = make(tmp_path / "run", BUNDLED_PATH, device)
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + LEFT) / total, device)
    try:
        with pytest.raises(RunFailed) as failure:
            carry_out(directory)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert failure.value.reason is Reason.OUT_OF_MEMORY
    assert not directory.manifest.exists()


def test_its_sample_comes_out_again_of_the_file(device: torch.device, tmp_path: Path) -> None:
    """As a worker draws it that knows nothing of the run, within the deploy gate's bounds."""
    directory = make(tmp_path / "run", BUNDLED_PATH, device)
    carry_out(directory)
    family = load_family("sd15")
    pipeline = family.pipeline.load(BUNDLED_PATH, device)
    adapters = family.adapters(pipeline)
    sample = read_spec(directory).training.sample
    with Image.open(directory.samples / "final.png") as file:
        theirs = file.convert("RGB")
    bare = draw_sample(pipeline, sample, lambda *_: None, all_there)
    adapters.activate([(adapters.read(str(directory.output / "lora.safetensors")), 1.0)])
    ours = draw_sample(pipeline, sample, lambda *_: None, all_there)
    found = difference(ours, theirs)
    assert found.mean <= MEAN_BOUND
    assert found.largest <= LARGEST_BOUND
    assert difference(bare, theirs).mean > MEAN_BOUND, "the LoRA does nothing"
