"""Where a device has not the room for a whole base, a run has on it what is at work and nothing else."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from maquette.core.files import file_sha256
from maquette.core.rundir import RunDirectory
from maquette.families.base import Part, Pipeline
from maquette.families.memory import MemoryPlan
from maquette.families.registry import FAMILIES
from maquette.testing.runs import change_spec, make_run, read_spec
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer import loop
from maquette.trainer.attempt import Attempt
from maquette.trainer.memory import plan_run
from maquette.trainer.reporter import Reporter
from maquette.trainer.residency import Residency
from maquette.trainer.supervision import Supervision

pytestmark = pytest.mark.torch


class Watched(Residency):
    """Takes note of what is brought. The only device here is the host, so whatever was not brought refuses to work."""

    made: "Watched"

    def __init__(self, pipeline: Pipeline, device: torch.device, *, together: bool) -> None:
        assert not together
        super().__init__(pipeline, device, together=together)
        self.brought: list[tuple[Part, ...]] = [()]
        for part, models in pipeline.modules.items():
            for layer in [layer for model in models for layer in model.modules()]:
                layer.register_forward_pre_hook(partial(self._check, part))
        Watched.made = self

    def bring(self, *parts: Part) -> None:
        super().bring(*parts)
        self.brought.append(parts)

    def _check(self, part: Part, *_called: Any) -> None:
        assert part in self.brought[-1], f"the {part} is at work, and on the device is {self.brought[-1]}"


def run_here(directory: RunDirectory) -> str:
    """Run an attempt; answer what it ended with."""
    with Reporter(directory.events) as reporter:
        loop.run(Attempt(directory, read_spec(directory), Supervision(directory), reporter))
    return file_sha256(directory.output / "lora.safetensors")


def in_turn(*asked: Any) -> MemoryPlan:
    return replace(plan_run(*asked), together=False)


@pytest.mark.parametrize("family", FAMILIES.names())
def test_no_two_parts_are_ever_there_at_once_and_the_bytes_are_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while class pictures, checkpoints' samples and the last one are drawn."""
    base = TINY_BASES.load(family).build(tmp_path / "base")
    runs = [make_run(tmp_path / name, base, max_train_steps=2, with_prior_preservation=True) for name in ("a", "b")]
    for directory in runs:
        training = read_spec(directory).training
        change_spec(directory, training=replace(training, checkpoint_samples=(training.sample,)))
    whole = run_here(runs[0])
    monkeypatch.setattr(loop, "plan_run", in_turn)
    monkeypatch.setattr(loop, "Residency", Watched)
    assert run_here(runs[1]) == whole
    brought = Watched.made.brought[1:]
    assert {len(parts) for parts in brought} == {1}
    assert brought[-3:] == [(Part.TEXT_ENCODERS,), (Part.DENOISER,), (Part.AUTOENCODER,)]
