"""When a run has diverged, and the one time that it is taken back.

Two things count as divergence. A loss, a gradient or a weight that is not a finite number; there is nothing to learn
from it. And a loss that runs away: where the base loses `RUNAWAY` times as much with the LoRA as alone, on the very
pictures that are trained on, it has not learned but forgotten.

The losses of steps would not tell. They depend on the timestep more than on the model, and what has forgotten all and
answers nothing loses no more than the noise itself. So both are measured at the same few timesteps and noise. In sixty
steps on the bundled base it was 0.8 times and less at rates of 0.003 and 0.01; at 0.02 it was 1.4 times and more within
twenty steps, and at higher rates at once.
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

RUNAWAY = 1.3
BACK_OFF = 0.5
"""What the learning rate is multiplied by when a run is taken back."""
ADVICE = "try a lower learning_rate"


def trouble_with_step(step: int, loss: float, norm: float) -> str | None:
    """What is wrong with a step that has just been computed, in words; None where nothing is."""
    if math.isfinite(loss) and math.isfinite(norm):
        return None
    return f"the loss of step {step} is {loss}, its gradient's norm {norm}"


def trouble_with_state(state: TrainingState, loss: float) -> str | None:
    """Why a state is none to go back to, in words; None where it is one. Asked before each checkpoint.

    Args:
        loss: what is lost with it on what is trained on, measured as `TrainingState.base_loss` is.
    """
    if broken := not_finite(state.parameters):
        return f"after step {state.step} the weight {broken} is not finite"
    found = f"after step {state.step} the loss on what is trained on is {loss:.4g}"
    if not math.isfinite(loss):
        return found
    if state.base_loss is not None and loss > RUNAWAY * state.base_loss:
        return f"{found}, more than {RUNAWAY} times the {state.base_loss:.4g} of the base alone"
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
