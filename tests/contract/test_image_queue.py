"""Image tasks: moved exactly along the edges, drawn by one at a time, and nothing of them lost."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import RowMapping, event, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.ids import new_task_id
from maquette.core.image_specs import ImageKind
from maquette.core.lifecycle import IMAGE, IMAGE_FAILURES, IllegalMove, ImageStatus, Reason, TaskStatus
from maquette.core.picture_format import PictureFormat
from maquette.db.engine import Database
from maquette.db.move import Judgement, create_image_task, move_image_task, pass_model, reject_model
from maquette.db.now import now
from maquette.db.tables import image_tasks, webhook_deliveries
from maquette.server.images import queue
from maquette.server.images.queue import ClaimedImageTask, EndedImageTask, ImageProgress, QueuedImageTask
from maquette.server.images.repository import StoredImage, find
from maquette.server.webhooks import queue as webhooks
from maquette.server.webhooks.queue import Delivery
from maquette.testing.factories import image_spec, make_image_task, make_model, make_task, make_tenant

LEASE = 30.0
WAIT = 600.0
HOOK = "https://example.com/done?order=7"


async def snapshot(conn: AsyncConnection) -> tuple[list[RowMapping], list[RowMapping]]:
    """Everything a move could change."""
    return (
        list((await conn.execute(select(image_tasks).order_by(image_tasks.c.id))).mappings()),
        list((await conn.execute(select(webhook_deliveries))).mappings()),
    )


async def row_of(conn: AsyncConnection, task_id: str) -> RowMapping:
    return (await conn.execute(select(image_tasks).where(image_tasks.c.id == task_id))).mappings().one()


async def claim_next(database: Database, supervisor: str = "a") -> ClaimedImageTask:
    async with database.write() as conn:
        (task, *_) = await queue.due(conn, 1, model_wait=WAIT)
        claimed = await queue.claim(conn, task, supervisor=supervisor, lease=LEASE)
    assert claimed is not None
    return claimed


@pytest.mark.parametrize("status", ImageStatus)
async def test_an_image_task_moves_exactly_along_the_edges(database: Database, status: ImageStatus) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_image_task(conn, tenant_id, status=status)
        before = await snapshot(conn)
        for source, to, reason in itertools.product(ImageStatus, ImageStatus, Reason):
            savepoint = await conn.begin_nested()
            edge = reason in IMAGE.edges.get((source, to), ())
            try:
                moved = await move_image_task(
                    conn, tenant_id, task_id, source=source, to=to, reason=reason, message="why"
                )
            except IllegalMove:
                moved = None
                assert not edge
            else:
                assert edge
            if edge and source == status:
                row = await row_of(conn, task_id)
                assert moved == row["fence"]
                assert (row["status"], row["reason"], row["message"]) == (to, reason, "why")
                assert (row["finished_at"] is not None) == IMAGE.is_final(to)
                assert to is ImageStatus.PROCESSING or (row["supervisor"], row["lease_until"]) == (None, None)
            else:
                assert moved is None
                assert await snapshot(conn) == before
            await savepoint.rollback()


async def test_a_birth_is_a_place_in_the_queue(database: Database) -> None:
    async with database.write() as conn:
        owner, other = await make_tenant(conn), await make_tenant(conn)
        numbers = [await make_numbered(conn, tenant_id) for tenant_id in (owner, owner, other)]
        assert numbers == [1, 2, 1]
        (task, *_) = await queue.due(conn, 10, model_wait=WAIT)
        row = await row_of(conn, task.id)
        assert (row["status"], row["reason"], row["fence"]) == ("TASK_STATUS_QUEUED", "created", 0)
        assert row["total_steps"] == task.spec.steps * task.spec.image_num == 40
        assert abs(row["created_at"] - await now(conn)) < 5
        assert task.spec == image_spec()


async def make_numbered(conn: AsyncConnection, tenant_id: str) -> int:
    return await create_image_task(
        conn,
        tenant_id=tenant_id,
        image_task_id=new_task_id(),
        kind=ImageKind.TEXT,
        spec=image_spec(),
        original_key=None,
        webhook_url=None,
        public_url="http://maquette.test",
    )


async def test_old_fences_other_tenants_and_missing_rights_move_nothing(database: Database) -> None:
    finish: Any = {"source": ImageStatus.PROCESSING, "to": ImageStatus.SUCCEED, "reason": Reason.FINISHED}
    async with database.write() as conn:
        owner, other = await make_tenant(conn), await make_tenant(conn)
        task_id = await make_image_task(conn, owner, status=ImageStatus.PROCESSING)
        before = await snapshot(conn)
        for fence in (0, 2):
            assert await move_image_task(conn, owner, task_id, **finish, fence=fence) is None
        assert await move_image_task(conn, other, task_id, **finish) is None
        lapsed = queue.orphaned(conn, 0.0)
        assert await move_image_task(conn, owner, task_id, **finish, right=lapsed) is None
        assert await snapshot(conn) == before
        assert await move_image_task(conn, owner, task_id, **finish, fence=1) == 1


async def test_of_twenty_claims_at_once_one_wins(open_another: Callable[[], Database]) -> None:
    databases = [open_another() for _ in range(4)]
    async with databases[0].write() as conn:
        await make_image_task(conn, await make_tenant(conn))
    async with databases[0].read() as conn:
        (task,) = await queue.due(conn, 10, model_wait=WAIT)

    async def claim(database: Database) -> ClaimedImageTask | None:
        async with database.write() as conn:
            return await queue.claim(conn, task, supervisor="a", lease=LEASE)

    answers = await asyncio.gather(*(claim(database) for database in databases * 5))
    assert [answer.fence for answer in answers if answer] == [1]


async def due(database: Database, limit: int = 10) -> list[str]:
    async with database.read() as conn:
        return [task.id for task in await queue.due(conn, limit, model_wait=WAIT)]


async def model_of(conn: AsyncConnection, tenant_id: str) -> str:
    """A model that is not judged yet."""
    return await make_model(conn, tenant_id, await make_task(conn, tenant_id, status=TaskStatus.SUCCESS))


async def wait_for(database: Database, model_id: str) -> None:
    """Let every task that is due wait for a model."""
    async with database.write() as conn:
        for task in await queue.due(conn, 10, model_wait=WAIT):
            await queue.wait_for(conn, task, model_id)


async def test_what_waits_for_a_model_lets_others_pass_until_that_is_judged(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        serving, rejected = [await model_of(conn, tenant_id) for _ in range(2)]
        first = await make_image_task(conn, tenant_id)
    await wait_for(database, serving)
    async with database.write() as conn:
        second = await make_image_task(conn, tenant_id)
    await wait_for(database, rejected)
    async with database.write() as conn:
        ready = await make_image_task(conn, tenant_id)
    assert await due(database, limit=1) == [ready]
    async with database.write() as conn:
        assert await pass_model(conn, tenant_id, serving, Judgement(judged_with="a worker"))
    assert await due(database) == [first, ready]
    async with database.write() as conn:
        assert await reject_model(conn, tenant_id, rejected, Judgement(judged_with="a worker", message="grey"))
    assert await due(database) == [first, second, ready]


async def test_what_waits_for_a_model_waits_for_so_long_alone_and_not_for_one_that_is_gone(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        model_id = await model_of(conn, tenant_id)
        task_id = await make_image_task(conn, tenant_id)
    await wait_for(database, "gone")
    assert await due(database) == [task_id]
    await wait_for(database, model_id)
    assert await due(database) == []
    database.clock.shift(WAIT - 5)
    assert await due(database) == []
    database.clock.shift(10)
    assert await due(database) == [task_id]


async def test_a_thousand_that_wait_hide_nothing_that_is_ready(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        model_id = await model_of(conn, tenant_id)
        await make_image_task(conn, tenant_id)
        (template,) = (await conn.execute(select(image_tasks))).mappings()
        rows = [{**template, "id": new_task_id(), "number": number, "waits_for": model_id} for number in range(9, 1009)]
        await conn.execute(image_tasks.insert(), rows)
        await conn.execute(update(image_tasks).values(waits_for=model_id))
        ready = await make_image_task(conn, tenant_id)
    assert await due(database, limit=8) == [ready]


async def test_the_oldest_comes_first(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        first, second = [await make_image_task(conn, tenant_id) for _ in range(2)]
        assert [task.id for task in await queue.overdue(conn, 60.0, limit=10)] == []
    assert await due(database) == [first, second]
    database.clock.shift(66)
    async with database.write() as conn:
        waiting = await queue.overdue(conn, 60.0, limit=10)
        assert [task.id for task in waiting] == [first, second]
        assert await queue.refuse(conn, waiting[0], Reason.TIMED_OUT)
        assert not await queue.refuse(conn, waiting[0], Reason.TIMED_OUT)
        row = await row_of(conn, first)
        assert (row["status"], row["message"]) == ("TASK_STATUS_FAILED", IMAGE_FAILURES[Reason.TIMED_OUT].words)


async def test_a_task_of_a_dead_supervisor_is_drawn_by_another(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_image_task(conn, tenant_id)
    lost = await claim_next(database)
    async with database.write() as conn:
        await queue.advance(conn, [ImageProgress(lost, 7, 0.0)], LEASE)
        assert (await row_of(conn, task_id))["step"] == 7
    database.clock.shift(LEASE - 1)
    async with database.write() as conn:
        assert await queue.in_progress(conn, queue.orphaned(conn, 0.0), limit=10) == []
        await queue.advance(conn, [ImageProgress(lost, 9, 0.0)], LEASE)
    database.clock.shift(LEASE - 1)
    async with database.write() as conn:  # the lease was renewed
        assert await queue.fail(conn, lost, Reason.WORKER_LOST, right=queue.orphaned(conn, 0.0)) is None
    database.clock.shift(2)
    async with database.write() as conn:
        (orphan,) = await queue.in_progress(conn, queue.orphaned(conn, 0.0), limit=10)
        assert orphan == lost
        await queue.give_back(conn, orphan, queue.orphaned(conn, 0.0))
        row = await row_of(conn, task_id)
        assert (row["status"], row["failures"]) == (ImageStatus.QUEUED, {"worker_lost": 1})
        assert (row["step"], row["started_at"]) == (0, None)
        assert row["not_before"] > await now(conn)
    database.clock.shift(2)
    again = await claim_next(database, "b")
    assert again.fence == 2
    images = (StoredImage(queue.picture_key(again, 0, PictureFormat.WEBP), PictureFormat.WEBP),)
    async with database.write() as conn:  # the dead one comes back
        before = await snapshot(conn)
        assert not await queue.succeed(conn, lost, [])
        assert await queue.fail(conn, lost, Reason.INTERNAL) is None
        await queue.advance(conn, [ImageProgress(lost, 20, 0.0)], LEASE)
        assert await snapshot(conn) == before
        assert await queue.succeed(conn, again, images)
        await queue.advance(conn, [ImageProgress(again, 1, 0.0)], LEASE)
    async with database.read() as conn:
        found = await find(conn, tenant_id, task_id)
    assert found is not None
    assert (found.status, found.images, found.step) == (ImageStatus.SUCCEED, images, found.total_steps)
    assert images[0].key == f"images/{tenant_id}/{task_id}/2/0.webp"


async def test_it_was_begun_when_a_worker_began_it_and_that_stays(database: Database) -> None:
    """Another one may begin its second picture."""
    async with database.write() as conn:
        task_id = await make_image_task(conn, await make_tenant(conn))
    claimed = await claim_next(database)
    async with database.write() as conn:
        await queue.advance(conn, [ImageProgress(claimed, 0, None)], LEASE)
        assert (await row_of(conn, task_id))["started_at"] is None
        await queue.advance(conn, [ImageProgress(claimed, 3, 2.0)], LEASE)
        begun = (await row_of(conn, task_id))["started_at"]
        assert abs(await now(conn) - 2.0 - begun) < 0.5
        await queue.advance(conn, [ImageProgress(claimed, 4, 9.0), ImageProgress(claimed, 5, None)], LEASE)
        assert (await row_of(conn, task_id))["started_at"] == begun


async def test_what_no_worker_had_begun_is_given_back_as_often_as_it_takes(database: Database) -> None:
    async with database.write() as conn:
        task_id = await make_image_task(conn, await make_tenant(conn))
    for fence in range(1, 12):
        claimed = await claim_next(database)
        async with database.write() as conn:
            await queue.advance(conn, [ImageProgress(claimed, 0, None)], LEASE)
            await queue.give_back(conn, claimed, queue.supervised_by_others("b"))
            row = await row_of(conn, task_id)
            assert (row["status"], row["reason"], row["fence"]) == (ImageStatus.QUEUED, Reason.RELEASED, fence)
            assert (row["failures"], row["supervisor"]) == ({}, None)


async def test_what_is_released_waits_as_before_and_only_its_holder_may(database: Database) -> None:
    async with database.write() as conn:
        task_id = await make_image_task(conn, await make_tenant(conn))
    claimed = await claim_next(database)
    async with database.write() as conn:
        await queue.advance(conn, [ImageProgress(claimed, 3, 1.0)], LEASE)
        assert await queue.held(conn, "a") == {claimed.attempt} == {(task_id, 1)}
        assert await queue.held(conn, "b") == set()
        assert not await queue.release(conn, claimed, right=queue.supervised_by_others("a"))
        assert await queue.release(conn, claimed)
        assert not await queue.release(conn, claimed)
        assert await queue.held(conn, "a") == set()
        row = await row_of(conn, task_id)
        assert (row["status"], row["step"], row["started_at"], row["failures"]) == (ImageStatus.QUEUED, 0, None, {})
    assert await due(database) == [task_id]


async def test_a_task_that_is_drawn_past_its_deadline_is_anybodys_to_end(database: Database) -> None:
    async with database.write() as conn:
        await make_image_task(conn, await make_tenant(conn))
    claimed = await claim_next(database)
    async with database.write() as conn:
        right = queue.older_than(conn, 60.0)
        assert await queue.in_progress(conn, right, limit=10) == []
        assert await queue.fail(conn, claimed, Reason.TIMED_OUT, right=right) is None
    database.clock.shift(61)
    async with database.write() as conn:
        right = queue.older_than(conn, 60.0)
        assert await queue.in_progress(conn, right, limit=10) == [claimed]
        assert await queue.fail(conn, claimed, Reason.TIMED_OUT, right=right) is ImageStatus.FAILED
        assert not await queue.succeed(conn, claimed, [])


async def test_a_server_that_starts_alone_takes_back_what_its_predecessor_had(database: Database) -> None:
    async with database.write() as conn:
        await make_image_task(conn, await make_tenant(conn))
    lost = await claim_next(database, "before")
    async with database.read() as conn:
        assert await queue.in_progress(conn, queue.supervised_by_others("before"), limit=10) == []
        assert await queue.in_progress(conn, queue.supervised_by_others("after"), limit=10) == [lost]


@pytest.mark.parametrize("reason", IMAGE_FAILURES)
async def test_an_attempt_is_repeated_as_often_as_its_failure_says(database: Database, reason: Reason) -> None:
    """Each reason is counted by itself."""
    failure = IMAGE_FAILURES[reason]
    last = failure.attempts - 1
    async with database.write() as conn:
        task_id = await make_image_task(conn, await make_tenant(conn), webhook_url=HOOK)
        await conn.execute(update(image_tasks).values(failures={reason: last, Reason.DRAINED: 4}))
    claimed = await claim_next(database)
    async with database.write() as conn:
        expected = 4 if reason is Reason.DRAINED else last
        savepoint = await conn.begin_nested()
        fewer = ClaimedImageTask(id=task_id, tenant_id=claimed.tenant_id, fence=1, failures={Reason.DRAINED: 9})
        retried = await queue.fail(conn, fewer, reason) is ImageStatus.QUEUED
        assert retried == (failure.failure_class != "user" and reason is not Reason.DRAINED)
        await savepoint.rollback()
        assert claimed.failures[reason] == expected
        assert await queue.fail(conn, claimed, reason, "More of it.") is ImageStatus.FAILED
        row = await row_of(conn, task_id)
        assert (row["status"], row["message"]) == ("TASK_STATUS_FAILED", f"{failure.words} More of it.")
        assert len(await webhooks.due(conn, limit=10)) == 1


async def test_an_end_and_its_delivery_are_one_commit(database: Database, open_another: Callable[[], Database]) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_image_task(conn, tenant_id, webhook_url=HOOK)
        await make_image_task(conn, tenant_id)  # nobody is told of this one
    claimed = await claim_next(database)

    async def seen() -> tuple[str, int]:
        async with open_another().read() as conn:
            status = (await row_of(conn, task_id))["status"]
            return status, (await conn.execute(select(func.count()).select_from(webhook_deliveries))).scalar_one()

    async with database.write() as conn:
        assert await queue.succeed(conn, claimed, [])
        assert await seen() == ("TASK_STATUS_PROCESSING", 0)
    assert await seen() == ("TASK_STATUS_SUCCEED", 1)
    await claim_next(database)


async def test_a_delivery_is_tried_by_one_at_a_time_and_ends_once(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_image_task(conn, tenant_id, status=ImageStatus.SUCCEED, webhook_url=HOOK)
        (due,) = await webhooks.due(conn, limit=10)
        assert due == Delivery(image_task_id=task_id, tenant_id=tenant_id, url=HOOK, attempts=0)
        first = await webhooks.claim(conn, due, hold=10.0)
        assert first is not None
        assert first.attempts == 1
        assert await webhooks.claim(conn, due, hold=10.0) is None
        assert await webhooks.claim(conn, first, hold=10.0) is None
        assert await webhooks.due(conn, limit=10) == []
        assert await webhooks.undelivered(conn, first, "answered 503", again_in=1.0)
    database.clock.shift(2)
    async with database.write() as conn:
        (due,) = await webhooks.due(conn, limit=10)
        assert due == first
        second = await webhooks.claim(conn, due, hold=10.0)
        assert second is not None
        assert not await webhooks.delivered(conn, first)
        savepoint = await conn.begin_nested()
        assert await webhooks.undelivered(conn, second, "answered 503", again_in=None)
        assert not await webhooks.delivered(conn, second)
        await savepoint.rollback()
        assert await webhooks.delivered(conn, second)
        assert not await webhooks.undelivered(conn, second, "late", again_in=1.0)
    database.clock.shift(1000)
    async with database.read() as conn:
        assert await webhooks.due(conn, limit=10) == []


async def test_what_is_expired_is_found_and_forgotten_once_its_webhook_is_told(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        ended = await make_image_task(conn, tenant_id, status=ImageStatus.FAILED)
        untold = await make_image_task(conn, tenant_id, status=ImageStatus.SUCCEED, webhook_url=HOOK)
        running = await make_image_task(conn, tenant_id, status=ImageStatus.PROCESSING)
        waiting = await make_image_task(conn, tenant_id)
    async with database.read() as conn:
        assert await queue.expired(conn, 3600.0, limit=10) == []
    database.clock.shift(3601)
    async with database.write() as conn:
        (found,) = await queue.expired(conn, 3600.0, limit=10)
        assert found == EndedImageTask(id=ended, tenant_id=tenant_id)
        assert await find(conn, tenant_id, ended, kept=3600.0) is None
        assert await find(conn, tenant_id, ended) is not None
        for task_id in (untold, running, waiting):
            assert not await queue.forget(conn, EndedImageTask(id=task_id, tenant_id=tenant_id), 3600.0)
        assert await queue.forget(conn, found, 3600.0)
        assert not await queue.forget(conn, found, 3600.0)
        (delivery,) = await webhooks.due(conn, limit=10)
        claimed = await webhooks.claim(conn, delivery, hold=1.0)
        assert claimed is not None
        assert await webhooks.delivered(conn, claimed)
        # The event carries addresses of pictures, which are good for a while from now on.
        assert not await queue.forget(conn, EndedImageTask(id=untold, tenant_id=tenant_id), 3600.0)
    database.clock.shift(3601)
    async with database.write() as conn:
        assert await queue.forget(conn, EndedImageTask(id=untold, tenant_id=tenant_id), 3600.0)
        assert await find(conn, tenant_id, waiting, kept=3600.0) is not None


async def fill(conn: AsyncConnection) -> None:
    """Many tasks that have ended long ago, and a few that have not."""
    tenant_id = await make_tenant(conn)
    for status in (ImageStatus.QUEUED, ImageStatus.PROCESSING, ImageStatus.SUCCEED):
        await make_image_task(conn, tenant_id, status=status, webhook_url=HOOK)
    (template,) = (await conn.execute(select(image_tasks).where(image_tasks.c.images.is_not(None)))).mappings()
    rows = [{**template, "id": new_task_id(), "number": number, "webhook_url": None} for number in range(10, 3010)]
    await conn.execute(image_tasks.insert(), rows)
    told = [
        {"image_task_id": row["id"], "tenant_id": tenant_id, "url": HOOK, "created_at": 1.0, "delivered_at": 2.0}
        for row in rows
    ]
    await conn.execute(webhook_deliveries.insert(), told)


QUERIES: dict[str, tuple[Callable[[AsyncConnection], Any], str]] = {
    "due": (lambda conn: queue.due(conn, 10, model_wait=WAIT), "ix_image_tasks_queue"),
    "overdue": (lambda conn: queue.overdue(conn, 0.0, limit=10), "ix_image_tasks_queue"),
    "held": (lambda conn: queue.held(conn, "a"), "ix_image_tasks_"),
    "overdue, drawn": (
        lambda conn: queue.in_progress(conn, queue.older_than(conn, 0.0), limit=10),
        "ix_image_tasks_",
    ),
    "orphans": (
        lambda conn: queue.in_progress(conn, queue.orphaned(conn, -1000.0), limit=10),
        "ix_image_tasks_leases",
    ),
    "expired": (lambda conn: queue.expired(conn, 3600.0, limit=10), "ix_image_tasks_finished_at"),
    "deliveries": (lambda conn: webhooks.due(conn, limit=10), "ix_webhook_deliveries_open"),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_an_index_serves_every_look_at_the_queue(database: Database, name: str) -> None:
    ask, index = QUERIES[name]
    async with database.write() as conn:
        await fill(conn)
    async with database.write() as conn:
        await conn.execute(text("ANALYZE"))
    sent: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, parameters))

    async with database.read() as conn:
        event.listen(conn.sync_connection, "before_cursor_execute", note)
        await ask(conn)
        event.remove(conn.sync_connection, "before_cursor_execute", note)
        statement, parameters = sent[-1]
        explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[conn.dialect.name]
        steps = [str(row[-1]).strip() for row in await conn.exec_driver_sql(f"{explain} {statement}", parameters)]
    assert any(index in step for step in steps), steps
    assert not any("Seq Scan on image" in step or step.startswith("SCAN image") for step in steps), steps


def test_a_queued_task_is_what_a_claim_needs() -> None:
    assert set(ClaimedImageTask.__struct_fields__) <= set(QueuedImageTask.__struct_fields__)
