"""What the training slice asks of the database. Every query takes the tenant."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import and_, bindparam, func, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.ids import new_id
from maquette.core.lifecycle import TaskStatus
from maquette.core.metrics import MetricsBlock, ValidationPoint
from maquette.core.progress import Validated
from maquette.core.rundir import FileRecord
from maquette.core.specs import TrainingSpec
from maquette.db.now import now_sql
from maquette.db.tables import (
    attempts,
    checkpoints,
    dataset_items,
    datasets,
    events,
    metrics_blocks,
    models,
    tasks,
)

VALIDATION = Validated.__struct_config__.tag
"""Kind of the events that tell the loss on pictures that are held out."""


class TaskRow(Struct, frozen=True, kw_only=True):
    """One row of the list. `created_at` is in Unix seconds; the model is None until the task has one."""

    id: str
    number: int
    name: str
    task_type: str
    status: str
    created_at: float
    model_name: str | None
    model_status: str | None


async def list_page(
    conn: AsyncConnection,
    tenant_id: str,
    *,
    limit: int,
    before_number: int | None = None,
    offset: int | None = None,
    task_type: str | None = None,
) -> list[TaskRow]:
    """At most `limit` of a tenant's tasks, newest first.

    `before_number` asks for those older than this running number: such a page costs the same however deep it lies.
    `offset` leaves out that many rows, for clients that count. `task_type` asks for one type alone.
    """
    query = (
        select(
            tasks.c.id,
            tasks.c.number,
            tasks.c.name,
            tasks.c.task_type,
            tasks.c.status,
            tasks.c.created_at,
            models.c.name.label("model_name"),
            models.c.status.label("model_status"),
        )
        .outerjoin_from(tasks, models, and_(models.c.task_id == tasks.c.id, models.c.tenant_id == tasks.c.tenant_id))
        .where(tasks.c.tenant_id == tenant_id)
        .order_by(tasks.c.number.desc())
        .limit(limit)
    )
    if before_number is not None:
        query = query.where(tasks.c.number < before_number)
    if offset is not None:
        query = query.offset(offset)
    if task_type is not None:
        query = query.where(tasks.c.task_type == task_type)
    return [TaskRow(**row) for row in (await conn.execute(query)).mappings()]


class TaskRecord(Struct, frozen=True, kw_only=True):
    """A task with its model; instants in Unix seconds."""

    id: str
    name: str
    task_type: str
    status: TaskStatus
    reason: str
    message: str
    spec: TrainingSpec
    not_before: float
    cancel_requested_at: float | None
    step: int
    total_steps: int
    eta_seconds: int
    created_at: float
    finished_at: float | None
    model_name: str | None
    model_status: str | None
    model_object_key: str | None


class ModelRecord(Struct, frozen=True, kw_only=True):
    """What the parity gate said of a task's model. Distances are of 8-bit channel values; instants in Unix seconds."""

    name: str
    status: str
    verdict: str
    verdict_message: str
    from_sample_mean: float | None
    from_sample_largest: int | None
    from_base_mean: float | None
    from_base_largest: int | None
    judged_at: float | None
    judged_with: str | None


class DatasetItemRow(Struct, frozen=True):
    """One picture of a dataset: the asset it came from, its sealed object, and its own caption."""

    asset_id: str
    object_key: str
    caption: str | None


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """One execution of a task; instants in Unix seconds."""

    fence: int
    device: str
    started_at: float
    ended_at: float | None
    reason: str | None


class CheckpointRecord(Struct, frozen=True, kw_only=True):
    """A checkpoint's objects: files under `prefix`; `created_at` in Unix seconds."""

    step: int
    prefix: str
    files: tuple[FileRecord, ...]
    created_at: float


_RECORD = (
    select(
        *(tasks.c[field] for field in TaskRecord.__struct_fields__ if not field.startswith("model_")),
        models.c.name.label("model_name"),
        models.c.status.label("model_status"),
        models.c.object_key.label("model_object_key"),
    )
    .outerjoin_from(tasks, models, and_(models.c.task_id == tasks.c.id, models.c.tenant_id == tasks.c.tenant_id))
    .where(tasks.c.tenant_id == bindparam("tenant_id"), tasks.c.id == bindparam("task_id"))
)


async def find(conn: AsyncConnection, tenant_id: str, task_id: str) -> TaskRecord | None:
    """A tenant's task."""
    rows = await conn.execute(_RECORD, {"tenant_id": tenant_id, "task_id": task_id})
    row = rows.mappings().one_or_none()
    return msgspec.convert(row, TaskRecord) if row else None


async def find_model(conn: AsyncConnection, tenant_id: str, task_id: str) -> ModelRecord | None:
    """The model of a tenant's task."""
    rows = await conn.execute(
        select(*(models.c[field] for field in ModelRecord.__struct_fields__)).where(
            models.c.tenant_id == tenant_id, models.c.task_id == task_id
        )
    )
    row = rows.mappings().one_or_none()
    return ModelRecord(**row) if row else None


