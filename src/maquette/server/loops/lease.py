"""The right to supervise attempts, for a while at a time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.engine import Database
from maquette.server.loops import attempts

LEASE_SECONDS = 30.0
RENEW_SECONDS = 10.0
DISTRUST_SECONDS = 5.0


class LeaseLapsed(Exception):
    """The server may have lost its attempts to another, and does not write of them until it has renewed its lease."""


class Lease:
    """A server's lease on all the attempts it supervises.

    Its end stands in the database, by the database's clock. Whether to trust it is decided here on the monotonic
    clock, from before the renewal was sent, and given up 5 s early: a server cut off from its database stops
    touching trainers before anybody else may.
    """

    def __init__(self, database: Database, supervisor: str) -> None:
        self.supervisor = supervisor
        self._database = database
        self._renewed_at = float("-inf")
        self._renewal = asyncio.Lock()

    @property
    def trusted(self) -> bool:
        """Whether this server may still act on its attempts."""
        return monotonic() - self._renewed_at < LEASE_SECONDS - DISTRUST_SECONDS

    async def keep(self) -> None:
        """Renew when it is time to; of several loops that ask at once, one does it for all."""
        async with self._renewal:
            if monotonic() - self._renewed_at >= RENEW_SECONDS:
                await self.renew()

    async def renew(self) -> None:
        """Extend every lease of this supervisor."""
        started = monotonic()
        async with self._database.write() as conn:
            await attempts.renew_leases(conn, self.supervisor, LEASE_SECONDS)
        self._renewed_at = started

    async def take_over(self, node_id: str) -> int:
        """Supervise every open attempt of a node; the caller knows that its earlier supervisor is dead."""
        started = monotonic()
        async with self._database.write() as conn:
            count = await attempts.take_over(conn, node_id, self.supervisor, LEASE_SECONDS)
        self._renewed_at = started
        return count

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction of `Database.write` for what only a supervisor may write.

        Raises:
            LeaseLapsed: the lease is not trusted any more; nothing is written.
        """
        async with self._database.write() as conn:
            if not self.trusted:
                raise LeaseLapsed
            yield conn
