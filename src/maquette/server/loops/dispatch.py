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
LAUNCH_TRIES = 5
"""How often in a row the storage may fail a launch before its device goes to others, about a quarter of a minute."""


class DispatchLoop(Loop):
    """Gives each free device the oldest task that is due, then launches what was dispatched.

    The dispatch commit names the attempt's handle, and nothing is launched before it: whatever a node holds has a row
    in some database, and what a row of this one says has ended may be erased. A crash after the commit leaves an
    attempt that is not launched. The next turn, maybe of the next server, launches it again: launching is idempotent
    by (task, fence).
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        lease: Lease,
        *,
        interval: float,
        checkpoint_every: int,
        keep_every: int,
        task_deadline: float,
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._executor = executor
        self._lease = lease
        self._checkpoint_every = checkpoint_every
        self._keep_every = keep_every
        self._task_deadline = task_deadline

    async def turn(self) -> None:
        """One round: end what has waited too long, dispatch, then launch."""
        await self._lease.keep()
        if not self._lease.trusted:
            return
        await self._end_overdue()
        await self._dispatch()
        await self._launch_what_was_dispatched()

    async def _end_overdue(self) -> None:
        async with self._database.read() as conn:
            overdue = await attempts.overdue(conn, self._task_deadline, limit=ENDED_A_TURN)
        for task in overdue:
            async with self._lease.write() as conn:
                await move_task(
                    conn,
                    task.tenant_id,
                    task.id,
                    source=TaskStatus.QUEUING,
                    to=TaskStatus.FAILED,
                    reason=Reason.TIMED_OUT,
                    message=FAILURES[Reason.TIMED_OUT].words,
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
        launch = launch_name(attempt)
        unwanted = attempt.unwanted(self._task_deadline)
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
                keep_every=self._keep_every,
            )
        if plan is None:
            await self._give_up(attempt, Reason.BASE_MISSING, "")
            return
        try:
            await self._executor.launch(plan)
        except StorageFailed as error:
            # It may be back in a moment. After that others get the device, whose objects the store may well read.
            if self.errands.failures(launch_name(attempt)) + 1 < LAUNCH_TRIES:
                raise
            log.warning("attempt.storage_away", task=attempt.task_id, fence=attempt.fence, error=str(error))
            await self._give_up(attempt, Reason.STORAGE_AWAY, "")
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
            known = await attempts.known_handles(conn, self._executor.node_id, [attempt.handle])
        if known[attempt.handle]:
            log.warning("attempt.launched_too_late", task=attempt.task_id, fence=attempt.fence)
            await self._executor.erase(attempt.handle)

    async def _give_up(self, attempt: OpenAttempt, reason: Reason, message: str) -> None:
        """End an attempt that is not launched, and nothing of it runs: only then may its device be claimed again."""
        await self._executor.erase(attempt.handle)
        async with self._lease.write() as conn:
            right = attempts.supervised_by(self._lease.supervisor)
            await conclude.without_result(conn, attempt, reason, message, right=right)
        self.wake()


def launch_name(attempt: OpenAttempt) -> str:
    """The errand that launches an attempt."""
    return f"launch {attempt.handle}"
