"""Drawn pictures whose time is over."""

from typing import Any

import structlog

from maquette.db.engine import Database
from maquette.server.images import queue
from maquette.storage.base import Storage

log: Any = structlog.get_logger()

AT_ONCE = 500
"""Tasks of one breath."""


class ImageSweep:
    """Erases image tasks that nobody can ask for any more. May be cut off anywhere: the next round does the rest."""

    def __init__(self, database: Database, storage: Storage, kept: float) -> None:
        """Take the database, the storage, and the seconds after its end that a task is kept with its pictures."""
        self._database = database
        self._storage = storage
        self._kept = kept

    async def run(self) -> None:
        """One round: a task's objects, then its row, which names them."""
        erased = 0
        while True:
            async with self._database.read() as conn:
                found = await queue.expired(conn, self._kept, AT_ONCE)
            if not found:
                break
            for task in found:
                keys = [info.key async for info in self._storage.list(queue.prefix(task.tenant_id, task.id))]
                for key in keys:
                    await self._storage.delete(key)
                async with self._database.write() as conn:
                    erased += await queue.forget(conn, task, self._kept)
        if erased:
            log.info("images.swept", tasks=erased)
