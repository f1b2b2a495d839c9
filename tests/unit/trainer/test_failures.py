import errno

import pytest

from maquette.core.basefolder import BrokenBase
from maquette.core.errors import InvalidRequest
from maquette.core.lifecycle import FAILURES, Reason
from maquette.core.registry import UnknownName
from maquette.trainer.failures import RunFailed, failed


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (RunFailed(Reason.BAD_DATASET, "0-a.png: cut off"), Reason.BAD_DATASET, "0-a.png: cut off"),
        (BrokenBase("no vae"), Reason.BROKEN_BASE, "no vae"),
        (UnknownName("no family 'x'"), Reason.BROKEN_BASE, "no family 'x'"),
        (InvalidRequest("x", "leave it out"), Reason.UNSUPPORTED, "x: leave it out"),
        (OSError(errno.ENOSPC, "No space left", "/run/x"), Reason.DISK_FULL, "no space left to write /run/x"),
        (OSError(errno.EDQUOT, "Quota exceeded"), Reason.DISK_FULL, "no space left to write a file"),
        (OSError(errno.EFBIG, "File too large"), Reason.DISK_FULL, "no space left to write a file"),
        (OSError(errno.EIO, "I/O error"), Reason.INTERNAL, "OSError: [Errno 5] I/O error"),
        (KeyError("lora"), Reason.INTERNAL, "KeyError: 'lora'"),
    ],
)
def test_an_error_tells_its_reason(error: Exception, reason: Reason, message: str) -> None:
    told = failed(error)
    assert (told.reason, told.message) == (reason, message)
    assert told.reason in FAILURES
