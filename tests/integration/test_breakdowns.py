"""A sandbox's trainer breaks down for real where it is asked to, and only there."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from maquette.core.lifecycle import Reason
from maquette.core.progress import Step
from maquette.core.rehearsal import Breakdown
from maquette.core.rundir import Manifest, RunDirectory
from maquette.rehearsal.trainer import train
from maquette.testing.runs import change_spec, make_run, read_messages, read_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer.attempt import Attempt
from maquette.trainer.failures import RunFailed
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision
from maquette.trainer.tensors import read_tensors

pytestmark = pytest.mark.torch

PATIENCE = 300


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run", base, pictures=1)


def train_here(run: RunDirectory, name: str, fence: int = 1) -> list[int]:
    """Carry an attempt out in this process; answers the steps it told of."""
    spec = replace(read_spec(run), name=name, fence=fence)
    with Reporter(run.events) as reporter:
        try:
            train(Attempt(run, spec, Supervision(run), reporter))
        finally:
            told = [message.step for message in read_messages(run) if isinstance(message, Step)]
    return told


def test_a_device_is_asked_for_more_memory_than_there_is_after_the_first_step(run: RunDirectory) -> None:
    with pytest.raises(RunFailed, match="allocate") as caught:
        train_here(run, "sandbox: out-of-memory")
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert [message.step for message in read_messages(run) if isinstance(message, Step)] == [1]


def test_a_rate_that_is_too_high_makes_the_loss_infinite(run: RunDirectory) -> None:
    with pytest.raises(RunFailed, match="the loss of step 2 is ") as caught:
        train_here(run, "sandbox: nan")
    assert caught.value.reason is Reason.DIVERGED


def test_a_rate_that_is_too_low_leaves_the_lora_as_it_began(run: RunDirectory) -> None:
    assert train_here(run, "sandbox: rejected") == [1, 2, 3, 4, 5, 6]
    tensors = read_tensors(run.output / "lora.safetensors")
    assert max(float(tensor.abs().max()) for name, tensor in tensors.items() if "lora_B" in name) < 1e-9


@pytest.mark.parametrize(
    ("name", "fence"), [("sandbox: lost-worker-once", 2), ("sandbox: slow-webhook", 1), ("a fox in the sandbox", 1)]
)
def test_what_asks_for_nothing_now_is_trained_to_its_end(run: RunDirectory, name: str, fence: int) -> None:
    assert train_here(run, name, fence) == [1, 2, 3, 4, 5, 6]
    assert run.read(run.manifest, Manifest) is not None


@pytest.mark.parametrize(("asked", "told"), [(Breakdown.LOST_WORKER, []), (Breakdown.LOST_WORKER_ONCE, [1, 2, 3])])
def test_a_process_is_killed_as_it_begins_or_after_half_of_the_steps(
    run: RunDirectory, asked: Breakdown, told: list[int]
) -> None:
    change_spec(run, name=f"sandbox: {asked}")
    command = [sys.executable, "-m", "maquette.rehearsal.trainer", str(run.root)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [message.step for message in read_messages(run) if isinstance(message, Step)] == told
    assert run.read(run.manifest, Manifest) is None
