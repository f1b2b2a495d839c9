"""`python -m maquette.trainer RUN_DIR`: carry out one attempt, as its run directory says.

Exit codes are hints, the events and `manifest.json` are the truth: 0 finished, or stopped as asked; 1 failed, with
the reason in the last event; 2 called wrongly; `DISK_FULL_EXIT` failed, and on the full disk no event had room.
"""

import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from maquette.core.lifecycle import Reason
from maquette.core.processes import identify
from maquette.core.progress import DISK_FULL_EXIT, Finished, Stopped
from maquette.core.rundir import RunDirectory, RunSpec
from maquette.families.environment import prepare_environment
from maquette.trainer.attempt import Attempt
from maquette.trainer.failures import StopRequested, failed
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision


def run(attempt: Attempt) -> None:
    """Carry out an attempt; raises as `maquette.trainer.loop.run` does."""
    # By name and only now: torch takes seconds to import, and a failing import is a failure to report.
    importlib.import_module("maquette.trainer.loop").run(attempt)


def main(carry_out: Callable[[Attempt], None] = run) -> int:
    """Take one attempt from its run directory and have it carried out; answer the exit code."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.stderr.write("usage: python -m maquette.trainer RUN_DIR\n")
        return 2
    try:
        return _take(RunDirectory(Path(sys.argv[1])), carry_out)
    except OSError as unsaid:
        if failed(unsaid).reason is not Reason.DISK_FULL:
            raise
        return DISK_FULL_EXIT


def _take(directory: RunDirectory, carry_out: Callable[[Attempt], None]) -> int:
    directory.create()
    # Before anything slow: whoever comes back after a crash must be able to tell whether we live.
    directory.write(directory.process, identify(os.getpid()))
    supervision = Supervision(directory)
    supervision.listen()
    with Reporter(directory.events) as reporter:
        return _attempt(directory, supervision, reporter, carry_out)


def _attempt(
    directory: RunDirectory, supervision: Supervision, reporter: Reporter, carry_out: Callable[[Attempt], None]
) -> int:
    try:
        spec = directory.read(directory.spec, RunSpec)
        if spec is None:
            raise FileNotFoundError(f"{directory.spec} does not exist")
        supervision.abandon_after = spec.abandon_after
        prepare_environment()
        carry_out(Attempt(directory, spec, supervision, reporter))
    except StopRequested as stop:
        reporter.say(Stopped(at=time.time(), step=stop.step))
        return 0
    except Exception as error:
        with suppress(OSError):
            # Where the log has no room, the events may.
            traceback.print_exc()
        reporter.say(failed(error))
        return 1
    reporter.say(Finished(at=time.time()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
