"""What is slow, away or in doubt with one attempt stays with that attempt."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from sqlalchemy import select, update
from structlog.testing import capture_logs

from maquette.core.lifecycle import FAILURES, Reason, TaskStatus
from maquette.db.now import now_sql
from maquette.db.tables import attempts, checkpoints, device_claims, tasks
from maquette.executors.base import AttemptPlan, Observation
from maquette.server.loops import attempts as repository
from maquette.server.loops import conclude, dispatch, supervision
from maquette.storage.base import StorageFailed
from maquette.testing.loops import PATIENCE, SETTINGS, SLOW, Service
from maquette.testing.scripted_executor import Script, ScriptedAttempt, ScriptedExecutor

DEADLINE = 3600.0
TWO = ("cuda:0", "cuda:1")
SETTINGS_THAT_REAP = replace(SETTINGS, reap_interval=0.01)


async def soon(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


class Gate:
    """Where a task's calls wait until it is opened.

    Attributes:
        inside: calls that wait, or have gone on and not ended.
        most: the most of them at a time.
    """

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.task_id = ""
        self.inside = 0
        self.most = 0

    async def wait(self, name: str) -> None:
        if not name.startswith(self.task_id):
            return
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1


class GatedLaunch(ScriptedExecutor):
    """Launching waits at a gate, and goes on behind it."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.node, service.storage)
        self.gate = Gate()

    async def launch(self, plan: AttemptPlan) -> str:
        if plan.fence == 1:
            await self.gate.wait(plan.task_id)
        return await super().launch(plan)


