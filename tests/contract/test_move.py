"""The guarded move: exactly along the machine's edges, one winner, and the event in the same commit."""

import asyncio
import itertools
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import RowMapping, func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import MODEL, TASK, IllegalMove, ModelStatus, Reason, TaskStatus
from maquette.db.engine import Database
from maquette.db.events import list_events
from maquette.db.move import MovedTask, move_model, move_task
from maquette.db.now import now, now_sql
from maquette.db.tables import events, models, tasks
from maquette.testing.factories import make_model, make_task, make_tenant

DISPATCH: Any = {"source": TaskStatus.QUEUING, "to": TaskStatus.TRAINING, "reason": Reason.DISPATCHED}
PASS: Any = {"source": ModelStatus.DEPLOYING, "to": ModelStatus.SERVING, "reason": Reason.PARITY_PASSED}

MOVE_THEN_HANG = """
import asyncio, sys
from maquette.core.lifecycle import Reason, TaskStatus
from maquette.db.engine import open_database
from maquette.db.move import move_task

async def main(url, tenant_id, task_id):
    async with open_database(url).write() as conn:
        await move_task(
            conn, tenant_id, task_id, source=TaskStatus.QUEUING, to=TaskStatus.TRAINING, reason=Reason.DISPATCHED
        )
        print("moved", flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def snapshot(conn: AsyncConnection) -> tuple[list[RowMapping], list[RowMapping], int]:
    """Everything a move could change."""
    return (
        list((await conn.execute(select(tasks).order_by(tasks.c.id))).mappings()),
        list((await conn.execute(select(models).order_by(models.c.id))).mappings()),
        (await conn.execute(select(func.count()).select_from(events))).scalar_one(),
    )


async def task_row(conn: AsyncConnection, task_id: str) -> RowMapping:
    return (await conn.execute(select(tasks).where(tasks.c.id == task_id))).mappings().one()


@pytest.mark.parametrize("status", TaskStatus)
async def test_a_task_moves_exactly_along_the_edges(database: Database, status: TaskStatus) -> None:
    """From each status, whatever is believed of it, to each status, for each reason."""
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id, status=status)
        before = await snapshot(conn)
        for source, to, reason in itertools.product(TaskStatus, TaskStatus, Reason):
            savepoint = await conn.begin_nested()
            edge = reason in TASK.edges.get((source, to), ())
            try:
                moved = await move_task(conn, tenant_id, task_id, source=source, to=to, reason=reason, message="why")
            except IllegalMove:
                moved = None
                assert not edge
            else:
                assert edge
            if edge and source == status:
                assert moved is not None
                row = await task_row(conn, task_id)
                assert (row["status"], row["reason"], row["message"]) == (to, reason, "why")
                assert (row["finished_at"] is not None) == TASK.is_final(to)
                (last,) = await list_events(conn, tenant_id, task_id, after=moved.event_number - 1)
                assert last.kind == "task"
                assert last.data == {"from": source, "to": to, "reason": reason, "fence": moved.fence, "message": "why"}
                assert last.number == before[2] + 1
            else:
                assert moved is None
                assert await snapshot(conn) == before
            await savepoint.rollback()


@pytest.mark.parametrize("status", ModelStatus)
async def test_a_model_moves_exactly_along_the_edges(database: Database, status: ModelStatus) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id, status=TaskStatus.SUCCESS)
        model_id = await make_model(conn, tenant_id, task_id)
        if status is ModelStatus.SERVING:
            assert await move_model(conn, tenant_id, model_id, **PASS)
        before = await snapshot(conn)
        for source, to, reason in itertools.product(ModelStatus, ModelStatus, Reason):
            savepoint = await conn.begin_nested()
            edge = reason in MODEL.edges.get((source, to), ())
            try:
                moved = await move_model(conn, tenant_id, model_id, source=source, to=to, reason=reason)
            except IllegalMove:
                moved = None
                assert not edge
            else:
                assert edge
            if edge and source == status:
                assert moved is not None
                assert moved.task_id == task_id
                assert (await conn.execute(select(models.c.status))).scalar_one() == to
                (last,) = await list_events(conn, tenant_id, task_id, after=moved.event_number - 1)
                assert last.kind == "model"
                assert last.data == {"model_id": model_id, "from": source, "to": to, "reason": reason}
            else:
                assert moved is None
                assert await snapshot(conn) == before
            await savepoint.rollback()


async def test_a_birth_has_its_event(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id)
        model_id = await make_model(conn, tenant_id, task_id)
    async with database.read() as conn:
        row = await task_row(conn, task_id)
        assert (row["status"], row["reason"], row["fence"], row["number"]) == ("QUEUING", "created", 0, 1)
        assert abs(row["created_at"] - await now(conn)) < 5
        born, born_model = await list_events(conn, tenant_id, task_id)
        assert (born.kind, born.data) == ("task", {"from": None, "to": "QUEUING", "reason": "created"})
        assert born_model.kind == "model"
        assert (born_model.data["model_id"], born_model.data["to"]) == (model_id, "DEPLOYING")


async def test_a_move_sets_further_columns_but_never_the_status_by_them(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id)
        values = {"fence": tasks.c.fence + 1, "step": 3, "status": "SUCCESS", "reason": "finished"}
        moved = await move_task(
            conn, tenant_id, task_id, **DISPATCH, values=values, event={"device": "cuda:0", "to": "?"}
        )
        assert moved == MovedTask(fence=1, event_number=2)
        row = await task_row(conn, task_id)
        assert (row["status"], row["reason"], row["fence"], row["step"]) == ("TRAINING", "dispatched", 1, 3)
        (last,) = await list_events(conn, tenant_id, task_id, after=1)
        assert (last.data["to"], last.data["device"], last.data["fence"]) == ("TRAINING", "cuda:0", 1)


async def test_an_old_fence_moves_nothing(database: Database) -> None:
    requeue: Any = {"source": TaskStatus.TRAINING, "to": TaskStatus.QUEUING, "reason": Reason.WORKER_LOST}
    finish: Any = {"source": TaskStatus.TRAINING, "to": TaskStatus.SUCCESS, "reason": Reason.FINISHED}
    values = {"fence": tasks.c.fence + 1}
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id)
        assert await move_task(conn, tenant_id, task_id, **DISPATCH, fence=0, values=values)
        assert await move_task(conn, tenant_id, task_id, **requeue, fence=1)
        assert await move_task(conn, tenant_id, task_id, **DISPATCH, fence=1, values=values)
        before = await snapshot(conn)
        for fence in (0, 1, 3):
            assert await move_task(conn, tenant_id, task_id, **finish, fence=fence) is None
        assert await snapshot(conn) == before
        assert await move_task(conn, tenant_id, task_id, **finish, fence=2)


@pytest.mark.parametrize("status", [TaskStatus.QUEUING, TaskStatus.TRAINING])
async def test_a_task_that_was_asked_to_end_is_moved_nowhere_else(database: Database, status: TaskStatus) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id, status=status)
        await conn.execute(update(tasks).values(cancel_requested_at=now_sql(conn)))
        before = await snapshot(conn)
        for to, reason in itertools.product(TaskStatus, Reason):
            if reason in TASK.edges.get((status, to), ()):
                savepoint = await conn.begin_nested()
                moved = await move_task(conn, tenant_id, task_id, source=status, to=to, reason=reason)
                assert (moved is not None) == (to in {TaskStatus.SUCCESS, TaskStatus.CANCELED})
                assert moved or await snapshot(conn) == before
                await savepoint.rollback()


async def test_an_illegal_move_does_not_reach_the_database(database: Database) -> None:
    """A transaction that can't write refuses a legal move; an illegal one never gets so far."""
    async with database.read() as conn:
        with pytest.raises(IllegalMove):
            await move_task(
                conn,
                "tenant",
                "task",
                source=TaskStatus.QUEUING,
                to=TaskStatus.TRAINING,
                reason=Reason.FINISHED,
            )
        with pytest.raises(DBAPIError):
            await move_task(conn, "tenant", "task", **DISPATCH)


