"""What a run is told of its memory before anything of its base is loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from maquette.core.lifecycle import Reason
from maquette.core.progress import Planned
from maquette.core.rundir import RunDirectory
from maquette.families.memory import MemoryPlan
from maquette.families.sd15.spec import SPEC
from maquette.testing.runs import make_run, read_messages, read_spec
from maquette.testing.tiny_family import build_tiny_base
from maquette.trainer import memory
from maquette.trainer.attempt import Attempt
from maquette.trainer.failures import RunFailed
from maquette.trainer.memory import plan_run
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision

pytestmark = pytest.mark.torch

PLENTY, LITTLE = 1 << 40, 1 << 10
LEANEST = 1
"""Attempts of a tiny base that run out of memory before the leanest plan: none between takes markedly less."""

Plan = Callable[..., MemoryPlan]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run", build_tiny_base(tmp_path / "base"), train_batch_size=2)


@pytest.fixture
def plan(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plans the run with so much free memory, after attempts that ran out of it."""

    def planned(free: int, *, leaner: int = 0) -> MemoryPlan:
        monkeypatch.setattr(memory, "free_bytes", lambda _device: free)
        spec = replace(read_spec(directory), leaner=leaner)
        with Reporter(directory.events) as reporter:
            attempt = Attempt(directory, spec, Supervision(directory), reporter)
            return plan_run(attempt, SPEC.memory, torch.device("cpu"))

    return planned


def why(directory: RunDirectory) -> str:
    (told,) = [message for message in read_messages(directory) if isinstance(message, Planned)]
    return told.why


def test_what_fits_is_told_to_take_so_much_of_what_is_free(plan: Plan, directory: RunDirectory) -> None:
    plan(PLENTY)
    assert why(directory).endswith(" GiB of the 1024.00 GiB that are free")


def test_what_does_not_fit_is_told_not_to(plan: Plan, directory: RunDirectory) -> None:
    assert plan(LITTLE).micro_batch == 1
    assert "0.00 GiB that are free; which is too much by that estimate, and tried all the same" in why(directory)


def test_what_is_leaner_than_must_be_is_told_why(plan: Plan, directory: RunDirectory) -> None:
    assert plan(PLENTY, leaner=LEANEST).micro_batch == 1
    assert "leaner than must be by that estimate, since an earlier attempt ran out of memory" in why(directory)


@pytest.mark.parametrize(("free", "leaner"), [(LITTLE, 1), (PLENTY, LEANEST + 1)])
def test_after_the_leanest_no_attempt_is_made(plan: Plan, directory: RunDirectory, free: int, leaner: int) -> None:
    with pytest.raises(RunFailed, match=r"in an earlier attempt, and none can be leaner: .* lower lora_r") as failure:
        plan(free, leaner=leaner)
    assert failure.value.reason is Reason.OUT_OF_MEMORY
    assert not any(isinstance(message, Planned) for message in read_messages(directory))
