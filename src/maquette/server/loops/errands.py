"""Work that goes on across a loop's turns, so that a slow piece of it holds up nothing but itself."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log: Any = structlog.get_logger()

Work = Callable[[], Coroutine[Any, Any, None]]


class Errands:
    """Pieces of work, each under a name; never two of one name at a time. What goes wrong with one is logged."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def under_way(self) -> frozenset[str]:
        """Names of the work that has not ended.

        Ask before reading the rows that work is begun for: what ends between the two has changed them.
        """
        return frozenset(self._tasks)

    def begin(self, name: str, work: Work) -> None:
        """Let a piece of work go on by itself, unless one of this name does."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(_logged(name, work), name=name)
            self._tasks[name].add_done_callback(lambda _: self._tasks.pop(name))

    def cancel(self, name: str) -> None:
        """Let a piece of work end where it stands; harmless when there is none."""
        if name in self._tasks:
            self._tasks[name].cancel()

    async def finish(self) -> None:
        """Wait until all work has ended; it is cancelled if the caller is."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def abandon(self) -> None:
        """Cancel all work, and wait until it has ended."""
        for name in self._tasks:
            self.cancel(name)
        await self.finish()


async def _logged(name: str, work: Work) -> None:
    try:
        await work()
    except Exception as error:
        log.exception("errand.failed", errand=name, error=str(error))
