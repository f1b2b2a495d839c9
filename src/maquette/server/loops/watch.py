"""What running attempts do, written down; how they ended, made true."""

from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import Reason
from maquette.core.progress import (
    DISK_FULL_EXIT,
    CheckpointSaved,
    Failed,
    Finished,
    Found,
    MemoryTaken,
    Note,
    PhaseBegan,
    Planned,
    Resumed,
    Started,
    Step,
    SteppedBack,
    Stopped,
    TrainerMessage,
    Validated,
)
from maquette.core.rundir import Manifest
from maquette.db.engine import Database
from maquette.db.events import append_event
from maquette.executors.base import Executor, Liveness, Observation, UnknownAttempt
from maquette.server.loops import attempts, conclude, progress
from maquette.server.loops.attempts import OpenAttempt
from maquette.server.loops.base import Loop
from maquette.server.loops.lease import Lease
from maquette.server.loops.verify import Unverified, verify_result
from maquette.storage.base import Storage

log: Any = structlog.get_logger()


class Ending(Struct, frozen=True):
    """How an attempt that was seen dead is to end: with a verified manifest, or for a reason."""

    manifest: Manifest | None
    reason: Reason
    message: str


class WatchLoop(Loop):
    """Polls every launched attempt, stores what it said, passes on cancel requests, and concludes the dead ones.

    Each attempt is observed by an errand of its own: while one waits for a slow store to take its files, the others
    go on, and so do the lease and every attempt's cancel.
    """

    def __init__(
        self,
        database: Database,
        storage: Storage,
        executor: Executor,
        lease: Lease,
        *,
        interval: float,
        keep_every: int,
        stop_grace: float,
        task_deadline: float,
        on_device_freed: Callable[[], None],
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._storage = storage
        self._executor = executor
        self._lease = lease
        self._keep_every = keep_every
        self._stop_grace = stop_grace
        self._task_deadline = task_deadline
        self._on_device_freed = on_device_freed

    async def turn(self) -> None:
        """One round over all attempts."""
        await self._lease.keep()
        if not self._lease.trusted:
            return
        under_way = self.errands.under_way
        async with self._database.read() as conn:
            mine = await attempts.supervised(conn, self._executor.node_id, self._lease.supervisor)
        for attempt in mine:
            if attempt.launched:
                self._see_to(attempt, under_way)

    def _see_to(self, attempt: OpenAttempt, under_way: Set[str]) -> None:
        if attempt.unwanted(self._task_deadline):
            stop = partial(self._executor.stop, attempt.handle, self._stop_grace)
            self.errands.begin(f"stop {attempt.handle}", stop)
        observation = f"observe {attempt.handle}"
        if observation not in under_way:
            self.errands.begin(observation, partial(self._observe, attempt))

    async def _observe(self, attempt: OpenAttempt) -> None:
        try:
            wanted = not attempt.unwanted(self._task_deadline)
            seen = await self._executor.poll(attempt.handle, attempt.message_offset, wanted=wanted)
        except UnknownAttempt:
            await self._conclude(attempt, Ending(None, Reason.WORKER_LOST, "Its node no longer knows the run."))
            return
        reason, message = stated_end(attempt, seen.messages)
        if attempt.age > self._task_deadline:
            reason, message = Reason.TIMED_OUT, f"The limit is {self._task_deadline:.0f} s from its creation."
        ending = None
        if seen.liveness is Liveness.EXITED:
            ending = await self._judge(attempt, seen, reason, message)
        if seen.offset != attempt.message_offset and not await self._store(attempt, seen, reason, message):
            return
        if ending:
            await self._conclude(attempt, ending)

    async def _store(self, attempt: OpenAttempt, seen: Observation, reason: Reason | None, message: str) -> bool:
        """Write down what an attempt did; False where it is another server's by now."""
        async with self._lease.write() as conn:
            current = await attempts.advance(
                conn,
                attempt,
                right=attempts.supervised_by(self._lease.supervisor),
                offset=seen.offset,
                reason=reason,
                message=message,
            )
            if not current:
                return False
            await progress.record(conn, attempt, [said for said in seen.messages if isinstance(said, Step)])
            for checkpoint in seen.checkpoints:
                await attempts.add_checkpoint(conn, attempt, checkpoint)
            dropped = (
                await attempts.drop_old_checkpoints(conn, attempt.task_id, self._keep_every) if seen.checkpoints else []
            )
            await tell(conn, attempt, seen.messages)
        for checkpoint in dropped:
            async for item in self._storage.list(checkpoint.prefix):
                await self._storage.delete(item.key)
        return True

    async def _judge(self, attempt: OpenAttempt, seen: Observation, reason: Reason | None, message: str) -> Ending:
        if seen.manifest is None:
            if reason in {None, Reason.INTERNAL}:
                log.warning("attempt.broke", task=attempt.task_id, exit_code=seen.exit_code, log_tail=seen.log_tail)
            if reason is None and seen.starved:
                return Ending(None, Reason.OUT_OF_MEMORY, "Its process was ended by the kernel for want of memory.")
            if reason is None and seen.exit_code == DISK_FULL_EXIT:
                return Ending(None, Reason.DISK_FULL, "")
            if reason is None:
                return Ending(None, Reason.WORKER_LOST, f"Exit code {seen.exit_code}." if seen.exit_code else "")
            return Ending(None, reason, message)
        try:
            prefix = attempts.output_prefix(attempt.task_id, attempt.fence)
            await verify_result(self._storage, prefix, seen.manifest)
        except Unverified as error:
            return Ending(None, Reason.UNVERIFIED, str(error))
        return Ending(seen.manifest, Reason.FINISHED, "")

    async def _conclude(self, attempt: OpenAttempt, ending: Ending) -> None:
        right = attempts.supervised_by(self._lease.supervisor)
        async with self._lease.write() as conn:
            if ending.manifest:
                status = await conclude.with_model(conn, attempt, ending.manifest, right=right)
            else:
                status = await conclude.without_result(conn, attempt, ending.reason, ending.message, right=right)
        if status is None:
            return
        log.info("attempt.ended", task=attempt.task_id, fence=attempt.fence, reason=ending.reason, task_status=status)
        self._on_device_freed()


def stated_end(attempt: OpenAttempt, messages: Sequence[TrainerMessage]) -> tuple[Reason | None, str]:
    """Why the trainer says it ends: now, or in messages read earlier."""
    for said in messages:
        if isinstance(said, Failed):
            return said.reason, said.message
        if isinstance(said, Stopped):
            return Reason.DRAINED, f"It stopped after step {said.step}."
        if isinstance(said, Finished):
            return Reason.UNVERIFIED, "Its files are not what its manifest says."
    return attempt.reason, attempt.message


async def tell(conn: AsyncConnection, attempt: OpenAttempt, messages: Sequence[TrainerMessage]) -> None:
    """Append to the task's history what its owner wants to read of a trainer's messages."""
    for said in messages:
        match said:
            case Started(resumed_from=step, versions=versions):
                kind, data = "started", {"resumed_from": step, "versions": versions}
            case PhaseBegan(phase=phase):
                kind, data = "phase", {"phase": phase}
            case Note(text=text, picture=picture):
                kind, data = "note", {"text": text, "picture": picture}
            case Found(finding=finding):
                kind, data = "finding", msgspec.to_builtins(finding)
            case CheckpointSaved(step=step):
                kind, data = "checkpoint", {"step": step}
            case Planned() | Resumed() | Validated() | SteppedBack() | MemoryTaken():
                data = msgspec.to_builtins(said)
                kind = data.pop("type")
                del data["at"]
            case _:
                continue
        await append_event(conn, task_id=attempt.task_id, tenant_id=attempt.tenant_id, kind=kind, data=data)
