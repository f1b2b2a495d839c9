"""Measurements of a run, kept in blocks so that a long run costs few rows."""

from msgspec import Struct

BLOCK_STEPS = 256


class MetricsBlock(Struct, kw_only=True):
    """Up to 256 consecutive steps; entry `i` of each list is step `first_step + i`.

    Attributes:
        first_step: 1, 257, 513, …
        loss: training loss of the step.
        lr: learning rate the step used.
        seconds: the step's duration.
    """

    first_step: int
    loss: list[float] = []
    lr: list[float] = []
    seconds: list[float] = []

    @property
    def last_step(self) -> int:
        """The newest step held; `first_step - 1` when empty."""
        return self.first_step + len(self.loss) - 1

    def put(self, step: int, *, loss: float, lr: float, seconds: float) -> None:
        """Add a step; one that was there already, and all after it, give way to it (a resumed run repeats steps)."""
        index = step - self.first_step
        for series, value in ((self.loss, loss), (self.lr, lr), (self.seconds, seconds)):
            series[index:] = [value]


def first_step_of_block(step: int) -> int:
    """First step of the block that holds `step`."""
    return (step - 1) // BLOCK_STEPS * BLOCK_STEPS + 1
