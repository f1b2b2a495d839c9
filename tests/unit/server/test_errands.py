import asyncio

import pytest
from structlog.testing import capture_logs

from maquette.server.loops import errands as module
from maquette.server.loops.errands import FORGOTTEN_AFTER, Errands


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
    errands, work, other = Errands(1.0), Work(), Work()
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
    errands = Errands(1.0)

    async def wrong() -> None:
        raise OSError("a full disk")

    with capture_logs() as logs:
        errands.begin("a", wrong)
        await errands.finish()
    assert [(line["event"], line["errand"], line["error"]) for line in logs] == [("errand.failed", "a", "a full disk")]


async def test_one_is_cancelled_and_no_other() -> None:
    errands, work, other = Errands(1.0), Work(), Work()
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
    errands, work = Errands(1.0), Work()
    errands.begin("a", work)
    waiting = asyncio.create_task(errands.finish())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert work.ends == ["cancelled"]


class Flaky:
    """Work that fails while it should, under a clock that the test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.begun = 0
        self.fails = True
        self.errands = Errands(1.0)
        monkeypatch.setattr(module, "monotonic", lambda: self.now)

    async def __call__(self) -> None:
        self.begun += 1
        if self.fails:
            raise OSError("away")

    async def begin(self, name: str = "a") -> int:
        """How often work had begun by the time all of it has ended."""
        self.errands.begin(name, self)
        await self.errands.finish()
        return self.begun


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Flaky:
    return Flaky(monkeypatch)


async def test_what_failed_begins_again_after_a_pause_that_grows(flaky: Flaky) -> None:
    assert await flaky.begin() == 1
    for begun, pause in enumerate((2.0, 4.0, 8.0, 16.0, 30.0, 30.0), start=1):
        flaky.now += pause - 0.1
        assert await flaky.begin() == begun
        flaky.now += 0.1
        assert await flaky.begin() == begun + 1
    assert flaky.errands.failures("a") == 7


async def test_what_failed_holds_up_no_other_work_and_is_forgotten_once_it_ends_well(flaky: Flaky) -> None:
    await flaky.begin("a")
    assert await flaky.begin("b") == 2
    flaky.now, flaky.fails = flaky.now + 2.0, False
    assert await flaky.begin("a") == 3
    assert (flaky.errands.failures("a"), flaky.errands.failures("b")) == (0, 1)
    assert await flaky.begin("a") == 4


async def test_what_nobody_asks_for_again_is_forgotten(flaky: Flaky) -> None:
    await flaky.begin("a")
    flaky.now += FORGOTTEN_AFTER + 2.0
    await flaky.begin("b")
    assert (flaky.errands.failures("a"), flaky.errands.failures("b")) == (0, 1)


async def test_only_the_first_of_several_failures_is_logged_with_its_traceback(flaky: Flaky) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            await flaky.begin()
            flaky.now += 60.0
    assert [(line["failures"], line["exc_info"]) for line in logs] == [(1, True), (2, False), (3, False)]
