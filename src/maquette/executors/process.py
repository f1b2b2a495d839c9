"""The process of a trainer: at most one in a run directory, found again after a restart, ended with all it started."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from maquette.core.children import child_environment, lower_priority, start_child
from maquette.core.processes import identify, is_alive, killed_for_memory
from maquette.core.rundir import ProcessRecord, RunDirectory

PROGRAM = ("-m", "maquette.trainer")
"""Python's arguments that mean the trainer."""
MARK = "MAQUETTE_RUN_DIR"
"""Variable in the environment of a trainer and all it starts: how they are found when their leader is dead."""


class TrainerProcess:
    """The trainer of one run directory, as its node sees it.

    Whoever starts a trainer first locks the directory (flock) and hands the open lock down to it. The kernel drops the
    lock with the last process that holds it, so no crash, at whatever line, leaves room for two trainers or a lock
    that stays. Methods block briefly and may be called from any thread.

    Attributes:
        exit_code: of a trainer started by this object that has ended, negative for a signal; else None.
        starved: whether, by all appearance, the kernel ended that trainer for want of memory. It tells nobody whom it
            ends, but counts them.
    """

    def __init__(self, run: RunDirectory, program: Sequence[str] = PROGRAM) -> None:
        self._run = run
        self._program = program
        self._child: int | None = None
        self._mutex = threading.Lock()
        self.exit_code: int | None = None
        self.starved = False
        self._starved_before = 0

    def claim(self) -> int | None:
        """Lock the run directory and answer the lock's file descriptor; None where a trainer or another claim holds it.

        The caller closes it, after `start` or instead.

        Raises:
            FileNotFoundError: no run directory.
        """
        with self._mutex:
            return self._lock()

    def was_started(self) -> bool:
        """Whether a trainer was ever started in this directory, as far as it came to say so or this object did it."""
        with self._mutex:
            return self._child is not None or self._run.process.exists()

    def start(self, lock: int, threads: int) -> None:
        """Start a trainer as the leader of its own session, holding `lock`; its output goes to the log.

        Raises:
            OSError: the system refuses.
        """
        with self._mutex:
            self._starved_before = killed_for_memory()
            self._child = start_child(
                (*self._program, str(self._run.root)),
                trainer_environment(os.environ, self._run.root, threads),
                self._run.log,
                given=lock,
            )

    def stand_back(self, nice: int) -> None:
        """Let the trainer that this object has just started wait behind others: see `lower_priority`."""
        if self._child is not None:
            lower_priority(self._child, nice)

    def alive(self) -> bool:
        """Whether a trainer runs here, or is being prepared.

        A child of ours is asked for by waiting, others by the record they wrote first of all. Before that record
        exists only the lock tells.
        """
        with self._mutex:
            if self._child is not None:
                return not self._reaped(self._child)
            record = self._record()
            return is_alive(record) if record else self._locked()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the trainer's process group; harmless when the trainer is dead."""
        with self._mutex:
            leader = self._leader()
            if leader is not None:
                with suppress(ProcessLookupError):
                    os.killpg(leader, number)

    def kill(self) -> None:
        """End the trainer and everything it has ever started, at once; harmless when there is nothing."""
        self.signal(signal.SIGKILL)
        for pid in processes_marked(self._run.root):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _leader(self) -> int | None:
        if self._child is not None:
            return None if self._reaped(self._child) else self._child
        record = self._record()
        return record.pid if record and is_alive(record) else None

    def _record(self) -> ProcessRecord | None:
        return self._run.read(self._run.process, ProcessRecord)

    def _reaped(self, child: int) -> bool:
        if self.exit_code is None:
            try:
                pid, status = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                # Whoever started this server told it to ignore its children's ends: then the kernel reaps them.
                return identify(child) is None
            if pid == child:
                self.exit_code = os.waitstatus_to_exitcode(status)
                self.starved = self.exit_code == -signal.SIGKILL and killed_for_memory() > self._starved_before
        return self.exit_code is not None

    def _lock(self) -> int | None:
        lock = os.open(self._run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _locked(self) -> bool:
        try:
            lock = self._lock()
        except FileNotFoundError:
            # Erased meanwhile, and nothing is erased before it is dead.
            return False
        if lock is None:
            return True
        os.close(lock)
        return False


def trainer_environment(ours: Mapping[str, str], root: Path, threads: int) -> dict[str, str]:
    """The environment of a trainer: see `child_environment`, and its mark.

    Args:
        ours: the server's environment.
        root: the run directory.
        threads: computing threads it may use.
    """
    return child_environment(ours, threads) | {MARK: str(root)}


def processes_marked(root: Path) -> Iterator[int]:
    """Ids of the living processes whose environment carries the mark of this run directory."""
    mark = f"{MARK}={root}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                yield int(environ.parent.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
