"""What a trainer's process says on a disk that is full: in its events while they have room, else by its exit code."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maquette.core.children import child_environment
from maquette.core.lifecycle import Reason
from maquette.core.progress import DISK_FULL_EXIT, Failed
from maquette.core.rundir import RunDirectory, RunSpec
from maquette.testing.factories import training_spec
from maquette.testing.runs import read_messages

ROOM = 100_000
"""Bytes that a file may measure; the system's word for more reads like a full disk's."""
PROGRAM = """
import errno, sys
from maquette.trainer.__main__ import main

def find_no_room(attempt):
    raise OSError(errno.ENOSPC, "No space left on device", "adapter.safetensors")

sys.exit(main(find_no_room))
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose log has no room any more."""
    directory = RunDirectory(tmp_path)
    directory.create()
    directory.write(directory.spec, RunSpec(task_id="a", fence=1, training=training_spec(), base_path="nowhere"))
    directory.log.write_bytes(b"." * ROOM)
    return directory


def exit_code(run: RunDirectory) -> int:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))

    with run.log.open("ab") as log:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(run.root)],
            env=child_environment(os.environ, threads=1),
            stdout=log,
            stderr=log,
            timeout=60,
            check=False,
            preexec_fn=limit,
        ).returncode


def test_a_log_without_room_keeps_no_reason_back(run: RunDirectory) -> None:
    assert exit_code(run) == 1
    (failed,) = read_messages(run)
    assert isinstance(failed, Failed)
    assert (failed.reason, failed.message) == (Reason.DISK_FULL, "no space left to write adapter.safetensors")


def test_where_not_even_a_message_has_room_the_exit_code_says_it(run: RunDirectory) -> None:
    told = b"." * (ROOM - 10) + b"\n"
    run.events.write_bytes(told)
    assert exit_code(run) == DISK_FULL_EXIT
    assert run.events.read_bytes() == told
