"""Work that goes on across a loop's turns, so that a slow piece of it holds up nothing but itself."""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import structlog
from msgspec import Struct

from maquette.server.loops.pauses import pause_after

log: Any = structlog.get_logger()

Work = Callable[[], Coroutine[Any, Any, None]]


FORGOTTEN_AFTER = 600.0
"""Seconds after which a failure counts no more where nobody has asked for that work again."""


class Setback(Struct, frozen=True):
    """How often work has failed in a row, and when, on the monotonic clock, it may begin again."""

    failures: int
    not_before: float


class Errands:
    """Pieces of work, each under a name; never two of one name at a time.

    What goes wrong with one is logged, and it is not begun again before a pause that grows with each failure in a row.
    """

    def __init__(self, interval: float) -> None:
        """Take the shortest pause in seconds, see `pause_after`."""
        self._interval = interval
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._setbacks: dict[str, Setback] = {}

    @property
    def under_way(self) -> frozenset[str]:
        """Names of the work that has not ended.

        Ask before reading the rows that work is begun for: what ends between the two has changed them.
        """
        return frozenset(self._tasks)

    def failures(self, name: str) -> int:
        """How often work of a name has failed since it last ended well."""
        return self._setbacks[name].failures if name in self._setbacks else 0

    def begin(self, name: str, work: Work) -> None:
        """Let a piece of work go on by itself, unless one of this name does, or has failed just now."""
        if name in self._tasks or (name in self._setbacks and monotonic() < self._setbacks[name].not_before):
            return
        self._tasks[name] = asyncio.create_task(self._carry_out(name, work), name=name)
        self._tasks[name].add_done_callback(lambda _: self._tasks.pop(name))

    def cancel(self, name: str) -> None:
        """Let a piece of work end where it stands; harmless when there is none."""
        if name in self._tasks:
            self._tasks[name].cancel()

    async def finish(self) -> None:
        """Wait until all work has ended; it is cancelled if the caller is."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def cancel_all(self) -> None:
        """Let all work end where it stands."""
        for name in self._tasks:
            self.cancel(name)

    async def abandon(self) -> None:
        """Cancel all work, and wait until it has ended."""
        self.cancel_all()
        await self.finish()

    async def _carry_out(self, name: str, work: Work) -> None:
        try:
            await work()
        except Exception as error:
            failures = self._remember_failure(name)
            log.error("errand.failed", errand=name, failures=failures, error=str(error), exc_info=failures == 1)
        else:
            self._setbacks.pop(name, None)

    def _remember_failure(self, name: str) -> int:
        now, failures = monotonic(), self.failures(name) + 1
        kept = {other: found for other, found in self._setbacks.items() if found.not_before > now - FORGOTTEN_AFTER}
        self._setbacks = kept | {name: Setback(failures, now + pause_after(self._interval, failures))}
        return failures
