"""What the trainer's own loop says of twelve steps on a family's tiny base, to be pinned: a refactoring that moves a
loss has changed what is learned.

    python -m maquette.testing.golden_losses sd15 > tests/golden/losses/sd15.json
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from maquette.core.progress import Step
from maquette.core.specs import LrScheduler
from maquette.testing.runs import carry_out, make_run, read_messages
from maquette.testing.tiny_bases import TINY_BASES

DIGITS = 6
"""Behind the point, more than a test may hold another machine to."""


class Losses(Struct, frozen=True):
    """Of a run.

    Attributes:
        loss: of each step.
        grad_norm: of each step's gradients together, before they are clipped.
    """

    loss: list[float]
    grad_norm: list[float]


def train(family: str, root: Path) -> Losses:
    """Train a LoRA, in an empty folder, in the way that passes through most of the loop.

    Raises:
        UnknownName: there is no such family, or it has no tiny base.
    """
    base = TINY_BASES.load(family).build(root / "base")
    directory = make_run(
        root / "run",
        base,
        max_train_steps=12,
        train_batch_size=2,
        with_prior_preservation=True,
        train_text_encoder=True,
        lr_scheduler=LrScheduler.COSINE,
        learning_rate=5e-3,
    )
    carry_out(directory)
    steps = [message for message in read_messages(directory) if isinstance(message, Step)]
    return Losses([round(step.loss, DIGITS) for step in steps], [round(step.grad_norm, DIGITS) for step in steps])


def main(family: str) -> None:
    """Print the losses of a family as its golden file has them."""
    with TemporaryDirectory() as root:
        losses = train(family, Path(root))
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(losses), indent=2) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
