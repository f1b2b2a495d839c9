"""Drawn pictures go with everything of their task, and not before the last address of them has expired."""

from typing import Any

import pytest
from sqlalchemy import select

from maquette.core.lifecycle import ImageStatus
from maquette.db.engine import Database
from maquette.db.tables import image_tasks, webhook_deliveries
from maquette.server.images import queue as images
from maquette.server.loops.image_sweep import ImageSweep
from maquette.server.webhooks import queue as webhooks
from maquette.storage.base import Storage
from maquette.storage.object_store import open_storage
from maquette.testing.factories import make_image_task, make_tenant

KEPT = 7200.0
HOOK = "https://example.com/done"


@pytest.fixture
def storage() -> Storage:
    return open_storage("memory://")


async def ended(database: Database, storage: Storage, webhook_url: str | None = None) -> str:
    """A task that has ended, with the picture it began with, those of a lost attempt, and its own."""
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        task_id = await make_image_task(conn, tenant_id, status=ImageStatus.SUCCEED, webhook_url=webhook_url)
    for name in ("original.png", "1/0.png", "2/0.png", "2/1.png"):
        await storage.put(f"{images.prefix(tenant_id, task_id)}/{name}", b"picture")
    return task_id


async def left(database: Database, storage: Storage) -> tuple[list[Any], list[Any], int]:
    """Tasks and deliveries that are there, and the number of objects."""
    async with database.read() as conn:
        tasks = list(await conn.scalars(select(image_tasks.c.id)))
        told = list(await conn.scalars(select(webhook_deliveries.c.image_task_id)))
    return tasks, told, len([info async for info in storage.list(images.IMAGES)])


async def tell(database: Database) -> None:
    async with database.write() as conn:
        (due,) = await webhooks.due(conn, limit=10)
        claimed = await webhooks.claim(conn, due, hold=1.0)
        assert claimed is not None
        assert await webhooks.delivered(conn, claimed)


async def test_all_of_an_expired_task_goes_and_nothing_of_another(database: Database, storage: Storage) -> None:
    await ended(database, storage)
    database.clock.shift(KEPT / 2)
    younger = await ended(database, storage)
    database.clock.shift(KEPT / 2 + 1)
    sweep = ImageSweep(database, storage, KEPT)
    await sweep.run()
    assert await left(database, storage) == ([younger], [], 4)
    database.clock.shift(KEPT / 2)
    await sweep.run()
    assert await left(database, storage) == ([], [], 0)


async def test_what_a_late_event_told_stays_as_long_as_its_addresses_are_good(
    database: Database, storage: Storage
) -> None:
    task_id = await ended(database, storage, HOOK)
    sweep = ImageSweep(database, storage, KEPT)
    database.clock.shift(10 * KEPT)
    await sweep.run()
    assert await left(database, storage) == ([task_id], [task_id], 4)
    await tell(database)
    database.clock.shift(KEPT - 1)
    await sweep.run()
    assert await left(database, storage) == ([task_id], [task_id], 4)
    database.clock.shift(2)
    await sweep.run()
    assert await left(database, storage) == ([], [], 0)


async def test_a_sweep_that_was_cut_off_is_done_by_the_next(database: Database, storage: Storage) -> None:
    task_id = await ended(database, storage)
    async with database.read() as conn:
        database.clock.shift(KEPT + 1)
        (task,) = await images.expired(conn, KEPT, 10)
    await storage.delete(f"{images.prefix(task.tenant_id, task_id)}/2/0.png")
    await ImageSweep(database, storage, KEPT).run()
    assert await left(database, storage) == ([], [], 0)
