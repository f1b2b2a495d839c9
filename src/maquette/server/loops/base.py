"""A loop: the same turn again and again, which nothing but its owner ends."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

import structlog

from maquette.server.loops.errands import Errands
from maquette.server.loops.pauses import pause_after

log: Any = structlog.get_logger()


class Loop(ABC):
    """Runs `turn` every `interval` seconds, or at once when woken.

    A turn works in three breaths: load (short transaction), process (none open), apply (short, guarded). A turn
    that raises is logged and tried again after a growing pause; the loop never dies of it. What may take long is no
    part of a turn: a turn begins it as an errand, and later turns leave it alone while it lasts, and for a growing
    pause where it failed.

    Attributes:
        cut_off: errands that stopping does not wait for.
    """

    cut_off: tuple[str, ...] = ()

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.errands = Errands(interval)
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def turn(self) -> None:
        """Do what is due now."""

    def start(self) -> None:
        """Begin turning in the background."""
        self._task = asyncio.create_task(self._run(), name=type(self).__name__)

    def wake(self) -> None:
        """Take the next turn now."""
        self._wake.set()

    async def stop(self) -> None:
        """Let the turn and the errands in progress end, and begin no other; they are cancelled if the caller is."""
        self._stopping = True
        self.wake()
        try:
            if self._task:
                await self._task
            for name in self.cut_off:
                self.errands.cancel(name)
            await self.errands.finish()
        finally:
            await self.errands.abandon()

    async def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                await self.turn()
                failures = 0
            except Exception as error:
                failures += 1
                log.exception("loop.turn_failed", loop=type(self).__name__, failures=failures, error=str(error))
            await self._pause(pause_after(self.interval, failures))

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return
        self._wake.clear()
