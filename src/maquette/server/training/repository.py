"""What the training slice asks of the database. Every query takes the tenant."""

from msgspec import Struct
from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.tables import models, tasks


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
