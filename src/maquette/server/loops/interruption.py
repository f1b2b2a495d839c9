"""Waiting for a pool, which can be cut short."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The loop stops, or has no more use for this: it does not wait any longer."""


class Interruptible:
    """Waits, each under a name, that can be ended at once.

    Only these: work that is cancelled as a whole may be in the midst of a database call, and leave its connection open.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._waits: dict[str, asyncio.Task[Any]] = {}
        self._cut_short: set[asyncio.Task[Any]] = set()

    async def wait(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Await work; nobody else waits under this name.

        Raises:
            Interrupted: `let_go` or `stop` was called; the work is cancelled.
        """
        task = self._waits[name] = asyncio.create_task(work)
        if self._stopped:
            self.let_go(name)
        try:
            return await task
        except asyncio.CancelledError:
            us = asyncio.current_task()
            if task in self._cut_short and us is not None and not us.cancelling():
                raise Interrupted from None
            raise
        finally:
            del self._waits[name]
            self._cut_short.discard(task)

    def let_go(self, name: str) -> None:
        """End a wait; harmless where there is none."""
        if name in self._waits:
            self._cut_short.add(self._waits[name])
            self._waits[name].cancel()

    def stop(self) -> None:
        """End every wait, now and from now on."""
        self._stopped = True
        for name in self._waits:
            self.let_go(name)
