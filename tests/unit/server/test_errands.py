import asyncio

from structlog.testing import capture_logs

from maquette.server.loops.errands import Errands


class Work:
    """Counts how often it begins and how it ends."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0
        self.ends: list[str] = []

    async def __call__(self) -> None:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        self.ends.append("done")


async def test_there_is_one_piece_of_work_of_a_name_at_a_time() -> None:
    errands, work, other = Errands(), Work(), Work()
    for _ in range(3):
        errands.begin("a", work)
        errands.begin("b", other)
        await asyncio.sleep(0)
    assert errands.under_way == {"a", "b"}
    assert (work.begun, other.begun) == (1, 1)
    work.go_on.set()
    await asyncio.sleep(0.01)
    assert errands.under_way == {"b"}
    errands.begin("a", work)
    other.go_on.set()
    await errands.finish()
    assert (work.ends, other.ends) == (["done", "done"], ["done"])


async def test_what_goes_wrong_is_logged() -> None:
    errands = Errands()

    async def wrong() -> None:
        raise OSError("a full disk")

    with capture_logs() as logs:
        errands.begin("a", wrong)
        await errands.finish()
    assert [(line["event"], line["errand"], line["error"]) for line in logs] == [("errand.failed", "a", "a full disk")]


async def test_one_is_cancelled_and_no_other() -> None:
    errands, work, other = Errands(), Work(), Work()
    errands.begin("a", work)
    errands.begin("b", other)
    await asyncio.sleep(0)
    errands.cancel("a")
    errands.cancel("nobody")
    await asyncio.sleep(0.01)
    assert (work.ends, errands.under_way) == (["cancelled"], {"b"})
    await errands.abandon()
    assert other.ends == ["cancelled"]


async def test_who_stops_waiting_takes_the_work_along() -> None:
    errands, work = Errands(), Work()
    errands.begin("a", work)
    waiting = asyncio.create_task(errands.finish())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert work.ends == ["cancelled"]
