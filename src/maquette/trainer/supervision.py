"""When to stop before the end: a request, a signal, or nobody watching any more."""

import signal
import time
from pathlib import Path

from maquette.core.rundir import RunDirectory
from maquette.trainer.failures import StopRequested


class Supervision:
    """Watches for the `stop` file, SIGTERM and the supervisor's heartbeat.

    Waiting is counted on the monotonic clock from when the heartbeat was last seen to change, at first from the
    trainer's start: a clock that is set back or forth ends no run.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.stop_file = directory.stop
        self.heartbeat = directory.heartbeat
        self.abandon_after = float("inf")
        self.signalled = False
        self.seen = _changed_at(self.heartbeat)
        self.seen_at = time.monotonic()

    def listen(self) -> None:
        """Take SIGTERM for a stop request from now on."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.signalled = True

    @property
    def stop_requested(self) -> bool:
        """Whether the run should end at the next boundary."""
        return self.signalled or self.stop_file.exists() or self._abandoned()

    def check(self, step: int) -> None:
        """End the run here if it should end.

        Raises:
            StopRequested: it should.
        """
        if self.stop_requested:
            raise StopRequested(step)

    def _abandoned(self) -> bool:
        changed = _changed_at(self.heartbeat)
        if changed != self.seen:
            self.seen, self.seen_at = changed, time.monotonic()
        return time.monotonic() - self.seen_at > self.abandon_after


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
