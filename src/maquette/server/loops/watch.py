"""What running attempts do, written down; how they ended, made true."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import Reason, TaskStatus
from maquette.core.progress import (
    CheckpointSaved,
    Failed,
    Finished,
    Note,
    PhaseBegan,
    Started,
    Step,
    Stopped,
    TrainerMessage,
)
from maquette.core.rundir import Manifest
from maquette.db.engine import Database
from maquette.db.events import append_event
from maquette.db.now import now
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
    """Polls every launched attempt, stores what it said, passes on cancel requests, and concludes the dead ones."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        executor: Executor,
        lease: Lease,
        *,
        interval: float,
        stop_grace: float,
        task_deadline: float,
        on_device_freed: Callable[[], None],
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._storage = storage
        self._executor = executor
        self._lease = lease
        self._stop_grace = stop_grace
        self._task_deadline = task_deadline
        self._on_device_freed = on_device_freed

    async def turn(self) -> None:
        """One round over all attempts; what goes wrong with one is logged and does not keep the others waiting."""
        await self._lease.keep()
        if not self._lease.trusted:
            return
        async with self._database.read() as conn:
            mine = await attempts.supervised(conn, self._executor.node_id, self._lease.supervisor)
            instant = await now(conn)
        launched = [attempt for attempt in mine if attempt.handle is not None]
        await asyncio.gather(*(self._guarded(attempt, self._see_to(attempt, instant)) for attempt in launched))

    async def _guarded(self, attempt: OpenAttempt, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            log.exception("attempt.not_seen_to", task=attempt.task_id, fence=attempt.fence, error=str(error))

    async def _see_to(self, attempt: OpenAttempt, instant: float) -> None:
        assert attempt.handle is not None
        overdue = attempt.task_created_at + self._task_deadline < instant
        if attempt.cancel_requested or overdue:
            await self._executor.stop(attempt.handle, self._stop_grace)
        try:
            seen = await self._executor.poll(attempt.handle, attempt.message_offset)
        except UnknownAttempt:
            await self._conclude(attempt, Ending(None, Reason.WORKER_LOST, "Its node no longer knows the run."))
            return
        reason, message = stated_end(attempt, seen.messages)
        if overdue:
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
        async with self._database.write() as conn:
            current = await attempts.advance(
                conn,
                attempt,
                supervisor=self._lease.supervisor,
                offset=seen.offset,
                reason=reason,
                message=message,
            )
            if not current:
                return False
            # The task's row before the event counters: the order in which every move locks them.
            await progress.record(conn, attempt, [said for said in seen.messages if isinstance(said, Step)])
            for checkpoint in seen.checkpoints:
                await attempts.add_checkpoint(conn, attempt, checkpoint)
            dropped = await attempts.drop_old_checkpoints(conn, attempt.task_id) if seen.checkpoints else []
            await tell(conn, attempt, seen.messages)
        for checkpoint in dropped:
            async for item in self._storage.list(checkpoint.prefix):
                await self._storage.delete(item.key)
        return True

    async def _judge(self, attempt: OpenAttempt, seen: Observation, reason: Reason | None, message: str) -> Ending:
        if seen.manifest is None:
            if reason in {None, Reason.INTERNAL}:
                log.warning("attempt.broke", task=attempt.task_id, exit_code=seen.exit_code, log_tail=seen.log_tail)
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
        async with self._database.write() as conn:
            if ending.manifest:
                await conclude.with_model(conn, attempt, ending.manifest)
                status = TaskStatus.SUCCESS
            else:
                status = await conclude.without_result(conn, attempt, ending.reason, ending.message)
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
            case CheckpointSaved(step=step):
                kind, data = "checkpoint", {"step": step}
            case _:
                continue
        await append_event(conn, task_id=attempt.task_id, tenant_id=attempt.tenant_id, kind=kind, data=data)
