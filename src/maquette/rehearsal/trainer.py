"""`python -m maquette.rehearsal.trainer RUN_DIR`: the trainer of a sandbox, which breaks down where asked.

What is asked stands in the name of the task (`core.rehearsal`). A task that asks for nothing is trained as ever.
"""

import importlib
import os
import signal
import sys

from maquette.core.rehearsal import Breakdown, asked_for
from maquette.trainer.__main__ import main, run
from maquette.trainer.attempt import Attempt


def train(attempt: Attempt) -> None:
    """Carry out an attempt as far as its breakdown lets it come; raises as `maquette.trainer.loop.run` does."""
    asked = asked_for(attempt.spec.name)
    if asked == Breakdown.LOST_WORKER:
        os.kill(os.getpid(), signal.SIGKILL)
    if asked in set(Breakdown):
        # By name: torch takes seconds to import, and a failing import is a failure to report.
        importlib.import_module("maquette.rehearsal.breakdowns").train(attempt, Breakdown(asked))
    else:
        run(attempt)


if __name__ == "__main__":
    sys.exit(main(train))
