"""Whole runs on a GPU: what they learn, what they plan and take, and how they go on."""

import gc
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from msgspec.structs import replace
from PIL import Image

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
from maquette.trainer.memory import plan_run
from maquette.trainer.recording import RecordedPass
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


def make(root: Path, base: Path, device: torch.device | str, **settings: Any) -> RunDirectory:
    directory = make_run(root, base, max_train_steps=STEPS, **settings)
    change_spec(directory, device=str(device))
    return directory


def said(directory: RunDirectory, kind: type[T]) -> list[T]:
    return [message for message in read_messages(directory) if isinstance(message, kind)]


def losses(directory: RunDirectory) -> list[float]:
    return [message.loss for message in said(directory, Step)]


@pytest.fixture(scope="module", params=FAMILIES.own_names())
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY_BASES.load(request.param).build(tmp_path_factory.mktemp(request.param) / "base")


@pytest.mark.parametrize("trains", [False, True])
def test_it_learns_what_a_cpu_learns(base: Path, device: torch.device, tmp_path: Path, *, trains: bool) -> None:
    """The same pictures, wordings, noise and timesteps, and the same losses but for the rounding."""
    here, there = (make(tmp_path / str(place), base, place, train_text_encoder=trains) for place in (device, "cpu"))
    for directory in (here, there):
        carry_out(directory)
        assert directory.manifest.exists()
    assert losses(here) == pytest.approx(losses(there), rel=LOSSES_AGREE)


def test_a_run_that_is_recorded_learns_what_one_that_is_not_learns(
    base: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = make(tmp_path / "played", base, device, train_batch_size=2)
    carry_out(played)
    # A pass in place of what records it.
    monkeypatch.setattr(loop, "RecordedPass", lambda through, _parameters: through)
    passed = make(tmp_path / "passed", base, device, train_batch_size=2)
    carry_out(passed)
    assert losses(played) == pytest.approx(losses(passed), rel=1e-3)


def test_it_goes_on_where_it_was_stopped(
    base: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, stopped = make(tmp_path / "straight", base, device), make(tmp_path / "stopped", base, device)
    carry_out(straight)
    play, calls = RecordedPass.__call__, iter(range(100))

    def stopping(self: RecordedPass, *arguments: Any) -> torch.Tensor:
        if next(calls) == STEPS // 2:
            stopped.stop.touch()
        return play(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RecordedPass, "__call__", stopping)
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
            assert all(places == ({"cuda"} if part in parts else {"cpu"}) for part, places in seen[-1].items())

    monkeypatch.setattr(loop, "plan_run", lambda *asked: replace(plan_run(*asked), together=False, recorded=False))
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
    assert (planned.dtype, planned.recorded, planned.parts_in_turn) == ("bfloat16", True, False)
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
