import asyncio

import pytest

from maquette.server.loops.interruption import Interrupted, Interruptible


class Work:
    """Never ends by itself, and remembers whether it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = False

    async def __call__(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def begun(waits: Interruptible, name: str, work: Work) -> asyncio.Task[None]:
    waiting = asyncio.create_task(waits.wait(name, work()))
    await asyncio.sleep(0.01)
    return waiting


async def test_a_wait_gives_what_was_waited_for() -> None:
    async def five() -> int:
        return 5

    waits = Interruptible()
    assert await waits.wait("a", five()) == 5
    waits.let_go("a")
    assert await waits.wait("a", five()) == 5, "what was let go of once may be waited for again"


async def test_one_wait_is_ended_and_the_others_go_on() -> None:
    waits, ended, other = Interruptible(), Work(), Work()
    first, second = await begun(waits, "a", ended), await begun(waits, "b", other)
    waits.let_go("a")
    waits.let_go("nobody's")
    with pytest.raises(Interrupted):
        await first
    assert (ended.cancelled, second.done()) == (True, False)
    waits.stop()
    with pytest.raises(Interrupted):
        await second
    with pytest.raises(Interrupted):
        await waits.wait("c", Work()())


async def test_who_is_cancelled_is_cancelled_and_takes_the_work_along() -> None:
    waits, work = Interruptible(), Work()
    waiting = await begun(waits, "a", work)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled
    waits.stop()


async def test_work_that_breaks_off_by_itself_is_not_interrupted() -> None:
    async def breaks_off() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Interruptible().wait("a", breaks_off())


async def test_a_time_limit_around_a_wait_is_a_time_limit() -> None:
    waits, work = Interruptible(), Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await waits.wait("a", work())
    assert work.cancelled
