"""Measurements of a run, kept in blocks so that a long run costs few rows."""

from msgspec import Struct

from maquette.core.progress import Step

BLOCK_STEPS = 256


class MetricsBlock(Struct, kw_only=True):
    """Up to 256 consecutive steps; entry `i` of each list is step `first_step + i`.

    Attributes:
        first_step: 1, 257, 513, …
        loss: training loss of the step.
        lr: learning rate the step used.
        seconds: the step's duration.
        grad_norm: norm of the step's gradient before it was clipped.
        peak_bytes: most memory that the attempt had taken by then.
    """

    first_step: int
    loss: list[float] = []
    lr: list[float] = []
    seconds: list[float] = []
    grad_norm: list[float] = []
    peak_bytes: list[int] = []

    @property
    def last_step(self) -> int:
        """The newest step held; `first_step - 1` when empty."""
        return self.first_step + len(self.loss) - 1

    def put(self, step: Step) -> None:
        """Add a step; one that was there already, and all after it, give way to it (a resumed run repeats steps)."""
        index = step.step - self.first_step
        # Blocks of older servers lack the newer series: those begin where they are first told.
        for series in (self.grad_norm, self.peak_bytes):
            series.extend([0] * (index - len(series)))
        self.loss[index:] = [step.loss]
        self.lr[index:] = [step.lr]
        self.seconds[index:] = [step.seconds]
        self.grad_norm[index:] = [step.grad_norm]
        self.peak_bytes[index:] = [step.peak_bytes]


def first_step_of_block(step: int) -> int:
    """First step of the block that holds `step`."""
    return (step - 1) // BLOCK_STEPS * BLOCK_STEPS + 1
