"""What nobody sees to any more."""

import time
from typing import Any

import structlog

from maquette.core.lifecycle import Reason
from maquette.db.engine import Database
from maquette.executors.base import Executor
from maquette.server.idempotency import forget_old_keys
from maquette.server.loops import attempts, conclude
from maquette.server.loops.base import Loop
from maquette.server.loops.errands import Work
from maquette.server.loops.image_sweep import ImageSweep, StraySweep
from maquette.server.loops.lease import Lease
from maquette.server.loops.sweep import UploadSweep

log: Any = structlog.get_logger()

SWEEP_UPLOADS = "sweep uploads"
SWEEP_PICTURES = "sweep pictures"
SWEEP_SECONDS = 3600.0
"""Between two sweeps of a kind, which look at every object there is of it."""


class ReapLoop(Loop):
    """Ends attempts whose supervisor is long gone; erases run directories of ended attempts, uploads nobody needs,
    pictures whose time is over or whose task was never created, and keys of creating requests that are too old. Each
    is an errand: none waits for another, or fails with it.

    An attempt is orphaned when its lease ended more than `orphan_after` seconds ago. By then its trainer has ended
    by itself, for want of a supervisor's heartbeat, so a new attempt can't meet the old one.
    """

    cut_off = (SWEEP_UPLOADS, SWEEP_PICTURES)

    def __init__(
        self,
        database: Database,
        executor: Executor,
        lease: Lease,
        sweep: UploadSweep,
        images: ImageSweep,
        strays: StraySweep,
        *,
        interval: float,
        orphan_after: float,
        idempotency_ttl: float,
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._executor = executor
        self._lease = lease
        self._sweep = sweep
        self._images = images
        self._strays = strays
        self._swept_at: dict[str, float] = {}
        self._orphan_after = orphan_after
        self._idempotency_ttl = idempotency_ttl
        self._left_alone: frozenset[str] = frozenset()

    async def turn(self) -> None:
        """One round."""
        await self._lease.keep()
        if not self._lease.trusted:
            return
        self.errands.begin("end orphans", self._end_orphans)
        self.errands.begin("erase leftovers", self._erase_leftovers)
        self.errands.begin("forget old keys", self._forget_old_keys)
        self.errands.begin("erase old pictures", self._images.run)
        self._begin_sweep(SWEEP_UPLOADS, self._sweep_uploads)
        self._begin_sweep(SWEEP_PICTURES, self._sweep_pictures)

    def _begin_sweep(self, name: str, work: Work) -> None:
        if time.monotonic() - self._swept_at.get(name, float("-inf")) >= SWEEP_SECONDS:
            self.errands.begin(name, work)

    async def _end_orphans(self) -> None:
        async with self._database.read() as conn:
            orphans = await attempts.orphans(conn, self._lease.supervisor, self._orphan_after)
        for orphan in orphans:
            log.warning("attempt.orphaned", task=orphan.task_id, fence=orphan.fence)
            async with self._lease.write() as conn:
                await conclude.without_result(
                    conn,
                    orphan,
                    Reason.WORKER_LOST,
                    "Its server and its node have not been heard of.",
                    right=attempts.orphaned(conn, self._lease.supervisor, self._orphan_after),
                )

    async def _erase_leftovers(self) -> None:
        """Erase what ended attempts have left, and end what should still run there.

        What has no row here was launched from another database, where it may be in training.
        """
        found = await self._executor.adopt()
        async with self._database.read() as conn:
            known = await attempts.known_handles(conn, self._executor.node_id, found)
        self._leave_alone(frozenset(found) - known.keys())
        for handle, ended in known.items():
            if ended:
                await self._executor.erase(handle)

    def _leave_alone(self, unknown: frozenset[str]) -> None:
        for handle in sorted(unknown - self._left_alone):
            log.warning("attempt.of_another_database", node=self._executor.node_id, handle=handle)
        self._left_alone = unknown

    async def _forget_old_keys(self) -> None:
        async with self._database.write() as conn:
            await forget_old_keys(conn, self._idempotency_ttl)

    async def _sweep_uploads(self) -> None:
        started = time.monotonic()
        await self._sweep.run()
        self._swept_at[SWEEP_UPLOADS] = started

    async def _sweep_pictures(self) -> None:
        started = time.monotonic()
        await self._strays.run()
        self._swept_at[SWEEP_PICTURES] = started
