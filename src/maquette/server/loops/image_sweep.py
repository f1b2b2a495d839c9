"""Drawn pictures whose time is over, and objects of image tasks that there are not."""

from collections.abc import Sequence
from typing import Any

import structlog

from maquette.db.engine import Database
from maquette.db.now import now
from maquette.server.images import queue
from maquette.storage.base import Storage

log: Any = structlog.get_logger()

AT_ONCE = 500
"""Tasks or objects of one breath."""
STRAY_SECONDS = 1800.0
"""Seconds after which no request can be under way any more that would name what it has stored."""


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


class StraySweep:
    """Erases objects of image tasks of which there is no row.

    A picture to start from is stored before its row, and the request may be refused or cut off in between. What has no
    row is erased once it has lain there for so long that no request will name it any more.
    """

    def __init__(self, database: Database, storage: Storage) -> None:
        self._database = database
        self._storage = storage

    async def run(self) -> None:
        """One round."""
        strays = await self._strays()
        for key in strays:
            await self._storage.delete(key)
        if strays:
            log.info("images.strays_swept", objects=len(strays))

    async def _strays(self) -> list[str]:
        async with self._database.read() as conn:
            stored_before = await now(conn) - STRAY_SECONDS
        strays: list[str] = []
        keys: list[str] = []
        async for found in self._storage.list(queue.IMAGES):
            if found.stored_at < stored_before:
                keys.append(found.key)
            if len(keys) == AT_ONCE:
                strays += await self._strays_of(keys)
                keys = []
        return strays + await self._strays_of(keys)

    async def _strays_of(self, keys: Sequence[str]) -> list[str]:
        async with self._database.read() as conn:
            return await queue.strays(conn, keys)
