"""Running numbers without gaps.

A sequence hands out numbers outside the transaction, so they appear out of order and with gaps. A counter row is
locked until its transaction ends: whoever reads number n has every smaller one before them.

Among counters, the order in which every transaction locks them (`maquette.db.engine.Database.write`) is: a tenant's
tasks, a task's events, its tenant's events, its tenant's models, a tenant's image tasks, the bases; and one task a
transaction.
"""

from sqlalchemy.ext.asyncio import AsyncConnection

from maquette.db.dialects import insert
from maquette.db.tables import counters


def tenant_tasks(tenant_id: str) -> str:
    """Scope of `tasks.number`."""
    return f"tenant-tasks:{tenant_id}"


def task_events(task_id: str) -> str:
    """Scope of `events.number`."""
    return f"task-events:{task_id}"


def tenant_events(tenant_id: str) -> str:
    """Scope of `events.tenant_number`."""
    return f"tenant-events:{tenant_id}"


def tenant_models(tenant_id: str) -> str:
    """Scope of `models.number`."""
    return f"tenant-models:{tenant_id}"


def tenant_image_tasks(tenant_id: str) -> str:
    """Scope of `image_tasks.number`."""
    return f"tenant-image-tasks:{tenant_id}"


ALL_BASES = "bases"
"""Scope of `bases.number`."""


async def next_number(conn: AsyncConnection, scope: str) -> int:
    """Take the next number of a scope, from 1 on; given back if the transaction rolls back."""
    statement = (
        insert(conn, counters)
        .values(scope=scope, value=1)
        .on_conflict_do_update(index_elements=[counters.c.scope], set_={"value": counters.c.value + 1})
        .returning(counters.c.value)
    )
    return (await conn.execute(statement)).scalar_one()
