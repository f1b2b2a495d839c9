"""Ends of image tasks that webhooks are to be told: what is due, who tells it, and how that went.

A delivery is born with its task's end, in the same commit (`maquette.db.move`). An attempt counts from its beginning: a
server that dies in it has used it up, so that no restart ever adds one.
"""

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.now import now_sql
from maquette.db.tables import image_tasks, webhook_deliveries


class Delivery(Struct, frozen=True, kw_only=True):
    """The end of an image task that its webhook is to be told; `attempts` were begun so far."""

    image_task_id: str
    tenant_id: str
    url: str
    attempts: int


async def due(conn: AsyncConnection, limit: int) -> list[Delivery]:
    """What is to be told now, what waits longest first; tenants take turns, so that none's many hold up another's."""
    longest = (webhook_deliveries.c.not_before, webhook_deliveries.c.created_at)
    turn = func.row_number().over(partition_by=webhook_deliveries.c.tenant_id, order_by=longest)
    rows = await conn.execute(
        select(*(webhook_deliveries.c[field] for field in Delivery.__struct_fields__))
        .where(_is_open(), webhook_deliveries.c.not_before <= now_sql(conn))
        .order_by(turn, *longest)
        .limit(limit)
    )
    return [Delivery(**row) for row in rows.mappings()]


async def claim(conn: AsyncConnection, delivery: Delivery, hold: float) -> Delivery | None:
    """Begin an attempt that nobody repeats within `hold` seconds; None where somebody else was faster."""
    result = await conn.execute(
        update(webhook_deliveries)
        .where(_same(delivery), webhook_deliveries.c.not_before <= now_sql(conn))
        .values(attempts=delivery.attempts + 1, not_before=now_sql(conn) + hold)
    )
    return msgspec.structs.replace(delivery, attempts=delivery.attempts + 1) if result.rowcount else None


async def delivered(conn: AsyncConnection, delivery: Delivery) -> bool:
    """Remember that a webhook took the event; False where a later attempt has begun meanwhile."""
    result = await conn.execute(
        update(webhook_deliveries).where(_same(delivery)).values(delivered_at=now_sql(conn), message="")
    )
    return result.rowcount == 1


async def undelivered(conn: AsyncConnection, delivery: Delivery, message: str, *, again_in: float | None) -> bool:
    """Remember why an attempt failed, and when the next is due: in `again_in` seconds, or never for None.

    Answers False where a later attempt has begun meanwhile.
    """
    statement = update(webhook_deliveries).where(_same(delivery))
    if again_in is None:
        statement = statement.values(message=message, gave_up_at=now_sql(conn))
    else:
        statement = statement.values(message=message, not_before=now_sql(conn) + again_in)
    return (await conn.execute(statement)).rowcount == 1


def holds(conn: AsyncConnection, kept: float) -> ColumnElement[bool]:
    """Whether an image task is kept for its webhook's sake.

    That is so until it is told, and for `kept` seconds more: the event carries addresses of the pictures.
    """
    latest = now_sql(conn) - kept
    return (
        select(webhook_deliveries.c.image_task_id)
        .where(
            webhook_deliveries.c.image_task_id == image_tasks.c.id,
            or_(_is_open(), webhook_deliveries.c.delivered_at >= latest, webhook_deliveries.c.gave_up_at >= latest),
        )
        .exists()
    )


def _same(delivery: Delivery) -> ColumnElement[bool]:
    """The row, as long as no later attempt has begun and none has settled it."""
    return and_(
        webhook_deliveries.c.tenant_id == delivery.tenant_id,
        webhook_deliveries.c.image_task_id == delivery.image_task_id,
        webhook_deliveries.c.attempts == delivery.attempts,
        _is_open(),
    )


def _is_open() -> ColumnElement[bool]:
    return and_(webhook_deliveries.c.delivered_at.is_(None), webhook_deliveries.c.gave_up_at.is_(None))