async def test_another_tenant_moves_nothing(database: Database) -> None:
    async with database.write() as conn:
        owner, other = await make_tenant(conn), await make_tenant(conn)
        task_id = await make_task(conn, owner)
        model_id = await make_model(conn, owner, task_id)
        before = await snapshot(conn)
        assert await move_task(conn, other, task_id, **DISPATCH) is None
        assert await move_model(conn, other, model_id, **PASS) is None
        assert await snapshot(conn) == before


async def test_of_twenty_movers_at_once_one_wins(open_another: Callable[[], Database]) -> None:
    databases = [open_another() for _ in range(4)]
    async with databases[0].write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id)

    async def dispatch(database: Database) -> MovedTask | None:
        async with database.write() as conn:
            return await move_task(conn, tenant_id, task_id, **DISPATCH, values={"fence": tasks.c.fence + 1})

    answers = await asyncio.gather(*(dispatch(database) for database in databases * 5))
    assert [answer for answer in answers if answer] == [MovedTask(fence=1, event_number=2)]
    async with databases[0].read() as conn:
        assert len(await list_events(conn, tenant_id, task_id)) == 2
        assert (await task_row(conn, task_id))["fence"] == 1


async def test_status_and_event_appear_together(database: Database, open_another: Callable[[], Database]) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id)

    async def seen() -> tuple[str, int]:
        async with open_another().read() as conn:
            return (await task_row(conn, task_id))["status"], len(await list_events(conn, tenant_id, task_id))

    async with database.write() as conn:
        await move_task(conn, tenant_id, task_id, **DISPATCH)
        assert await seen() == ("QUEUING", 1)
    assert await seen() == ("TRAINING", 2)


async def test_a_mover_killed_before_its_commit_moved_nothing(database: Database, database_url: str) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id)
    mover = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MOVE_THEN_HANG, database_url, tenant_id, task_id, stdout=asyncio.subprocess.PIPE
    )
    assert mover.stdout is not None
    assert await mover.stdout.readline() == b"moved\n"
    mover.send_signal(signal.SIGKILL)
    await mover.communicate()
    async with asyncio.timeout(10), database.write() as conn:
        assert (await task_row(conn, task_id))["status"] == "QUEUING"
        assert await move_task(conn, tenant_id, task_id, **DISPATCH) == MovedTask(fence=0, event_number=2)
