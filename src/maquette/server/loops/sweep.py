"""What uploads left behind: assets that nobody took, and objects that no row names."""

from collections.abc import Sequence
from typing import Any

import structlog

from maquette.db.engine import Database
from maquette.server.assets import service as assets
from maquette.storage.base import Storage

log: Any = structlog.get_logger()

AT_ONCE = 500
"""Rows or objects of one breath."""


class UploadSweep:
    """Erases the uploads that nobody needs. May be cut off anywhere: the next round finds what this one left."""

    def __init__(self, database: Database, storage: Storage, kept: float) -> None:
        """Take the database, the storage, and the seconds after its address expired that an asset is kept untaken."""
        self._database = database
        self._storage = storage
        self._kept = kept

    async def run(self) -> None:
        """One round: rows first, since no object goes that a row names."""
        forgotten = await self._forget_untaken()
        erased = sum([await self._erase_unnamed(prefix) for prefix in (assets.UPLOADS, assets.SEALED)])
        if forgotten or erased:
            log.info("uploads.swept", assets=forgotten, objects=erased)

    async def _forget_untaken(self) -> int:
        forgotten = 0
        while True:
            async with self._database.read() as conn:
                found = await assets.untaken(conn, self._kept, AT_ONCE)
            if not found:
                return forgotten
            async with self._database.write() as conn:
                forgotten += sum([await assets.forget(conn, asset, self._kept) for asset in found])

    async def _erase_unnamed(self, prefix: str) -> int:
        erased = 0
        keys: list[str] = []
        async for found in self._storage.list(prefix):
            keys.append(found.key)
            if len(keys) == AT_ONCE:
                erased += await self._erase_unnamed_of(keys)
                keys = []
        return erased + await self._erase_unnamed_of(keys)

    async def _erase_unnamed_of(self, keys: Sequence[str]) -> int:
        async with self._database.read() as conn:
            unnamed = await assets.unnamed(conn, keys, self._kept)
        for key in unnamed:
            await self._storage.delete(key)
        return len(unnamed)
