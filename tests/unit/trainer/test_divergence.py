"""When a run has diverged, and that it is taken back once."""

from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from maquette.core.lifecycle import Reason
from maquette.core.progress import SteppedBack
from maquette.core.rundir import RunDirectory, RunSpec
from maquette.testing.factories import training_spec
from maquette.testing.runs import read_messages
from maquette.trainer import checkpoint
from maquette.trainer.attempt import Attempt
from maquette.trainer.checkpoint import Extras, TrainingState
from maquette.trainer.divergence import step_back, trouble_with_state, trouble_with_step
from maquette.trainer.export import not_finite
from maquette.trainer.failures import RunFailed
from maquette.trainer.optim import build_lr_scheduler, build_optimizer, used_rate
from maquette.trainer.randomness import Randomness
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision

pytestmark = pytest.mark.torch

SPEC = training_spec(steps=500)
RATE = SPEC.settings.learning_rate
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def state() -> TrainingState:
    parameters = {"a.weight": Parameter(torch.ones(4, 3))}
    optimizer = build_optimizer(parameters.values(), SPEC.settings)
    randomness = Randomness(1, 3, 2, torch.device("cpu"))
    return TrainingState(parameters, optimizer, build_lr_scheduler(optimizer, SPEC.settings), randomness)


@pytest.fixture
def attempt(tmp_path: Path) -> Generator[Attempt]:
    directory = RunDirectory(tmp_path)
    directory.create()
    spec = RunSpec(task_id="a", fence=1, training=SPEC, base_path="nowhere")
    with Reporter(directory.events) as reporter:
        yield Attempt(directory, spec, Supervision(directory), reporter)


def keep(attempt: Attempt, state: TrainingState) -> None:
    checkpoint.save(attempt.directory, state, SPEC, Extras(header={}, probe=0.0))


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (0.1, NAN), (0.1, INF)])
def test_what_is_no_finite_number_is_trouble(loss: float, norm: float) -> None:
    assert trouble_with_step(7, loss, norm) == f"the loss of step 7 is {loss}, its gradient's norm {norm}"


def test_a_large_loss_of_one_step_is_none() -> None:
    assert trouble_with_step(7, 1e6, 1e9) is None


def test_what_is_worse_than_the_base_alone_is_trouble(state: TrainingState) -> None:
    state.base_loss = 0.2
    assert trouble_with_state(state, 0.25) is None
    assert trouble_with_state(state, 0.27) == (
        "after step 0 the loss on what is trained on is 0.27, more than 1.3 times the 0.2 of the base alone"
    )


def test_what_the_base_alone_loses_need_not_be_known(state: TrainingState) -> None:
    assert trouble_with_state(state, 1e6) is None


@pytest.mark.parametrize("loss", [NAN, INF])
def test_a_loss_that_is_no_finite_number_is_trouble(state: TrainingState, loss: float) -> None:
    assert trouble_with_state(state, loss) == f"after step 0 the loss on what is trained on is {loss}"


def test_a_weight_that_is_not_finite_is_trouble(state: TrainingState) -> None:
    with torch.no_grad():
        state.parameters["a.weight"][2, 1] = INF
    assert trouble_with_state(state, NAN) == "after step 0 the weight a.weight is not finite"


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_first_weight_that_is_not_finite_is_named(bad: float) -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.tensor([1.0, bad]), "c": torch.tensor(bad)}
    assert not_finite(weights) == "b"


def test_a_number_as_large_as_there_are_is_finite() -> None:
    largest = torch.finfo(torch.float32).max
    assert not_finite({"a": torch.full((2, 3), largest), "b": torch.full((4,), -largest)}) is None


def test_it_goes_on_from_the_last_checkpoint_at_half_the_rate(attempt: Attempt, state: TrainingState) -> None:
    for loss in (0.5, 0.4):
        state.advance(loss)
    keep(attempt, state)
    state.advance(0.3)
    with torch.no_grad():
        state.parameters["a.weight"].fill_(NAN)
    step_back(attempt, state, 4, "the loss of step 4 is nan")
    assert (state.step, state.losses, state.diverged_at) == (2, [0.5, 0.4], 4)
    assert torch.equal(state.parameters["a.weight"], torch.ones(4, 3))
    assert used_rate(state.optimizer) == pytest.approx(RATE / 2)
    (said,) = read_messages(attempt.directory)
    assert isinstance(said, SteppedBack)
    assert (said.diverged_at, said.to, said.lr) == (4, 2, pytest.approx(RATE / 2))


def test_that_it_was_taken_back_is_in_its_checkpoints_and_happens_once(attempt: Attempt, state: TrainingState) -> None:
    keep(attempt, state)
    step_back(attempt, state, 1, "the loss of step 1 is nan")
    state.advance(0.5)
    keep(attempt, state)
    state.diverged_at = None
    checkpoint.restore(attempt.directory.checkpoint(1), state)
    assert (state.diverged_at, used_rate(state.optimizer)) == (1, pytest.approx(RATE / 2))
    with pytest.raises(RunFailed, match="the loss of step 2 is inf; it had diverged at step 1 at twice the") as failure:
        step_back(attempt, state, 2, "the loss of step 2 is inf")
    assert failure.value.reason is Reason.DIVERGED


def test_without_a_checkpoint_there_is_nowhere_to_go(attempt: Attempt, state: TrainingState) -> None:
    with pytest.raises(RunFailed, match="there is no checkpoint to go back to"):
        step_back(attempt, state, 1, "the loss of step 1 is nan")