class GatedPoll(ScriptedExecutor):
    """Polling waits at a gate, as for a store that takes its files slowly."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.node, service.storage, devices=TWO)
        self.gate = Gate()

    async def poll(self, handle: str, offset: int, *, wanted: bool = True) -> Observation:
        await self.gate.wait(handle)
        return await super().poll(handle, offset, wanted=wanted)


# Handles and launches


async def test_a_handle_is_known_before_the_launch(service: Service) -> None:
    executor = GatedLaunch(service)
    task_id = await service.add_task()
    await service.start(executor)
    await soon(lambda: executor.gate.inside > 0)
    attempt = await service.attempt(task_id)
    assert (attempt.handle, attempt.launched_at) == (executor.handle(task_id, 1), None)
    executor.gate.opened.set()
    assert (await service.ended(task_id)).fence == 1
    assert (await service.attempt(task_id)).launched_at is not None


async def test_a_launch_that_comes_too_late_leaves_nothing_running(service: Service) -> None:
    executor = GatedLaunch(service)
    task_id = await service.add_task(Script(hang_at=1))
    running = await service.start(executor)
    await soon(lambda: executor.gate.inside > 0)
    async with service.database.write() as conn:
        (attempt,) = await repository.supervised(conn, executor.node_id, running.lease.supervisor)
        right = repository.supervised_by(running.lease.supervisor)
        assert await conclude.without_result(conn, attempt, Reason.WORKER_LOST, "", right=right)
    assert (await service.ended(task_id)).fence == 2
    executor.gate.opened.set()
    await soon(lambda: executor.gate.inside == 0)
    await soon(lambda: executor.handle(task_id, 1) not in service.node.attempts)
    assert (await service.attempt(task_id)).launched_at is None


class ForgetfulLaunch(ScriptedExecutor):
    """The first launch starts a trainer and does not say so."""

    forgot = False

    async def launch(self, plan: AttemptPlan) -> str:
        handle = await super().launch(plan)
        if not self.forgot:
            self.forgot = True
            raise RuntimeError("as if the server had died here")
        return handle


async def test_a_trainer_whose_launch_was_not_stored_is_kept_and_found_again(service: Service) -> None:
    service.node.step_seconds = SLOW
    task_id = await service.add_task()
    await service.start(ForgetfulLaunch(service.node, service.storage), SETTINGS_THAT_REAP)
    row = await service.ended(task_id)
    assert (row.status, row.fence) == (TaskStatus.SUCCESS, 1)
    assert len(await service.told(task_id, "started")) == 1


async def test_what_an_ended_attempt_has_left_is_erased_whoever_started_it(service: Service) -> None:
    executor = ScriptedExecutor(service.node, service.storage)
    ended, running = await service.add_task(), await service.add_task(Script(hang_at=1))
    await service.start(executor)
    await service.ended(ended)
    await service.until(running, TaskStatus.TRAINING, step=1)
    await service.stop()
    plan = service.node.attempts[executor.handle(running, 1)].plan
    await executor.erase(executor.handle(ended, 1))
    await executor.launch(replace(plan, task_id=ended, fence=1))
    stray = service.node.attempts[executor.handle(ended, 1)]
    await service.start(executor, SETTINGS_THAT_REAP)
    await soon(lambda: set(service.node.attempts) == {executor.handle(running, 1)})
    assert not stray.alive
    assert (await service.row(running)).fence == 1


async def test_what_no_row_names_is_left_alone_and_named_in_the_log_once(service: Service) -> None:
    """As on a server that was started on the wrong database: every trainer of its node is a stranger."""
    executor = ScriptedExecutor(service.node, service.storage)
    task_id = await service.add_task(Script(hang_at=1))
    await service.start(executor)
    await service.until(task_id, TaskStatus.TRAINING, step=1)
    await service.stop()
    plan = service.node.attempts[executor.handle(task_id, 1)].plan
    for fence in (1, 2):
        service.node.script("stranger", *[Script(hang_at=1)] * 2)
        await executor.launch(replace(plan, task_id="stranger", fence=fence))
    adopted = 0

    async def counted() -> tuple[str, ...]:
        nonlocal adopted
        adopted += 1
        return await ScriptedExecutor.adopt(executor)

    executor.adopt = counted
    with capture_logs() as logs:
        await service.start(executor, SETTINGS_THAT_REAP)
        await soon(lambda: adopted > 3)
    assert {handle for handle, attempt in service.node.attempts.items() if attempt.alive} == {
        f"{task_id}/1",
        "stranger/1",
        "stranger/2",
    }
    named = [line["handle"] for line in logs if line["event"] == "attempt.of_another_database"]
    assert named == ["stranger/1", "stranger/2"]


# What can't be launched, or not even dispatched


@pytest.mark.parametrize("back_off", [False, True], ids=["due", "in its back-off"])
async def test_a_task_past_its_deadline_fails_though_no_device_is_free(service: Service, back_off: bool) -> None:
    task_id = await service.add_task()
    if back_off:
        async with service.database.write() as conn:
            await conn.execute(update(tasks).values(not_before=now_sql(conn) + 10 * DEADLINE))
    executor = ScriptedExecutor(service.node, service.storage, devices=())
    await service.start(executor, replace(SETTINGS, task_deadline=DEADLINE))
    await asyncio.sleep(0.1)
    assert (await service.row(task_id)).status == TaskStatus.QUEUING
    service.database.clock.shift(DEADLINE)
    async with asyncio.timeout(PATIENCE):
        while (row := await service.row(task_id)).status == TaskStatus.QUEUING:
            await asyncio.sleep(0.01)
    assert (row.status, row.reason) == (TaskStatus.FAILED, Reason.TIMED_OUT)


class StorageAway(ScriptedExecutor):
    """Nothing can be staged in."""

    async def launch(self, plan: AttemptPlan) -> str:
        raise StorageFailed("the store is away")


@pytest.mark.parametrize("kind", [StorageAway, GatedLaunch], ids=["refused", "waiting for ever"])
@pytest.mark.parametrize("why", ["cancel", "deadline"])
async def test_an_attempt_that_can_not_be_launched_ends_when_its_task_should(
    service: Service, monkeypatch: pytest.MonkeyPatch, kind: type[ScriptedExecutor], why: str
) -> None:
    monkeypatch.setattr(dispatch, "LAUNCH_TRIES", 1000)
    executor = GatedLaunch(service) if kind is GatedLaunch else StorageAway(service.node, service.storage)
    task_id = await service.add_task()
    await service.start(executor, replace(SETTINGS, task_deadline=DEADLINE))
    await service.until(task_id, TaskStatus.TRAINING)
    await asyncio.sleep(0.1)
    if why == "cancel":
        assert await service.request_cancel(task_id) == TaskStatus.TRAINING
        expected = (TaskStatus.CANCELED, Reason.CANCELED)
    else:
        service.database.clock.shift(DEADLINE)
        expected = (TaskStatus.FAILED, Reason.TIMED_OUT)
    row = await service.ended(task_id)
    assert (row.status, row.reason, row.fence) == (*expected, 1)
    assert await service.attempt_reasons(task_id) == [expected[1]]
    assert await service.count(device_claims) == 0
    assert not service.node.attempts


class Unreadable(ScriptedExecutor):
    """The store does not read one task's pictures."""

    task_id = ""
    tries = 0

    async def launch(self, plan: AttemptPlan) -> str:
        if plan.task_id == self.task_id:
            self.tries += 1
            raise StorageFailed("it is not for you")
        return await super().launch(plan)


