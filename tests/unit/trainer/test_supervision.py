import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from maquette.core.rundir import RunDirectory
from maquette.trainer.failures import StopRequested
from maquette.trainer.supervision import Supervision


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


@pytest.fixture
def handlers() -> Generator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_nothing_asks_to_stop(directory: RunDirectory) -> None:
    supervision = Supervision(directory)
    supervision.check(3)
    assert not supervision.stop_requested


def test_the_stop_file_asks(directory: RunDirectory) -> None:
    supervision = Supervision(directory)
    directory.stop.touch()
    with pytest.raises(StopRequested) as stop:
        supervision.check(3)
    assert stop.value.step == 3


@pytest.mark.usefixtures("handlers")
def test_sigterm_asks(directory: RunDirectory) -> None:
    supervision = Supervision(directory)
    supervision.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    assert supervision.stop_requested


def test_a_missing_heartbeat_counts_from_the_start(directory: RunDirectory, clock: Clock) -> None:
    supervision = Supervision(directory)
    supervision.abandon_after = 60
    clock.now += 60
    assert not supervision.stop_requested
    clock.now += 1
    assert supervision.stop_requested


def test_each_heartbeat_starts_the_count_anew(directory: RunDirectory, clock: Clock) -> None:
    directory.heartbeat.touch()
    supervision = Supervision(directory)
    supervision.abandon_after = 60
    for beat in range(1, 4):
        clock.now += 50
        # Any change counts, whatever time of day the file claims.
        os.utime(directory.heartbeat, (beat, beat))
        assert not supervision.stop_requested
    clock.now += 61
    assert supervision.stop_requested


def test_an_old_heartbeat_from_before_the_start_ends_nothing(directory: RunDirectory, clock: Clock) -> None:
    directory.heartbeat.touch()
    os.utime(directory.heartbeat, (1, 1))
    supervision = Supervision(directory)
    supervision.abandon_after = 60
    assert not supervision.stop_requested
