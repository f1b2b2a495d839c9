"""Trying a base before it is registered: it is loaded in a process of its own, since the server has no torch."""

import os
import subprocess
import sys
from signal import Signals

from maquette.core.basefolder import UNFIT_EXIT, BrokenBase
from maquette.core.children import child_environment
from maquette.families.environment import ENVIRONMENT
from maquette.server.bases.repository import Base


def try_out(base: Base) -> str | None:
    """Have a base loaded as training would load it; answers why it could not be tried here, None where it was.

    For commands: it blocks for as long as it reads. In host memory it takes no more than training on a GPU does.

    Raises:
        BrokenBase: it can't be used; the message says what was expected, and what was found.
    """
    tried = subprocess.run(
        [sys.executable, "-P", "-m", "maquette.families.trial", base.family, base.location],
        env=child_environment(os.environ, os.cpu_count() or 1) | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == UNFIT_EXIT:
        raise BrokenBase(tried.stdout.strip())
    if tried.returncode == 0:
        return None
    if tried.returncode < 0:
        return f"its process was ended by {Signals(-tried.returncode).name}"
    return (tried.stderr.splitlines() or [f"its process ended with {tried.returncode}"])[-1]
