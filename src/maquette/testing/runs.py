"""Run directories as an executor would make them, with pictures that are drawn on the spot."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from PIL import Image, ImageDraw

from maquette.core.basefolder import base_family, base_sha256
from maquette.core.ids import sha256_hex
from maquette.core.progress import TrainerMessage
from maquette.core.rundir import RunDirectory, RunSpec
from maquette.core.specs import BaseRef, Picture, Preparation
from maquette.families.registry import layouts
from maquette.testing.factories import training_spec
from maquette.trainer.attempt import Attempt
from maquette.trainer.loop import run
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision

SIDE = 64


def make_run(
    root: Path, base: Path, *, pictures: int = 2, checkpoint_every: int = 100, **settings: Any
) -> RunDirectory:
    """Make a run directory ready for a trainer: spec, and pictures of discs in different colours.

    Args:
        settings: in place of the defaults of `TrainingSettings`; six steps unless told otherwise.
    """
    directory = RunDirectory(root)
    directory.create()
    spec = training_spec(steps=6)
    training = replace(
        spec,
        base=BaseRef("tiny", base_family(base, layouts()), base_sha256(base)),
        pictures=tuple(_draw_picture(directory.images, number) for number in range(pictures)),
        preparation=Preparation(width=SIDE, height=SIDE),
        settings=replace(spec.settings, lora_r=4, lora_alpha=4, learning_rate=1e-3),
        sample=replace(spec.sample, width=SIDE, height=SIDE, steps=3, guidance_scale=3.0),
    )
    training = replace(training, settings=replace(training.settings, **settings))
    directory.write(
        directory.spec,
        RunSpec(task_id="a-task", fence=1, training=training, base_path=str(base), checkpoint_every=checkpoint_every),
    )
    return directory


def read_spec(directory: RunDirectory) -> RunSpec:
    """The spec of a run that has one."""
    return msgspec.json.decode(directory.spec.read_bytes(), type=RunSpec)


def change_spec(directory: RunDirectory, **changes: Any) -> None:
    """Replace fields of a run's spec; those of its training spec under `training`."""
    directory.write(directory.spec, replace(read_spec(directory), **changes))


def carry_out(directory: RunDirectory) -> None:
    """Carry out a run in this process; whatever ends it is raised, and told by nobody."""
    with Reporter(directory.events) as reporter:
        run(Attempt(directory, read_spec(directory), Supervision(directory), reporter))


def read_messages(directory: RunDirectory) -> list[TrainerMessage]:
    """Every finished line a trainer has written."""
    lines = directory.events.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=TrainerMessage) for line in lines]


def _draw_picture(folder: Path, number: int) -> Picture:
    name = f"{number}-disc.png"
    image = Image.new("RGB", (90 + 10 * number, 80), (200, 60 * number % 256, 40))
    ImageDraw.Draw(image).ellipse((20, 15, 70, 65), fill=(10, 200, 80 * number % 256))
    image.save(folder / name)
    return Picture(name, sha256_hex((folder / name).read_bytes()))
