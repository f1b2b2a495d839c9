"""One attempt on the node where its trainer runs: staged in, started, listened to, staged out.

What is written here knows neither rows nor handles, so that any executor whose node has a disk can use it.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from maquette.core.progress import CheckpointSaved, SamplesDrawn, TrainerMessage
from maquette.core.rundir import DEFAULT_CACHE_BYTES, RunDirectory, RunSpec
from maquette.executors.base import AttemptPlan, CheckpointRef, Liveness, Observation, UnknownAttempt
from maquette.executors.process import PROGRAM, TrainerProcess
from maquette.executors.staging import (
    inside,
    stage_in_newest_checkpoints,
    stage_in_pictures,
    stage_out_checkpoint,
    stage_out_result,
)
from maquette.storage.base import Storage

log = structlog.get_logger(__name__)

LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 16_384
BEATS = 4
"""Signs of life in the time after which a trainer that gets none ends by itself."""

_messages = msgspec.json.Decoder(TrainerMessage)


class NodeSettings(Struct, frozen=True, kw_only=True):
    """What an operator decides for every trainer of a node.

    Attributes:
        threads: computing threads of one trainer.
        abandon_after: seconds without a poll after which a trainer stops by itself.
        step_delay: seconds a trainer sleeps after each step; a throttle for machines shared with other work.
        nice: how far trainers stand back for other processes of their node, 0 (not at all) to 19.
        cache_bytes: what is kept of a tenant's encoded pictures and prompts for its next trainings; 0 keeps nothing.
        face_detector: file of a YuNet model that looks for faces; empty is the detector that OpenCV ships.
        program: Python's arguments that mean the trainer; the run directory follows them.
    """

    threads: int
    abandon_after: float = 600.0
    step_delay: float = 0.0
    nice: int = 0
    cache_bytes: int = DEFAULT_CACHE_BYTES
    face_detector: str = ""
    program: tuple[str, ...] = PROGRAM


class NodeAttempt:
    """A run directory and the trainer in it. Everything here may be called again after a crash at any line."""

    def __init__(self, root: Path, storage: Storage, settings: NodeSettings, caches: Path | None = None) -> None:
        """Take the run directory, and the folder in which this node's tenants have theirs for what they share."""
        self.run = RunDirectory(root)
        self.process = TrainerProcess(self.run, settings.program)
        self._storage = storage
        self._settings = settings
        self._caches = caches

    async def launch(self, plan: AttemptPlan) -> None:
        """Stage in and start the trainer, unless one runs here, is being prepared, or has run before.

        Raises:
            OSError: staging or starting failed; no trainer runs.
        """
        await asyncio.to_thread(self.run.create)
        # Two system calls on a small local file: not worth a thread, and nothing can slip between claim and try.
        lock = self.process.claim()
        if lock is None:
            return
        try:
            if not self.process.was_started():
                await self._stage_in(plan)
                # Not in a thread: who is cancelled while it spawns would close the lock that it is about to inherit.
                self.process.start(lock, self._settings.threads)
                await asyncio.to_thread(self.process.stand_back, self._settings.nice)
        finally:
            os.close(lock)

    async def observe(self, offset: int, *, wanted: bool = True) -> Observation:
        """What happened since `offset`, with every file that is wanted staged out. See `Executor.poll`.

        Raises:
            UnknownAttempt: the run directory is gone.
            OSError: the storage fails; asking again repeats the work.
        """
        await self._sign_of_life()
        alive = await asyncio.to_thread(self.process.alive)
        if not alive:
            # What a dead trainer has started must not hold a device any longer.
            await asyncio.to_thread(self.process.kill)
        # Read after that look at the process: what a dead one wrote is all there.
        messages, offset = await asyncio.to_thread(read_messages, self.run.events, offset)
        plan = await asyncio.to_thread(self.run.read, self.run.plan, AttemptPlan)
        checkpoints = await self._stage_out_checkpoints(plan, messages) if plan and wanted else ()
        if alive:
            return Observation(messages=messages, offset=offset, checkpoints=checkpoints, liveness=Liveness.RUNNING)
        return Observation(
            messages=messages,
            offset=offset,
            checkpoints=checkpoints,
            liveness=Liveness.EXITED,
            exit_code=self.process.exit_code,
            starved=self.process.starved,
            manifest=await stage_out_result(self._storage, self.run, plan.output_prefix) if plan else None,
            log_tail=await asyncio.to_thread(read_log_tail, self.run.log),
        )

    async def ask_to_stop(self) -> None:
        """Ask the trainer to end at its next step boundary.

        Raises:
            UnknownAttempt: the run directory is gone.
        """
        try:
            await self._touch(self.run.stop)
        except OSError as error:
            # On a full disk there is no new file; the signals that follow need none.
            log.warning("could not ask to stop", run=str(self.run.root), error=str(error))

    async def _stage_in(self, plan: AttemptPlan) -> None:
        await asyncio.to_thread(self.run.write, self.run.plan, plan)
        await stage_in_pictures(self._storage, self.run, plan.training.pictures, plan.pictures)
        await stage_in_newest_checkpoints(self._storage, self.run, plan.resume_from)
        spec = RunSpec(
            task_id=plan.task_id,
            fence=plan.fence,
            name=plan.name,
            training=plan.training,
            base_path=plan.base_path,
            device=plan.device,
            checkpoint_every=plan.checkpoint_every,
            keep_every=plan.keep_every,
            leaner=plan.leaner,
            abandon_after=self._settings.abandon_after,
            step_delay=self._settings.step_delay,
            cache_path=str(inside(self._caches, plan.tenant_id)) if self._caches and plan.tenant_id else "",
            cache_bytes=self._settings.cache_bytes,
            face_detector=self._settings.face_detector,
        )
        await self._sign_of_life()
        await asyncio.to_thread(self.run.write, self.run.spec, spec)

    async def _stage_out_checkpoints(
        self, plan: AttemptPlan, messages: tuple[TrainerMessage, ...]
    ) -> tuple[CheckpointRef, ...]:
        async with self._signs_of_life():
            refs = [
                await stage_out_checkpoint(self._storage, self.run, message.step, plan.output_prefix)
                for message in messages
                if isinstance(message, CheckpointSaved | SamplesDrawn)
            ]
        return tuple(ref for ref in refs if ref is not None)

    @asynccontextmanager
    async def _signs_of_life(self) -> AsyncGenerator[None]:
        """Let a trainer know that it is supervised while a store takes its time."""
        beating = asyncio.create_task(self._beat(), name=f"heartbeat {self.run.root}")
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait({beating})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.abandon_after / BEATS)
            with suppress(OSError, UnknownAttempt):
                await self._sign_of_life()

    async def _sign_of_life(self) -> None:
        await self._touch(self.run.heartbeat)

    async def _touch(self, path: Path) -> None:
        try:
            await asyncio.to_thread(path.touch)
        except FileNotFoundError as error:
            raise UnknownAttempt(str(self.run.root)) from error


def read_messages(path: Path, offset: int) -> tuple[tuple[TrainerMessage, ...], int]:
    """The finished lines of an events file from byte `offset` on, and the byte after the last of them.

    A line that is no message is logged and passed over: an attempt must not hang on it.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return (), offset
    finished = data[: data.rfind(b"\n") + 1]
    found = (_message(line, path) for line in finished.splitlines())
    return tuple(message for message in found if message is not None), offset + len(finished)


def _message(line: bytes, path: Path) -> TrainerMessage | None:
    try:
        return _messages.decode(line)
    except msgspec.DecodeError as error:
        log.warning("unreadable line of events", path=str(path), error=str(error))
        return None


def read_log_tail(path: Path) -> str:
    """The last lines of a trainer's log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
