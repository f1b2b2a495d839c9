"""When a run has diverged, and the one time that it is taken back.

Two things count as divergence. A loss, a gradient or a weight that is not a finite number; there is nothing to learn
from it. And a loss that runs away: a run whose mean loss over the last steps is `RUNAWAY` times what the base alone
loses on the same pictures has not learned but forgotten.

Single losses say little, since they depend on the timestep more than on the model: they scatter by about their own
size, the mean of fifty by a seventh of it. So what is borne grows by `SCATTER` over the number of steps, as the tail of
a mean of few does. With losses that are distributed exponentially, whose tail has no end as theirs has, chance goes
beyond it less than once in a million times, whatever the number of steps, with the scatter of the base's own mean
(`evaluation.REFERENCE_DRAWS`) counted in.
"""

import math
import time

from maquette.core.lifecycle import Reason
from maquette.core.progress import SteppedBack
from maquette.trainer import checkpoint
from maquette.trainer.attempt import Attempt
from maquette.trainer.checkpoint import TrainingState
from maquette.trainer.export import not_finite
from maquette.trainer.failures import RunFailed
from maquette.trainer.optim import scale_rate, used_rate

RUNAWAY = 3.0
SCATTER = 20.0
BACK_OFF = 0.5
"""What the learning rate is multiplied by when a run is taken back."""
ADVICE = "try a lower learning_rate"


def trouble_with_step(step: int, loss: float, norm: float) -> str | None:
    """What is wrong with a step that has just been computed, in words; None where nothing is."""
    if math.isfinite(loss) and math.isfinite(norm):
        return None
    return f"the loss of step {step} is {loss}, its gradient's norm {norm}"


def trouble_with_state(state: TrainingState) -> str | None:
    """Why a state is none to go back to, in words; None where it is one. Asked before each checkpoint."""
    if broken := not_finite(state.parameters):
        return f"after step {state.step} the weight {broken} is not finite"
    if state.reference_loss is None or not state.losses:
        return None
    borne = RUNAWAY + SCATTER / len(state.losses)
    if state.recent_loss > borne * state.reference_loss:
        return (
            f"the mean loss of the {len(state.losses)} steps up to step {state.step} is {state.recent_loss:.4g}, more"
            f" than {borne:.3g} times the {state.reference_loss:.4g} of the base alone"
        )
    return None


def step_back(attempt: Attempt, state: TrainingState, diverged_at: int, trouble: str) -> None:
    """Go back to the last good checkpoint, and on from there at half the rate.

    Raises:
        RunFailed: the run had been taken back before, or there is no checkpoint.
    """
    if state.diverged_at is not None:
        raise RunFailed(
            Reason.DIVERGED, f"{trouble}; it had diverged at step {state.diverged_at} at twice the rate; {ADVICE}"
        )
    path = checkpoint.newest(attempt.directory, attempt.training)
    if path is None:
        raise RunFailed(Reason.DIVERGED, f"{trouble}, and there is no checkpoint to go back to; {ADVICE}")
    checkpoint.restore(path, state)
    scale_rate(state.lr_scheduler, BACK_OFF)
    state.diverged_at = diverged_at
    attempt.reporter.say(
        SteppedBack(at=time.time(), diverged_at=diverged_at, to=state.step, lr=used_rate(state.optimizer), why=trouble)
    )
