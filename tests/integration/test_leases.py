"""Leases: kept, lapsed, distrusted before their end, and what another server may do then."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from maquette.core.lifecycle import TaskStatus
from maquette.db.now import now
from maquette.db.tables import attempts
from maquette.executors.base import AttemptPlan, Observation
from maquette.server.loops import lease as leases
from maquette.server.loops.lease import DISTRUST_SECONDS, LEASE_SECONDS, RENEW_SECONDS, Lease, LeaseLapsed
from maquette.server.loops.supervision import ORPHAN_MARGIN
from maquette.storage.base import StorageFailed
from maquette.testing.loops import PATIENCE, SETTINGS, SLOW, Service
from maquette.testing.scripted_executor import Script, ScriptedExecutor, ScriptedNode

SETTINGS_THAT_REAP = replace(SETTINGS, reap_interval=0.05)
ORPHAN_AFTER = SETTINGS.abandon_after + ORPHAN_MARGIN
LONG_ENOUGH = 0.3
"""Seconds in which loops that turn every hundredth of one would have done what they must not do."""


class Watch:
    """The monotonic clock of this process, which a test moves on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(leases, "monotonic", watch)
    return watch


async def left(service: Service) -> float:
    """Seconds until the only attempt's lease ends, by the database's clock."""
    async with service.database.read() as conn:
        return (await conn.execute(select(attempts.c.lease_until))).scalar_one() - await now(conn)


async def hanging(service: Service) -> str:
    """A task in training that does nothing after its sixth step."""
    task_id = await service.add_task(Script(hang_at=6))
    await service.until(task_id, TaskStatus.TRAINING, step=6)
    return task_id


# One server's lease


async def test_a_lease_is_trusted_until_five_seconds_before_its_end(service: Service, watch: Watch) -> None:
    lease = Lease(service.database, "a-server")
    assert not lease.trusted
    await lease.renew()
    watch.seconds += LEASE_SECONDS - DISTRUST_SECONDS - 0.1
    assert lease.trusted
    watch.seconds += 0.2
    assert not lease.trusted
    await lease.keep()
    assert lease.trusted


