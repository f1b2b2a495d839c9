"""Names that are looked up, each in a thread, of which no tenant takes all.

A look-up can't be broken off: at a name server that is silent it keeps its thread until the system gives up, long after
its caller has. So each tenant has a few places, and who gets one begins at once: waiting for a place is no part of a
call, and no fault of the name's.
"""

import asyncio
import ipaddress
import socket
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

from maquette.server.webhooks.reach import Address

AT_A_TIME = 32
"""Names that are looked up at a time, of all tenants."""
OF_ONE_TENANT = 4
"""Names of one tenant among them."""


class Place:
    """Leave to look one name up, at once. Used as a context, it is given back unless it was used."""

    def __init__(self, threads: ThreadPoolExecutor, give_back: Callable[[], None]) -> None:
        self._threads = threads
        self._give_back = give_back
        self._used = False

    async def look_up(self, host: str, port: int) -> list[Address]:
        """All addresses of a name, in the resolver's order, none twice. Once for each place.

        Raises:
            OSError, UnicodeError: the name has none, or can't have any.
        """
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        self._used = True
        found = asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        found.add_done_callback(self._end)
        # Whoever stops waiting does not end the thread: the place is taken as long as the thread is.
        answers = await asyncio.shield(found)
        addresses = (ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in answers)
        return list(dict.fromkeys(addresses))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._used:
            self._give_back()

    def _end(self, found: asyncio.Future[Any]) -> None:
        self._give_back()
        # Nobody may be waiting any more for what went wrong.
        if not found.cancelled():
            found.exception()


class Lookups:
    """The places of all tenants, and the threads behind them: as many as places, so that none waits for another."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_A_TIME, "resolve")
        self._free = asyncio.Semaphore(AT_A_TIME)
        self._free_of = defaultdict[str, asyncio.Semaphore](partial(asyncio.Semaphore, OF_ONE_TENANT))

    async def place(self, tenant_id: str) -> Place:
        """The next place for a tenant, as soon as there is one; waiting for it may be broken off."""
        own = self._free_of[tenant_id]
        await own.acquire()
        try:
            await self._free.acquire()
        except asyncio.CancelledError:
            own.release()
            raise
        return Place(self._threads, partial(self._give_back, own))

    def close(self) -> None:
        """Begin no look-up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _give_back(self, own: asyncio.Semaphore) -> None:
        self._free.release()
        own.release()
