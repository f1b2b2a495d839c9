"""Where a device has not the room for a whole base, a run has on it what is at work and nothing else."""

import sys
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from maquette.core.files import file_sha256
from maquette.core.lifecycle import Reason
from maquette.core.progress import Note, Step
from maquette.core.rundir import RunDirectory
from maquette.families.autoencoder import Autoencoder
from maquette.families.base import TEXT_ENCODERS, Part, Pipeline
from maquette.families.memory import MemoryPlan
from maquette.families.registry import FAMILIES
from maquette.testing.runs import change_spec, make_run, read_messages, read_spec
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer import loop
from maquette.trainer.attempt import Attempt
from maquette.trainer.failures import RunFailed
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
        assert sys.exception() is None, "what a failed drawing held is still in memory"
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


@pytest.mark.parametrize("text", [False, True], ids=["denoiser", "and text encoders"])
@pytest.mark.parametrize("family", FAMILIES.names())
def test_what_is_not_at_work_is_never_there_and_the_bytes_are_the_same(
    family: str, text: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while class pictures, checkpoints' samples and the last one are drawn. Text encoders that train are at work
    beside the denoiser, and those that can't are not."""
    base = TINY_BASES.load(family).build(tmp_path / "base")
    settings = {"max_train_steps": 2, "with_prior_preservation": True, "train_text_encoder": text}
    runs = [make_run(tmp_path / name, base, **settings) for name in ("a", "b")]
    for directory in runs:
        training = read_spec(directory).training
        change_spec(directory, training=replace(training, checkpoint_samples=(training.sample,)))
    whole = run_here(runs[0])
    monkeypatch.setattr(loop, "plan_run", in_turn)
    monkeypatch.setattr(loop, "Residency", Watched)
    assert run_here(runs[1]) == whole
    brought = Watched.made.brought[1:]
    in_a_step = (Part.DENOISER, Part.TRAINED_ENCODERS) if text else (Part.DENOISER,)
    assert set(brought) == {(Part.AUTOENCODER,), TEXT_ENCODERS, (Part.DENOISER,), in_a_step}
    assert brought[-3:] == [TEXT_ENCODERS, (Part.DENOISER,), (Part.AUTOENCODER,)]


class TestAfterASampleThatCanNotBeDrawn:
    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
        """A run whose first sample runs out of memory at its end, where the autoencoder is there for it."""
        directory = make_run(
            tmp_path / "run", TINY_BASES.load("sd15").build(tmp_path / "base"), checkpoint_every=1, max_train_steps=2
        )
        training = read_spec(directory).training
        change_spec(directory, training=replace(training, checkpoint_samples=(training.sample,)))
        decode, calls = Autoencoder.decode, count()

        def running_out(*asked: Any) -> Any:
            if next(calls) == 0:
                raise torch.OutOfMemoryError
            return decode(*asked)

        monkeypatch.setattr(Autoencoder, "decode", running_out)
        monkeypatch.setattr(loop, "plan_run", in_turn)
        monkeypatch.setattr(loop, "Residency", Watched)
        return directory

    def test_training_has_its_parts_again(self, directory: RunDirectory) -> None:
        run_here(directory)
        messages = read_messages(directory)
        (note,) = (message for message in messages if isinstance(message, Note))
        assert note.text.startswith("no sample was drawn after step 1: ")
        assert [message.step for message in messages if isinstance(message, Step)] == [1, 2]

    def test_a_run_that_does_not_get_them_ends(self, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        bring = Watched.bring

        def refusing(self: Watched, *parts: Part) -> None:
            if self.brought[-1] == (Part.AUTOENCODER,) and parts == (Part.DENOISER,):
                raise torch.OutOfMemoryError
            bring(self, *parts)

        monkeypatch.setattr(Watched, "bring", refusing)
        with pytest.raises(RunFailed, match="ran out of memory") as failure:
            run_here(directory)
        assert failure.value.reason is Reason.OUT_OF_MEMORY
