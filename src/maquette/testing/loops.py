"""A server's loops as tests use them: over any database, with attempts that take milliseconds."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import func, select

from maquette.bases.catalogue import BaseKind
from maquette.core.ids import new_task_id, sha256_hex
from maquette.core.lifecycle import TaskStatus
from maquette.core.specs import TrainingSpec
from maquette.db.engine import Database
from maquette.db.events import list_events
from maquette.db.move import create_task
from maquette.db.tables import attempts, dataset_items, models, tasks
from maquette.executors.base import Executor
from maquette.server.bases import service as base_service
from maquette.server.bases.service import Base
from maquette.server.loops.supervision import Supervision
from maquette.server.settings import Settings
from maquette.server.training import service as training
from maquette.storage.registry import open_storage
from maquette.testing.factories import make_dataset, make_tenant, training_spec
from maquette.testing.scripted_executor import Script, ScriptedExecutor, ScriptedNode
from maquette.testing.scripted_pool import ScriptedPool

SETTINGS = Settings(loop_interval=0.01, checkpoint_every=4, stop_grace=0.05, signing_secret="of tests alone " * 3)
PATIENCE = 30.0
STEPS = 10
SLOW = 0.02
PICTURE = b"the executor only copies it"


def spec_of(steps: int) -> TrainingSpec:
    """A training of so many steps on pictures that all have `PICTURE`'s bytes."""
    spec = training_spec(steps=steps)
    return replace(spec, pictures=tuple(replace(picture, sha256=sha256_hex(PICTURE)) for picture in spec.pictures))


class Service:
    """A server's loops over a database, a storage and a scripted node, and one tenant's tasks.

    Attributes:
        node: where attempts run; a test may put another in its place.
        pool: where pictures are drawn, and models compared.
        running: the loops that were started and not stopped.
    """

    def __init__(self, database: Database, tenant_id: str) -> None:
        self.database = database
        self.tenant_id = tenant_id
        self.storage = open_storage("memory://")
        self.node = ScriptedNode()
        self.pool = ScriptedPool(self.storage)
        self.running: list[Supervision] = []

    async def start(self, executor: Executor | None = None, settings: Settings = SETTINGS) -> Supervision:
        """Start a server's loops, with a new executor on the node unless one is given."""
        executor = executor or ScriptedExecutor(self.node, self.storage)
        supervision = Supervision(settings, self.database, self.storage, executor, self.pool)
        await supervision.start()
        self.running.append(supervision)
        return supervision

    async def stop(self) -> None:
        """Stop all loops; attempts run on."""
        while self.running:
            await self.running.pop().stop()

    async def add_task(self, *scripts: Script, steps: int = STEPS) -> str:
        """Queue a task whose attempts go as scripted."""
        task_id = new_task_id()
        self.node.script(task_id, *scripts)
        async with self.database.write() as conn:
            dataset_id = await make_dataset(conn, self.tenant_id)
            keys = await conn.scalars(
                select(dataset_items.c.object_key).where(dataset_items.c.dataset_id == dataset_id)
            )
            for key in keys:
                await self.storage.put(key, PICTURE)
            await create_task(
                conn,
                tenant_id=self.tenant_id,
                task_id=task_id,
                name="cat",
                dataset_id=dataset_id,
                spec=spec_of(steps),
            )
        return task_id

    async def row(self, task_id: str) -> Any:
        """A task's row."""
        async with self.database.read() as conn:
            return (await conn.execute(select(tasks).where(tasks.c.id == task_id))).one()

    async def attempt(self, task_id: str, fence: int = 1) -> Any:
        """An attempt's row."""
        async with self.database.read() as conn:
            query = select(attempts).where(attempts.c.task_id == task_id, attempts.c.fence == fence)
            return (await conn.execute(query)).one()

    async def spec(self, task_id: str) -> TrainingSpec:
        """What a task trains with."""
        return msgspec.convert((await self.row(task_id)).spec, TrainingSpec)

    async def until(self, task_id: str, *statuses: TaskStatus, step: int = 0) -> Any:
        """Wait for a status and a step, letting back-off pass at once."""
        async with asyncio.timeout(PATIENCE):
            while (row := await self.row(task_id)).status not in statuses or row.step < step:
                if row.status == TaskStatus.QUEUING and row.not_before > 0:
                    self.database.clock.shift(60)
                    # Leases are kept by the same clock: the servers renew theirs before anything lapses.
                    for supervision in self.running:
                        await supervision.lease.renew()
                await asyncio.sleep(0.01)
        return row

    async def ended(self, task_id: str) -> Any:
        """A task's row once it has ended."""
        return await self.until(task_id, TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELED)

    async def request_cancel(self, task_id: str) -> TaskStatus:
        """Cancel a task as its owner does; answers what the owner reads."""
        async with self.database.write() as conn:
            return TaskStatus((await training.cancel(conn, self.tenant_id, task_id)).task_status)

    async def count(self, table: Any) -> int:
        """How many rows a table has."""
        async with self.database.read() as conn:
            return (await conn.execute(select(func.count()).select_from(table))).scalar_one()

    async def model(self, task_id: str) -> Any:
        """The row of a task's model, None where there is none."""
        async with self.database.read() as conn:
            return (await conn.execute(select(models).where(models.c.task_id == task_id))).one_or_none()

    async def attempt_reasons(self, task_id: str) -> list[str]:
        """Why a task's attempts ended, oldest first."""
        async with self.database.read() as conn:
            found = await conn.scalars(
                select(attempts.c.reason).where(attempts.c.task_id == task_id).order_by(attempts.c.fence)
            )
            return list(found)

    async def told(self, task_id: str, kind: str) -> list[dict[str, Any]]:
        """The data of a task's events of a kind, oldest first."""
        async with self.database.read() as conn:
            events = await list_events(conn, self.tenant_id, task_id, limit=1000)
        return [event.data for event in events if event.kind == kind]


@asynccontextmanager
async def open_service(database: Database) -> AsyncGenerator[Service]:
    """A service of one tenant on a database with one base; its loops are stopped at the end."""
    async with database.write() as conn:
        tenant_id = await make_tenant(conn)
        spec = training_spec()
        await base_service.register(
            conn,
            Base(
                name=spec.base.name,
                kind=BaseKind.CHECKPOINT,
                family=spec.base.family,
                location="/bases/tiny",
                sha256=spec.base.sha256,
            ),
        )
    service = Service(database, tenant_id)
    try:
        yield service
    finally:
        await service.stop()
