"""What nobody sees to any more."""

from typing import Any

import structlog

from maquette.core.lifecycle import Reason
from maquette.db.engine import Database
from maquette.executors.base import Executor
from maquette.server.loops import attempts, conclude
from maquette.server.loops.base import Loop
from maquette.server.loops.lease import Lease

log: Any = structlog.get_logger()


class ReapLoop(Loop):
    """Ends attempts whose supervisor is long gone, and erases run directories that no open attempt needs.

    An attempt is orphaned when its lease ended more than `orphan_after` seconds ago. By then its trainer has ended
    by itself, for want of a supervisor's heartbeat, so a new attempt can't meet the old one.
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        lease: Lease,
        *,
        interval: float,
        orphan_after: float,
    ) -> None:
        super().__init__(interval)
        self._database = database
        self._executor = executor
        self._lease = lease
        self._orphan_after = orphan_after

    async def turn(self) -> None:
        """One round."""
        await self._end_orphans()
        await self._erase_leftovers()

    async def _end_orphans(self) -> None:
        async with self._database.read() as conn:
            orphans = await attempts.orphaned(conn, self._lease.supervisor, self._orphan_after)
        for orphan in orphans:
            log.warning("attempt.orphaned", task=orphan.task_id, fence=orphan.fence)
            async with self._database.write() as conn:
                await conclude.without_result(
                    conn, orphan, Reason.WORKER_LOST, "Its server and its node have not been heard of."
                )

    async def _erase_leftovers(self) -> None:
        """Erase what ended attempts left on this node, and end what should still run there."""
        found = await self._executor.adopt()
        async with self._database.read() as conn:
            ended = await attempts.ended_handles(conn, found)
        for handle in ended:
            await self._executor.erase(handle)
