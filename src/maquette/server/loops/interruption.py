"""Waiting for a pool, which stopping cuts short."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The loop stops, and does not wait for this any more."""


class Interruptible:
    """Waits that a loop's stop ends at once.

    Only these: work that is cancelled as a whole may be in the midst of a database call, and leave its connection open.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._waits: set[asyncio.Task[Any]] = set()

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work.

        Raises:
            Interrupted: `stop` was called; the work is cancelled.
        """
        task = asyncio.create_task(work)
        self._waits.add(task)
        if self._stopped:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            us = asyncio.current_task()
            if self._stopped and us is not None and not us.cancelling():
                raise Interrupted from None
            raise
        finally:
            self._waits.discard(task)

    def stop(self) -> None:
        """End every wait, now and from now on."""
        self._stopped = True
        for task in self._waits:
            task.cancel()
