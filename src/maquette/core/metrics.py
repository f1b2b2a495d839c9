"""Measurements of a run: kept in blocks so that a long run costs few rows, told as a curve of few points."""

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from maquette.core.progress import Step

BLOCK_STEPS = 256
RECENT_LOSSES = 50
"""Steps that a moving average goes over. A step's loss depends on its timestep more than on the model, so that losses
scatter by about their own size; the mean of fifty by a seventh of it."""
MAX_POINTS = 500
"""Points of a curve at most: about as many as a chart has pixels for."""


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


class MetricsPoint(Struct, frozen=True, kw_only=True):
    """What was measured from the point before up to a step.

    Attributes:
        step: the last of the steps that it stands for.
        loss: their mean training loss.
        loss_average: mean loss of the last `RECENT_LOSSES` steps up to this one, of all there are at the beginning;
            its manifest ends with it. A plain mean, so that nothing of where it began must be corrected for.
        lr: learning rate that the step used.
        grad_norm: mean norm of their gradients before they were clipped.
        steps_per_second: pace of these steps, without what is done between steps: checkpoints, validation, samples.
        peak_bytes: most memory that the attempt had taken by then.
    """

    step: int
    loss: float
    loss_average: float
    lr: float
    grad_norm: float
    steps_per_second: float
    peak_bytes: int


class ValidationPoint(Struct, frozen=True):
    """The mean loss on pictures that are held out, after a step."""

    step: int
    loss: float


class Curve(Struct, frozen=True, kw_only=True):
    """How a run goes, oldest first, each of both thinned; `validation` is empty where no picture is held out."""

    points: list[MetricsPoint]
    validation: list[ValidationPoint]


def thinned(blocks: Iterable[MetricsBlock], points: int) -> list[MetricsPoint]:
    """At most so many points of a run at even distances, each for all steps since the one before; the last is where
    the run stands.

    Args:
        blocks: all of the run's, oldest first.
    """
    run = _joined(blocks)
    stride = max(1, -(-run.last_step // points))
    return [_point(run, begin, min(begin + stride, run.last_step)) for begin in range(0, run.last_step, stride)]


def standing(blocks: Sequence[MetricsBlock]) -> MetricsPoint | None:
    """The point for a run's last `RECENT_LOSSES` steps, or for all so far; None before the first.

    Args:
        blocks: the run's last ones, oldest first, with so many steps in them as the run has.
    """
    run = _joined(blocks)
    if not run.loss:
        return None
    point = _point(run, max(0, run.last_step - RECENT_LOSSES), run.last_step)
    return replace(point, step=blocks[-1].last_step)


def last_told(validation: Sequence[ValidationPoint]) -> list[ValidationPoint]:
    """A run's validation as it holds: what was told later overrules what was told of its step and those after it, since
    a run that went back to a checkpoint measures them anew.
    """
    held: list[ValidationPoint] = []
    for told in validation:
        while held and held[-1].step >= told.step:
            held.pop()
        held.append(told)
    return held


def thinned_validation(held: Sequence[ValidationPoint], points: int) -> list[ValidationPoint]:
    """At most so many of a run's losses on held out pictures, every so-manieth as it was measured; the last is the
    newest. They are at the same timesteps and noise every time, so that no mean is needed to compare them.
    """
    stride = max(1, -(-len(held) // points))
    return list(held[(len(held) - 1) % stride :: stride])


def _joined(blocks: Iterable[MetricsBlock]) -> MetricsBlock:
    run = MetricsBlock(first_step=1)
    for block in blocks:
        run.loss += block.loss
        run.lr += block.lr
        run.seconds += block.seconds
        for series, told in ((run.grad_norm, block.grad_norm), (run.peak_bytes, block.peak_bytes)):
            series += [*told, *[0] * (len(block.loss) - len(told))]
    return run


def _point(run: MetricsBlock, begin: int, end: int) -> MetricsPoint:
    """The point for the steps after step `begin` up to step `end`."""
    steps = slice(begin, end)
    seconds = sum(run.seconds[steps])
    return MetricsPoint(
        step=end,
        loss=_mean(run.loss[steps]),
        loss_average=_mean(run.loss[max(0, end - RECENT_LOSSES) : end]),
        lr=run.lr[end - 1],
        grad_norm=_mean(run.grad_norm[steps]),
        steps_per_second=(end - begin) / seconds if seconds else 0.0,
        peak_bytes=run.peak_bytes[end - 1],
    )


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
