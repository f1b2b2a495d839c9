"""The list of tasks: newest first, every page served by an index, and no task missed or shown twice."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.lifecycle import ModelStatus, TaskStatus
from maquette.core.specs import TaskType
from maquette.db.engine import Database
from maquette.server.training.repository import list_page
from maquette.testing.factories import make_model, make_task, make_tenant
from maquette.testing.lists import Churn, fill_tasks, walk

COUNT = 3000


@pytest.fixture
async def tenant_id(database: Database) -> str:
    """A tenant with many tasks, among others that have some."""
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        await fill_tasks(conn, tenant_id, COUNT)
        for _ in range(3):
            await fill_tasks(conn, await make_tenant(conn), COUNT // 10)
    async with database.write() as conn:
        await conn.execute(text("ANALYZE"))
    return tenant_id


async def plan(conn: AsyncConnection, tenant_id: str, **page: Any) -> list[str]:
    """How the database goes about the query that `list_page` really sends, a line a step."""
    sent: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, parameters))

    event.listen(conn.sync_connection, "before_cursor_execute", note)
    rows = await list_page(conn, tenant_id, **page)
    event.remove(conn.sync_connection, "before_cursor_execute", note)
    assert len(rows) == page["limit"]
    statement, parameters = sent[-1]
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN"}[conn.dialect.name]
    steps = await conn.exec_driver_sql(f"{explain} {statement}", parameters)
    return [row[-1].strip() for row in steps]


@pytest.mark.parametrize(
    ("page", "index"),
    [
        ({}, "uq_tasks_tenant_id_number"),
        ({"before_number": 500}, "uq_tasks_tenant_id_number"),
        ({"offset": 200}, "uq_tasks_tenant_id_number"),
        ({"task_type": TaskType.STYLE}, "uq_tasks_tenant_id_task_type_number"),
        ({"task_type": TaskType.STYLE, "before_number": 500}, "uq_tasks_tenant_id_task_type_number"),
    ],
    ids=["first", "deep", "offset", "first of a type", "deep of a type"],
)
@pytest.mark.parametrize("limit", [10, 100])
async def test_an_index_serves_every_page(
    database: Database, tenant_id: str, page: dict[str, Any], index: str, limit: int
) -> None:
    async with database.read() as conn:
        steps = await plan(conn, tenant_id, limit=limit, **page)
    assert any(index in step.split() for step in steps), steps
    # PostgreSQL calls it Sort, SQLite a temporary B-tree; both speak of scans where no index helps.
    assert not any("Sort" in step or "TEMP B-TREE" in step for step in steps), steps
    assert not any("Seq Scan" in step or step.startswith("SCAN") for step in steps), steps


async def test_the_plan_shows_a_missing_index(database: Database, tenant_id: str) -> None:
    async with database.migrate() as conn:
        await conn.execute(text("DROP INDEX uq_tasks_tenant_id_number"))
        await conn.execute(text("DROP INDEX uq_tasks_tenant_id_task_type_number"))
        steps = await plan(conn, tenant_id, limit=100)
    assert any("Sort" in step or "TEMP B-TREE" in step for step in steps)


@pytest.fixture
async def churn(open_another: Callable[[], Database], tenant_id: str) -> AsyncGenerator[Churn]:
    """Somebody who creates and deletes the tenant's tasks; every second one may go."""
    changer = open_another()
    async with changer.read() as conn:
        rows = await list_page(conn, tenant_id, limit=COUNT)
    expendable = [row.id for row in rows[::2]]
    churn = Churn(changer, tenant_id, expendable, pause=0)
    running = asyncio.create_task(churn.run())
    yield churn
    churn.stop()
    await running


@pytest.mark.parametrize("task_type", [None, TaskType.SUBJECT])
async def test_a_walk_sees_every_lasting_task_once(
    database: Database, tenant_id: str, churn: Churn, task_type: TaskType | None
) -> None:
    async with database.read() as conn:
        before = {row.id for row in await list_page(conn, tenant_id, limit=COUNT * 2, task_type=task_type)}
    seen: list[str] = []
    async for page in walk(database, tenant_id, limit=25, task_type=task_type):
        seen += [row.id for row in page]
        numbers = [row.number for row in page]
        assert numbers == sorted(numbers, reverse=True)
        created = churn.created
        async with asyncio.timeout(10):
            while churn.created == created:  # the list changes between any two pages
                await asyncio.sleep(0.001)
    async with database.read() as conn:
        after = {row.id for row in await list_page(conn, tenant_id, limit=COUNT * 2, task_type=task_type)}
    assert after - before
    assert before - after
    assert len(seen) == len(set(seen))
    assert before & after <= set(seen)


async def test_a_row_carries_its_model(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        trained = await make_task(conn, tenant_id, status=TaskStatus.SUCCESS, name="trained")
        await make_model(conn, tenant_id, trained)
        waiting = await make_task(conn, tenant_id, task_type=TaskType.STYLE, name="waiting")
    async with database.read() as conn:
        first, second = await list_page(conn, tenant_id, limit=100)
    assert (first.id, first.number, first.name, first.task_type) == (waiting, 2, "waiting", "style")
    assert (first.status, first.model_name, first.model_status) == (TaskStatus.QUEUING, None, None)
    assert (second.id, second.number, second.status) == (trained, 1, TaskStatus.SUCCESS)
    assert second.model_status == ModelStatus.DEPLOYING
    assert second.model_name is not None
    assert second.model_name.startswith("model_")


async def test_a_list_is_its_tenants_own(database: Database) -> None:
    async with database.write() as conn:
        owner, other = await make_tenant(conn), await make_tenant(conn)
        await make_task(conn, owner)
        assert len(await list_page(conn, owner, limit=100)) == 1
        assert await list_page(conn, other, limit=100) == []


async def test_offsets_and_types_count_from_the_newest(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        await fill_tasks(conn, tenant_id, 20)
        assert [row.number for row in await list_page(conn, tenant_id, limit=3, offset=2)] == [18, 17, 16]
        styles = await list_page(conn, tenant_id, limit=3, offset=2, task_type=TaskType.STYLE)
        assert [row.number for row in styles] == [15, 13, 11]
        assert await list_page(conn, tenant_id, limit=3, offset=20) == []
        assert [row.number for row in await list_page(conn, tenant_id, limit=9, before_number=3)] == [2, 1]
