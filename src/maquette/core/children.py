"""Child processes that compute: how trainers and inference workers are started."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

NOT_FOR_CHILDREN = ("MAQUETTE_", "AWS_", "AZURE_", "GOOGLE_", "HF_TOKEN")
"""The server's settings and keys; who computes needs none of them."""

GIVEN_FD = 3
"""Where a child finds the file descriptor it was given."""

OUR_DESCRIPTORS = Path("/proc/self/fd")
AUTOGROUP_TRIES = 5
AUTOGROUP_PAUSE = 0.15
"""Seconds; the kernel lets an unprivileged process set the weight of a session every 0.1 s only (sched(7))."""


def child_environment(ours: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a computing child: ours without secrets, and what keeps it offline and modest.

    Args:
        ours: the server's environment.
        threads: computing threads it may use.
    """
    passed = {name: value for name, value in ours.items() if not name.startswith(NOT_FOR_CHILDREN)}
    return passed | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait for work sleep instead of spinning: other tenants' work shares the cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        # glibc otherwise keeps an arena of freed memory for each of many threads.
        "MALLOC_ARENA_MAX": "2",
    }


def start_child(arguments: Sequence[str], environment: Mapping[str, str], log: Path, given: int) -> int:
    """Start Python as the leader of its own session; answer its process id.

    Of our file descriptors it inherits `given` alone, as `GIVEN_FD`, whatever others were left inheritable here.

    Args:
        arguments: of Python, after the interpreter's own.
        environment: all it gets.
        log: file to which its output is appended.
        given: an open file descriptor; the caller keeps it and closes it.

    Raises:
        OSError: the system refuses.
    """
    strays = [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() if number != given]
    return os.posix_spawn(
        sys.executable,
        # -P: what lies in the working directory is data, never a module.
        [sys.executable, "-P", *arguments],
        environment,
        file_actions=[
            *strays,
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, given, GIVEN_FD),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ),
    )


def lower_priority(child: int, nice: int) -> None:
    """Let a child that has just been started, and all it will start, wait behind others for the processor.

    Where the kernel groups processes by session (`sched_autogroup_enabled`), nice values count within a session alone,
    and a child leads one of its own: the session's weight is lowered too. Blocks for some tenths of a second at most.

    Args:
        child: its process id.
        nice: 0 changes nothing, 19 is the least.
    """
    if nice <= 0:
        return
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, child, nice)
    for _ in range(AUTOGROUP_TRIES):
        try:
            Path(f"/proc/{child}/autogroup").write_text(str(nice))
        except BlockingIOError:
            time.sleep(AUTOGROUP_PAUSE)
        except OSError:
            # A kernel without such groups, or the child is gone already.
            return
        else:
            return


def _inheritable() -> Iterator[int]:
    """Our file descriptors above the standard three that a child would inherit."""
    for number in (int(name) for name in os.listdir(OUR_DESCRIPTORS)):  # noqa: PTH208 - a link's name is all we want
        # Closed meanwhile: the listing's own, or another thread's.
        with suppress(OSError):
            if number > 2 and os.get_inheritable(number):
                yield number
