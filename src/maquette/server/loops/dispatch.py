"""Queued tasks meet free devices."""

import asyncio
import errno
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import FAILURES, Reason, TaskStatus
from maquette.db.engine import Database
from maquette.db.move import move_task
from maquette.db.now import now
from maquette.executors.base import Executor
from maquette.server.loops import attempts, conclude
from maquette.server.loops.attempts import OpenAttempt, QueuedTask
from maquette.server.loops.base import Loop
from maquette.server.loops.lease import LEASE_SECONDS, Lease
from maquette.storage.base import StorageFailed

log: Any = structlog.get_logger()


class DispatchLoop(Loop):
    """Gives each free device the oldest task that is due, then launches what was dispatched.

    A crash after the dispatch commit leaves an attempt without a handle. The next turn, maybe of the next server,
    launches it again: launching is idempotent by (task, fence).
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        lease: Lease,
        *,
        interval: float,
        checkpoint_every: int,
        task_deadline: float,
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._executor = executor
        self._lease = lease
        self._checkpoint_every = checkpoint_every
        self._task_deadline = task_deadline

    async def turn(self) -> None:
        """One round: dispatch, then launch."""
        await self._lease.keep()
        if not self._lease.trusted:
            return
        await self._dispatch()
        await asyncio.gather(*(self._guarded(attempt) for attempt in await self._unlaunched()))

    async def _dispatch(self) -> None:
        async with self._database.read() as conn:
            claimed = await attempts.claimed_devices(conn, self._executor.node_id)
            free = [device for device in self._executor.devices if device not in claimed]
            waiting = await attempts.dispatchable(conn, limit=len(free)) if free else []
        for task, device in zip(waiting, free, strict=False):
            await self._dispatch_one(task, device)

    async def _dispatch_one(self, task: QueuedTask, device: str) -> None:
        async with self._database.write() as conn:
            if task.cancel_requested:
                await self._end(conn, task, TaskStatus.CANCELED, Reason.CANCELED, "")
            elif task.created_at + self._task_deadline < await now(conn):
                await self._end(conn, task, TaskStatus.FAILED, Reason.TIMED_OUT, FAILURES[Reason.TIMED_OUT].words)
            elif await move_task(
                conn,
                task.tenant_id,
                task.id,
                source=TaskStatus.QUEUING,
                to=TaskStatus.TRAINING,
                reason=Reason.DISPATCHED,
                fence=task.fence,
                values={"fence": task.fence + 1},
                event={"attempt": task.fence + 1, "node": self._executor.node_id, "device": device},
            ):
                await attempts.open_attempt(
                    conn,
                    task,
                    node_id=self._executor.node_id,
                    device=device,
                    supervisor=self._lease.supervisor,
                    lease=LEASE_SECONDS,
                )

    async def _end(
        self, conn: AsyncConnection, task: QueuedTask, status: TaskStatus, reason: Reason, message: str
    ) -> None:
        await move_task(
            conn, task.tenant_id, task.id, source=TaskStatus.QUEUING, to=status, reason=reason, message=message
        )

    async def _unlaunched(self) -> list[OpenAttempt]:
        async with self._database.read() as conn:
            mine = await attempts.supervised(conn, self._executor.node_id, self._lease.supervisor)
        return [attempt for attempt in mine if attempt.handle is None]

    async def _guarded(self, attempt: OpenAttempt) -> None:
        """Launch one; what goes wrong with it is logged, tried again next turn, and does not keep others waiting."""
        try:
            await self._launch(attempt)
        except Exception as error:
            log.exception("attempt.not_launched", task=attempt.task_id, fence=attempt.fence, error=str(error))

    async def _launch(self, attempt: OpenAttempt) -> None:
        async with self._database.read() as conn:
            plan = await attempts.load_plan(
                conn,
                attempt.task_id,
                attempt.fence,
                device=attempt.device,
                checkpoint_every=self._checkpoint_every,
            )
        if plan is None:
            await self._conclude(attempt, Reason.BASE_MISSING, "")
            return
        try:
            handle = await self._executor.launch(plan)
        except StorageFailed as error:
            # Not the task's fault and not the node's: it waits for the storage, and no attempt is spent on that.
            log.warning("attempt.storage_away", task=attempt.task_id, fence=attempt.fence, error=str(error))
            return
        except OSError as error:
            log.warning("attempt.launch_failed", task=attempt.task_id, fence=attempt.fence, error=str(error))
            full = error.errno == errno.ENOSPC
            await self._conclude(attempt, Reason.DISK_FULL if full else Reason.INTERNAL, str(error))
            return
        async with self._database.write() as conn:
            await attempts.store_handle(conn, attempt.task_id, attempt.fence, handle)

    async def _conclude(self, attempt: OpenAttempt, reason: Reason, message: str) -> None:
        async with self._database.write() as conn:
            await conclude.without_result(conn, attempt, reason, message)