async def test_a_lease_is_counted_from_before_its_renewal_was_sent(
    service: Service, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that takes long may have been carried out at its very beginning."""
    lease, write = Lease(service.database, "a-server"), service.database.write

    def slow() -> Any:
        watch.seconds += 20.0
        return write()

    monkeypatch.setattr(service.database, "write", slow)
    await lease.renew()
    assert lease.trusted
    watch.seconds += LEASE_SECONDS - DISTRUST_SECONDS - 20.0
    assert not lease.trusted


async def test_a_renewal_that_fails_renews_nothing(
    service: Service, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(service.database, "a-server")
    await lease.renew()
    watch.seconds += 20.0

    def away() -> Any:
        raise ConnectionError("the database is away")

    monkeypatch.setattr(service.database, "write", away)
    with pytest.raises(ConnectionError):
        await lease.keep()
    watch.seconds += 5.0
    assert not lease.trusted


async def test_several_loops_that_keep_a_lease_renew_it_once(
    service: Service, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, write, written = Lease(service.database, "a-server"), service.database.write, 0

    def counted() -> Any:
        nonlocal written
        written += 1
        return write()

    monkeypatch.setattr(service.database, "write", counted)
    await asyncio.gather(*(lease.keep() for _ in range(3)))
    assert written == 1
    watch.seconds += RENEW_SECONDS - 0.1
    await lease.keep()
    assert written == 1
    watch.seconds += 0.2
    await asyncio.gather(*(lease.keep() for _ in range(3)))
    assert written == 2


async def test_an_attempt_s_lease_is_kept_while_its_server_turns(service: Service, watch: Watch) -> None:
    service.node.step_seconds = SLOW
    await service.start()
    task_id = await hanging(service)
    for _ in range(3):
        service.database.clock.shift(LEASE_SECONDS - 1.0)
        assert await left(service) < 2.0
        watch.seconds += RENEW_SECONDS
        async with asyncio.timeout(PATIENCE):
            while await left(service) < LEASE_SECONDS - 2.0:
                await asyncio.sleep(0.01)
    assert (await service.row(task_id)).fence == 1


async def test_without_trust_nothing_is_written(service: Service, watch: Watch) -> None:
    lease = Lease(service.database, "a-server")
    await lease.renew()
    async with lease.write() as conn:
        assert await now(conn) > 0
    watch.seconds += LEASE_SECONDS
    with pytest.raises(LeaseLapsed):
        async with lease.write():
            raise AssertionError("a transaction was given")


# A server whose lease lapsed


class SlowPoll(ScriptedExecutor):
    """Polling takes as long as a test wants, and launching fails for as long."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.node, service.storage, devices=("cuda:0", "cuda:1"))
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.waiting = 0
        self.polls = 0
        self.stops = 0
        self.launches = 0
        self.away = False

    async def launch(self, plan: AttemptPlan) -> str:
        self.launches += 1
        if self.away:
            raise StorageFailed("the store is away")
        return await super().launch(plan)

    async def poll(self, handle: str, offset: int, *, wanted: bool = True) -> Observation:
        self.polls += 1
        self.waiting += 1
        await self.go_on.wait()
        self.waiting -= 1
        return await super().poll(handle, offset, wanted=wanted)

    async def stop(self, handle: str, grace: float) -> None:
        self.stops += 1
        await super().stop(handle, grace)


async def test_a_server_whose_lease_lapsed_does_nothing_until_it_is_renewed(
    service: Service, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = SlowPoll(service)
    task_id = await service.add_task(Script(), Script())
    executor.go_on.clear()
    running = await service.start(executor)
    async with asyncio.timeout(PATIENCE):
        while not executor.waiting or service.node.attempts[executor.handle(task_id, 1)].alive:
            await asyncio.sleep(0.01)

    executor.away = True
    unlaunched = await service.add_task()
    await service.until(unlaunched, TaskStatus.TRAINING)

    async def in_vain() -> None:
        """As the database is slow to take a renewal, or takes it and the answer is lost."""

    with monkeypatch.context() as patch:
        patch.setattr(running.lease, "renew", in_vain)
        watch.seconds += LEASE_SECONDS
        waiting = await service.add_task()
        await service.request_cancel(task_id)
        executor.away = False
        executor.go_on.set()
        await asyncio.sleep(LONG_ENOUGH)
        launches = executor.launches
        await asyncio.sleep(LONG_ENOUGH)
        attempt = await service.attempt(task_id)
        assert (attempt.message_offset, attempt.ended_at) == (0, None)
        assert (await service.row(task_id)).status == TaskStatus.TRAINING
        assert (await service.row(waiting)).status == TaskStatus.QUEUING
        assert (executor.polls, executor.stops, executor.launches) == (1, 0, launches)
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS, "a verified result wins over the cancel"
    assert (await service.ended(unlaunched)).status == TaskStatus.SUCCESS
    assert (await service.ended(waiting)).status == TaskStatus.SUCCESS
    assert (await service.row(task_id)).fence == 1


async def test_what_is_under_way_ends_when_the_lease_lapses(
    service: Service, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the loops hang on a database that does not answer."""
    executor = SlowPoll(service)
    service.node.step_seconds = SLOW
    running = await service.start(executor)
    await hanging(service)
    executor.go_on.clear()
    dispatch, observe, *_ = running._loops
    cut: list[str] = []

    async def launch() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut.append("launch")
            raise

    async def no_answer() -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE):
        while not observe.errands.under_way:
            await asyncio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr(running.lease, "keep", no_answer)
            dispatch.errands.begin("launch", launch)
            await asyncio.sleep(0.05)
            watch.seconds += LEASE_SECONDS
            while cut != ["launch"] or observe.errands.under_way:
                await asyncio.sleep(0.01)
    for loop in (dispatch, observe, running._loops[2]):
        assert loop._task
        loop._task.cancel()
    with suppress(asyncio.CancelledError):
        await service.stop()


# Another server


async def test_a_lapsed_lease_hands_over_supervision_and_not_the_work(service: Service) -> None:
    """The next server on the node finds the trainer alive, and starts no other until the executor says it is dead."""
    service.node.step_seconds = SLOW
    await service.start()
    task_id = await hanging(service)
    first = (await service.attempt(task_id)).supervisor
    await service.stop()
    service.database.clock.shift(LEASE_SECONDS + 1.0)
    assert await left(service) < 0
    await service.start()
    await asyncio.sleep(LONG_ENOUGH)
    attempt = await service.attempt(task_id)
    assert (attempt.ended_at, attempt.supervisor == first) == (None, False)
    assert await left(service) > LEASE_SECONDS - 5.0
    assert set(service.node.attempts) == {f"{task_id}/1"}
    service.node.attempts[f"{task_id}/1"].kill()
    assert (await service.ended(task_id)).fence == 2


async def test_another_nodes_attempt_is_taken_only_after_its_trainer_has_ended_by_itself(service: Service) -> None:
    """An executor elsewhere can't say whether it is dead; time can."""
    service.node.step_seconds = SLOW
    await service.start()
    task_id = await hanging(service)
    await service.stop()
    service.node.lose()
    service.node = ScriptedNode("another-node")
    await service.start(settings=SETTINGS_THAT_REAP)
    service.database.clock.shift(LEASE_SECONDS + ORPHAN_AFTER - 10.0)
    for supervision in service.running:
        await supervision.lease.renew()
    await asyncio.sleep(LONG_ENOUGH)
    assert (await service.row(task_id)).fence == 1
    assert (await service.attempt(task_id)).ended_at is None
    service.database.clock.shift(20.0)
    assert (await service.ended(task_id)).fence == 2
    assert await service.attempt_reasons(task_id) == ["worker_lost", "finished"]


async def test_a_server_that_slept_is_not_robbed_by_itself(service: Service) -> None:
    service.node.step_seconds = SLOW
    await service.start(settings=SETTINGS_THAT_REAP)
    task_id = await hanging(service)
    service.database.clock.shift(LEASE_SECONDS + ORPHAN_AFTER + 10.0)
    await asyncio.sleep(LONG_ENOUGH)
    assert (await service.row(task_id)).fence == 1
    service.node.attempts[f"{task_id}/1"].kill()
    assert (await service.ended(task_id)).fence == 2


async def test_who_lost_its_attempts_renews_and_writes_them_no_more(service: Service) -> None:
    service.node.step_seconds = SLOW
    executor = SlowPoll(service)
    old = await service.start(executor)
    task_id = await hanging(service)
    executor.go_on.clear()
    async with asyncio.timeout(PATIENCE):
        while not executor.waiting:
            await asyncio.sleep(0.01)
    new = Lease(service.database, "a-new-server")
    assert await new.take_over(service.node.node_id) == 1
    service.database.clock.shift(10.0)
    before = await left(service)
    await old.lease.renew()
    assert await left(service) == pytest.approx(before, abs=5.0)
    service.node.attempts[f"{task_id}/1"].kill()
    executor.go_on.set()
    await asyncio.sleep(LONG_ENOUGH)
    attempt = await service.attempt(task_id)
    assert (attempt.supervisor, attempt.ended_at) == ("a-new-server", None)
    assert (await service.row(task_id)).status == TaskStatus.TRAINING
