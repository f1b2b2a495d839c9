"""Long task lists, somebody who walks them, and somebody who changes them meanwhile."""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.ids import new_id, new_task_id
from maquette.core.lifecycle import ModelStatus, Reason, TaskStatus
from maquette.core.specs import TaskType
from maquette.db.counters import tenant_models, tenant_tasks
from maquette.db.engine import Database
from maquette.db.now import now
from maquette.db.tables import counters, models, tasks
from maquette.server.training.repository import TaskRow, list_page
from maquette.testing.factories import SHA256, make_dataset, make_task, training_spec

BATCH = 2000


async def fill_tasks(conn: AsyncConnection, tenant_id: str, count: int) -> list[str]:
    """Insert many tasks of a tenant that has none, in batches, without events; answer their ids, oldest first.

    Subjects and styles take turns; every third is a SUCCESS with a model, the others are CANCELED.
    """
    dataset_id = await make_dataset(conn, tenant_id)
    ids = [new_task_id() for _ in range(count)]
    at = await now(conn)
    common = {
        "tenant_id": tenant_id,
        "dataset_id": dataset_id,
        "spec": msgspec.to_builtins(training_spec()),
        "total_steps": 10,
        "created_at": at,
        "updated_at": at,
        "finished_at": at,
    }
    for start in range(0, count, BATCH):
        numbered = list(enumerate(ids[start : start + BATCH], start + 1))
        await conn.execute(insert(tasks), [_task(task_id, number) | common for number, task_id in numbered])
        finished = [_model(task_id, number, tenant_id, at) for number, task_id in numbered if _succeeds(number)]
        await conn.execute(insert(models), finished)
    for scope, value in ((tenant_tasks(tenant_id), count), (tenant_models(tenant_id), count // 3)):
        await conn.execute(insert(counters).values(scope=scope, value=value))
    return ids


def _succeeds(number: int) -> bool:
    return number % 3 == 0


def _task(task_id: str, number: int) -> dict[str, Any]:
    succeeds = _succeeds(number)
    return {
        "id": task_id,
        "number": number,
        "name": f"cat-{number}",
        "task_type": (TaskType.SUBJECT, TaskType.STYLE)[number % 2],
        "status": TaskStatus.SUCCESS if succeeds else TaskStatus.CANCELED,
        "reason": Reason.FINISHED if succeeds else Reason.CANCELED,
    }


def _model(task_id: str, number: int, tenant_id: str, at: float) -> dict[str, Any]:
    return {
        "id": new_id(),
        "tenant_id": tenant_id,
        "number": number // 3,
        "task_id": task_id,
        "name": f"model_{number}_0A1B2C3D4E.safetensors",
        "status": ModelStatus.SERVING,
        "object_key": f"tasks/{task_id}/1/output/lora.safetensors",
        "sample_key": f"tasks/{task_id}/1/samples/final.png",
        "size": 1000,
        "sha256": SHA256,
        "created_at": at,
        "updated_at": at,
    }


async def walk(
    database: Database, tenant_id: str, *, limit: int, task_type: TaskType | None = None
) -> AsyncGenerator[list[TaskRow]]:
    """A tenant's tasks page by page, each from where the last one ended, as a client with cursors does."""
    before: int | None = None
    while True:
        async with database.read() as conn:
            rows = await list_page(conn, tenant_id, limit=limit, before_number=before, task_type=task_type)
        if not rows:
            return
        before = rows[-1].number
        yield rows


class Churn:
    """Creates and deletes a tenant's tasks on a connection of its own, until told to stop.

    Attributes:
        created, deleted: how many so far.
    """

    def __init__(self, database: Database, tenant_id: str, expendable: list[str], *, pause: float) -> None:
        """`expendable` are the ids of tasks it may delete; `pause` is the time between two changes, in seconds."""
        self._database = database
        self._tenant_id = tenant_id
        self._expendable = list(expendable)
        self._pause = pause
        self._stopping = asyncio.Event()
        self.created = 0
        self.deleted = 0

    async def run(self) -> None:
        """Change the list until `stop` is called."""
        random.Random(0).shuffle(self._expendable)  # noqa: S311
        async with self._database.read() as conn:
            query = select(tasks.c.dataset_id).where(tasks.c.tenant_id == self._tenant_id).limit(1)
            dataset_id = (await conn.execute(query)).scalar_one()
        while not self._stopping.is_set():
            async with self._database.write() as conn:
                await make_task(conn, self._tenant_id, dataset_id=dataset_id)
            self.created += 1
            if self._expendable:
                await self._delete(self._expendable.pop())
            await asyncio.sleep(self._pause)

    def stop(self) -> None:
        """Let `run` end after its current change."""
        self._stopping.set()

    async def _delete(self, task_id: str) -> None:
        async with self._database.write() as conn:
            for table, column in ((models, models.c.task_id), (tasks, tasks.c.id)):
                await conn.execute(delete(table).where(table.c.tenant_id == self._tenant_id, column == task_id))
        self.deleted += 1
