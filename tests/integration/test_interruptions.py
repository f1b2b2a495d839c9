"""A run that is killed at random, again and again, ends with the bytes of one that nobody disturbs."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maquette.core.files import file_sha256
from maquette.core.progress import Resumed, Started, Step
from maquette.core.rundir import Manifest, RunDirectory
from maquette.core.specs import LrScheduler, Optimizer
from maquette.families.registry import FAMILIES
from maquette.testing.runs import carry_out, change_spec, make_run, read_messages
from maquette.testing.tiny_bases import TINY_BASES
from maquette.trainer.checkpoint import PARTIAL

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PATIENCE = 240
RUNS = 3
STEPS = 24
FEWEST, MOST = 3, 7
"""Steps after which a trainer is ended: fewer than there are for two, and enough for a checkpoint to go on from."""
STEP_SECONDS = 0.1
WRITING_SECONDS = 0.02
"""About what a checkpoint takes to be written."""


@pytest.mark.parametrize("family", FAMILIES.own_names())
def test_runs_interrupted_at_random_leave_the_bytes_of_a_straight_one(family: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    base = TINY_BASES.load(family).build(tmp_path / "base")
    settings: dict[str, Any] = {
        "max_train_steps": STEPS,
        "optimizer": chance.choice(list(Optimizer)),
        "lr_scheduler": LrScheduler.COSINE,
        "with_prior_preservation": True,
        "train_text_encoder": True,
        "random_flip": True,
        "caption_dropout": 0.3,
        "instance_prompt": "ohwx, a, b, c, d",
        "shuffle_tags": True,
    }
    straight = ended(make_run(tmp_path / "straight", base, checkpoint_every=2, **settings))
    for number in range(RUNS):
        interrupted = make_run(tmp_path / f"interrupted {number}", base, checkpoint_every=2, **settings)
        change_spec(interrupted, step_delay=STEP_SECONDS)
        kill_writing(interrupted, chance)
        end_at_a_step(interrupted, chance, chance.choice([signal.SIGKILL, signal.SIGTERM]))
        change_spec(interrupted, step_delay=0.0)
        assert ended(interrupted) == straight
        resumed = said(interrupted, Resumed)
        assert [one.step for one in resumed] == [
            one.resumed_from for one in said(interrupted, Started) if one.resumed_from
        ]
        assert resumed, "it began anew each time"
        assert all(one.verified and one.recorded == one.computed for one in resumed)


def kill_writing(directory: RunDirectory, chance: random.Random) -> None:
    """Kill a trainer while it writes a checkpoint, or when it has just been written."""
    enough = chance.randrange(FEWEST, MOST)
    with started(directory) as trainer:
        until(trainer, lambda: steps(directory) >= enough)
        until(trainer, lambda: any(directory.checkpoints.glob(f"{PARTIAL}*")))
        time.sleep(chance.uniform(0, WRITING_SECONDS))
        os.kill(trainer.pid, signal.SIGKILL)
    assert not directory.manifest.exists(), "it was done before"


def end_at_a_step(directory: RunDirectory, chance: random.Random, ending: signal.Signals) -> None:
    """End a trainer in the middle of a step, or between two."""
    enough = steps(directory) + chance.randrange(FEWEST, MOST)
    with started(directory) as trainer:
        until(trainer, lambda: steps(directory) >= enough)
        time.sleep(chance.uniform(0, 2 * STEP_SECONDS))
        os.kill(trainer.pid, ending)
    assert not directory.manifest.exists(), "it was done before"


def until(trainer: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert trainer.poll() is None, trainer.stderr and trainer.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def started(directory: RunDirectory) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "maquette.trainer", str(directory.root)], stderr=subprocess.PIPE)


def ended(directory: RunDirectory) -> tuple[str, str, float | None]:
    """What a run that is left alone ends in: its LoRA, its picture, its loss."""
    carry_out(directory)
    manifest = directory.read(directory.manifest, Manifest)
    assert manifest is not None
    return file_sha256(directory.root / manifest.weights.path), manifest.sample.sha256, manifest.final_loss


def said(directory: RunDirectory, kind: type) -> list[Any]:
    return [message for message in read_messages(directory) if isinstance(message, kind)]


def steps(directory: RunDirectory) -> int:
    """How many were taken, those that were taken again too."""
    return len(said(directory, Step)) if directory.events.exists() else 0
