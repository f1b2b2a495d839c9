"""The only code that writes a status: births and moves of tasks and models.

A move is one guarded statement with a yes/no answer, and the event in the same transaction. Losing a race is an
answer (None), no error: somebody else moved the row first, the row is gone, the fence is old, or the owner has asked
to cancel the task. The caller walks away. Asking for an edge that the machine does not have is a defect, and raises
before the database is touched.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Table, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.ids import new_id
from maquette.core.lifecycle import AFTER_CANCEL, MODEL, TASK, IllegalMove, Machine, ModelStatus, Reason, S, TaskStatus
from maquette.core.specs import TrainingSpec
from maquette.db.counters import next_number, tenant_models, tenant_tasks
from maquette.db.events import append_event
from maquette.db.now import now_sql
from maquette.db.tables import models, tasks

NOTHING: Mapping[str, Any] = MappingProxyType({})


class CreatedTask(Struct, frozen=True):
    """What the database gave a new task: its place in the tenant's list, and its birth in Unix seconds."""

    number: int
    created_at: float


class MovedTask(Struct, frozen=True):
    """A task just moved: the fence it has now, and the number of the event that says so."""

    fence: int
    event_number: int


class CreatedModel(Struct, frozen=True):
    """A new model's id and its running number in the tenant."""

    id: str
    number: int


class MovedModel(Struct, frozen=True):
    """A model just moved: its task, and the number of the event in the task's history that says so."""

    task_id: str
    event_number: int


async def create_task(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    task_id: str,
    name: str,
    dataset_id: str,
    spec: TrainingSpec,
    event: Mapping[str, Any] = NOTHING,
) -> CreatedTask:
    """Insert a task, QUEUING: the insert is also its place in the queue. `event` adds to its event's data."""
    TASK.check_birth(TaskStatus.QUEUING, Reason.CREATED)
    number = await next_number(conn, tenant_tasks(tenant_id))
    born = now_sql(conn)
    statement = (
        insert(tasks)
        .values(
            id=task_id,
            tenant_id=tenant_id,
            number=number,
            name=name,
            task_type=spec.task_type,
            status=TaskStatus.QUEUING,
            reason=Reason.CREATED,
            dataset_id=dataset_id,
            spec=spec,
            total_steps=spec.settings.max_train_steps,
            created_at=born,
            updated_at=born,
        )
        .returning(tasks.c.created_at)
    )
    created_at = (await conn.execute(statement)).scalar_one()
    await append_event(
        conn,
        tenant_id=tenant_id,
        task_id=task_id,
        kind=TASK.name,
        data={**event, **_step(None, TaskStatus.QUEUING, Reason.CREATED)},
    )
    return CreatedTask(number, created_at)


async def move_task(
    conn: AsyncConnection,
    tenant_id: str,
    task_id: str,
    *,
    source: TaskStatus,
    to: TaskStatus,
    reason: Reason,
    fence: int | None = None,
    message: str = "",
    values: Mapping[str, Any] = NOTHING,
    event: Mapping[str, Any] = NOTHING,
) -> MovedTask | None:
    """Move a task along one edge, or answer None where it is not the caller's to move.

    `source` is the status it is believed to have, `fence` the attempt the caller speaks for (None only for moves that
    need no attempt). `message` is stored with the task and its event, for the owner. `values` are further columns to
    set in the same statement, e.g. `{"fence": tasks.c.fence + 1}`; `event` is further data for the event.
    A task whose owner has asked to cancel it is moved to `AFTER_CANCEL` alone, whatever the caller has read before.

    Raises:
        IllegalMove: the machine has no such edge for this reason.
    """
    guards = [tasks.c.tenant_id == tenant_id, tasks.c.id == task_id]
    if fence is not None:
        guards.append(tasks.c.fence == fence)
    if to not in AFTER_CANCEL:
        guards.append(tasks.c.cancel_requested_at.is_(None))
    finished = {"finished_at": now_sql(conn)} if TASK.is_final(to) else NOTHING
    row = await _move(
        conn,
        TASK,
        tasks,
        source=source,
        to=to,
        reason=reason,
        guards=guards,
        values={**values, **finished, "reason": reason, "message": message},
        returning=tasks.c.fence,
    )
    if row is None:
        return None
    number = await append_event(
        conn,
        tenant_id=tenant_id,
        task_id=task_id,
        kind=TASK.name,
        data={**event, **_step(source, to, reason), "fence": row.fence, "message": message},
    )
    return MovedTask(row.fence, number)


async def create_model(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    task_id: str,
    name: str,
    object_key: str,
    sample_key: str,
    size: int,
    sha256: str,
) -> CreatedModel:
    """Insert the model of a task, DEPLOYING; belongs in the transaction that moved the task to SUCCESS.

    `name` is the published file name. The objects under `object_key` and `sample_key` are stored and verified
    already; `size` (bytes) and `sha256` (hex) are those of the weights.
    """
    MODEL.check_birth(ModelStatus.DEPLOYING, Reason.CREATED)
    model_id = new_id()
    await append_event(
        conn,
        tenant_id=tenant_id,
        task_id=task_id,
        kind=MODEL.name,
        data={"model_id": model_id, "name": name, **_step(None, ModelStatus.DEPLOYING, Reason.CREATED)},
    )
    number = await next_number(conn, tenant_models(tenant_id))
    born = now_sql(conn)
    await conn.execute(
        insert(models).values(
            id=model_id,
            tenant_id=tenant_id,
            number=number,
            task_id=task_id,
            name=name,
            status=ModelStatus.DEPLOYING,
            object_key=object_key,
            sample_key=sample_key,
            size=size,
            sha256=sha256,
            created_at=born,
            updated_at=born,
        )
    )
    return CreatedModel(model_id, number)


async def move_model(
    conn: AsyncConnection,
    tenant_id: str,
    model_id: str,
    *,
    source: ModelStatus,
    to: ModelStatus,
    reason: Reason,
    values: Mapping[str, Any] = NOTHING,
    event: Mapping[str, Any] = NOTHING,
) -> MovedModel | None:
    """Move a model along one edge; see `move_task`."""
    row = await _move(
        conn,
        MODEL,
        models,
        source=source,
        to=to,
        reason=reason,
        guards=[models.c.tenant_id == tenant_id, models.c.id == model_id],
        values=values,
        returning=models.c.task_id,
    )
    if row is None:
        return None
    number = await append_event(
        conn,
        tenant_id=tenant_id,
        task_id=row.task_id,
        kind=MODEL.name,
        data={**event, "model_id": model_id, **_step(source, to, reason)},
    )
    return MovedModel(row.task_id, number)


async def _move(
    conn: AsyncConnection,
    machine: Machine[S],
    table: Table,
    *,
    source: S,
    to: S,
    reason: Reason,
    guards: list[ColumnElement[bool]],
    values: Mapping[str, Any],
    returning: ColumnElement[Any],
) -> Any:
    """The one guarded statement; answers the returned column's row, or None where no row passed the guards."""
    if source not in machine.sources(to, reason):
        raise IllegalMove(machine.name, source, to, reason)
    statement = (
        update(table)
        .where(*guards, table.c.status == source)
        .values({**values, "status": to, "updated_at": now_sql(conn)})
        .returning(returning)
    )
    return (await conn.execute(statement)).one_or_none()


def _step(source: S | None, to: S, reason: Reason) -> dict[str, str | None]:
    return {"from": source, "to": to, "reason": reason}