async def list_attempts(conn: AsyncConnection, tenant_id: str, task_id: str) -> list[AttemptRecord]:
    """A task's executions, oldest first."""
    rows = await conn.execute(
        select(*(attempts.c[field] for field in AttemptRecord.__struct_fields__))
        .where(attempts.c.tenant_id == tenant_id, attempts.c.task_id == task_id)
        .order_by(attempts.c.fence)
    )
    return [AttemptRecord(**row) for row in rows.mappings()]


async def list_checkpoints(conn: AsyncConnection, tenant_id: str, task_id: str) -> list[CheckpointRecord]:
    """A task's stored checkpoints, oldest first; of those of one step the latest attempt's."""
    rows = await conn.execute(
        select(checkpoints.c.step, checkpoints.c.prefix, checkpoints.c.files, checkpoints.c.created_at)
        .where(checkpoints.c.tenant_id == tenant_id, checkpoints.c.task_id == task_id)
        .order_by(checkpoints.c.step, checkpoints.c.fence)
    )
    latest = {row["step"]: msgspec.convert(row, CheckpointRecord) for row in rows.mappings()}
    return list(latest.values())


async def list_metrics(conn: AsyncConnection, tenant_id: str, task_id: str) -> list[MetricsBlock]:
    """What a task's steps measured, oldest first."""
    query = (
        select(metrics_blocks.c.data)
        .where(metrics_blocks.c.tenant_id == tenant_id, metrics_blocks.c.task_id == task_id)
        .order_by(metrics_blocks.c.first_step)
    )
    return [msgspec.msgpack.decode(data, type=MetricsBlock) for data in await conn.scalars(query)]


async def last_metrics(conn: AsyncConnection, tenant_id: str, task_id: str) -> list[MetricsBlock]:
    """What a task's last steps measured, oldest first: the block that grows, and the one before it."""
    query = (
        select(metrics_blocks.c.data)
        .where(metrics_blocks.c.tenant_id == tenant_id, metrics_blocks.c.task_id == task_id)
        .order_by(metrics_blocks.c.first_step.desc())
        .limit(2)
    )
    newest_first = (await conn.scalars(query)).all()
    return [msgspec.msgpack.decode(data, type=MetricsBlock) for data in reversed(newest_first)]


async def list_validation(conn: AsyncConnection, tenant_id: str, task_id: str) -> list[ValidationPoint]:
    """What a task's trainers told of the pictures that are held out, in the order in which they told it."""
    query = (
        select(events.c.data)
        .where(events.c.tenant_id == tenant_id, events.c.task_id == task_id, events.c.kind == VALIDATION)
        .order_by(events.c.number)
    )
    return [msgspec.convert(data, ValidationPoint) for data in await conn.scalars(query)]


async def count_ahead(conn: AsyncConnection, task: TaskRecord) -> int:
    """How many waiting tasks, of any tenant, are dispatched before this one once their back-off is over."""
    earlier = tuple_(tasks.c.created_at, tasks.c.id) < tuple_(literal(task.created_at), literal(task.id))
    query = select(func.count()).select_from(tasks).where(tasks.c.status == TaskStatus.QUEUING, earlier)
    return (await conn.execute(query)).scalar_one()


async def add_dataset(conn: AsyncConnection, tenant_id: str, items: Sequence[DatasetItemRow]) -> str:
    """Insert an ordered, immutable set of pictures; answers its id."""
    dataset_id = new_id()
    await conn.execute(insert(datasets).values(id=dataset_id, tenant_id=tenant_id, created_at=now_sql(conn)))
    rows = [
        {"dataset_id": dataset_id, "position": position, **msgspec.structs.asdict(item)}
        for position, item in enumerate(items)
    ]
    await conn.execute(insert(dataset_items), rows)
    return dataset_id


class CancelRequest(Struct, frozen=True):
    """What a request to cancel found: the task's status, and whether nobody had asked before."""

    status: TaskStatus
    is_first: bool


async def request_cancel(conn: AsyncConnection, tenant_id: str, task_id: str) -> CancelRequest | None:
    """Store that the owner wants a task to end; answers what was found, None where it has ended or does not exist.

    The row stays locked until the transaction ends, so that status still holds for what follows. Asking again keeps
    the first moment.
    """
    this = and_(tasks.c.tenant_id == tenant_id, tasks.c.id == task_id)
    live = tasks.c.status.in_([TaskStatus.QUEUING, TaskStatus.TRAINING])
    query = select(tasks.c.status, tasks.c.cancel_requested_at).where(this, live).with_for_update()
    row = (await conn.execute(query)).one_or_none()
    if row is None:
        return None
    is_first = row.cancel_requested_at is None
    if is_first:
        await conn.execute(update(tasks).where(this).values(cancel_requested_at=now_sql(conn)))
    return CancelRequest(TaskStatus(row.status), is_first)
