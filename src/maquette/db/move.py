"""The only code that writes a status: births and moves of tasks, models and image tasks.

A move is one guarded statement with a yes/no answer, and the event in the same transaction. Losing a race is an
answer (None), no error: somebody else moved the row first, the row is gone, the fence is old, or the owner has asked
to cancel the task. The caller walks away. Asking for an edge that the machine does not have is a defect, and raises
before the database is touched.

Image tasks have no history: nobody is shown one, they are many, and they are gone after a day. Their row tells all
there is: reason and words of its latest move, its fence, and the instants of birth, start and end. What tells others
of their end is the delivery to their webhook, born in the transaction of the move itself.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Table, exists, insert, or_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.core.drawing import Difference
from maquette.core.ids import new_id
from maquette.core.image_specs import ImageKind, ImageSpec
from maquette.core.lifecycle import (
    AFTER_CANCEL,
    IMAGE,
    MODEL,
    TASK,
    IllegalMove,
    ImageStatus,
    Machine,
    ModelStatus,
    Reason,
    S,
    TaskStatus,
    Verdict,
)
from maquette.core.specs import TrainingSpec
from maquette.db import dialects
from maquette.db.counters import next_number, tenant_image_tasks, tenant_models, tenant_tasks
from maquette.db.events import append_event
from maquette.db.now import now_sql
from maquette.db.tables import image_tasks, model_rejections, models, tasks, webhook_deliveries

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


class Judgement(Struct, frozen=True, kw_only=True):
    """What the parity gate found of a model.

    Attributes:
        judged_with: what it holds for: the worker that drew, the bounds it was held to, and the base.
        message: what differed, for the model's owner; "" where nothing did.
        from_sample, from_base: how far what it draws is from the trainer's sample, and from what its base draws
            without it; None where nothing could be drawn.
    """

    judged_with: str
    message: str = ""
    from_sample: Difference | None = None
    from_base: Difference | None = None


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
        returning=[tasks.c.fence],
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
        returning=[models.c.task_id],
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


async def pass_model(conn: AsyncConnection, tenant_id: str, model_id: str, judgement: Judgement) -> MovedModel | None:
    """The parity gate lets a model through: it is SERVING from now on. None where it was already."""
    return await move_model(
        conn,
        tenant_id,
        model_id,
        source=ModelStatus.DEPLOYING,
        to=ModelStatus.SERVING,
        reason=Reason.PARITY_PASSED,
        values={"verdict": Verdict.PASSED, **_judged(conn, judgement)},
        event=_measured(judgement),
    )


async def reject_model(conn: AsyncConnection, tenant_id: str, model_id: str, judgement: Judgement) -> MovedModel | None:
    """The parity gate turns a model away: it stays DEPLOYING, and its task's history says what differed.

    None where it is SERVING, or was rejected with the same before (`Judgement.judged_with`), by whatever server.
    """
    known = exists().where(
        model_rejections.c.model_id == models.c.id, model_rejections.c.judged_with == judgement.judged_with
    )
    is_news = or_(models.c.verdict == Verdict.PENDING, ~known)
    statement = (
        update(models)
        .where(
            models.c.tenant_id == tenant_id,
            models.c.id == model_id,
            models.c.status == ModelStatus.DEPLOYING,
            is_news,
        )
        .values({"verdict": Verdict.REJECTED, "updated_at": now_sql(conn), **_judged(conn, judgement)})
        .returning(models.c.task_id)
    )
    row = (await conn.execute(statement)).one_or_none()
    if row is None:
        return None
    await conn.execute(
        dialects.insert(conn, model_rejections)
        .values(model_id=model_id, judged_with=judgement.judged_with, tenant_id=tenant_id, created_at=now_sql(conn))
        .on_conflict_do_nothing()
    )
    number = await append_event(
        conn,
        tenant_id=tenant_id,
        task_id=row.task_id,
        kind="model_rejected",
        data={**_measured(judgement), "model_id": model_id, "message": judgement.message},
    )
    return MovedModel(row.task_id, number)


def _judged(conn: AsyncConnection, judgement: Judgement) -> dict[str, Any]:
    """The columns of a judgement."""
    sample, base = judgement.from_sample, judgement.from_base
    return {
        "verdict_message": judgement.message,
        "judged_with": judgement.judged_with,
        "judged_at": now_sql(conn),
        "from_sample_mean": sample.mean if sample else None,
        "from_sample_largest": sample.largest if sample else None,
        "from_base_mean": base.mean if base else None,
        "from_base_largest": base.largest if base else None,
        "attempts": 0,
        "lost_workers": 0,
        "not_before": 0.0,
    }


def _measured(judgement: Judgement) -> dict[str, Any]:
    """The distances for an event, those that were measured."""
    found = {"from_sample": judgement.from_sample, "from_base": judgement.from_base}
    return {name: difference for name, difference in found.items() if difference is not None}


async def create_image_task(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    image_task_id: str,
    kind: ImageKind,
    spec: ImageSpec,
    original_key: str | None,
    webhook_url: str | None,
    public_url: str,
) -> int:
    """Insert an image task, QUEUED: the insert is also its place in the queue. Answers its running number.

    The object under `original_key`, the picture to start from, is stored already. `public_url` is what the addresses
    begin with that the webhook is told.
    """
    IMAGE.check_birth(ImageStatus.QUEUED, Reason.CREATED)
    number = await next_number(conn, tenant_image_tasks(tenant_id))
    born = now_sql(conn)
    await conn.execute(
        insert(image_tasks).values(
            id=image_task_id,
            tenant_id=tenant_id,
            number=number,
            kind=kind,
            status=ImageStatus.QUEUED,
            reason=Reason.CREATED,
            spec=spec,
            original_key=original_key,
            webhook_url=webhook_url,
            public_url=public_url,
            failures={},
            total_steps=spec.total_steps,
            created_at=born,
            updated_at=born,
        )
    )
    return number


async def move_image_task(
    conn: AsyncConnection,
    tenant_id: str,
    image_task_id: str,
    *,
    source: ImageStatus,
    to: ImageStatus,
    reason: Reason,
    fence: int | None = None,
    right: ColumnElement[bool] | None = None,
    message: str = "",
    values: Mapping[str, Any] = NOTHING,
) -> int | None:
    """Move an image task along one edge; answers its fence, or None where it is not the caller's to move.

    `right` is a further guard: what else must hold of the row. Whoever moves it to PROCESSING names supervisor and
    lease in `values`; every other move clears them. A task that ends leaves a delivery to its webhook where it has one.
    """
    guards = [image_tasks.c.tenant_id == tenant_id, image_tasks.c.id == image_task_id]
    if fence is not None:
        guards.append(image_tasks.c.fence == fence)
    if right is not None:
        guards.append(right)
    finished = {"finished_at": now_sql(conn)} if IMAGE.is_final(to) else NOTHING
    let_go = NOTHING if to is ImageStatus.PROCESSING else {"supervisor": None, "lease_until": None}
    row = await _move(
        conn,
        IMAGE,
        image_tasks,
        source=source,
        to=to,
        reason=reason,
        guards=guards,
        values={**values, **finished, **let_go, "reason": reason, "message": message},
        returning=[image_tasks.c.fence, image_tasks.c.webhook_url],
    )
    if row is None:
        return None
    if row.webhook_url and IMAGE.is_final(to):
        await conn.execute(
            insert(webhook_deliveries).values(
                image_task_id=image_task_id, tenant_id=tenant_id, url=row.webhook_url, created_at=now_sql(conn)
            )
        )
    return row.fence


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
    returning: Sequence[ColumnElement[Any]],
) -> Any:
    """The one guarded statement; answers the returned columns' row, or None where no row passed the guards."""
    if source not in machine.sources(to, reason):
        raise IllegalMove(machine.name, source, to, reason)
    statement = (
        update(table)
        .where(*guards, table.c.status == source)
        .values({**values, "status": to, "updated_at": now_sql(conn)})
        .returning(*returning)
    )
    return (await conn.execute(statement)).one_or_none()


def _step(source: S | None, to: S, reason: Reason) -> dict[str, str | None]:
    return {"from": source, "to": to, "reason": reason}
