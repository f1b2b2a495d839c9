"""A refactoring that moves a loss has changed what is learned."""

from pathlib import Path

import msgspec
import pytest

from maquette.core.progress import Step
from maquette.core.specs import LrScheduler
from maquette.testing.runs import make_run, read_messages, read_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer.attempt import Attempt
from maquette.trainer.loop import run
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision

pytestmark = pytest.mark.torch

GOLDEN = Path(__file__).parents[1] / "golden" / "losses" / "loop.json"
TOLERANCE = 2e-3
"""Processors add up in different orders; twelve steps of that move a loss by less than a tenth of this. A loss term, a
rate or a random source that changed moves it by far more."""


def test_losses_of_the_loop_are_as_pinned(tmp_path: Path) -> None:
    """To pin them anew, after a change that is meant to move them, write what the assertion shows into the file."""
    directory = make_run(
        tmp_path / "run",
        build_tiny_base(tmp_path / "base"),
        max_train_steps=12,
        train_batch_size=2,
        with_prior_preservation=True,
        train_text_encoder=True,
        lr_scheduler=LrScheduler.COSINE,
        learning_rate=5e-3,
    )
    with Reporter(directory.events) as reporter:
        run(Attempt(directory, read_spec(directory), Supervision(directory), reporter))
    steps = [message for message in read_messages(directory) if isinstance(message, Step)]
    found = {"loss": [step.loss for step in steps], "grad_norm": [step.grad_norm for step in steps]}
    pinned = msgspec.json.decode(GOLDEN.read_bytes())
    assert found["loss"] == pytest.approx(pinned["loss"], rel=TOLERANCE)
    assert found["grad_norm"] == pytest.approx(pinned["grad_norm"], rel=10 * TOLERANCE)
