"""Queued tasks meet free devices."""

import errno
from collections.abc import Set
from functools import partial
from typing import Any

import structlog

from maquette.core.lifecycle import FAILURES, Reason, TaskStatus
from maquette.db.engine import Database
from maquette.db.move import move_task
from maquette.executors.base import Executor
from maquette.server.loops import attempts, conclude
from maquette.server.loops.attempts import OpenAttempt, QueuedTask
from maquette.server.loops.base import Loop
from maquette.server.loops.lease import LEASE_SECONDS, Lease
from maquette.storage.base import StorageFailed

log: Any = structlog.get_logger()

ENDED_A_TURN = 100


class DispatchLoop(Loop):
    """Gives each free device the oldest task that is due, then launches what was dispatched.

    The dispatch commit names the attempt's handle, and nothing is launched before it: whatever a node holds has a row,
    and what no open attempt names may be erased. A crash after the commit leaves an attempt that is not launched. The
    next turn, maybe of the next server, launches it again: launching is idempotent by (task, fence).
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
        """One round: end what waits in vain, dispatch, then launch."""
        await self._lease.keep()
        if not self._lease.trusted:
            return
        await self._end_what_waits_in_vain()
        await self._dispatch()
        await self._launch_what_was_dispatched()

    async def _end_what_waits_in_vain(self) -> None:
        async with self._database.read() as conn:
            ended = await attempts.waiting_in_vain(conn, self._task_deadline, limit=ENDED_A_TURN)
        for task in ended:
            if task.cancel_requested:
                await self._end(task, TaskStatus.CANCELED, Reason.CANCELED, "")
            else:
                await self._end(task, TaskStatus.FAILED, Reason.TIMED_OUT, FAILURES[Reason.TIMED_OUT].words)

    async def _end(self, task: QueuedTask, status: TaskStatus, reason: Reason, message: str) -> None:
        async with self._lease.write() as conn:
            await move_task(
                conn, task.tenant_id, task.id, source=TaskStatus.QUEUING, to=status, reason=reason, message=message
            )

    async def _dispatch(self) -> None:
        async with self._database.read() as conn:
            claimed = await attempts.claimed_devices(conn, self._executor.node_id)
            free = [device for device in self._executor.devices if device not in claimed]
            waiting = await attempts.dispatchable(conn, limit=len(free)) if free else []
        for task, device in zip(waiting, free, strict=False):
            await self._dispatch_one(task, device)

    async def _dispatch_one(self, task: QueuedTask, device: str) -> None:
        fence = task.fence + 1
        async with self._lease.write() as conn:
            if await move_task(
                conn,
                task.tenant_id,
                task.id,
                source=TaskStatus.QUEUING,
                to=TaskStatus.TRAINING,
                reason=Reason.DISPATCHED,
                fence=task.fence,
                values={"fence": fence},
                event={"attempt": fence, "node": self._executor.node_id, "device": device},
            ):
                await attempts.open_attempt(
                    conn,
                    task,
                    node_id=self._executor.node_id,
                    device=device,
                    handle=self._executor.handle(task.id, fence),
                    supervisor=self._lease.supervisor,
                    lease=LEASE_SECONDS,
                )

    async def _launch_what_was_dispatched(self) -> None:
        under_way = self.errands.under_way
        async with self._database.read() as conn:
            mine = await attempts.supervised(conn, self._executor.node_id, self._lease.supervisor)
        for attempt in mine:
            if not attempt.launched:
                self._see_to(attempt, under_way)

    def _see_to(self, attempt: OpenAttempt, under_way: Set[str]) -> None:
        """Launch an attempt, unless its task should end: then a launch in progress gives way, and a later turn ends it.

        Not this turn, since that launch may have come to its end before it heard of it.
        """
        launch = f"launch {attempt.handle}"
        unwanted = attempt.cancel_requested or attempt.age > self._task_deadline
        if launch in under_way:
            if unwanted:
                self.errands.cancel(launch)
        elif unwanted:
            # Where a cancel was asked for, the reason gives way to it.
            self.errands.begin(f"give up {attempt.handle}", partial(self._give_up, attempt, Reason.TIMED_OUT, ""))
        else:
            self.errands.begin(launch, partial(self._launch, attempt))

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
            await self._give_up(attempt, Reason.BASE_MISSING, "")
            return
        try:
            await self._executor.launch(plan)
        except StorageFailed as error:
            # Not the task's fault and not the node's: it waits for the storage, and no attempt is spent on that.
            log.warning("attempt.storage_away", task=attempt.task_id, fence=attempt.fence, error=str(error))
        except OSError as error:
            log.warning("attempt.launch_failed", task=attempt.task_id, fence=attempt.fence, error=str(error))
            full = error.errno == errno.ENOSPC
            await self._give_up(attempt, Reason.DISK_FULL if full else Reason.INTERNAL, str(error))
        else:
            await self._store_launched(attempt)

    async def _store_launched(self, attempt: OpenAttempt) -> None:
        async with self._lease.write() as conn:
            right = attempts.supervised_by(self._lease.supervisor)
            if await attempts.store_launched(conn, attempt, right):
                return
            needed = await attempts.needed_handles(conn, self._executor.node_id, [attempt.handle])
        if not needed:
            log.warning("attempt.launched_too_late", task=attempt.task_id, fence=attempt.fence)
            await self._executor.erase(attempt.handle)

    async def _give_up(self, attempt: OpenAttempt, reason: Reason, message: str) -> None:
        """End an attempt that is not launched, and nothing of it runs: only then may its device be claimed again."""
        await self._executor.erase(attempt.handle)
        async with self._lease.write() as conn:
            right = attempts.supervised_by(self._lease.supervisor)
            await conclude.without_result(conn, attempt, reason, message, right=right)
        self.wake()
