"""What both kinds of database promise."""

import asyncio
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Table, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.counters import next_number
from maquette.db.engine import Database, open_database
from maquette.db.now import now, now_sql
from maquette.db.tables import api_keys, counters, events, tasks, tenants
from maquette.testing.factories import make_task, make_tenant


async def names(conn: AsyncConnection) -> set[str]:
    return set((await conn.execute(select(tenants.c.name))).scalars())


async def count(conn: AsyncConnection, table: Table) -> int:
    return (await conn.execute(select(func.count()).select_from(table))).scalar_one()


async def fail_after_writing(database: Database) -> None:
    async with database.write() as conn:
        await make_tenant(conn, "lost")
        raise ZeroDivisionError


async def test_a_write_is_committed_at_its_end(database: Database) -> None:
    async with database.write() as conn:
        await make_tenant(conn, "kept")
        async with database.read() as other:
            assert await names(other) == set()
    async with database.read() as conn:
        assert await names(conn) == {"kept"}


async def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await fail_after_writing(database)
    async with database.read() as conn:
        assert await names(conn) == set()


async def test_a_read_sees_one_moment(database: Database) -> None:
    async with database.read() as reader:
        assert await names(reader) == set()
        async with database.write() as writer:
            await make_tenant(writer, "later")
        assert await names(reader) == set()
    async with database.read() as reader:
        assert await names(reader) == {"later"}


async def test_a_read_cannot_write(database: Database) -> None:
    async with database.read() as conn:
        with pytest.raises(DBAPIError, match=r"read-?only"):
            await make_tenant(conn)


async def test_rows_point_to_rows_that_exist(database: Database) -> None:
    key = {"id": "k", "tenant_id": "nobody", "lookup": "l", "secret_hash": "h", "created_at": 0.0}
    async with database.write() as conn:
        with pytest.raises(IntegrityError):
            await conn.execute(insert(api_keys).values(key))


async def test_a_status_that_is_no_status_is_refused(database: Database) -> None:
    async with database.write() as conn:
        task_id = await make_task(conn, await make_tenant(conn))
    async with database.write() as conn:
        with pytest.raises(IntegrityError):
            await conn.execute(update(tasks).where(tasks.c.id == task_id).values(status="UNKNOWN"))


async def test_writers_of_several_processes_lose_no_update(open_another: Callable[[], Database]) -> None:
    """Each reads, then writes: the order in which a deferred transaction of SQLite is refused."""
    databases = [open_another() for _ in range(4)]

    async def write(database: Database) -> None:
        async with database.write() as conn:
            await names(conn)
            await next_number(conn, "scope")

    await asyncio.gather(*(write(database) for database in databases for _ in range(10)))
    async with databases[0].read() as conn:
        assert (await conn.execute(select(counters.c.value))).scalar_one() == 40


async def test_a_cancelled_write_leaves_nothing_and_blocks_nobody(database: Database) -> None:
    written = asyncio.Event()

    async def hang() -> None:
        async with database.write() as conn:
            await make_tenant(conn, "lost")
            written.set()
            await asyncio.sleep(60)

    for _ in range(3):
        task = asyncio.create_task(hang())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        written.clear()
    async with asyncio.timeout(5), database.write() as conn:
        assert await names(conn) == set()


async def test_a_write_cancelled_at_any_point_blocks_nobody(database: Database) -> None:
    """Also in the middle of a statement, and while the exception that ended it is still held."""

    async def write() -> None:
        async with database.write() as conn:
            await make_task(conn, await make_tenant(conn))

    cancelled: list[asyncio.Task[None]] = []
    for step in range(30):
        task = asyncio.create_task(write())
        await asyncio.sleep(step / 4000)
        task.cancel()
        await asyncio.wait([task])
        cancelled.append(task)
        async with asyncio.timeout(5):
            await write()
    done = sum(not task.cancelled() for task in cancelled)
    assert done < 30
    async with database.read() as conn:
        # Whoever is cancelled while the commit runs does not learn whether it came to pass.
        assert 30 + done <= await count(conn, tasks) == await count(conn, events) <= 60


async def test_the_clock_is_unix_time_and_runs_within_a_transaction(database: Database) -> None:
    async with database.write() as conn:
        first = await now(conn)
        assert abs(first - time.time()) < 1
        await asyncio.sleep(0.05)
        assert 0.04 < await now(conn) - first < 1


async def test_the_clock_can_be_shifted(database: Database) -> None:
    database.clock.shift(3600)
    database.clock.shift(60)
    async with database.write() as conn:
        assert abs(await now(conn) - time.time() - 3660) < 1
        tenant_id = await make_tenant(conn)
        await conn.execute(update(tenants).values(created_at=now_sql(conn) + 5))
        at = (await conn.execute(select(tenants.c.created_at).where(tenants.c.id == tenant_id))).scalar_one()
        assert abs(at - time.time() - 3665) < 1


async def test_sqlite_is_as_durable_as_it_can_be(sqlite_database: Database) -> None:
    async with sqlite_database.write() as conn:
        pragmas = [
            (await conn.execute(text(f"PRAGMA {name}"))).scalar_one() for name in ("journal_mode", "synchronous")
        ]
        assert pragmas == ["wal", 2]


async def test_a_connection_that_postgresql_dropped_costs_no_request(postgresql_url: str) -> None:
    database, operator = open_database(postgresql_url), open_database(postgresql_url)
    async with database.write() as conn:
        pid = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with operator.write() as conn:
        assert (await conn.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})).scalar_one()
    async with database.write() as conn:
        assert (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one() != pid
    await database.dispose()
    await operator.dispose()
