"""A run whose steps are graphs learns what one learns whose steps are launched kernel by kernel, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from maquette.core.files import file_sha256
from maquette.core.progress import SteppedBack
from maquette.core.rundir import RunDirectory
from maquette.core.specs import Optimizer, Preparation, TrainingSpec
from maquette.families.memory import MemoryPlan
from maquette.families.registry import FAMILIES
from maquette.testing.runs import carry_out, change_spec, make_run, read_messages, read_spec
from maquette.testing.tape import Tape, taping
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer import loop
from maquette.trainer.graphs import GraphedPass
from maquette.trainer.memory import plan_run

pytestmark = pytest.mark.torch


SIZES = 2


def with_graphs(*asked: Any) -> MemoryPlan:
    return replace(plan_run(*asked), cuda_graphs=True)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Has runs planned with graphs, which on a CPU are tapes: those that have been made."""
    made: list[Tape] = []

    def make() -> Tape:
        made.append(Tape())
        return made[-1]

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", taping)
    return made


def with_a_tall_one(directory: RunDirectory) -> TrainingSpec:
    """The run's spec, once its first picture has been turned."""
    training = read_spec(directory).training
    first, *others = training.pictures
    path = directory.images / first.name
    with Image.open(path) as picture:
        turned = picture.resize((160, 80)).transpose(Image.Transpose.ROTATE_90)
    turned.save(path)
    return replace(training, pictures=(replace(first, sha256=file_sha256(path)), *others))


def learned(directory: RunDirectory) -> str:
    carry_out(directory)
    return file_sha256(directory.output / "lora.safetensors")


@pytest.mark.parametrize("family", FAMILIES.own_names())
def test_a_run_with_graphs_leaves_the_bytes_of_one_without(
    family: str, tmp_path: Path, tapes: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pictures in two sizes and class pictures, text encoders that train, and samples drawn between."""
    base = TINY_BASES.load(family).build(tmp_path / "base")
    settings: dict[str, Any] = {
        "train_batch_size": 2,
        "train_text_encoder": True,
        "with_prior_preservation": True,
        "optimizer": Optimizer.PRODIGY,
        "caption_dropout": 0.3,
    }
    runs = [
        make_run(tmp_path / name, base, pictures=3, checkpoint_every=4, max_train_steps=8, **settings)
        for name in ("plain", "graphed")
    ]
    for directory in runs:
        training = with_a_tall_one(directory)
        preparation = Preparation(width=128, height=64, buckets=True)
        change_spec(
            directory, training=replace(training, preparation=preparation, checkpoint_samples=(training.sample,))
        )
    plain = learned(runs[0])
    assert not tapes
    monkeypatch.setattr(loop, "plan_run", with_graphs)
    assert learned(runs[1]) == plain
    assert len(tapes) >= SIZES


@pytest.mark.usefixtures("tapes")
def test_a_run_that_is_taken_back_goes_on_with_its_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = TINY_BASES.load("sd15").build(tmp_path / "base")
    replay, calls = GraphedPass.__call__, iter(range(1000))

    def failing_once(self: GraphedPass, *arguments: Any) -> torch.Tensor:
        loss = replay(self, *arguments)
        return loss * torch.nan if next(calls) == 4 else loss

    monkeypatch.setattr(loop, "plan_run", with_graphs)
    monkeypatch.setattr(GraphedPass, "__call__", failing_once)
    directory = make_run(tmp_path / "run", base, checkpoint_every=2)
    carry_out(directory)
    (back,) = [message for message in read_messages(directory) if isinstance(message, SteppedBack)]
    assert (back.diverged_at, back.to) == (5, 4)
    assert directory.manifest.exists()
