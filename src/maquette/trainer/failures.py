"""How a run may end before its end. Torch-free, so that a failing import can be reported too."""

import errno
import time

from maquette.core.basefolder import BrokenBase
from maquette.core.errors import InvalidRequest
from maquette.core.lifecycle import Reason
from maquette.core.progress import Failed
from maquette.core.registry import UnknownName


class RunFailed(Exception):
    """The run can't go on; the reason decides whether another attempt is due, the message is for the owner."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class StopRequested(Exception):
    """The run ends at a boundary because it was asked to; everything up to `step` is in a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


def failed(error: Exception) -> Failed:
    """The message that tells of an error."""
    reason, message = _classify(error)
    return Failed(at=time.time(), reason=reason, message=message)


def _classify(error: Exception) -> tuple[Reason, str]:
    match error:
        case RunFailed():
            return error.reason, error.message
        case BrokenBase() | UnknownName():
            return Reason.BROKEN_BASE, str(error)
        case InvalidRequest():
            return Reason.UNSUPPORTED, error.message
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return Reason.DISK_FULL, f"no space left to write {error.filename or 'a file'}"
        case _:
            return Reason.INTERNAL, f"{type(error).__name__}: {error}"
