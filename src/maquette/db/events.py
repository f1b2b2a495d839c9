"""A task's history, numbered per task and per tenant; also the outbox of everything that is sent later."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.counters import next_number, task_events, tenant_events
from maquette.db.now import now_sql
from maquette.db.tables import events


class Event(Struct, frozen=True, kw_only=True):
    """One line of a task's history.

    Attributes:
        task_id: whose.
        number: its place in the task's history, from 1 on without gaps.
        tenant_number: its place among all events of the tenant, likewise.
        kind: what `data` tells of: "task" and "model" are moves, with `from`, `to` and `reason`.
        created_at: Unix seconds.
    """

    task_id: str
    number: int
    tenant_number: int
    kind: str
    data: dict[str, Any]
    created_at: float


async def append_event(
    conn: AsyncConnection, *, tenant_id: str, task_id: str, kind: str, data: Mapping[str, Any]
) -> int:
    """Add an event to a task's history, in the caller's transaction; answer its number in the task."""
    number = await next_number(conn, task_events(task_id))
    tenant_number = await next_number(conn, tenant_events(tenant_id))
    await conn.execute(
        insert(events).values(
            task_id=task_id,
            number=number,
            tenant_id=tenant_id,
            tenant_number=tenant_number,
            kind=kind,
            data=data,
            created_at=now_sql(conn),
        )
    )
    return number


async def list_events(
    conn: AsyncConnection, tenant_id: str, task_id: str, *, after: int = 0, limit: int = 100
) -> list[Event]:
    """A task's events that follow number `after`, oldest first; none for a task of another tenant."""
    rows = await conn.execute(
        select(
            events.c.task_id,
            events.c.number,
            events.c.tenant_number,
            events.c.kind,
            events.c.data,
            events.c.created_at,
        )
        .where(events.c.tenant_id == tenant_id, events.c.task_id == task_id, events.c.number > after)
        .order_by(events.c.number)
        .limit(limit)
    )
    return [Event(**row) for row in rows.mappings()]
