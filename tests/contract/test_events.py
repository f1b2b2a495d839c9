"""Histories: numbered per task and per tenant, without gaps, whoever writes at the same time."""

import asyncio
import random
from collections.abc import Callable

import pytest
from sqlalchemy import select

from maquette.db.engine import Database
from maquette.db.events import Event, append_event, list_events
from maquette.db.tables import events
from maquette.testing.factories import make_task, make_tenant


async def test_events_come_in_pages(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id, sibling = await make_task(conn, tenant_id), await make_task(conn, tenant_id)
        for phase in ("prepare", "cache", "train"):
            await append_event(conn, tenant_id=tenant_id, task_id=task_id, kind="phase", data={"phase": phase})
    async with database.read() as conn:
        first = await list_events(conn, tenant_id, task_id, limit=2)
        assert [event.number for event in first] == [1, 2]
        rest = await list_events(conn, tenant_id, task_id, after=2)
        assert [(event.number, event.tenant_number, event.data) for event in rest] == [
            (3, 4, {"phase": "cache"}),
            (4, 5, {"phase": "train"}),
        ]
        assert isinstance(rest[0], Event)
        assert rest[0].created_at <= rest[1].created_at
        assert await list_events(conn, tenant_id, task_id, after=4) == []
        assert len(await list_events(conn, tenant_id, sibling)) == 1


async def test_another_tenant_reads_nothing(database: Database) -> None:
    async with database.write() as conn:
        owner, other = await make_tenant(conn), await make_tenant(conn)
        task_id = await make_task(conn, owner)
        assert await list_events(conn, other, task_id) == []


async def test_a_number_is_given_back_when_its_transaction_fails(database: Database) -> None:
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_task(conn, tenant_id)

    async def append(fails: bool) -> int:
        async with database.write() as conn:
            number = await append_event(conn, tenant_id=tenant_id, task_id=task_id, kind="note", data={})
            if fails:
                raise ZeroDivisionError
            return number

    assert await append(fails=False) == 2
    with pytest.raises(ZeroDivisionError):
        await append(fails=True)
    assert await append(fails=False) == 3


async def test_numbers_have_no_gaps_whoever_writes_at_once(open_another: Callable[[], Database]) -> None:
    """Some of the writers fail on their way: their numbers go to others."""
    databases = [open_another() for _ in range(4)]
    async with databases[0].write() as conn:
        tenants = [await make_tenant(conn) for _ in range(2)]
        owners = {await make_task(conn, tenant_id): tenant_id for tenant_id in tenants for _ in range(3)}

    async def append(database: Database, task_id: str, fails: bool) -> None:
        async with database.write() as conn:
            await append_event(conn, tenant_id=owners[task_id], task_id=task_id, kind="note", data={})
            if fails:
                raise ZeroDivisionError

    plan = [(database, task_id, turn == 3) for database in databases for task_id in owners for turn in range(4)]
    random.Random(0).shuffle(plan)
    done = await asyncio.gather(*(append(*step) for step in plan), return_exceptions=True)
    assert sum(isinstance(answer, ZeroDivisionError) for answer in done) == len(plan) / 4
    assert all(answer is None or isinstance(answer, ZeroDivisionError) for answer in done)
    async with databases[0].read() as conn:
        for task_id in owners:
            numbers = await conn.execute(select(events.c.number).where(events.c.task_id == task_id))
            assert sorted(numbers.scalars()) == list(range(1, 14))
        for tenant_id in tenants:
            numbers = await conn.execute(select(events.c.tenant_number).where(events.c.tenant_id == tenant_id))
            assert sorted(numbers.scalars()) == list(range(1, 40))


async def test_whoever_sees_a_number_sees_every_smaller_one(open_another: Callable[[], Database]) -> None:
    """What makes the log an outbox: a reader that goes on after the last number it saw misses nothing."""
    databases = [open_another() for _ in range(3)]
    async with databases[0].write() as conn:
        tenant_id = await make_tenant(conn)
        owned = [await make_task(conn, tenant_id) for _ in range(3)]
    writing = True

    async def write(database: Database, task_id: str) -> None:
        for _ in range(15):
            async with database.write() as conn:
                await append_event(conn, tenant_id=tenant_id, task_id=task_id, kind="note", data={})
                await asyncio.sleep(0.001)

    async def read() -> int:
        looks = 0
        while writing:
            async with databases[0].read() as conn:
                numbers = list((await conn.execute(select(events.c.tenant_number))).scalars())
            assert sorted(numbers) == list(range(1, len(numbers) + 1))
            looks += 1
            await asyncio.sleep(0.001)
        return looks

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(database, task_id) for database, task_id in zip(databases, owned, strict=True)))
    writing = False
    assert await reader > 3