async def test_what_the_store_does_not_read_makes_room_for_others_and_is_tried_again(service: Service) -> None:
    executor = Unreadable(service.node, service.storage)
    unreadable, other = await service.add_task(), await service.add_task()
    executor.task_id = unreadable
    await service.start(executor)
    assert (await service.ended(other)).status == TaskStatus.SUCCESS
    assert executor.tries == dispatch.LAUNCH_TRIES
    row = await service.row(unreadable)
    assert (row.status, row.reason, row.fence) == (TaskStatus.QUEUING, Reason.STORAGE_AWAY, 1)
    assert row.message == FAILURES[Reason.STORAGE_AWAY].words
    executor.task_id = ""
    assert (await service.ended(unreadable)).status == TaskStatus.SUCCESS
    assert await service.attempt_reasons(unreadable) == ["storage_away", "finished"]


async def test_a_launch_that_waits_does_not_hold_up_another(service: Service) -> None:
    executor = GatedLaunch(service)
    executor._devices = TWO
    slow = executor.gate.task_id = await service.add_task()
    await service.start(executor)
    await soon(lambda: executor.gate.inside > 0)
    assert (await service.ended(await service.add_task())).status == TaskStatus.SUCCESS
    assert executor.gate.most == 1
    executor.gate.opened.set()
    assert (await service.ended(slow)).status == TaskStatus.SUCCESS


# A store that takes nothing


class TakesNothing(ScriptedExecutor):
    """Nothing can be staged out."""

    taking = False

    async def _put(self, attempt: ScriptedAttempt, name: str) -> None:
        if not self.taking:
            raise StorageFailed("the store is away")
        await super()._put(attempt, name)


@pytest.mark.parametrize("why", ["cancel", "deadline"])
async def test_an_attempt_without_a_result_ends_though_the_store_takes_nothing(service: Service, why: str) -> None:
    executor = TakesNothing(service.node, service.storage)
    task_id = await service.add_task(Script(hang_at=6))
    await service.start(executor, replace(SETTINGS, task_deadline=DEADLINE))
    await soon(lambda: f"{task_id}/1" in service.node.attempts and len(service.node.attempts[f"{task_id}/1"].files) > 0)
    if why == "cancel":
        await service.request_cancel(task_id)
        expected = (TaskStatus.CANCELED, Reason.CANCELED)
    else:
        service.database.clock.shift(DEADLINE)
        expected = (TaskStatus.FAILED, Reason.TIMED_OUT)
    row = await service.ended(task_id)
    assert (row.status, row.reason) == expected
    assert await service.count(checkpoints) == 0
    assert await service.count(device_claims) == 0


