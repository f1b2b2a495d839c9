"""One inference worker as its pool sees it: a child process, and the socket on which it is asked."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from maquette.core.children import GIVEN_FD, child_environment, start_child
from maquette.core.drawing import (
    LENGTH_BYTES,
    NOTHING_LOADED,
    PROTOCOL,
    BrokenMessage,
    Compared,
    Draw,
    Drawn,
    Message,
    Progress,
    Ready,
    Refused,
    ToWorker,
    body_length,
    pack,
    unpack,
)
from maquette.core.processes import identify
from maquette.serving.base import DEVICE, OnStep, PoolSettings, WorkerLost

LOOK_AGAIN = 0.02
"""Seconds between two looks at a process that was killed."""

Answer: TypeAlias = Drawn | Compared | Refused


class Worker:
    """A worker process. It is used by one coroutine at a time; whatever goes wrong with it is `WorkerLost`.

    Whoever made one ends it, in whatever state it is: `end` is due even where `start` failed or was cancelled.

    Attributes:
        loaded: what it holds, as far as it has told.
        versions: what decides how its pictures come out; see `Pool.versions`.
        pid: of its process, None before there is one.
        exit_code: of its process once it has ended and was ours to ask; negative for a signal.
    """

    def __init__(self, device: str, log: Path, settings: PoolSettings) -> None:
        """Take its torch device string, and the file for its output."""
        self._device = device
        self._log = log
        self._settings = settings
        self._mutex = threading.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._theirs: socket.socket | None = None
        self._ended = False
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.loaded = NOTHING_LOADED
        self.versions: dict[str, str] = {}

    async def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            WorkerLost: it can't be started, does not become ready in time, or speaks another protocol.
        """
        try:
            ours, self._theirs = socket.socketpair()
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            await asyncio.to_thread(self._spawn, self._theirs)
        except OSError as error:
            raise WorkerLost(f"the worker can't be started: {error}") from error
        async with _in_time(self._settings.start_timeout, "the worker did not become ready"):
            ready = await self._receive()
        if not isinstance(ready, Ready):
            raise WorkerLost(f"the worker began with {_name(ready)}")
        if ready.protocol != PROTOCOL:
            raise WorkerLost(f"the worker speaks protocol {ready.protocol}, this server {PROTOCOL}")
        self.versions = {DEVICE: ready.device, **ready.versions}

    async def ask(self, message: ToWorker, on_step: OnStep) -> Answer:
        """Have a request carried out; answers what the worker did.

        Raises:
            WorkerLost: it died, said nothing for too long, or what it said is no answer.
        """
        async with _in_time(self._settings.silence_timeout, "the worker took no request"):
            await self._send(pack(message))
        while True:
            async with _in_time(self._settings.silence_timeout, "the worker said nothing"):
                said = await self._receive()
            match said:
                case Progress(number=message.number):
                    on_step(said.step, said.steps)
                case Refused(number=message.number):
                    return self._answered(said)
                case Drawn(number=message.number) if isinstance(message, Draw):
                    return self._answered(said)
                case Compared(number=message.number) if not isinstance(message, Draw):
                    return self._answered(said)
                case _:
                    raise WorkerLost(f"the worker answered request {message.number} with {_name(said)}")

    async def watch(self) -> None:
        """Raise `WorkerLost` when a worker that has nothing to do dies or speaks; may be cancelled at any time."""
        said = await self._receive()
        raise WorkerLost(f"the worker said {_name(said)} unasked")

    async def end(self) -> None:
        """Kill the process and its whole group, and return when it is gone. Harmless the second time."""
        if self._writer is not None:
            self._writer.transport.abort()
        await asyncio.to_thread(self._kill)
        while True:
            if self._gone():
                return
            await asyncio.sleep(LOOK_AGAIN)

    def _spawn(self, theirs: socket.socket) -> None:
        """Start the process with its end of the socket, unless it is to end already; a thread can't be cancelled."""
        with self._mutex, theirs:
            if self._ended:
                return
            if self._log.exists():
                self._log.replace(self._log.with_suffix(".previous"))
            self.pid = start_child(
                (
                    *self._settings.program,
                    *("serve", "--fd", str(GIVEN_FD), "--device", self._device),
                    *("--lora-bytes", str(self._settings.lora_bytes), "--bases", str(self._settings.bases)),
                ),
                child_environment(os.environ, self._settings.threads),
                self._log,
                given=theirs.fileno(),
            )

    def _kill(self) -> None:
        with self._mutex:
            self._ended = True
            if self._theirs is not None:
                self._theirs.close()
            # The group outlives its leader where that has died; until the leader is reaped its number is nobody else's.
            if self.pid is not None and self.exit_code is None:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)

    def _gone(self) -> bool:
        if self.pid is None or self.exit_code is not None:
            return True
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # Whoever started this server told it to ignore its children's ends: then the kernel reaps them.
            return identify(self.pid) is None
        if pid:
            self.exit_code = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def _answered(self, answer: Answer) -> Answer:
        self.loaded = answer.loaded
        return answer

    async def _send(self, data: bytes) -> None:
        if self._writer is None:
            raise WorkerLost("the worker was not started")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise WorkerLost(f"the worker is gone: {error}") from error

    async def _receive(self) -> Message:
        """The next message; one that was cancelled midway takes nothing away."""
        if self._reader is None:
            raise WorkerLost("the worker was not started")
        try:
            head = await self._reader.readexactly(LENGTH_BYTES)
            return unpack(await self._reader.readexactly(body_length(head)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise WorkerLost("the worker is gone") from error
        except BrokenMessage as error:
            raise WorkerLost(f"the worker said something that is no message: {error}") from error


@asynccontextmanager
async def _in_time(seconds: float, failing: str) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise WorkerLost(f"{failing} within {seconds:g} s") from error


def _name(message: Message) -> str:
    return type(message).__name__.lower()