async def test_a_result_is_waited_for_though_the_store_takes_nothing_and_a_cancel_was_asked_for(
    service: Service,
) -> None:
    executor = TakesNothing(service.node, service.storage)
    task_id = await service.add_task()
    with capture_logs() as logs:
        await service.start(executor)
        await soon(lambda: f"{task_id}/1" in service.node.attempts and not service.node.attempts[f"{task_id}/1"].alive)
        await service.request_cancel(task_id)
        failed = len(logs)
        await soon(lambda: any(line["event"] == "errand.failed" for line in logs[failed:]))
    executor.taking = True
    assert (await service.ended(task_id)).status == TaskStatus.SUCCESS


# A slow observation


async def test_a_slow_observation_holds_up_neither_the_others_nor_its_own_cancel(service: Service) -> None:
    executor = GatedPoll(service)
    slow = executor.gate.task_id = await service.add_task(Script(hang_at=3))
    await service.start(executor)
    await soon(lambda: executor.gate.inside > 0)
    others = [await service.add_task() for _ in range(3)]
    assert [(await service.ended(other)).status for other in others] == [TaskStatus.SUCCESS] * 3
    await service.request_cancel(slow)
    attempt = service.node.attempts[executor.handle(slow, 1)]
    await soon(lambda: not attempt.alive)
    assert executor.gate.most == 1, "two observations of one attempt at a time"
    assert (await service.row(slow)).status == TaskStatus.TRAINING
    executor.gate.opened.set()
    assert (await service.ended(slow)).status == TaskStatus.CANCELED


class Unlucky(GatedPoll):
    """Polling one task goes wrong until the gate is open."""

    async def poll(self, handle: str, offset: int, *, wanted: bool = True) -> Observation:
        if handle.startswith(self.gate.task_id) and not self.gate.opened.is_set():
            raise RuntimeError("as nobody expected")
        return await ScriptedExecutor.poll(self, handle, offset, wanted=wanted)


async def test_what_goes_wrong_with_one_attempt_is_logged_and_stays_with_it(service: Service) -> None:
    executor = Unlucky(service)
    unlucky = executor.gate.task_id = await service.add_task()
    with capture_logs() as logs:
        await service.start(executor)
        assert (await service.ended(await service.add_task())).status == TaskStatus.SUCCESS
        await soon(lambda: any(line["event"] == "errand.failed" for line in logs))
    assert {line["errand"] for line in logs if line["event"] == "errand.failed"} == {f"observe {unlucky}/1"}
    executor.gate.opened.set()
    assert (await service.ended(unlucky)).status == TaskStatus.SUCCESS


async def test_stopping_lets_an_observation_come_to_its_end(service: Service) -> None:
    executor = GatedPoll(service)
    task_id = executor.gate.task_id = await service.add_task()
    await service.start(executor)
    await soon(lambda: executor.gate.inside > 0)
    await soon(lambda: not service.node.attempts[executor.handle(task_id, 1)].alive)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    executor.gate.opened.set()
    await stopping
    assert (await service.row(task_id)).status == TaskStatus.SUCCESS


async def test_stopping_ends_an_observation_that_does_not(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "STOP_SECONDS", 0.2)
    executor = GatedPoll(service)
    task_id = executor.gate.task_id = await service.add_task()
    running = await service.start(executor)
    await soon(lambda: executor.gate.inside > 0)
    await service.stop()
    assert executor.gate.inside == 0
    assert not any(loop.errands.under_way for loop in running._loops)
    async with service.database.read() as conn:
        assert (await conn.execute(select(attempts.c.message_offset))).scalar_one() == 0
    executor.gate.opened.set()
    await service.start(executor)
    assert (await service.ended(task_id)).fence == 1
